"""Seeded region growing: cues spread over all that is confidently of their class and connected to them.

Huang et al. Weakly-Supervised Semantic Segmentation Network with Deep Seeded Region Growing. CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tagmask.errors import OptionError
from tagmask.refine.lattice import compiled
from tagmask.types import BACKGROUND, UNKNOWN


def grow(
    cues: NDArray[np.uint8],
    probabilities: NDArray[np.float32],
    tags: Sequence[int],
    *,
    background: float = 0.99,  # author code
    foreground: float = 0.85,  # author code
    override_cues: bool = False,
) -> NDArray[np.uint8]:
    """Return the grown cues, uint8 (H, W), 255 where nothing grew.

    ``cues`` uint8 (H, W) hold one class a pixel, 255 for none; ``probabilities`` float32 (C, H, W) in [0, 1]; ``tags`` are
    ids 1..C-1. A pixel is confident of the likeliest class among the background and the tags, the first of equals, where
    that exceeds the class's threshold; it takes the class if a path of such pixels of that class, 8-connected, leads to a
    cue of it. Cues never change, and those of other classes do not grow. With ``override_cues`` a pixel with a cue counts,
    for the paths, as what the network is confident of (author code), else always as its cue (the paper's rule). Growing
    what has grown changes nothing. The interpreter lock is released. Raises ``OptionError`` for a threshold outside [0, 1],
    ``ValueError`` for arrays or tags that do not fit.
    """
    classes = len(probabilities)
    if cues.dtype != np.uint8 or probabilities.shape != (classes, *cues.shape):
        raise ValueError(
            f"expected cues uint8 (H, W) and probabilities (C, H, W), got {cues.shape} {probabilities.shape}"
        )
    if any(not 0 < tag < classes for tag in tags):
        raise ValueError(f"tags must lie in 1..{classes - 1}, got {tuple(tags)}")
    for name, value in (("background", background), ("foreground", foreground)):
        if not 0 <= value <= 1:
            raise OptionError(f"the {name} threshold of growing is {value}; expected a number in [0, 1].")
    present = np.array(sorted({BACKGROUND, *tags}), dtype=np.int64)
    limits = np.where(present == BACKGROUND, background, foreground).astype(np.float32)
    return _grow(cues, np.ascontiguousarray(probabilities, dtype=np.float32), present, limits, override_cues)


@compiled()
def _grow(
    cues: NDArray[np.uint8],
    probabilities: NDArray[np.float32],
    present: NDArray[np.int64],
    limits: NDArray[np.float32],
    override: bool,
) -> NDArray[np.uint8]:
    height, width = cues.shape
    sure = np.full((height + 2, width + 2), UNKNOWN, dtype=np.uint8)  # a margin, so that no step leaves the array
    grown = np.full((height + 2, width + 2), UNKNOWN, dtype=np.uint8)
    likeliest, labels = np.empty(width, dtype=np.float32), np.empty(width, dtype=np.int32)  # as wide: one vector loop
    grows = np.zeros(256, dtype=np.bool_)
    for k in present:
        grows[k] = True
    waiting = np.empty((height + 2) * (width + 2), dtype=np.int64)  # a place waits once at most: its label goes with it
    count, row_length = 0, width + 2
    for y in range(height):
        row = sure[y + 1, 1 : width + 1]
        likeliest[:], labels[:] = -1, UNKNOWN
        for i in range(len(present)):  # class by class: rows of a map are contiguous
            values, limit, label = probabilities[present[i], y], limits[i], np.int32(present[i])
            for x in range(width):
                value, most = values[x], likeliest[x]
                believed = label if value > limit else np.int32(UNKNOWN)
                labels[x] = believed if value > most else labels[x]
                likeliest[x] = value if value > most else most
        for x in range(width):
            row[x] = labels[x]
        for x in range(width):
            cue = cues[y, x]
            if cue != UNKNOWN:
                grown[y + 1, x + 1] = cue
                row[x] = row[x] if override else cue
                if grows[cue] and row[x] == cue:
                    waiting[count] = (y + 1) * row_length + x + 1
                    count += 1
    _flood(sure.reshape(-1), grown.reshape(-1), waiting, count, row_length)
    return grown[1 : height + 1, 1 : width + 1].copy()


@compiled()
def _flood(
    sure: NDArray[np.uint8], grown: NDArray[np.uint8], waiting: NDArray[np.int64], count: int, row_length: int
) -> None:
    """Spread the labels of the ``count`` places in ``waiting`` over their neighbours that are sure of the same.

    With overridden cues a pixel may carry a path of the class that it is sure of and keep its cue; so what was visited is
    remembered in ``sure``, as UNKNOWN, and every path keeps its label by waiting in a stretch of its own.
    """
    around = np.array(
        [-row_length - 1, -row_length, -row_length + 1, -1, 1, row_length - 1, row_length, row_length + 1]
    )
    path = np.empty(len(sure), dtype=np.int64)
    for i in range(count):
        label = sure[waiting[i]]
        if label == UNKNOWN:  # an earlier path came by
            continue
        sure[waiting[i]] = UNKNOWN
        path[0], length = waiting[i], 1
        while length:
            length -= 1
            place = path[length]
            if grown[place] == UNKNOWN:
                grown[place] = label
            for step in around:
                if sure[place + step] == label:
                    sure[place + step] = UNKNOWN
                    path[length] = place + step
                    length += 1
