"""Built-in prior - what an ImageNet network reacts to most is an object, whatever its class; tags are looked for in there.

Saleh, Aliakbarian, Salzmann, Petersson, Gould, Alvarez. ECCV 2016. https://arxiv.org/abs/1609.00446
Extra supervision   none
Run                 tagmask run builtin_prior photos/
Expect              the row `builtin_prior` of docs/results.md
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tagmask.classify import fit_classifier
from tagmask.errors import OptionError, did_you_mean
from tagmask.fit import Schedule
from tagmask.outcome import Outcome
from tagmask.prior import (
    checked_loss,
    chosen_prior_mask,
    fit_with_prior,
    prior_labels,
    prior_mask,
    prior_network,
    reaction,
)
from tagmask.refine.crf import DEEPLAB_V1_CRF, IRN_CRF, SEC_TEST_CRF, CrfOptions
from tagmask.segment import predict_labels
from tagmask.types import Dataset
from tagmask.work import Work

CRFS: dict[str, CrfOptions | None] = {
    "sec": SEC_TEST_CRF, "irn": IRN_CRF, "deeplab-v1": DEEPLAB_V1_CRF, "none": None
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """Every choice of the recipe: what it is, and after the semicolon where its value comes from."""

    prior_stride: int = 8  # pixels a cell of the grid on which the pretrained network reacts; ours (VGG16: 8 and 16)
    fuse: bool = True  # sum what its two deepest stages react to, not the deepest alone; paper
    norm_each: bool = False  # bring each of them to 0..1 before the sum; ours (paper: only the sum)
    prior_crf: str = "sec"  # what makes a mask of it: the CRF sec, irn or deeplab-v1, or none (one half); ours
    smallest: float = 0.005  # masks of a smaller share of the photo become what exceeds the mean; ours
    largest: float = 0.95  # so do masks of a larger share; ours
    candidates: int = 1  # diverse masks, of which a classifier chooses one by the tags; ours (paper: a person may)
    diversity: float = 0.25  # what a pixel's label costs in each later one of them, in nats; ours (not published)
    tag_epochs: float = 5.0  # epochs of the classifier that chooses among candidates; author code (irn)
    tag_rate: float = 0.01  # learning rate of that classifier; ours
    tag_crop: int = 321  # side of its training crops in pixels; ours
    loss: str = "mask"  # mask, classes-first (classes are pooled before pixels) or weak (no prior); paper
    sharpness: float = 5.0  # of pooling, from the mean (near 0) to the maximum; ours (not published)
    joint: bool = False  # divide the terms of objects and ground together, by one more than the tags; ours
    output_stride: int = 8  # pixels a cell of the networks' grid; ours (recalled: upsampled from 32)
    segmenter: str = "deeplab-v1"  # deeplab-v1, deeplab-v2 or deeplab-v3; ours (recalled: a plain VGG16)
    epochs: float = 19.0  # epochs of the segmenter; ours (20 000 steps of 10 over 10 582 photos)
    rate: float = 1e-3  # learning rate of the segmenter; ours (recalled: 1e-7 or less, for sums over pixels)
    head_rate: float = 10.0  # its new layers learn so many times as fast; ours
    crop: int = 321  # side of the segmenter's training crops in pixels; ours
    zoom: tuple[float, float] = (1.0, 1.0)  # range of the random scale of training photos; ours (not published)
    width: int = 1024  # channels of the segmenter's head; paper (LargeFOV)
    batch: int = 10  # photos in a training step; ours (recalled: 1)
    test_scales: tuple[float, ...] = (1.0,)  # scales at which the segmenter looks at a photo; recalled
    test_flip: bool = False  # let the segmenter look at the mirror image too; recalled
    test_crf: bool = True  # sharpen the segmenter's predictions with a CRF; ours (recalled: optional)

    def __post_init__(self) -> None:
        checked_loss(self.loss)
        if self.prior_crf not in CRFS:
            hint = did_you_mean(self.prior_crf, CRFS)
            raise OptionError(f"prior_crf is {self.prior_crf!r}{hint}; expected {', '.join(CRFS)}.")
        if not 0 <= self.smallest < self.largest <= 1:
            raise OptionError(
                f"smallest is {self.smallest} and largest {self.largest}; expected 0 <= smallest < largest <= 1."
            )
        if not self.sharpness > 0:
            raise OptionError(f"sharpness is {self.sharpness}; expected a number above 0.")
        if self.candidates < 1 or (self.candidates > 1 and self.prior_crf == "none"):
            raise OptionError(f"candidates is {self.candidates}; expected 1, or more with a prior_crf to make them.")


def run(data: Dataset, work: Work, options: Options) -> Outcome:
    """Ask the pretrained network what it reacts to, make masks of that, train on tags within these masks, predict."""
    if work.backbone.weights == "none":
        work.narrator.say("the backbone has no pretrained weights, so that its prior is worth nothing; give --weights.")
    backbone = replace(work.backbone, output_stride=options.output_stride)
    masking: dict[str, Any] = {"crf": CRFS[options.prior_crf], "area": (options.smallest, options.largest)}

    pretrained = work.once(
        "prior-network", prior_network, replace(work.backbone, output_stride=options.prior_stride, freeze=0), seed=work.seed
    )  # fmt: skip
    foreground = work.each("reaction", reaction, pretrained, data.train, fuse=options.fuse, norm_each=options.norm_each)
    if options.candidates == 1:
        prior = work.each("prior", prior_mask, foreground, data.train, **masking)
    else:
        classifier = work.once(
            "classifier", fit_classifier, data.train, backbone, classes=len(data.classes) - 1, crop=options.tag_crop,
            schedule=Schedule(options.tag_epochs, options.batch, options.tag_rate, weight_decay=1e-4), seed=work.seed,
        )  # fmt: skip
        prior = work.each(
            "prior", chosen_prior_mask, foreground, classifier, data.train,
            count=options.candidates, diversity=options.diversity, **masking,
        )  # fmt: skip
    labels = work.each("prior-labels", prior_labels, prior, data.train)
    segmenter = work.once(
        "segmenter", fit_with_prior, data.train, prior, backbone,
        segmenter=options.segmenter, classes=len(data.classes), width=options.width, crop=options.crop,
        scales=options.zoom, loss=options.loss, sharpness=options.sharpness, joint=options.joint, seed=work.seed,
        schedule=Schedule(options.epochs, options.batch, options.rate, head_rate=options.head_rate),
    )  # fmt: skip
    looks: dict[str, Any] = {"scales": options.test_scales, "flip": options.test_flip}
    if options.test_crf:
        looks["crf"] = SEC_TEST_CRF
    masks = work.each("relabelled", predict_labels, segmenter, data.train, use_tags=True, **looks)
    return Outcome(
        masks=masks, segmenter=segmenter, seeds=labels, saliency=prior, predict=looks,
        steps={"prior": labels, "after the segmenter": masks},
    )  # fmt: skip
