"""RDC - convolutions of several dilations carry what is recognised to the pixels around; where they agree, there it is.

Wei, Xiao, Shi, Jie, Feng, Huang. CVPR 2018. https://arxiv.org/abs/1805.04574
Extra supervision   none
Run                 tagmask run rdc photos/
Expect              the row `rdc` of docs/results.md
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tagmask.activate import multi_rate_cam
from tagmask.classify import fit_multi_dilated
from tagmask.errors import OptionError
from tagmask.fit import Schedule
from tagmask.label import dense_labels, threshold_labels
from tagmask.online import fit_online
from tagmask.outcome import Outcome
from tagmask.retrain import retrain
from tagmask.saliency import checked_source, saliency_maps, supervision_of
from tagmask.segment import predict_labels
from tagmask.threshold import choose_threshold
from tagmask.types import Activation, Dataset, LabelMap, Saliency
from tagmask.work import Work


@dataclass(frozen=True)
class Options:
    """Every choice of the recipe: what it is, and after the semicolon where its value comes from."""

    tag_epochs: float = 15.0  # epochs of the classifier; recalled
    tag_rate: float = 1e-3  # learning rate of the classifier; recalled
    tag_policy: str = "step"  # how it falls: step (to a tenth after 6 of 15 epochs) or poly (to nothing); recalled
    tag_crop: int = 321  # side of the classifier's training crops in pixels; recalled
    rates: tuple[int, ...] = (1, 3, 6, 9)  # dilations at output stride 8, scaled at others; paper
    branch_width: int = 1024  # channels of each dilated convolution; ours (not published)
    plain_average: bool = False  # average the maps of all dilations alike (the paper keeps the first whole); ours
    scales: tuple[float, ...] = (1.0,)  # scales of the photo at which activations are summed; ours (not published)
    flip: bool = False  # sum the activations of the mirror image too; ours (not published)
    threshold: float = 0.3  # objects: from this share of a map's maximum on, 0 = choose it without masks; recalled
    saliency: str = "mbd"  # background by: mbd, rbd, a folder, or none (the rest); ours (paper: a network's)
    background: float = 0.06  # background: what is less salient, in 0..1; recalled
    output_stride: int = 8  # pixels a cell of the networks' grid; recalled
    segmenter: str = "deeplab-v1"  # deeplab-v1, deeplab-v2 or deeplab-v3; paper (LargeFOV)
    rounds: int = 1  # segmenters trained in turn, each on the masks of the one before; paper
    epochs: float = 1.0  # epochs of each segmenter on masks alone; ours (not published)
    online_epochs: float = 14.0  # epochs of the last one on masks and its own predictions, 0 = none; ours (15 in all)
    rate: float = 1e-3  # learning rate of the segmenter; recalled
    head_rate: float = 10.0  # its new layers learn so many times as fast; recalled
    crop: int = 321  # side of the segmenter's training crops in pixels; recalled
    zoom: tuple[float, float] = (0.5, 1.5)  # range of the random scale of training photos; ours (not published)
    width: int = 1024  # channels of the segmenter's head; paper (LargeFOV)
    batch: int = 30  # photos in a training step; recalled
    test_scales: tuple[float, ...] = (1.0,)  # scales at which the segmenter looks at a photo; paper
    test_flip: bool = False  # let the segmenter look at the mirror image too; paper
    test_crf: bool = True  # sharpen the segmenter's predictions with a CRF; paper

    def __post_init__(self) -> None:
        checked_source(self.saliency, none=True)
        if not (self.background <= 1 and self.branch_width >= 1):
            raise OptionError(
                f"background is {self.background} and branch_width {self.branch_width}; expected at most 1, at least 1."
            )


def run(data: Dataset, work: Work, options: Options) -> Outcome:
    """Classify with several dilations, fuse their maps, label what is sure, segment; go on from the network's own masks."""
    tag_schedule = Schedule(
        options.tag_epochs, options.batch, options.tag_rate, policy=options.tag_policy, drop_at=(6 / 15,)  # recalled
    )  # fmt: skip
    backbone = replace(work.backbone, output_stride=options.output_stride)
    sees: dict[str, Any] = {"scales": options.scales, "flip": options.flip, "plain": options.plain_average}

    classifier = work.once(
        "classifier", fit_multi_dilated, data.train, backbone,
        classes=len(data.classes) - 1, crop=options.tag_crop, rates=options.rates, width=options.branch_width,
        schedule=tag_schedule, seed=work.seed,
    )  # fmt: skip
    activation = work.each("activation", multi_rate_cam, classifier, data.train, **sees)
    chosen = work.once("threshold", choose_threshold, data.train, activation, fixed=options.threshold)
    thresholded = work.each("thresholded", threshold_labels, activation, chosen["threshold"])
    labels, saliency = thresholded, None
    if options.saliency != "none":
        saliency = saliency_maps(work, data.train, options.saliency)
        labels = work.each(
            "seeds", sure_labels, activation, saliency, chosen["threshold"], background=options.background
        )
    end = retrain(work, data, labels, options)
    segmenter, masks, steps = end.segmenter, end.masks, {"thresholded activation": thresholded, **end.steps}
    if options.online_epochs:
        segmenter = work.once(
            "segmenter-online", fit_online, segmenter, data.train, labels,
            crop=options.crop, scales=options.zoom, seed=work.seed,
            schedule=Schedule(options.online_epochs, options.batch, options.rate, head_rate=options.head_rate),
        )  # fmt: skip
        masks = work.each("relabelled-online", predict_labels, segmenter, data.train, use_tags=True, **end.predict)
        steps["after the online training"] = masks

    plain = work.each("val-activation", multi_rate_cam, classifier, data.val, predicted=True, **sees)
    val_steps = {"thresholded activation": work.each("val-thresholded", threshold_labels, plain, chosen["threshold"])}
    return Outcome(
        masks=masks, segmenter=segmenter, activation=activation, seeds=labels, threshold=chosen,
        steps=steps, val_steps=val_steps, predict=end.predict,
        saliency=saliency, supervision=supervision_of(options.saliency),
    )  # fmt: skip


def sure_labels(activation: Activation, saliency: Saliency, threshold: float, *, background: float) -> LabelMap:
    """Return the sure objects, and the background that the saliency tells."""
    return dense_labels(activation, saliency.unit, share=threshold, background=background)
