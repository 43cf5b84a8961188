"""Single objects out of class maps: cells whose displacements lead to the same centre belong to one object.

Ahn, Cho, Kwak (irn). CVPR 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tagmask.errors import OptionError
from tagmask.refine.lattice import compiled
from tagmask.types import Instances, LabelMap

STILL = 2.5  # cells: where a displacement is shorter, the cell lies at a centre; author code
FOLLOWED = 300  # times that a displacement is followed; author code
MOST_PARTS = 50  # pairs of class and group that are carried on, the heaviest  # ours: each costs a map
MOST_IDS = 255  # instances of a photo, the surest  # ours: their ids are bytes


def group_cells(
    displacement: NDArray[np.floating], *, still: float = STILL, steps: int = FOLLOWED
) -> NDArray[np.int64]:
    """Return the group of each cell, int64 (h, w) in 0..G-1, from displacements (2, h, w), dy, dx in cells.

    Every cell follows the displacements, bilinear between cells, ``steps`` times. Cells whose own displacement is shorter
    than ``still`` are centres, and centres that touch side by side are one; a group are the cells that end on one centre.
    Those that end on none form a group too, so that nothing is lost. Raises ``ValueError`` for other arrays.
    """
    if displacement.ndim != 3 or len(displacement) != 2 or not np.isfinite(displacement).all():
        raise ValueError(f"displacement must be (2, h, w) and finite, got {displacement.shape}")
    field = np.ascontiguousarray(displacement.transpose(1, 2, 0), dtype=np.float32)  # (h, w, 2)
    centres, _ = ndimage.label(np.hypot(*field.transpose(2, 0, 1)) < still)  # (h, w), 0 where there is none
    ends = _follow(field, steps)  # (h, w, 2)
    _, groups = np.unique(centres[ends[..., 0], ends[..., 1]], return_inverse=True)
    return groups.reshape(centres.shape).astype(np.int64)


@compiled()
def _follow(field: NDArray[np.float32], steps: int) -> NDArray[np.int64]:
    """Return the cell (h, w, 2) at which each cell ends; positions stay inside the grid."""
    height, width, _ = field.shape
    ends = np.empty((height, width, 2), dtype=np.int64)
    for row in range(height):
        for column in range(width):
            y, x = np.float32(row), np.float32(column)
            for _ in range(steps):
                top, left = int(y), int(x)
                down, right = min(top + 1, height - 1), min(left + 1, width - 1)
                v, u = y - top, x - left
                upper = (1 - u) * field[top, left] + u * field[top, right]
                lower = (1 - u) * field[down, left] + u * field[down, right]
                move = (1 - v) * upper + v * lower
                y = min(max(y + move[0], np.float32(0)), np.float32(height - 1))
                x = min(max(x + move[1], np.float32(0)), np.float32(width - 1))
            ends[row, column, 0], ends[row, column, 1] = round(y), round(x)
    return ends


def split_maps(
    maps: NDArray[np.float32], groups: NDArray[np.int64], *, most: int = MOST_PARTS
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Split class maps (K, h, w), 0 or more, by the groups (h, w) of their cells: parts (R, h, w), each one's class (R,).

    The parts of a class sum to its map, but for those beyond the ``most`` heaviest. The heaviest of each class is always
    among them, also where it is empty. Parts are ordered by class, then by group.
    """
    if not len(maps):
        return np.zeros((0, *groups.shape), dtype=np.float32), np.zeros(0, dtype=np.int64)
    count = int(groups.max()) + 1
    weights = np.stack([np.bincount(groups.ravel(), weights=m.ravel(), minlength=count) for m in maps])  # (K, G)
    kept = np.zeros(weights.size, dtype=bool)
    kept[np.argsort(-weights, axis=None, kind="stable")[:most]] = True
    kept = kept.reshape(weights.shape) & (weights > 0)
    kept[np.arange(len(maps)), weights.argmax(axis=1)] = True
    classes, chosen = np.nonzero(kept)  # (R,)
    return np.where(groups == chosen[:, None, None], maps[classes], np.float32(0)), classes


def cut_labels(labels: LabelMap, parts: NDArray[np.float32], classes: Sequence[int], *, least: float) -> Instances:
    """Cut labels (H, W) into instances with the help of parts (R, h, w) in [0, 1], part r of class id ``classes[r]``.

    A pixel of class c goes to the strongest part of that class. What then hangs together, side by side, is an instance,
    and its score is the highest value of its part inside of it; one smaller than the share ``least`` of the photo is a
    fragment, which the author code scores 0 and this leaves out. Ids count from the surest instance on. Raises
    ``OptionError`` for a share outside of [0, 1].
    """
    if not 0 <= least <= 1:
        raise OptionError(f"the share of the photo that an instance covers at least is {least}; expected 0 to 1.")
    height, width = labels.labels.shape
    owner = np.full((height, width), -1)
    best = np.full((height, width), -1, dtype=np.float32)
    for part, (plane, klass) in enumerate(zip(parts, classes, strict=True)):
        grown = cv2.resize(src=plane, dsize=(width, height), interpolation=cv2.INTER_LINEAR)
        better = (labels.labels == klass) & (grown > best)
        best[better] = grown[better]
        owner[better] = part
    pieces, classes_of, total = np.zeros(owner.shape, dtype=np.int64), [], 0
    for part, klass in enumerate(classes):
        found, count = ndimage.label(owner == part)
        pieces[found > 0] = found[found > 0] + total
        classes_of += [int(klass)] * count
        total += count
    sizes = np.bincount(pieces.ravel(), minlength=total + 1)[1:]
    scores = np.asarray(ndimage.maximum(best, labels=pieces, index=np.arange(1, total + 1)))  # (pieces,)
    kept = np.flatnonzero(sizes >= least * pieces.size)
    kept = kept[np.argsort(-scores[kept], kind="stable")][:MOST_IDS]
    ids = np.zeros(total + 1, dtype=np.uint8)
    ids[kept + 1] = np.arange(1, len(kept) + 1)
    return Instances(
        ids=ids[pieces],
        classes=tuple(classes_of[piece] for piece in kept),
        scores=tuple(round(float(scores[piece]), 4) for piece in kept),
    )
