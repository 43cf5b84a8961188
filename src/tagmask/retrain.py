"""The end that most recipes share: a segmentation network learns from the masks, and makes better ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tagmask.data.photos import Joined, PerImage
from tagmask.fit import Schedule
from tagmask.nets.segmenter import Segmenter
from tagmask.refine.crf import PSA_CRF, CrfOptions
from tagmask.segment import fit_segmenter, predict_labels
from tagmask.types import Dataset, LabelMap
from tagmask.work import Work


@dataclass(frozen=True)
class Retrained:
    """The last network, the masks it gives the training photos, those of every round, and how it looks at photos."""

    segmenter: Segmenter
    masks: PerImage[LabelMap]
    steps: dict[str, PerImage[LabelMap]]
    predict: dict[str, Any]


def retrain(
    work: Work,
    data: Dataset,
    masks: PerImage[LabelMap],
    options: Any,
    *,
    known: PerImage[LabelMap] | None = None,
    first: int = 1,
    crf: CrfOptions = PSA_CRF,
    schedule: Mapping[str, Any] | None = None,
    start: Segmenter | None = None,
) -> Retrained:
    """Train ``options.rounds`` networks in turn, each on the masks that the one before gave the training photos.

    Photos with ``known`` labels teach these in every round, whatever the masks say. ``first`` is the number of the first
    network, for recipes that train one now and then. Read of ``options``, a recipe's:
    ``segmenter output_stride width epochs rate head_rate crop zoom batch rounds test_scales test_flip test_crf`` (see
    ``cam``). ``crf`` is that of ``test_crf``, ``schedule`` are further fields of the ``Schedule``; the first network goes on
    from ``start``, where that is given, and not from the backbone's weights. ``runs.known_options``
    refuses less than one round.
    """
    looks: dict[str, Any] = {"scales": options.test_scales, "flip": options.test_flip}
    if options.test_crf:
        looks["crf"] = crf
    steps: dict[str, PerImage[LabelMap]] = {}
    for turn in range(first, first + options.rounds):
        labels = masks if known is None else Joined(known, masks)
        segmenter = work.once(
            f"segmenter-{turn}", fit_segmenter, data.train, labels, replace(work.backbone, output_stride=options.output_stride),
            segmenter=options.segmenter, classes=len(data.classes), crop=options.crop, scales=options.zoom,
            width=options.width, seed=work.seed,
            schedule=Schedule(
                options.epochs, options.batch, options.rate, head_rate=options.head_rate, **(schedule or {})
            ),
            **({} if start is None or turn > first else {"start": start}),
        )  # fmt: skip
        masks = work.each(f"relabelled-{turn}", predict_labels, segmenter, data.train, use_tags=True, **looks)
        steps[f"after segmenter {turn}"] = masks
    return Retrained(segmenter, masks, steps, looks)
