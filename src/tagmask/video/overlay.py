"""Labels drawn over frames, in the colours of the masks, and clips of them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tagmask.data.pixels import palette
from tagmask.data.video import Clip, ClipWriter
from tagmask.errors import DataError
from tagmask.types import BACKGROUND, UNKNOWN

STRENGTH = 0.5  # of a label's colour on its area  # ours

_COLOURS = palette()[None]  # (1, 256, 3), a table as OpenCV takes them


def overlay(
    frame: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    *,
    strength: float = STRENGTH,
    outlines: bool = True,
    background: int | None = BACKGROUND,
) -> NDArray[np.uint8]:
    """Return an RGB frame uint8 (H, W, 3) with its labels uint8 (H, W) over it: areas tinted, their outlines in full colour.

    ``background`` and 255 are left as they are; ``background=None`` where 0 is a class like any other. Raises
    ``ValueError`` where the sizes differ.
    """
    if frame.shape != (*labels.shape, 3):
        raise ValueError(f"frame and labels must have one size, got {frame.shape} and {labels.shape}")
    shown = np.full(256, 255, dtype=np.uint8)
    shown[[UNKNOWN] if background is None else [UNKNOWN, background]] = 0
    area = cv2.LUT(src=labels, lut=shown)  # OpenCV's tables and copies take a fifth of the time of numpy's
    colours = cv2.LUT(src=cv2.merge([labels] * 3), lut=_COLOURS)
    drawn = frame.copy()
    cv2.copyTo(cv2.addWeighted(src1=frame, alpha=1 - strength, src2=colours, beta=strength, gamma=0), area, drawn)
    if outlines:
        # Where the largest and the least label around a pixel differ, two of them meet.
        edge = cv2.morphologyEx(src=labels, op=cv2.MORPH_GRADIENT, kernel=np.ones((3, 3), dtype=np.uint8))
        cv2.copyTo(colours, cv2.min(area, edge), drawn)
    return drawn


def write_overlay(
    path: Path, clip: Clip, labels: Iterable[NDArray[np.uint8]], *, background: int | None = BACKGROUND
) -> None:
    """Write a clip's frames with their labels over them, at the clip's rate; the file is there whole or not at all.

    One frame is in memory. Raises DataError where there are more or fewer labels than frames, or of another size.
    """
    with ClipWriter(path, rate=clip.rate) as writer:
        for number, (frame, one) in enumerate(zip_longest(clip, labels)):
            if frame is None or one is None:
                lacks = "frame" if frame is None else "label map"
                raise DataError(f"{clip.path}: there is no {lacks} {number}; expected as many frames as label maps.")
            if one.shape != frame.shape[:2]:
                raise DataError(f"{clip.path}: frame {number} is {frame.shape[:2]}, its labels are {one.shape}.")
            writer.write(overlay(frame, one, background=background))
