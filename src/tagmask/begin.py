"""The beginning that most recipes share: a classifier learns the tags, shows where it sees them, and is cut off there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tagmask.activate import multi_scale_cam
from tagmask.classify import fit_classifier
from tagmask.data.photos import PerImage
from tagmask.fit import Schedule
from tagmask.label import threshold_labels
from tagmask.nets.classifier import Classifier
from tagmask.threshold import choose_threshold
from tagmask.types import Activation, Dataset, LabelMap
from tagmask.work import Work


@dataclass(frozen=True)
class Begun:
    """The classifier, what it shows of the training photos, the threshold found without masks, and the labels at it."""

    classifier: Classifier
    activation: PerImage[Activation]
    chosen: dict[str, Any]
    seeds: PerImage[LabelMap]


def begin(work: Work, data: Dataset, options: Any) -> Begun:
    """Train a classifier on tags, activate it on several scales, and choose the background threshold.

    Read of ``options``, a recipe's: ``tag_epochs tag_rate tag_crop batch balance output_stride scales flip threshold`` (see
    ``cam``).
    """
    schedule = Schedule(options.tag_epochs, options.batch, options.tag_rate, weight_decay=1e-4)  # author code (irn)
    classifier = work.once(
        "classifier", fit_classifier, data.train, replace(work.backbone, output_stride=options.output_stride),
        classes=len(data.classes) - 1, crop=options.tag_crop, balance=options.balance, schedule=schedule, seed=work.seed,
    )  # fmt: skip
    activation = work.each(
        "activation", multi_scale_cam, classifier, data.train, scales=options.scales, flip=options.flip
    )
    chosen = work.once("threshold", choose_threshold, data.train, activation, fixed=options.threshold)
    return Begun(classifier, activation, chosen, work.each("seeds", threshold_labels, activation, chosen["threshold"]))
