"""OAA - what a classifier attends to wanders over an object while it learns; gathered over the epochs, it covers more.

Jiang, Hou, Cao, Cheng, Wei, Xiong. ICCV 2019. https://mmcheng.net/oaa/
Extra supervision   none
Run                 tagmask run oaa photos/
Expect              the row `oaa` of docs/results.md
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tagmask.accumulate import fit_accumulating, fit_integral, grown, square_cam
from tagmask.attention import Rule
from tagmask.data.photos import PerImage
from tagmask.errors import OptionError
from tagmask.fit import Schedule
from tagmask.label import salient_labels, threshold_labels
from tagmask.outcome import Outcome
from tagmask.refine.crf import IRN_CRF
from tagmask.refine.sharpen import sharpen
from tagmask.retrain import retrain
from tagmask.saliency import checked_source, saliency_maps, supervision_of
from tagmask.threshold import choose_threshold
from tagmask.types import Dataset, LabelMap
from tagmask.work import Work

CHOICES = {"policy": ("step", "poly"), "loss": ("hybrid", "ce")}


@dataclass(frozen=True)
class Options:
    """Every choice of the recipe: what it is, and after the semicolon where its value comes from."""

    tag_epochs: float = 15.0  # epochs of the classifier whose attention is gathered; author code
    tag_rate: float = 1e-3  # learning rate of the classifier; author code
    tag_batch: int = 5  # photos in a training step of it and of the integral network; author code
    policy: str = "step"  # how both rates fall: step (to a tenth after two thirds) or poly (to nothing); author code
    size: int = 224  # photos are warped to a square of this side in pixels; author code (there the short side)
    tag_stride: int = 8  # pixels a cell of their grid; author code
    tag_convs: int = 3  # 3x3 convolutions before their class maps; paper
    tag_width: int = 512  # channels of these convolutions; paper
    mirror: bool = False  # show them mirror images too, whose maps are mirrored back; author code (Caffe: true)
    update: str = "max"  # gather the largest value of all epochs (max) or their mean (ave); paper
    scale: str = "max"  # bring a map to 0..1 by its maximum, or by its range (min-max); author code (Caffe: min-max)
    ranked: bool = True  # leave out a tag's map where it is not among the best scores, as many as tags; author code
    drop_rate: float = 0.0  # OAA-drop: hide so often what was last attended to, in 0..1; paper (OAA-drop: 0.5)
    drop_threshold: float = 0.6  # what counts as attended to, in 0..1; author code (OAA-drop)
    integral: bool = True  # OAA+: a second network learns the gathered maps and gives its own; paper
    loss: str = "hybrid"  # its loss: hybrid, or ce with which the paper compares; paper
    integral_epochs: float = 15.0  # its epochs; author code
    integral_rate: float = 0.0  # its learning rate, where 0 means: that of the classifier; author code (the same)
    scales: tuple[float, ...] = (1.0,)  # scales of the square at which its maps are summed; author code
    flip: bool = False  # sum its maps of the mirror image too; author code
    saliency: str = "none"  # background: none (a threshold, CRF), mbd, rbd or a folder; ours (paper: a network's)
    threshold: float = 0.0  # background threshold in 0..1, where 0 means: choose it without masks; ours
    confidence: float = 0.7  # how far the CRF trusts a thresholded label, in 0..1; author code (irn)
    output_stride: int = 16  # pixels a cell of the segmenter's grid; paper (DeepLab v3)
    segmenter: str = "deeplab-v3"  # deeplab-v1, deeplab-v2 or deeplab-v3; ours (paper: v1)
    rounds: int = 2  # segmenters trained in turn, each on the masks of the one before; ours (paper: 1)
    epochs: float = 20.0  # epochs of each segmenter; ours
    rate: float = 0.002  # learning rate of the segmenter; ours (DeepLab v3: 0.007 for all layers, BatchNorm trained)
    head_rate: float = 10.0  # its new layers learn so many times as fast; paper (DeepLab v1)
    crop: int = 513  # side of the segmenter's training crops in pixels; paper (DeepLab v3)
    zoom: tuple[float, float] = (0.5, 2.0)  # range of the random scale of training photos; paper (DeepLab v3)
    width: int = 256  # channels of the segmenter's head; paper (DeepLab v3)
    batch: int = 16  # photos in the segmenter's training step; paper (DeepLab v3)
    test_scales: tuple[float, ...] = (1.0,)  # scales at which the segmenter looks at a photo; ours
    test_flip: bool = False  # let the segmenter look at the mirror image too; ours
    test_crf: bool = False  # sharpen the segmenter's predictions with a CRF; ours (the paper of DeepLab v3 has none)

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise OptionError(f"{name} is {getattr(self, name)!r}; expected {' or '.join(known)}.")
        checked_source(self.saliency, none=True)
        for name in ("threshold", "confidence"):
            if getattr(self, name) > 1:
                raise OptionError(f"{name} is {getattr(self, name)}; expected a number in 0..1.")


def run(data: Dataset, work: Work, options: Options) -> Outcome:
    """Gather attention while a classifier learns, let a second network learn what was gathered, label, segment."""
    backbone = replace(work.backbone, output_stride=options.tag_stride)
    rule = Rule(options.update, options.scale, options.ranked, 1, options.drop_rate, options.drop_threshold)
    schedule = Schedule(
        options.tag_epochs, options.tag_batch, options.tag_rate,
        policy=options.policy, drop_at=(2 / 3,), bias_rate=2, nesterov=True,  # author code
    )  # fmt: skip
    second = replace(schedule, epochs=options.integral_epochs, rate=options.integral_rate or options.tag_rate)
    network: dict[str, Any] = {
        "classes": len(data.classes) - 1, "size": options.size, "mirror": options.mirror, "convs": options.tag_convs,
        "width": options.tag_width, "seed": work.seed,
    }  # fmt: skip

    found = work.once("attention", fit_accumulating, data.train, backbone, rule=rule, schedule=schedule, **network)
    plain = work.each("plain-activation", square_cam, found.network, data.train, size=options.size)
    activation = work.each("accumulated-activation", grown, found, data.train)
    maps = {"plain activation": plain, "accumulated": activation}
    if options.integral:
        integral = work.once(
            "integral", fit_integral, data.train, found, backbone,
            hybrid=options.loss == "hybrid", schedule=second, **network,
        )  # fmt: skip
        maps["integral"] = activation = work.each(
            "integral-activation", square_cam, integral, data.train,
            size=options.size, scales=options.scales, flip=options.flip,
        )  # fmt: skip

    steps: dict[str, PerImage[LabelMap]] = {}
    for step, its in maps.items():
        folder = step.partition(" ")[0]
        chosen = work.once(f"{folder}-threshold", choose_threshold, data.train, its, fixed=options.threshold)
        seeds = steps[step] = work.each(f"{folder}-labels", threshold_labels, its, chosen["threshold"])
    saliency = None
    if options.saliency == "none":
        masks = work.each("sharpened", sharpen, seeds, data.train, crf=IRN_CRF, confidence=options.confidence)
        steps["after the CRF"] = masks
    else:
        saliency = saliency_maps(work, data.train, options.saliency)
        masks = work.each("against-saliency", salient_labels, activation, saliency)
        steps["against saliency"] = masks
    end = retrain(work, data, masks, options)
    return Outcome(
        masks=end.masks, segmenter=end.segmenter, activation=activation, seeds=seeds, threshold=chosen,
        steps={**steps, **end.steps}, predict=end.predict, saliency=saliency, supervision=supervision_of(options.saliency),
    )  # fmt: skip
