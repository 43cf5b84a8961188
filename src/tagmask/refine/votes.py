"""From boxes to pixels and back: what the boxes that cover a pixel say of it, and what lies in each box and around it.

Boxes with masks stand for their masks. No loop runs over pixels: boxes are summed by their corners.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tagmask.errors import OptionError, did_you_mean
from tagmask.refine.boxes import areas, box_sums, mask_of, widened
from tagmask.types import Boxes

WAYS = ("sum", "mean", "max")
UNIT = 2**20  # a score of 1 as an integer: sums of integers are exact, and what no box covers stays exactly 0  # ours
AT_ONCE = 64  # masks that are unpacked at a time  # ours


def votes(boxes: Boxes, scores: NDArray[np.floating], *, by: str = "sum") -> NDArray[np.float64]:
    """Return what the n boxes with ``scores`` (n, K) in [0, 1] say of each pixel, float64 (K, H, W), 0 where none covers it.

    ``by`` joins the scores of the boxes that cover a pixel: their sum, mean or maximum. Boxes of score 0 do not vote.
    Raises ``OptionError`` for another word.
    """
    if by not in WAYS:
        raise OptionError(f"votes are joined by {by!r}{did_you_mean(by, WAYS)}; expected one of {', '.join(WAYS)}.")
    weights = np.rint(scores * UNIT).astype(np.int64)
    if by == "max":
        return _highest(boxes, weights) / UNIT
    total = _covering(boxes, weights) / UNIT
    return total if by == "sum" else total / _covering(boxes, (weights > 0).astype(np.int64)).clip(min=1)


def sums(boxes: Boxes, maps: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the sum of each of the maps (K, H, W) in each of the n boxes: float64 (n, K)."""
    if not len(boxes.masks):
        return box_sums(maps, boxes.boxes)
    flat = maps.reshape(len(maps), maps.shape[1] * maps.shape[2]).T.astype(np.float64)  # (N, K)
    return np.concatenate([bits @ flat for _, bits in _bits(boxes)])


def sizes(boxes: Boxes) -> NDArray[np.int64]:
    """Return the number of pixels of each box, int64 (n,)."""
    return np.bitwise_count(boxes.masks).sum(axis=1, dtype=np.int64) if len(boxes.masks) else areas(boxes.boxes)


def contrast(boxes: Boxes, maps: NDArray[np.floating], *, ring: float) -> NDArray[np.float64]:
    """Return the mean of each of the maps (K, H, W) in [0, 1] in a box less that around it, or 0: float64 (n, K) in [0, 1].

    Around a box is a ring inside of the image, wide as the share ``ring`` of the box's width and height, rounded up; around
    a mask whatever of its box and that ring it leaves. Where nothing is around, nothing stands out: 0.  # ours
    """
    wide = widened(boxes.boxes, ring, boxes.size)
    inside, own = sums(boxes, maps), sizes(boxes)[:, None]
    around, rest = box_sums(maps, wide) - inside, areas(wide)[:, None] - own
    found = inside / own.clip(min=1) - around / rest.clip(min=1)
    return np.where(rest > 0, found, 0).clip(min=0, max=1)


def _covering(boxes: Boxes, weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sum of the weights (n, K) of the boxes that cover each pixel: (K, H, W)."""
    height, width = boxes.size
    if len(boxes.masks):
        parts = [weights[rows].T.astype(np.float64) @ bits for rows, bits in _bits(boxes)]  # floats: integers to 2^53
        return np.rint(np.sum(parts, axis=0)).astype(np.int64).reshape(-1, height, width)
    x0, y0, x1, y1 = boxes.boxes.T
    change = np.zeros(
        ((height + 1) * (width + 1), weights.shape[1]), dtype=np.int64
    )  # of the sum, at the corners of boxes
    for y, x, sign in ((y0, x0, 1), (y0, x1, -1), (y1, x0, -1), (y1, x1, 1)):
        np.add.at(change, y * (width + 1) + x, sign * weights)
    total = change.reshape(height + 1, width + 1, -1).cumsum(axis=0).cumsum(axis=1)[:-1, :-1]
    return np.moveaxis(total, 2, 0)


def _highest(boxes: Boxes, weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the largest of the weights (n, K) of the boxes that cover each pixel, 0 where none does: (K, H, W)."""
    found = np.zeros((weights.shape[1], *boxes.size), dtype=np.int64)
    for index, row in enumerate(weights):
        if row.any():
            x0, y0, x1, y1 = boxes.boxes[index]
            place = np.s_[y0:y1, x0:x1]
            part = found[(slice(None), *place)]
            np.maximum(part, row[:, None, None] * mask_of(boxes, index)[place], out=part)
    return found


def _bits(boxes: Boxes) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield the masks, a few at a time: which ones, and their pixels (m, N) as 0 or 1."""
    height, width = boxes.size
    for start in range(0, len(boxes), AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        yield rows, np.unpackbits(boxes.masks[rows], axis=1, count=height * width).astype(np.float64)
