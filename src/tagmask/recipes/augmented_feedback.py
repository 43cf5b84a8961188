"""Augmented Feedback - one network segments, one judges boxes; each learns from what the other found, in turns.

Qi, Liu, Shi, Zhao, Jia. ECCV 2016. https://doi.org/10.1007/978-3-319-46484-8_6
Extra supervision   none
Run                 tagmask run augmented_feedback photos/
Expect              the row `augmented_feedback` of docs/results.md
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tagmask.begin import begin
from tagmask.data.photos import PerImage
from tagmask.errors import OptionError, did_you_mean
from tagmask.feedback import aggregated, contrast_scores, fit_localiser, known_sharpened, rescored, selected
from tagmask.fit import Schedule
from tagmask.outcome import Outcome
from tagmask.proposals import checked_proposals, proposals, proposals_supervision
from tagmask.refine.crf import DEEPLAB_V1_CRF
from tagmask.refine.feedback import STARTS
from tagmask.refine.votes import WAYS
from tagmask.retrain import retrain
from tagmask.types import Dataset, LabelMap
from tagmask.work import Work


@dataclass(frozen=True)
class Options:
    """Every choice of the recipe: what it is, and after the semicolon where its value comes from."""

    tag_epochs: float = 5.0  # epochs of the classifier; author code (irn)
    tag_rate: float = 0.01  # learning rate of the classifier; ours (irn: 0.1 without momentum, which is as much)
    tag_crop: int = 321  # side of the classifier's training crops in pixels; ours (not published)
    balance: bool = False  # weigh the yes and no of each tag by how rare they are; ours
    scales: tuple[float, ...] = (1.0,)  # scales of the photo at which activations are summed; ours (CAM)
    flip: bool = False  # sum the activations of the mirror image too; ours (CAM)
    threshold: float = 0.0  # background threshold of the activations, to compare with (0: choose it); ours
    proposals: str = "segments"  # that, selective-search, a COCO json or a folder (docs/data.md); ours (paper: MCG's)
    most: int = 200  # boxes of a photo that are looked at, the surest or else the largest; ours (recalled: 2000)
    ring: float = 0.2  # a box's first score: activation in it less that around it, so wide by its sides; ours
    stretch: bool = True  # divide the first scores of a photo and tag by the best one; ours
    first_crf: bool = True  # sharpen the first labels with a CRF; source (best in the paper's trials)
    confidence: float = 0.7  # how far that CRF trusts a label, in 0..1; author code (irn)
    above: float = 0.5  # boxes vote for a tag from this score on, in 0..1; source
    fewest: int = 5  # but so many of the best vote in any case; ours (0: as in the source)
    votes: str = "sum"  # what the scores of the boxes over a pixel come to: sum, mean or max; ours (not published)
    pinned: bool = True  # k-means of the votes: the lowest of three centres is 0; ours
    middle: str = "background"  # GrabCut takes the ambiguous for background or nearest centre, or none: no cut; ours
    widest: float = 0.6  # what is ambiguous stays unknown where it is more of a photo (0: always), in 0..1; ours
    overlap: float = 0.5  # positive: IoU with a segmented piece of a tag from here on, in 0..1; ours (not published)
    likely: float = 0.5  # and, on average, the segmenter's probability of it from here on; ours (not published)
    apart: float = 0.3  # negative: IoU below this with all pieces of tags, in 0..1; ours (not published)
    unlikely: float = 0.2  # and, on average, a probability below this for all tags; ours (not published)
    hard: float = 0.5  # hard negative: a probability or score of the localiser from here on; ours (not published)
    localise: bool = True  # without, segmenters learn from segmenters alone after the first labels; paper (ablation)
    box_stride: int = 16  # pixels a cell of the localiser's grid; recalled (Fast R-CNN)
    box_size: int = 500  # long side of a photo for the localiser in pixels; ours (recalled: short side 600)
    box_cells: int = 7  # cells a side into which a box is pooled; recalled (Fast R-CNN)
    box_width: int = 1024  # units of the localiser's hidden layers; ours (recalled: 4096)
    box_samples: int = 64  # boxes of a photo that the localiser learns from in a step; recalled (Fast R-CNN)
    box_epochs: float = 4.0  # epochs of each localiser; ours (not published)
    box_rate: float = 1e-3  # learning rate of the localiser; recalled (Fast R-CNN)
    box_batch: int = 2  # photos in its training step; recalled (Fast R-CNN)
    output_stride: int = 8  # pixels a cell of the other networks' grid; recalled (LargeFOV)
    segmenter: str = "deeplab-v1"  # deeplab-v1, deeplab-v2 or deeplab-v3; recalled (LargeFOV)
    rounds: int = 3  # times that the segmenter is trained; ours (not published)
    epochs: float = 11.3  # epochs of each segmenter; recalled (DeepLab v1: 6000 steps of 20 over 10 582 photos)
    rate: float = 1e-3  # learning rate of the segmenter; recalled (DeepLab v1)
    head_rate: float = 10.0  # new layers learn so many times as fast, the localiser's too; recalled (DeepLab v1)
    crop: int = 321  # side of the segmenter's training crops in pixels; recalled (DeepLab v1)
    zoom: tuple[float, float] = (1.0, 1.0)  # range of the random scale of its training photos; recalled (DeepLab v1)
    width: int = 1024  # channels of the segmenter's head; recalled (LargeFOV)
    batch: int = 20  # photos in a training step of segmenter and classifier; recalled (DeepLab v1)
    test_scales: tuple[float, ...] = (1.0,)  # scales at which the segmenter looks at a photo; ours
    test_flip: bool = False  # let the segmenter look at the mirror image too; ours
    test_crf: bool = True  # sharpen the segmenter's predictions with a CRF; recalled

    def __post_init__(self) -> None:
        checked_proposals(self.proposals)
        for name, known in {"votes": WAYS, "middle": STARTS}.items():
            if (given := getattr(self, name)) not in known:
                raise OptionError(f"{name} is {given!r}{did_you_mean(given, known)}; expected {', '.join(known)}.")
        for name in ("threshold", "confidence", "above", "widest", "overlap", "likely", "apart", "unlikely", "hard"):
            if getattr(self, name) > 1:
                raise OptionError(f"{name} is {getattr(self, name)}; expected a number in 0..1.")
        for name in ("most", "ring", "confidence", "overlap", "box_stride", "box_size", "box_cells", "box_width",
                     "box_samples", "box_epochs", "box_batch"):  # fmt: skip
            if not getattr(self, name):
                raise OptionError(f"{name} is 0; expected a positive number.")
        if self.apart > self.overlap:
            raise OptionError(f"apart is {self.apart}, over the overlap of {self.overlap} that makes a box positive.")


def run(data: Dataset, work: Work, options: Options) -> Outcome:
    """Score boxes, label pixels by them, learn to segment, sort boxes by that, learn to score boxes, and again."""
    voting: dict[str, Any] = {
        "above": options.above, "fewest": options.fewest, "by": options.votes, "pinned": options.pinned,
        "middle": options.middle, "widest": options.widest,
    }  # fmt: skip
    sorting: dict[str, Any] = {
        "overlap": options.overlap, "likely": options.likely, "apart": options.apart, "unlikely": options.unlikely,
        "hard": options.hard, "scales": options.test_scales, "flip": options.test_flip,
    }  # fmt: skip
    network: dict[str, Any] = {
        "width": options.box_width, "cells": options.box_cells, "classes": len(data.classes),
        "samples": options.box_samples, "hard": options.hard, "size": options.box_size, "seed": work.seed,
        "schedule": Schedule(options.box_epochs, options.box_batch, options.box_rate, head_rate=options.head_rate),
    }  # fmt: skip
    backbone = replace(work.backbone, output_stride=options.box_stride)

    begun = begin(work, data, options)
    boxes = proposals(work, data.train, options.proposals, most=options.most)
    scores = work.each("scores-1", contrast_scores, begun.activation, boxes, ring=options.ring, stretch=options.stretch)
    labels: PerImage[LabelMap] = work.each("aggregated-1", aggregated, data.train, boxes, scores, **voting)
    steps = {"thresholded activation": begun.seeds, "aggregated 1": labels}
    if options.first_crf:
        labels = steps["aggregated 1, with the CRF"] = work.each(
            "sharpened", known_sharpened, labels, data.train, crf=DEEPLAB_V1_CRF, confidence=options.confidence
        )
    for turn in range(1, options.rounds + 1):
        end = retrain(
            work, data, labels, replace(options, rounds=1), first=turn,
            crf=DEEPLAB_V1_CRF, schedule={"policy": "step", "bias_rate": 2},
        )  # fmt: skip
        steps |= end.steps
        labels = end.masks
        if options.localise and turn < options.rounds:
            taught = work.each(f"taught-{turn}", selected, end.segmenter, data.train, labels, boxes, scores, **sorting)
            localiser = work.once(f"localiser-{turn}", fit_localiser, data.train, taught, backbone, **network)
            scores = work.each(f"scores-{turn + 1}", rescored, localiser, data.train, boxes, size=options.box_size)
            labels = steps[f"aggregated {turn + 1}"] = work.each(
                f"aggregated-{turn + 1}", aggregated, data.train, boxes, scores, **voting
            )
    return Outcome(
        masks=end.masks, segmenter=end.segmenter, activation=begun.activation, seeds=begun.seeds, threshold=begun.chosen,
        steps=steps, predict=end.predict, supervision=proposals_supervision(options.proposals),
    )  # fmt: skip
