"""Objects of no known class: what stands out is cut into pieces, one for each seed in it, and pieces are painted.

Fan, Hou, Cheng, Yu, Martin, Hu. Associating Inter-Image Salient Instances for Weakly Supervised Semantic Segmentation.
ECCV 2018. The paper's own pieces come from a detector that was trained on masks of salient objects; those here do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tagmask.refine.boxes import mask_of
from tagmask.refine.guides import AROUND
from tagmask.types import BACKGROUND, UNKNOWN, Boxes, Instances, LabelMap

MOST_IDS = 255  # instances of a photo, the surest  # ours: their ids are bytes


def seeds_of(labels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Number what hangs together in one label (H, W), over corners too, from 1 on; 0 in the background.

    >>> seeds_of(np.array([[1, 1, 2, 0, 1]], dtype=np.uint8))
    array([[1, 1, 3, 0, 2]], dtype=int32)
    """
    numbered, total = np.zeros(labels.shape, dtype=np.int32), 0
    for label in np.unique(labels):
        if label not in (BACKGROUND, UNKNOWN):
            found, count = ndimage.label(labels == label, structure=AROUND)
            numbered[found > 0] = found[found > 0] + total
            total += count
    return numbered


def split_pieces(
    salient: NDArray[np.bool_], seeds: NDArray[np.integer], *, smallest: float = 0.01
) -> list[NDArray[np.bool_]]:
    """Cut the salient mask (H, W) into masks (H, W) of single objects, by the numbered ``seeds`` (H, W), 0 where is none.

    A piece that hangs together (over corners too) and holds several seeds is shared out: each pixel goes to the nearest of
    the seeds in the piece. Pieces under the share ``smallest`` of the image are left out; a seed whose part would be that
    small does not count. A piece with one seed or none stays whole. In reading order of the pieces, then of the seeds'
    numbers. Source: ours.
    """
    least = max(1, smallest * salient.size)
    pieces, _ = ndimage.label(salient, structure=AROUND)
    found = []
    for number, place in enumerate(ndimage.find_objects(pieces), start=1):
        inside = pieces[place] == number
        if inside.sum() < least:
            continue
        own = np.where(inside, seeds[place], 0)
        owners = _nearest(own)
        sizes = np.bincount(owners[inside])
        large = np.flatnonzero(sizes >= least)
        if 1 < len(large) < np.count_nonzero(sizes):
            owners = _nearest(np.where(np.isin(owners, large), own, 0))
        parts = [inside & (owners == owner) for owner in large] if len(large) > 1 else [inside]
        for part in parts:
            mask = np.zeros(salient.shape, dtype=bool)
            mask[place] = part
            found.append(mask)
    return found


def _nearest(seeds: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return the number of the seed that is nearest to each pixel (h, w), 0 everywhere without a seed."""
    if not seeds.any():
        return seeds
    rows, columns = ndimage.distance_transform_edt(seeds == 0, return_distances=False, return_indices=True)
    return seeds[rows, columns]


def painted_labels(instances: Boxes, assigned: Sequence[int], tags: Sequence[int], *, missed: bool = True) -> LabelMap:
    """Paint each instance with the tag that it was ``assigned``, and with 255 where that is 0, noise; smaller ones on top.

    What no instance covers is background. It is 255, though, where no instance got a tag, and with ``missed`` where one of
    the photo's ``tags`` has no instance, for that object may lie anywhere. A photo without tags is background. Source:
    ours, for how the paper paints was not found; that photos without an instance teach nothing is the paper's.
    """
    if not tags:
        return LabelMap(np.full(instances.size, BACKGROUND, dtype=np.uint8))
    seen = {tag for tag in assigned if tag}
    if not seen:
        return LabelMap(np.full(instances.size, UNKNOWN, dtype=np.uint8))
    ground = UNKNOWN if missed and set(tags) - seen else BACKGROUND
    labels = np.full(instances.size, ground, dtype=np.uint8)
    for index, mask in _large_to_small(instances):
        labels[mask] = assigned[index] or UNKNOWN
    return LabelMap(labels)


def tagged_instances(instances: Boxes, assigned: Sequence[int], scores: Sequence[float]) -> Instances:
    """Return the instances that were ``assigned`` a tag, smaller ones on top; one that is wholly covered is left out.

    ``scores`` in [0, 1] say how sure each is of its tag. Ids count from the surest on.
    """
    owner = np.full(instances.size, -1)
    for index, mask in _large_to_small(instances):
        if assigned[index]:
            owner[mask] = index
    seen = np.unique(owner[owner >= 0]).tolist()
    kept = sorted(seen, key=lambda index: -scores[index])[:MOST_IDS]
    ids = np.zeros(len(instances) + 1, dtype=np.uint8)
    ids[kept] = np.arange(1, len(kept) + 1)
    return Instances(
        ids=ids[owner],
        classes=tuple(int(assigned[index]) for index in kept),
        scores=tuple(round(float(scores[index]), 4) for index in kept),
    )


def _large_to_small(instances: Boxes) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Yield the number and mask of each instance, the largest first."""
    sizes = np.array([mask_of(instances, index).sum() for index in range(len(instances))], dtype=np.int64)
    for index in np.argsort(-sizes, kind="stable").tolist():
        yield index, mask_of(instances, index)
