"""Rectangles as arrays: how much two overlap, which mask a box holds, which of many are left, how good they are.

Boxes are int (n, 4), x0, y0, x1, y1 in pixels, the ends excluded, so that a box of one pixel is 0, 0, 1, 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import nms

from tagmask.types import Boxes

HIT = 0.5  # intersection over union from which a box is right; VOC
MOVES = np.array([0.1, 0.1, 0.2, 0.2])  # recalled (Fast R-CNN): the usual size of each move
MOST_GROWTH = np.log(1000 / 16)  # recalled (Detectron): a box grows by no more than e to this


def overlaps(first: NDArray[np.integer], second: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the intersection over union of each of ``first`` (n, 4) with each of ``second`` (m, 4): float64 (n, m)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = (high - low).clip(min=0).prod(axis=2).astype(np.float64)
    return common / (areas(first)[:, None] + areas(second)[None] - common).clip(min=1)


def areas(boxes: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the number of pixels in each box, int64 (n,)."""
    return (boxes[:, 2:].astype(np.int64) - boxes[:, :2]).prod(axis=1)


def box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Return the smallest box around a mask (H, W), None where it is empty.

    >>> box_of(np.array([[False, False, False], [False, True, True]]))
    (1, 1, 3, 2)
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def mask_of(boxes: Boxes, index: int) -> NDArray[np.bool_]:
    """Return the mask of one box, bool (H, W): its own, or the full box where it has none."""
    if len(boxes.masks):
        height, width = boxes.size
        return np.unpackbits(boxes.masks[index], count=height * width).reshape(boxes.size).astype(bool)
    x0, y0, x1, y1 = boxes.boxes[index]
    mask = np.zeros(boxes.size, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def packed(masks: Iterable[NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """Return n masks (H, W) as bits, uint8 (n, ceil(H W / 8)); of length 0 without masks."""
    rows = [np.packbits(mask) for mask in masks]
    return np.stack(rows) if rows else np.zeros((0, 0), dtype=np.uint8)


def strongest_apart(
    boxes: NDArray[np.integer], scores: NDArray[np.floating], *, overlap: float = 0.3, most: int = 0
) -> NDArray[np.int64]:
    """Return which boxes stay when each one suppresses weaker ones that overlap it by more (NMS), the strongest first.

    ``most`` keeps no more than so many (0: all). Source of the default: weakly-supervised detection.
    """
    kept = nms(torch.from_numpy(boxes.astype(np.float32)), torch.from_numpy(scores.astype(np.float32)), overlap).numpy()
    return kept[:most] if most else kept


def box_sums(maps: NDArray[np.floating], boxes: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the sum of each of the maps (K, H, W) in rectangles int (n, 4): float64 (n, K)."""
    table = np.zeros((len(maps), maps.shape[1] + 1, maps.shape[2] + 1))  # of all above and left of a corner
    table[:, 1:, 1:] = maps.cumsum(axis=1, dtype=np.float64).cumsum(axis=2)
    x0, y0, x1, y1 = boxes.T
    return (table[:, y1, x1] - table[:, y0, x1] - table[:, y1, x0] + table[:, y0, x0]).T


def widened(boxes: NDArray[np.integer], ring: float, size: tuple[int, int]) -> NDArray[np.int64]:
    """Return boxes (n, 4) that reach further by the share ``ring`` of their sides, rounded up, inside of ``size`` (H, W)."""
    height, width = size
    border = np.ceil(ring * (boxes[:, 2:] - boxes[:, :2])).astype(np.int64)  # (n, 2)
    return np.concatenate([boxes[:, :2] - border, boxes[:, 2:] + border], axis=1).clip(min=0, max=[width, height] * 2)


def standing_out(
    values: NDArray[np.floating], boxes: NDArray[np.integer], *, ring: float = 0.25
) -> NDArray[np.float64]:
    """Return how much more of ``values`` (H, W) lies in each box than around it: the difference of the means, (n,).

    Around it is a ring as wide as ``ring`` times the box's sides, as far as it lies in the image.  # ours
    """
    outer = widened(boxes, ring, (values.shape[0], values.shape[1]))
    inside, total = (box_sums(values[None], b)[:, 0] for b in (boxes, outer))
    return inside / areas(boxes) - (total - inside) / (areas(outer) - areas(boxes)).clip(min=1)


def moves_between(boxes: NDArray[np.integer], targets: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return how boxes (n, 4) must move to become ``targets`` (n, 4): float32 (n, 4) of about unit size.

    Shifts of the centre in sides of the box, and logarithms of the ratios of the sides, over 0.1, 0.1, 0.2, 0.2.
    Source: Girshick (Fast R-CNN), recalled.
    """
    sides, wanted = (b[:, 2:].astype(np.float64) - b[:, :2] for b in (boxes, targets))
    shift = (targets[:, :2] + wanted / 2) - (boxes[:, :2] + sides / 2)
    return (np.concatenate([shift / sides, np.log(wanted / sides)], axis=1) / MOVES).astype(np.float32)


def moved(boxes: NDArray[np.integer], moves: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.int32]:
    """Return boxes (n, 4) after ``moves_between``, whole pixels inside of ``size`` (H, W), none of them empty."""
    sides = boxes[:, 2:].astype(np.float64) - boxes[:, :2]
    steps = moves.astype(np.float64) * MOVES
    centre = boxes[:, :2] + sides / 2 + steps[:, :2] * sides
    half = sides * np.exp(steps[:, 2:].clip(max=MOST_GROWTH)) / 2
    return whole_pixels(np.concatenate([centre - half, centre + half], axis=1), size)


def whole_pixels(boxes: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.int32]:
    """Return boxes (n, 4) rounded and cut at the border of ``size`` (H, W), of one pixel at least: int32."""
    height, width = size
    low = np.rint(boxes[:, :2]).clip(min=0, max=[width - 1, height - 1])
    high = np.maximum(np.rint(boxes[:, 2:]).clip(max=[width, height]), low + 1)
    return np.concatenate([low, high], axis=1).astype(np.int32)


def average_precision(
    scores: NDArray[np.floating], right: NDArray[np.bool_], objects: int, *, eleven_points: bool = False
) -> float:
    """Return the average precision of detections, in [0, 1], nan without ``objects`` to find.

    ``scores`` (n,) of all images together, ``right`` (n,) whether each is the first to hit its object. The area under the
    largest precision at each recall or above (VOC from 2010 on), or its mean at recalls 0, .1, .., 1 (VOC 2007).
    """
    if not objects:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    recall, precision = hits / objects, hits / np.arange(1, len(order) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or any larger one
    if eleven_points:
        reached = [best[recall >= point - 1e-12] for point in np.arange(11) / 10]
        return float(np.mean([values[0] if len(values) else 0.0 for values in reached]))
    return float((np.diff(recall, prepend=0.0) * best).sum())


class BoxQuality:
    """CorLoc and AP50 of boxes against true ones, image by image; only scores and hits are kept."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._hits: list[list[tuple[float, bool]]] = [[] for _ in range(classes)]
        self._objects = np.zeros(classes, dtype=np.int64)
        self._located = np.zeros((2, classes), dtype=np.int64)  # images with the class; those whose surest box is right

    def add(self, truth: Sequence[tuple[int, int, int, int, int]], found: Boxes) -> None:
        """Count one image; each of ``truth`` is a class id and its box."""
        known = np.array(truth, dtype=np.int64).reshape(-1, 5)
        theirs = np.array(found.classes, dtype=np.int64)
        for c in sorted({*known[:, 0].tolist(), *found.classes} - {0}):
            objects, mine = known[known[:, 0] == c, 1:], np.flatnonzero(theirs == c)
            mine = mine[np.argsort(-found.scores[mine], kind="stable")]
            iou = overlaps(found.boxes[mine], objects)  # (n, m)
            if len(objects):
                self._objects[c] += len(objects)
                self._located[0, c] += 1
                self._located[1, c] += bool(len(mine)) and bool((iou[0] >= HIT).any())
            taken = np.zeros(len(objects), dtype=bool)
            for row, index in zip(iou, mine, strict=True):
                best = int(row.argmax()) if len(objects) else -1
                right = best >= 0 and bool(row[best] >= HIT) and not taken[best]
                if right:
                    taken[best] = True
                self._hits[c].append((float(found.scores[index]), right))

    def scores(self, only: Sequence[int] | None = None) -> dict[str, float | list[float | None] | None]:
        """Return ``corloc`` and ``ap50``, means over the classes that occur, and both by class; as JSON types.

        With ``only`` these class ids alone count for the means.
        """
        corloc: list[float | None] = [None] * self.classes
        ap50: list[float | None] = [None] * self.classes
        for c in range(1, self.classes):
            if self._objects[c]:
                hits = np.array(self._hits[c], dtype=np.float64).reshape(-1, 2)
                corloc[c] = float(self._located[1, c] / self._located[0, c])
                ap50[c] = average_precision(hits[:, 0], hits[:, 1] > 0, int(self._objects[c]))
        ids = range(self.classes) if only is None else only
        means = {name: _mean([values[c] for c in ids]) for name, values in (("corloc", corloc), ("ap50", ap50))}
        return {**means, "corloc_by_class": corloc, "ap50_by_class": ap50}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
