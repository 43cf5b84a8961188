"""Guided labelling - seeds say which object is where, saliency how far it reaches; a rule makes label maps of both.

Oh, Benenson, Khoreva, Akata, Fritz, Schiele. CVPR 2017. https://arxiv.org/abs/1701.08261
Extra supervision   none
Run                 tagmask run guided_labelling photos/
Expect              the row `guided_labelling` of docs/results.md
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tagmask.activate import multi_scale_cam
from tagmask.classify import fit_classifier
from tagmask.data.photos import PerImage
from tagmask.errors import OptionError
from tagmask.fit import Schedule
from tagmask.guides import checked_rule, classified_guide, drawn_guide, spread_guide
from tagmask.label import threshold_labels
from tagmask.outcome import Outcome
from tagmask.refine.crf import DEEPLAB_V1_CRF
from tagmask.retrain import retrain
from tagmask.saliency import checked_source, saliency_maps, supervision_of
from tagmask.threshold import choose_threshold
from tagmask.types import Dataset, LabelMap
from tagmask.work import Work


@dataclass(frozen=True)
class Options:
    """Every choice of the recipe: what it is, and after the semicolon where its value comes from."""

    tag_epochs: float = 11.3  # epochs of the classifier; author code (8000 steps of 15 over 10 582 photos)
    tag_rate: float = 1e-3  # learning rate of the classifier; author code
    tag_crop: int = 321  # side of the classifier's training crops in pixels; author code
    tag_stride: int = 8  # pixels a cell of the classifier's grid; paper (GAP-HighRes; GAP-LowRes: 16)
    tag_convs: int = 2  # 3x3 convolutions before its class maps; paper (GAP-HighRes; GAP-LowRes: 1)
    tag_width: int = 1024  # channels of these convolutions; paper
    policy: str = "step"  # how all rates fall: step (to a tenth after each quarter) or poly (to nothing); author code
    scales: tuple[float, ...] = (1.0,)  # scales of the photo at which activations are summed; author code
    flip: bool = False  # sum the activations of the mirror image too; author code
    threshold: float = 0.2  # seeds: over this share of a map's maximum, 0 = choose it without masks; author code
    saliency: str = "mbd"  # mbd, rbd or a folder of maps or a network (docs/data.md); ours (paper: learned from boxes)
    salient: float = 0.5  # salient: from this share of the photo's largest saliency on; author code
    guide: str = "G2"  # G2 (seeds spread), G1 (ask the classifier), G0 (draw lots) or seeds (no saliency); paper
    smallest: float = 0.01  # G2 skips salient pieces under this share of the photo, G1 joins them; author code
    keep_unknown: bool = False  # G2: what no seed explains teaches nothing, not background; ours
    output_stride: int = 8  # pixels a cell of the segmenter's grid; paper (LargeFOV)
    segmenter: str = "deeplab-v1"  # deeplab-v1, deeplab-v2 or deeplab-v3; paper (LargeFOV)
    rounds: int = 1  # segmenters trained in turn, each on the masks of the one before; paper
    epochs: float = 11.3  # epochs of each segmenter; author code (8000 steps of 15 over 10 582 photos)
    rate: float = 1e-3  # learning rate of the segmenter; author code
    head_rate: float = 10.0  # its new layers learn so many times as fast; author code
    crop: int = 321  # side of the segmenter's training crops in pixels; author code
    zoom: tuple[float, float] = (1.0, 1.0)  # range of the random scale of training photos; author code
    width: int = 1024  # channels of the segmenter's head; paper (LargeFOV)
    batch: int = 15  # photos in a training step; author code
    test_scales: tuple[float, ...] = (1.0,)  # scales at which the segmenter looks at a photo; author code
    test_flip: bool = False  # let the segmenter look at the mirror image too; author code
    test_crf: bool = True  # sharpen the segmenter's predictions with a CRF; paper (both are reported)

    def __post_init__(self) -> None:
        checked_rule(self.guide)
        checked_source(self.saliency)
        if not (0 < self.salient <= 1 and self.smallest <= 1 and self.threshold <= 1):
            raise OptionError(
                f"salient is {self.salient}, smallest {self.smallest} and threshold {self.threshold}; expected shares up "
                "to 1, and salient above 0."
            )
        if self.policy not in ("step", "poly"):
            raise OptionError(f"policy is {self.policy!r}; expected step or poly.")


def run(data: Dataset, work: Work, options: Options) -> Outcome:
    """Classify, take seeds where a class is seen best, let a rule spread them over what is salient, segment."""
    fall: dict[str, Any] = {"policy": options.policy, "bias_rate": 2}  # author code
    looks: dict[str, Any] = {"scales": options.scales, "flip": options.flip}

    classifier = work.once(
        "classifier", fit_classifier, data.train, replace(work.backbone, output_stride=options.tag_stride),
        classes=len(data.classes) - 1, crop=options.tag_crop, convs=options.tag_convs, width=options.tag_width,
        schedule=Schedule(options.tag_epochs, options.batch, options.tag_rate, **fall), seed=work.seed,
    )  # fmt: skip
    activation = work.each("activation", multi_scale_cam, classifier, data.train, **looks)
    chosen = work.once("threshold", choose_threshold, data.train, activation, fixed=options.threshold)
    seeds = work.each("seeds", threshold_labels, activation, chosen["threshold"])
    steps: dict[str, PerImage[LabelMap]] = {"seeds": seeds}
    masks, saliency = seeds, None
    if options.guide != "seeds":
        saliency = saliency_maps(work, data.train, options.saliency)
        rule: dict[str, Any] = {"salient": options.salient, "smallest": options.smallest}
        if options.guide == "G0":
            masks = work.each("guide", drawn_guide, data.train, saliency, salient=options.salient, seed=work.seed)
        elif options.guide == "G1":
            masks = work.each("guide", classified_guide, classifier, data.train, saliency, **rule)
        else:
            masks = work.each(
                "guide", spread_guide, seeds, data.train, saliency, keep_unknown=options.keep_unknown, **rule
            )
        steps[f"guide {options.guide}"] = masks
    end = retrain(work, data, masks, options, crf=DEEPLAB_V1_CRF, schedule=fall)

    plain = work.each("val-activation", multi_scale_cam, classifier, data.val, predicted=True, **looks)
    val_steps = {"seeds": work.each("val-seeds", threshold_labels, plain, chosen["threshold"])}
    return Outcome(
        masks=end.masks, segmenter=end.segmenter, activation=activation, seeds=seeds, threshold=chosen,
        steps={**steps, **end.steps}, val_steps=val_steps, predict=end.predict,
        saliency=saliency, supervision=supervision_of(options.saliency if saliency is not None else "none"),
    )  # fmt: skip
