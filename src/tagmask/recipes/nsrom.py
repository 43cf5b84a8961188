"""NSROM - objects also lie where nothing stands out: mined from activations there, and not learned as background.

Yao, Chen, Xie, Sun, Zhang, Tang. CVPR 2021. https://arxiv.org/abs/2103.14581
Extra supervision   none
Run                 tagmask run nsrom photos/
Expect              the row `nsrom` of docs/results.md
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
from tagmask.refine.crf import DEEPLAB_V2_CRF
from tagmask.refine.mining import masked_labels, mined_labels
from tagmask.retrain import retrain
from tagmask.saliency import checked_source, saliency_maps, supervision_of
from tagmask.segment import predict_labels
from tagmask.threshold import choose_threshold
from tagmask.types import Dataset, LabelMap, Photo, Saliency
from tagmask.work import Work

CHOICES = {"policy": ("step", "poly"), "graph": ("code", "paper", "none"), "mined": ("unknown", "class", "none")}


@dataclass(frozen=True)
class Options:
    """Every choice of the recipe: what it is, and after the semicolon where its value comes from."""

    tag_epochs: float = 15.0  # epochs of the classifier whose attention is gathered; author code
    tag_rate: float = 1e-3  # learning rate of the classifier; author code
    tag_batch: int = 5  # photos in a training step of it and of the integral network; author code
    policy: str = "step"  # how both rates fall: step (to a tenth after each third) or poly (to nothing); author code
    size: int = 256  # photos are warped to a square of this side in pixels; author code
    jitter: tuple[float, ...] = (0.3, 0.3, 0.3, 0.1)  # brightness, contrast, saturation, hue vary so much; author code
    tag_stride: int = 8  # pixels a cell of their grid; author code
    tag_convs: int = 3  # 3x3 convolutions before their class maps; author code
    tag_width: int = 512  # channels of these convolutions; author code
    graph: str = "code"  # global reasoning behind them: code ReLU(V + AV), paper (I - A)V, or none; author code
    nodes: int = 64  # nodes of its graph, with twice as many numbers each; author code
    relu_first: bool = False  # integral network: the last ReLU before the reasoning; paper (author code: true, a slip?)
    least_score: float = 0.1  # a tag's map is gathered where its probability is at least this; author code
    integral_epochs: float = 15.0  # epochs of the integral network, which learns what was gathered; author code
    integral_rate: float = 0.0  # its learning rate, where 0 means: that of the classifier; author code (the same)
    threshold: float = 0.0  # where the maps are cut for the report, in 0..1, 0 = choose it without masks; ours
    saliency: str = "mbd"  # what stands out: mbd, rbd or a folder (docs/data.md); ours (paper: a network's)
    mined: str = "unknown"  # what mined background becomes: unknown, class (of the map), none (no mining); paper
    mining_threshold: float = 0.0  # mine above this in 0..1, 0 = above the median of a class's labelled pixels; paper
    masking: bool = True  # mask what lies far from all objects (False: learn from plain predictions); paper
    mask_saliency: bool = False  # masking spares what is salient at all; paper (author code: true, on a network's maps)
    dilation: int = 30  # masking spares what is so near an object, side of a square in pixels; author code (of 500)
    only_tags: bool = True  # masking starts from predictions of the photo's tags only; ours (author code: all classes)
    round_crf: bool = True  # sharpen these predictions with a CRF; author code
    output_stride: int = 16  # pixels a cell of the segmenter's grid; paper (DeepLab v3)
    segmenter: str = "deeplab-v3"  # deeplab-v1, deeplab-v2 or deeplab-v3; ours (author code: deeplab-v2)
    rounds: int = 2  # segmenters trained in turn, each on the masked predictions of the one before; paper
    epochs: float = 20.0  # epochs of each segmenter; ours (author code: 19)
    rate: float = 0.002  # learning rate of the segmenter; ours (author code, from COCO's weights: 0.00025)
    head_rate: float = 10.0  # its new layers learn so many times as fast; author code
    crop: int = 513  # side of the segmenter's training crops in pixels; paper (DeepLab v3; author code: 321)
    zoom: tuple[float, float] = (0.5, 2.0)  # range of the random scale of training photos; paper (DeepLab v3)
    width: int = 256  # channels of the segmenter's head; paper (DeepLab v3)
    batch: int = 16  # photos in the segmenter's training step; paper (DeepLab v3; author code: 10)
    test_scales: tuple[float, ...] = (1.0,)  # scales at which the segmenter looks at a photo; ours
    test_flip: bool = False  # let the segmenter look at the mirror image too; author code
    test_crf: bool = False  # sharpen the segmenter's predictions with a CRF; ours (author code: true)

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise OptionError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}.")
        checked_source(self.saliency)
        for name in ("threshold", "least_score", "mining_threshold"):
            if getattr(self, name) > 1:
                raise OptionError(f"{name} is {getattr(self, name)}; expected a number in 0..1.")
        if len(self.jitter) != 4 or self.jitter[3] > 0.5:
            raise OptionError(f"jitter is {self.jitter}; expected four numbers, the last at most 0.5 (0 0 0 0: none).")
        if self.nodes < 1:
            raise OptionError(f"nodes is {self.nodes}; expected 1 or more (`--graph none` leaves the reasoning out).")


def run(data: Dataset, work: Work, options: Options) -> Outcome:
    """Gather and learn attention, label against saliency, mine; segment, mask what was not looked at, segment again."""
    backbone = replace(work.backbone, output_stride=options.tag_stride)
    schedule = Schedule(
        options.tag_epochs, options.tag_batch, options.tag_rate,
        policy=options.policy, drop_at=(1 / 3, 2 / 3), bias_rate=2, nesterov=True,  # author code
    )  # fmt: skip
    second = replace(schedule, epochs=options.integral_epochs, rate=options.integral_rate or options.tag_rate)
    unit = {} if options.graph == "none" else {"nodes": options.nodes, "graph": options.graph}
    network: dict[str, Any] = {
        "classes": len(data.classes) - 1, "size": options.size, "jitter": options.jitter, "convs": options.tag_convs,
        "width": options.tag_width, "seed": work.seed,
    }  # fmt: skip

    found = work.once(
        "attention", fit_accumulating, data.train, backbone,
        rule=Rule(ranked=False), least=options.least_score, schedule=schedule, reasoning=unit, **network,
    )  # fmt: skip
    integral = work.once(
        "integral", fit_integral, data.train, found, backbone,
        hybrid=True, schedule=second, reasoning={**unit, "relu_first": options.relu_first}, **network,
    )  # fmt: skip
    maps = {
        "CAM": work.each("plain-activation", square_cam, found.network, data.train, size=options.size),
        "accumulated": work.each("accumulated-activation", grown, found, data.train),
        "OA-CAM": work.each("integral-activation", square_cam, integral, data.train, size=options.size),
    }
    steps: dict[str, PerImage[LabelMap]] = {}
    for (step, its), stage in zip(maps.items(), ("plain", "accumulated", "integral"), strict=True):
        chosen = work.once(f"{stage}-threshold", choose_threshold, data.train, its, fixed=options.threshold)
        steps[step] = work.each(f"{stage}-labels", threshold_labels, its, chosen["threshold"])

    saliency = saliency_maps(work, data.train, options.saliency)
    labels = steps["background extraction"] = work.each("extracted", salient_labels, maps["OA-CAM"], saliency)
    if options.mined != "none":
        labels = steps["object mining"] = work.each(
            "mined", mined_labels, labels, maps["CAM"], mined=options.mined, threshold=options.mining_threshold
        )
    seeds = labels
    for turn in range(1, options.rounds + 1):
        end = retrain(work, data, labels, replace(options, rounds=1), first=turn)
        steps |= end.steps
        if turn < options.rounds:
            predicted = work.each(
                f"predicted-{turn}", predict_labels, end.segmenter, data.train,
                use_tags=options.only_tags, scales=options.test_scales, flip=options.test_flip,
                crf=DEEPLAB_V2_CRF if options.round_crf else None,
            )  # fmt: skip
            labels = work.each(
                f"masked-{turn}", masked, predicted, seeds, saliency, data.train,
                masking=options.masking, dilation=options.dilation, with_saliency=options.mask_saliency,
            )  # fmt: skip
            steps["non-salient masked" if turn == 1 else f"non-salient masked {turn}"] = labels
    return Outcome(
        masks=end.masks, segmenter=end.segmenter, activation=maps["OA-CAM"], seeds=seeds, threshold=chosen, steps=steps,
        predict=end.predict, saliency=saliency, supervision=supervision_of(options.saliency),
    )  # fmt: skip


def masked(
    predicted: LabelMap, known: LabelMap, saliency: Saliency, photo: Photo,
    *, masking: bool, dilation: int, with_saliency: bool,
) -> LabelMap:  # fmt: skip
    """Mask the regions of a photo of several tags in which objects may have been missed."""
    salient = saliency.unit if with_saliency else None
    tags = len(photo.tags or ())
    return masked_labels(predicted, known, tags=tags, masking=masking, saliency=salient, dilation=dilation)
