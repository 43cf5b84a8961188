"""GrabCut: from a rough guess of an object to its outline, by colour models and graph cuts, as OpenCV has it.

Rother, Kolmogorov, Blake. GrabCut: Interactive Foreground Extraction using Iterated Graph Cuts. SIGGRAPH 2004.
"""

from __future__ import annotations

from enum import IntEnum

import cv2
import numpy as np
from numpy.typing import NDArray

from tagmask.errors import OptionError

FEWEST = 10  # pixels that each colour model needs  # ours


class Guess(IntEnum):
    """What is thought of a pixel before; only the two sure ones are never changed."""

    BACKGROUND = cv2.GC_BGD
    OBJECT = cv2.GC_FGD
    MAYBE_BACKGROUND = cv2.GC_PR_BGD
    MAYBE_OBJECT = cv2.GC_PR_FGD


def grabcut(
    pixels: NDArray[np.uint8], guesses: NDArray[np.uint8], iterations: int = 5, seed: int = 0
) -> NDArray[np.bool_]:
    """Return the object, bool (H, W), of an RGB image uint8 (H, W, 3) with a ``Guess`` a pixel, uint8 (H, W).

    Where there are less than ten pixels of either side, one colour only, or OpenCV gives up, the guesses stand. The result
    is the same in every thread and call, and the interpreter lock is released; the thread's random numbers of OpenCV start
    anew from ``seed``. Raises ``ValueError`` for guesses that do not fit, ``OptionError`` for less than one iteration.
    """
    if guesses.dtype != np.uint8 or guesses.shape != pixels.shape[:2] or guesses.max(initial=0) > max(Guess):
        raise ValueError(f"guesses must be uint8 {pixels.shape[:2]} in 0..3, got {guesses.dtype} {guesses.shape}")
    if iterations < 1:
        raise OptionError(f"GrabCut runs {iterations} iterations; expected 1 or more.")
    guessed = np.isin(guesses, (Guess.OBJECT, Guess.MAYBE_OBJECT))
    fewest = min(int(guessed.sum()), int((~guessed).sum()))
    if fewest < FEWEST or (pixels == pixels[:1, :1]).all():
        return guessed
    cut = guesses.copy()
    models = np.zeros((2, 1, 65))
    cv2.setRNGSeed(seed)  # OpenCV keeps one generator a thread, so threads cut side by side
    try:
        cv2.grabCut(
            img=np.ascontiguousarray(pixels[..., ::-1]), mask=cut, rect=(0, 0, 1, 1), bgdModel=models[0],
            fgdModel=models[1], iterCount=iterations, mode=cv2.GC_INIT_WITH_MASK,
        )  # fmt: skip
    except cv2.error:  # a colour model without spread
        return guessed
    return np.isin(cut, (Guess.OBJECT, Guess.MAYBE_OBJECT))


def object_in_box(
    pixels: NDArray[np.uint8], box: tuple[int, int, int, int], *, least: float = 0.5, iterations: int = 5
) -> NDArray[np.bool_]:
    """Return what ``grabcut_box`` finds, or the whole box where that is less than the share ``least`` of it.

    So little is a failure more often than a thin object. Source: Khoreva et al. (Simple does it), CVPR 2017, recalled.
    Raises as ``grabcut_box``.
    """
    found = grabcut_box(pixels, box, iterations)
    x0, y0, x1, y1 = box
    if found.sum() < least * (x1 - x0) * (y1 - y0):
        found[y0:y1, x0:x1] = True
    return found


def grabcut_box(
    pixels: NDArray[np.uint8], box: tuple[int, int, int, int], iterations: int = 5, seed: int = 0
) -> NDArray[np.bool_]:
    """Return the object inside a box x0, y0, x1, y1 (the ends excluded), bool (H, W); all outside is background.

    Raises ``OptionError`` for a box that is empty or leaves the image.
    """
    (x0, y0, x1, y1), (height, width) = box, pixels.shape[:2]
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise OptionError(f"the box {box} does not lie in an image of {width} x {height}; give x0, y0, x1, y1 inside.")
    guesses = np.full((height, width), Guess.BACKGROUND, dtype=np.uint8)
    guesses[y0:y1, x0:x1] = Guess.MAYBE_OBJECT
    return grabcut(pixels, guesses, iterations, seed)
