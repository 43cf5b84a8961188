"""Single objects of no known class in every photo: cut out of what stands out, or the user's own; and what they attract."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tagmask.data.photos import PerImage
from tagmask.errors import OptionError, did_you_mean
from tagmask.label import threshold_labels
from tagmask.proposals import proposals
from tagmask.refine.boxes import box_of, mask_of, packed
from tagmask.refine.guides import salient_mask
from tagmask.refine.pieces import seeds_of, split_pieces
from tagmask.saliency import supervision_of
from tagmask.types import Activation, Boxes, Saliency, Sample
from tagmask.work import Work

SALIENCY = "saliency"
AREAS = ("box", "mask")  # over which attention is averaged
MOST = 100  # instances of a photo, the user's surest  # ours


def checked_instances(source: str) -> None:
    """Raise OptionError unless ``source`` is saliency, a COCO file or a folder."""
    path = Path(source)
    if source != SALIENCY and not path.is_dir() and not (path.is_file() and path.suffix.lower() == ".json"):
        raise OptionError(
            f"instances is {source!r}{did_you_mean(source, [SALIENCY])}; expected {SALIENCY}, a COCO json file with masks "
            "(or boxes), or a folder of NAME.png, in which every number above 0 is an object."
        )


def checked_area(area: str) -> None:
    """Raise OptionError unless ``area`` is one of ``AREAS``."""
    if area not in AREAS:
        raise OptionError(f"attend is {area!r}{did_you_mean(area, AREAS)}; expected {' or '.join(AREAS)}.")


def instances_supervision(source: str, saliency: str) -> str:
    """Return what people had to draw for the instances of ``source``, or for the ``saliency`` that they are cut from."""
    return supervision_of(saliency) if source == SALIENCY else "instances of the user's"


def salient_instances(
    work: Work,
    samples: Sequence[Sample],
    source: str,
    saliency: PerImage[Saliency] | None,
    activation: PerImage[Activation],
    **cut: Any,
) -> PerImage[Boxes]:
    """Return the objects of every photo, whatever they are, each with its mask.

    ``source`` is ``saliency``, or a file or folder of the user's as for ``proposals`` (the surest ``MOST`` of a photo are
    taken; what has no mask is its full box). ``cut`` are the options of ``cut_salient``, which needs the ``saliency``.
    """
    checked_instances(source)
    if source != SALIENCY:
        return proposals(work, samples, source, most=MOST)
    assert saliency is not None
    return work.each("salient-instances", cut_salient, saliency, activation, **cut)


def cut_salient(saliency: Saliency, activation: Activation, *, salient: float, smallest: float, split: float) -> Boxes:
    """Cut what is at least the share ``salient`` of the largest saliency into instances (see ``split_pieces``).

    Seeds are where the strongest activation exceeds ``split``, in [0, 1]: what hangs together there and shows one class.
    With 0 nothing is split. The instances have no class, and each is as sure as the next.
    """
    height, width = saliency.values.shape
    mask, seeds = salient_mask(saliency.unit, salient), np.zeros((height, width), dtype=np.int32)
    if split:
        seeds = seeds_of(threshold_labels(activation, split, size=(height, width)).labels)
    found = split_pieces(mask, seeds, smallest=smallest)
    boxes = np.array([box_of(part) for part in found], dtype=np.int32).reshape(-1, 4)
    return Boxes(boxes, np.ones(len(found), dtype=np.float32), (0,) * len(found), (height, width), packed(found))


def attended(instances: Boxes, activation: Activation, *, over: str) -> dict[str, Any]:
    """Return how much of each of the photo's tags there is in each instance: ``tags`` K, ``boxes`` n x 4, ``scores`` n x K.

    A score is the mean of the tag's map ``over`` the box (AISI) or the mask (ours), in [0, 1].
    """
    checked_area(over)
    scores = []
    for index, (x0, y0, x1, y1) in enumerate(instances.boxes.tolist()):
        inside = activation.maps[:, y0:y1, x0:x1]  # (K, h, w)
        if over == "mask":
            inside = inside[:, mask_of(instances, index)[y0:y1, x0:x1]]  # (K, N)
        scores.append([round(float(part.mean(dtype=np.float64)), 6) for part in inside])
    return {"tags": list(activation.classes), "boxes": instances.boxes.tolist(), "scores": scores}
