"""The middle that psa and what stands on it share: sure pixels teach affinities, and activations walk along them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tagmask.affinity import affinity_labels, calibrated, fit_affinity, propagate
from tagmask.boundary import off_edges, propagate_around
from tagmask.data.photos import Joined, PerImage
from tagmask.errors import OptionError
from tagmask.fit import Schedule
from tagmask.nets.affinity import AffinityNet
from tagmask.refine.crf import FAST_CRF, PSA_CRF
from tagmask.types import Activation, Dataset, LabelMap
from tagmask.work import Work


@dataclass(frozen=True)
class Walked:
    """The maps that walked, the sure labels, the network that learned from these, and the masks after the walk."""

    maps: PerImage[Activation]
    sure: PerImage[LabelMap]
    affinity: AffinityNet
    masks: PerImage[LabelMap]


def check_choices(options: Any) -> None:
    """Raise OptionError for options that would fail after an hour of training."""
    for name, least in (("radius", 2), ("affinity_stride", 1), ("affinity_crop", 1), ("affinity_batch", 1)):
        if getattr(options, name) < least:
            raise OptionError(f"{name} is {getattr(options, name)}; expected {least} or more.")
    low, high, walk, target = options.low_power, options.high_power, options.walk_power, options.calibrate
    if not 0 < low <= high or walk <= 0 or target >= 1:
        raise OptionError(
            f"low_power is {low}, high_power {high}, walk_power {walk} and calibrate {target}; expected "
            "0 < low_power <= high_power, 0 < walk_power and calibrate < 1."
        )


def walk_out(
    work: Work,
    data: Dataset,
    activation: PerImage[Activation],
    threshold: float,
    options: Any,
    *,
    known: PerImage[LabelMap] | None = None,
    edges: PerImage[LabelMap] | None = None,
) -> Walked:
    """Take what is sure of ``activation``, learn affinities from it, and let the activations walk along these.

    ``threshold`` is where the maps are cut best. Affinities are learned from the ``known`` labels where a photo has such.
    Where ``edges`` of all photos are given, nothing is sure on them, and the walk has two stages (RETAB). Read of
    ``options``, a recipe's: ``calibrate low_power high_power fast_crf affinity_stride radius affinity_epochs
    affinity_rate affinity_momentum affinity_crop affinity_batch learn_trunk walk_power beta walk_steps output_stride``
    (see ``affinitynet``); ``check_choices`` refuses impossible ones early.
    """
    schedule = Schedule(
        options.affinity_epochs, options.affinity_batch, options.affinity_rate,
        momentum=options.affinity_momentum, bias_rate=2.0,  # author code
    )  # fmt: skip
    maps = activation if not options.calibrate else work.each(
        "calibrated", calibrated, activation, threshold=threshold, target=options.calibrate
    )  # fmt: skip
    sure = work.each(
        "sure", affinity_labels, maps, data.train,
        low=options.low_power, high=options.high_power, stride=options.affinity_stride,
        crf=FAST_CRF if options.fast_crf else PSA_CRF,
    )  # fmt: skip
    if edges is not None:
        sure = work.each("sure-off-edges", off_edges, sure, edges)
    labels = sure if known is None else Joined(known, sure)
    affinity = work.once(
        "affinity", fit_affinity, data.train, labels, replace(work.backbone, output_stride=options.output_stride),
        stride=options.affinity_stride, radius=options.radius, crop=options.affinity_crop,
        learn_trunk=options.learn_trunk, schedule=schedule, seed=work.seed,
    )  # fmt: skip
    steps = {"alpha": options.walk_power, "beta": options.beta, "radius": options.radius, "steps": options.walk_steps}
    if edges is None:
        masks = work.each("walked", propagate, affinity, data.train, maps, **steps)
    else:
        masks = work.each("walked", propagate_around, affinity, data.train, maps, edges, **steps)
    return Walked(maps, sure, affinity, masks)
