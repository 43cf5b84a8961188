"""Localisation cues in SEC's manner: a few pixels that are surely an object or surely background.

Kolesnikov and Lampert, "Seed, Expand and Constrain", ECCV 2016. Arrays in, arrays out, on one feature grid h x w.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tagmask.errors import OptionError
from tagmask.types import BACKGROUND, UNKNOWN, LabelMap


def foreground_cues(
    maps: NDArray[np.floating],
    classes: Sequence[int],
    fraction: float = 0.2,  # author code
) -> NDArray[np.bool_]:
    """Mark where a class map exceeds a fraction of its own maximum: bool (K, h, w).

    ``maps`` float (K, h, w) are raw class maps, any range, one for each id in ``classes``. A map that is nowhere
    positive gives no cue. Raises ``ValueError`` when maps and classes differ, ``OptionError`` unless 0 <= fraction < 1.
    """
    if maps.ndim != 3 or len(maps) != len(classes):
        raise ValueError(f"maps must be ({len(classes)}, h, w), got {maps.shape}")
    if not 0 <= fraction < 1:
        raise OptionError(f"The cue fraction is {fraction}; give a number in [0, 1).")
    # A maximum below 0 lies below its own fraction, so such a map needs no case of its own.
    return maps > fraction * maps.max(axis=(1, 2), keepdims=True)


def strongest_cues(maps: NDArray[np.floating], share: float) -> NDArray[np.bool_]:
    """Mark the share of the cells where a class map is strongest: bool (K, h, w), for maps float (K, h, w).

    At least one cell a class; cells that tie with the last of them count, those that are not positive never. Source: DSRG
    ("the top 20 % of the heat map"). Raises ``OptionError`` unless 0 < share <= 1.
    """
    if not 0 < share <= 1:
        raise OptionError(f"The share of the strongest cells is {share}; give a number above 0 and up to 1.")
    cells = maps.reshape(len(maps), maps.shape[1] * maps.shape[2])  # (K, N)
    place = cells.shape[1] - max(1, round(share * cells.shape[1]))
    last = np.partition(cells, place, axis=1)[:, place, None, None]  # (K, 1, 1)
    return (maps >= last) & (maps > 0)


def claimed_cues(highest: NDArray[np.floating], mean: NDArray[np.floating], least: float) -> NDArray[np.bool_]:
    """Mark the class of each cell after many runs of a fickle network: bool (K, h, w), one class a cell at most.

    A class claims a cell where the ``highest`` of its maps (K, h, w) exceeds ``least``; of several the one with the largest
    ``mean`` (K, h, w) gets it, the first of equal ones. Source: FickleNet (Lee et al. CVPR 2019).
    """
    claims = highest > least
    if not len(claims):
        return claims
    winner = np.where(claims, mean, -np.inf).argmax(axis=0)  # (h, w)
    return claims & (np.arange(len(claims))[:, None, None] == winner)


def background_cues(
    saliency: NDArray[np.floating],
    quantile: float = 0.10,  # author code
) -> NDArray[np.bool_]:
    """Mark the least salient pixels after a 3x3 median filter: bool (h, w).

    ``saliency`` float (h, w) is the gradient saliency of all tags, any range. Pixels strictly below the value at
    ``quantile`` are cues, so a constant map gives none. Raises ``OptionError`` unless 0 <= quantile <= 1.
    """
    if not 0 <= quantile <= 1:
        raise OptionError(f"The background quantile is {quantile}; give a number in [0, 1].")
    smooth = ndimage.median_filter(input=saliency, size=3)  # (h, w)
    return smooth < np.quantile(smooth, q=quantile)


def cue_labels(foreground: NDArray[np.bool_], classes: Sequence[int], background: NDArray[np.bool_]) -> LabelMap:
    """Settle the conflicts of cues (K, h, w) and background (h, w): one label a pixel, 255 where there is no cue.

    A pixel that several classes claim goes to the class with the smallest cue area (the first of equal ones), and any
    class beats the background. Raises ``ValueError`` when the shapes differ.
    """
    if foreground.shape != (len(classes), *background.shape):
        raise ValueError(f"foreground must be {(len(classes), *background.shape)}, got {foreground.shape}")
    labels = np.where(background, np.uint8(BACKGROUND), np.uint8(UNKNOWN))  # (h, w)
    # Smallest area wins: recalled. Objects beat the background: ours.
    smallest_first = np.argsort(foreground.sum(axis=(1, 2)), kind="stable")
    for k in smallest_first[::-1]:  # painted from large to small: the smallest stays on top
        labels[foreground[k]] = classes[k]
    return LabelMap(labels)


def with_every_class(
    cues: LabelMap, maps: NDArray[np.floating], classes: Sequence[int], saliency: NDArray[np.floating]
) -> LabelMap:
    """Give every class that has no cue the cell where its map (K, h, w) is highest, for without a cue nothing can grow.

    Where a map is nowhere positive, that is the most salient cell (h, w). The only cue of another class is left alone.
    """
    labels = cues.labels.copy()
    for k, tag in enumerate(classes):
        if (labels == tag).any():
            continue
        counts = np.bincount(labels.ravel(), minlength=UNKNOWN + 1)
        free = (counts[labels] > 1) | (labels == BACKGROUND) | (labels == UNKNOWN)
        order = maps[k] if maps[k].max() > 0 else saliency
        if free.any():
            labels.flat[int(np.where(free, order, -np.inf).argmax())] = tag
    return LabelMap(labels)
