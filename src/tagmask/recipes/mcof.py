"""MCOF - superpixels that a network surely knows teach it what objects of a class share; it finds more of them, in turns.

Wang, You, Li, Ma. CVPR 2018. https://arxiv.org/abs/1806.04659
Extra supervision   none
Run                 tagmask run mcof photos/
Expect              the row `mcof` of docs/results.md
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tagmask.affinity import calibrated
from tagmask.begin import begin
from tagmask.data.photos import PerImage
from tagmask.errors import OptionError, did_you_mean
from tagmask.fit import Schedule
from tagmask.nets.region import HEADS
from tagmask.outcome import Outcome
from tagmask.regions import WRONG, cam_seeds, fit_regions, predict_regions, superpixels, voted, with_saliency
from tagmask.retrain import retrain
from tagmask.saliency import checked_source, saliency_maps, supervision_of
from tagmask.types import Dataset, LabelMap
from tagmask.work import Work


@dataclass(frozen=True)
class Options:
    """Every choice of the recipe: what it is, and after the semicolon where its value comes from."""

    tag_epochs: float = 5.0  # epochs of the classifier; author code (irn)
    tag_rate: float = 0.01  # learning rate of the classifier; ours (irn: 0.1 without momentum, which is as much)
    tag_crop: int = 321  # side of the classifier's training crops in pixels; ours (not published)
    balance: bool = False  # weigh the yes and no of each tag by how rare they are; ours
    scales: tuple[float, ...] = (1.0,)  # scales of the photo at which activations are summed; paper (CAM)
    flip: bool = False  # sum the activations of the mirror image too; paper (CAM)
    threshold: float = 0.0  # background threshold in 0..1, where 0 means: choose it without masks; ours
    calibrate: float = 0.2  # move it here by a power of the maps, for the cuts of seeds; 0 = do not; ours
    region_scale: float = 200.0  # more makes superpixels larger; ours (not published): 100 to 430 in 500 pixels
    region_sigma: float = 0.8  # photos are smoothed by so many pixels before they are cut; ours (not published)
    region_least: int = 50  # pixels that a superpixel has at least; ours (not published)
    seed_floor: float = 0.2  # seed: more activated than all neighbours, from this mean activation on; ours
    seed_above: float = 0.5  # seed: all above this mean activation, in 0..1; ours (paper: a threshold, not published)
    seed_ground: float = 0.1  # seed of the background: below this mean activation for all tags; ours
    saliency: str = "mbd"  # mbd, rbd, a folder (docs/data.md), or none: do without; ours (paper: DRFI)
    seed_dark: float = 0.06  # seed of the background, with one tag: less salient than this, in 0..1; ours (DSRG)
    region_head: str = "pool"  # pool (features averaged over superpixels) or mask (Fast R-CNN); ours (paper: mask)
    region_width: int = 512  # units of its hidden layers; ours (recalled: 4096 with mask)
    region_maps: int = 3  # the last feature maps of the network that pool averages; ours
    region_samples: int = 64  # superpixels of a photo that it learns from in an epoch, to 254; recalled (Fast R-CNN)
    region_balance: bool = False  # let the labels of a batch weigh the same too, beside their even draw; ours
    region_epochs: float = 4.0  # epochs of each RegionNet; ours (not published)
    region_rate: float = 1e-3  # its learning rate; recalled (Fast R-CNN)
    region_batch: int = 16  # photos in its training step; ours (recalled: 2)
    region_crop: int = 321  # side of its training crops in pixels; ours (not published)
    region_zoom: tuple[float, float] = (0.75, 1.25)  # range of the random scale of its training photos; ours
    wrong: str = "background"  # what superpixels of a class without tag become: background, unknown, tags; paper
    join: float = 0.5  # with saliency, superpixels over this posterior are object, in 0..1; ours
    unsure: float = 0.0  # those from here to join are unknown (0: none); ours (0.3 is a sensible other choice)
    averaged: bool = False  # average likelihoods over a superpixel's pixels, not colours; ours (not published)
    output_stride: int = 8  # pixels a cell of the networks' grid; paper (LargeFOV)
    segmenter: str = "deeplab-v1"  # PixelNet: deeplab-v1, deeplab-v2 or deeplab-v3; paper (LargeFOV)
    rounds: int = 5  # times that RegionNet and PixelNet are trained; paper
    epochs: float = 11.3  # epochs of each PixelNet; recalled (SEC: 8000 steps of 15 over 10 582 photos)
    rate: float = 1e-3  # learning rate of PixelNet; recalled (DeepLab v1)
    head_rate: float = 10.0  # new layers of both learn so many times as fast; paper (DeepLab v1)
    crop: int = 321  # side of PixelNet's training crops in pixels; recalled (DeepLab v1)
    zoom: tuple[float, float] = (0.5, 1.5)  # range of the random scale of its training photos; ours (not published)
    width: int = 1024  # channels of PixelNet's head; paper (LargeFOV)
    batch: int = 15  # photos in a training step of PixelNet and of the classifier; recalled (SEC)
    test_scales: tuple[float, ...] = (1.0,)  # scales at which PixelNet looks at a photo; ours
    test_flip: bool = False  # let PixelNet look at the mirror image too; ours
    test_crf: bool = True  # sharpen PixelNet's predictions with a CRF; recalled

    def __post_init__(self) -> None:
        checked_source(self.saliency, none=True)
        for name, known in {"region_head": HEADS, "wrong": WRONG}.items():
            if (given := getattr(self, name)) not in known:
                raise OptionError(f"{name} is {given!r}{did_you_mean(given, known)}; expected {', '.join(known)}.")
        for name in (
            "threshold",
            "calibrate",
            "seed_floor",
            "seed_above",
            "seed_ground",
            "seed_dark",
            "join",
            "unsure",
        ):
            if getattr(self, name) > 1:
                raise OptionError(f"{name} is {getattr(self, name)}; expected a number in 0..1.")
        if self.calibrate >= 1:
            raise OptionError(f"calibrate is {self.calibrate}; expected less than 1 (0: leave the maps as they are).")
        for name in ("region_scale", "region_sigma", "region_least", "region_width", "region_maps", "region_samples",
                     "region_batch", "region_crop", "region_epochs"):  # fmt: skip
            if not getattr(self, name):
                raise OptionError(f"{name} is 0; expected a positive number.")
        if self.region_samples > 254:
            raise OptionError(f"region_samples is {self.region_samples}; expected at most 254.")


def run(data: Dataset, work: Work, options: Options) -> Outcome:
    """Take seeds from activations; learn superpixels, add what stands out, learn pixels, take seeds from these, again."""
    network: dict[str, Any] = {
        "head": options.region_head, "width": options.region_width, "maps": options.region_maps,
        "classes": len(data.classes), "samples": options.region_samples, "balance": options.region_balance,
        "crop": options.region_crop, "scales": options.region_zoom, "seed": work.seed,
        "schedule": Schedule(options.region_epochs, options.region_batch, options.region_rate, head_rate=options.head_rate),
    }  # fmt: skip
    backbone = replace(work.backbone, output_stride=options.output_stride)

    begun = begin(work, data, options)
    maps = begun.activation if not options.calibrate else work.each(
        "calibrated", calibrated, begun.activation, threshold=begun.chosen["threshold"], target=options.calibrate
    )  # fmt: skip
    saliency = None if options.saliency == "none" else saliency_maps(work, data.train, options.saliency)
    regions = work.each(
        "superpixels", superpixels, data.train,
        scale=options.region_scale, sigma=options.region_sigma, smallest=options.region_least,
    )  # fmt: skip
    first = seeds = work.each(
        "seeds-1", cam_seeds, maps, regions, saliency,
        floor=options.seed_floor, above=options.seed_above, ground=options.seed_ground, dark=options.seed_dark,
    )  # fmt: skip
    steps: dict[str, PerImage[LabelMap]] = {"thresholded activation": begun.seeds}
    for turn in range(1, options.rounds + 1):
        steps[f"seeds of round {turn}"] = seeds
        region_net = work.once(f"region-net-{turn}", fit_regions, data.train, regions, seeds, backbone, **network)
        objects = work.each(f"regions-{turn}", predict_regions, region_net, data.train, regions, wrong=options.wrong)
        steps[f"regions of round {turn}"] = objects
        if turn == 1 and saliency is not None:
            objects = steps["with saliency"] = work.each(
                "refined", with_saliency, data.train, regions, objects, saliency,
                above=options.join, unsure=options.unsure, averaged=options.averaged,
            )  # fmt: skip
        end = retrain(work, data, objects, replace(options, rounds=1), first=turn)
        steps |= end.steps
        if turn < options.rounds:
            seeds = work.each(f"seeds-{turn + 1}", voted, end.masks, regions)
    return Outcome(
        masks=end.masks, segmenter=end.segmenter, activation=begun.activation, seeds=first, threshold=begun.chosen,
        steps=steps, predict=end.predict, saliency=saliency, supervision=supervision_of(options.saliency),
    )  # fmt: skip
