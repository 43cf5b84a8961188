"""SEAM - a photo and the photo made small must show the same, and pixels alike say the same; the maps then cover objects.

Wang, Zhang, Kan, Shan, Chen. CVPR 2020. https://arxiv.org/abs/2004.04581
Extra supervision   none
Run                 tagmask run seam photos/
Expect              the row `seam` of docs/results.md
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tagmask.activate import multi_scale_cam
from tagmask.fit import Schedule
from tagmask.label import threshold_labels
from tagmask.outcome import Outcome
from tagmask.refine.crf import IRN_CRF
from tagmask.refine.sharpen import sharpen
from tagmask.retrain import retrain
from tagmask.seam import fit_seam
from tagmask.threshold import choose_threshold
from tagmask.types import Dataset
from tagmask.walking import check_choices, walk_out
from tagmask.work import Work


@dataclass(frozen=True)
class Options:
    """Every choice of the recipe: what it is, and after the semicolon where its value comes from."""

    tag_epochs: float = 8.0  # epochs of the classifier; author code
    tag_rate: float = 0.01  # learning rate of the classifier; author code
    tag_momentum: float = 0.0005  # its momentum; author code (a slip: the weight decay is passed in its place)
    tag_crop: int = 448  # side of the classifier's training crops in pixels; author code
    tag_batch: int = 8  # photos in its training step; author code
    rescale: float = 0.3  # size of the second view of each photo, of the first; paper
    pcm: bool = True  # refine the maps by the correlation of pixels (False: the paper's ablation); paper
    er_weight: float = 1.0  # weight of the likeness of both views' maps, 0 = without; paper
    ecr_weight: float = 1.0  # weight of the likeness of maps and refined maps, 0 = without; paper
    hardest: float = 0.2  # share of the differences of refined maps that counts, 1 = all; author code
    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)  # scales of the photo at which activations are summed; author code
    flip: bool = True  # sum the activations of the mirror image too; author code
    threshold: float = 0.0  # background threshold in 0..1, 0 = choose it without masks; ours (author code: 0.26)
    walk: bool = True  # let the activations walk along learned affinities (False: threshold and CRF); paper
    confidence: float = 0.7  # without the walk: how far the CRF trusts a thresholded label, in 0..1; author code (irn)
    calibrate: float = 0.0  # move the threshold here by a power of the maps (published: cut at 0.26), 0 = do not; ours
    low_power: float = 4.0  # objects against the background (1 - max)^this are sure; author code
    high_power: float = 24.0  # what is background against (1 - max)^this is sure; author code
    fast_crf: bool = False  # refine the sure labels at half the resolution, until they settle; ours
    affinity_stride: int = 8  # pixels a cell of the affinity network; author code
    radius: int = 5  # cells nearer than this are pairs; author code
    affinity_epochs: float = 8.0  # epochs of the affinity network; author code
    affinity_rate: float = 0.01  # its learning rate; author code
    affinity_momentum: float = 0.0005  # its momentum; author code (the slip again)
    affinity_crop: int = 448  # side of its training crops in pixels; author code
    affinity_batch: int = 8  # photos in its training step; author code
    learn_trunk: bool = True  # let its trunk learn too; author code
    walk_power: float = 6.0  # the background (1 - max)^this walks with the maps; author code
    beta: float = 8.0  # power of the affinities on the walk; author code
    walk_steps: int = 64  # steps of the walk; author code (the matrix squared six times)
    output_stride: int = 16  # pixels a cell of the trunks' grid; paper (DeepLab v3; SEAM: 8)
    segmenter: str = "deeplab-v3"  # deeplab-v1, deeplab-v2 or deeplab-v3; ours (SEAM: deeplab-v1)
    rounds: int = 2  # segmenters trained in turn, each on the masks of the one before; ours
    epochs: float = 20.0  # epochs of each segmenter; ours
    rate: float = 0.002  # learning rate of the segmenter; ours (DeepLab v3: 0.007 for all layers, BatchNorm trained)
    head_rate: float = 10.0  # its new layers learn so many times as fast; paper (DeepLab v1)
    crop: int = 513  # side of the segmenter's training crops in pixels; paper (DeepLab v3)
    zoom: tuple[float, float] = (0.5, 2.0)  # range of the random scale of training photos; paper (DeepLab v3)
    width: int = 256  # channels of the segmenter's head; paper (DeepLab v3)
    batch: int = 16  # photos in a training step of the segmenter; paper (DeepLab v3)
    test_scales: tuple[float, ...] = (1.0,)  # scales at which the segmenter looks at a photo; ours
    test_flip: bool = False  # let the segmenter look at the mirror image too; ours
    test_crf: bool = False  # sharpen the segmenter's predictions with a CRF; ours (the paper of DeepLab v3 has none)

    def __post_init__(self) -> None:
        check_choices(self)


def run(data: Dataset, work: Work, options: Options) -> Outcome:
    """Classify two views alike, activate by the refined maps, let the activations walk, segment."""
    tag_schedule = Schedule(
        options.tag_epochs, options.tag_batch, options.tag_rate, momentum=options.tag_momentum, bias_rate=2.0,  # author code
    )  # fmt: skip
    backbone, seed = replace(work.backbone, output_stride=options.output_stride), work.seed
    looks: dict[str, Any] = {"scales": options.scales, "flip": options.flip, "minmax": True}  # author code

    classifier = work.once(
        "classifier", fit_seam, data.train, backbone,
        classes=len(data.classes) - 1, crop=options.tag_crop, pcm=options.pcm, rescale=options.rescale,
        er_weight=options.er_weight, ecr_weight=options.ecr_weight, hardest=options.hardest,
        schedule=tag_schedule, seed=seed,
    )  # fmt: skip
    activation = work.each("activation", multi_scale_cam, classifier, data.train, **looks)
    chosen = work.once("threshold", choose_threshold, data.train, activation, fixed=options.threshold)
    seeds = work.each("seeds", threshold_labels, activation, chosen["threshold"])
    if options.walk:
        walked = walk_out(work, data, activation, chosen["threshold"], options)
        sure, masks = walked.sure, walked.masks
    else:
        sure, masks = seeds, work.each(
            "sharpened", sharpen, seeds, data.train, crf=IRN_CRF, confidence=options.confidence
        )  # fmt: skip
    end = retrain(work, data, masks, options)

    plain = work.each("val-activation", multi_scale_cam, classifier, data.val, predicted=True, **looks)
    val_steps = {"thresholded activation": work.each("val-thresholded", threshold_labels, plain, chosen["threshold"])}
    steps = {"thresholded activation": seeds, "random walk" if options.walk else "after the CRF": masks, **end.steps}
    return Outcome(
        masks=end.masks, segmenter=end.segmenter, activation=activation, seeds=sure, threshold=chosen,
        steps=steps, val_steps=val_steps, predict=end.predict,
    )  # fmt: skip
