"""SEC - seed with sure cues, expand to sensible sizes, constrain to the edges of the photo: three losses, one training.

Kolesnikov, Lampert. ECCV 2016. https://arxiv.org/abs/1603.06098
Extra supervision   none
Run                 tagmask run sec photos/
Expect              the row `sec` of docs/results.md
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tagmask.activate import gradient_saliency, multi_scale_cam, raw_maps
from tagmask.augment import resize
from tagmask.classify import fit_classifier
from tagmask.data.photos import PerImage, Photos
from tagmask.edges import at_edges
from tagmask.fit import Schedule, fit
from tagmask.losses import constrain_loss, expand_loss, resize_labels, seed_loss
from tagmask.nets.backbones import Backbone
from tagmask.nets.classifier import Classifier
from tagmask.nets.segmenter import Segmenter, build_segmenter
from tagmask.outcome import Outcome
from tagmask.refine.crf import SEC_TEST_CRF
from tagmask.seed import background_cues, cue_labels, foreground_cues
from tagmask.segment import WarpedViews, predict_labels
from tagmask.threshold import choose_threshold
from tagmask.types import Dataset, LabelMap, Photo
from tagmask.work import Job, Work


@dataclass(frozen=True)
class Options:
    """Every choice of the recipe: what it is, and after the semicolon where its value comes from."""

    size: int = 321  # photos are warped to a square of this side in pixels; author code
    output_stride: int = 8  # pixels a cell of the network's grid; paper (321 becomes 41)
    cue_epochs: float = 11.3  # epochs of both cue networks; author code (8000 steps of 15 over 10 582 photos)
    cue_rate: float = 1e-3  # learning rate of the cue networks; author code
    cue_convs: int = 2  # 3x3 convolutions of the foreground network before its pooling; author code
    cue_hidden: int = 1024  # width of the background network's fully connected layers, 0 for none; author code
    one_cue_network: bool = False  # take both kinds of cue from the foreground network, in half the time; ours
    fraction: float = 0.2  # foreground cue: above this share of the maximum, 0 = find it without masks; paper
    quantile: float = 0.10  # background cue: below this quantile of the gradient saliency; author code
    segmenter: str = "deeplab-v1"  # deeplab-v1, deeplab-v2 or deeplab-v3; paper (LargeFOV)
    width: int = 1024  # channels of the segmenter's and of the cue networks' heads; paper
    epochs: float = 11.3  # epochs of the segmenter; author code (8000 steps of 15 over 10 582 photos)
    rate: float = 1e-3  # learning rate of the segmenter; author code
    policy: str = "step"  # how it falls: step (to a tenth after each quarter) or poly (to nothing); author code
    batch: int = 15  # photos in a training step; author code
    seed_weight: float = 1.0  # weight of the seed loss; paper
    expand_weight: float = 1.0  # weight of the expand loss; paper
    constrain_weight: float = 1.0  # weight of the constrain loss; paper


def run(data: Dataset, work: Work, options: Options) -> Outcome:
    """Find foreground cues by CAM and background cues by gradient saliency, train with the three losses, predict."""
    classes, square = len(data.classes), options.size
    backbone = replace(work.backbone, output_stride=options.output_stride)
    schedule = Schedule(options.cue_epochs, options.batch, options.cue_rate, policy="step", bias_rate=2)  # author code
    cue_network = {"classes": classes - 1, "crop": square, "warp": True, "schedule": schedule, "seed": work.seed}
    looks = {"square": square, "crf": SEC_TEST_CRF}

    foreground = work.once(
        "foreground-network", fit_classifier, data.train, backbone, convs=options.cue_convs, width=options.width, **cue_network
    )  # fmt: skip
    background = foreground if options.one_cue_network else work.once(
        "background-network", fit_classifier, data.train, backbone, hidden=options.cue_hidden, **cue_network
    )  # fmt: skip
    activation = work.each("activation", multi_scale_cam, foreground, data.train, scales=(1.0,), flip=False)
    chosen = work.once("threshold", choose_threshold, data.train, activation, fixed=options.fraction)
    cues = work.each(
        "cues", warped_cues, foreground, background, data.train,
        size=square, fraction=chosen["threshold"], quantile=options.quantile,
    )  # fmt: skip
    weights = (options.seed_weight, options.expand_weight, options.constrain_weight)
    segmenter = work.once(
        "segmenter", fit_constrained, data.train, cues, backbone,
        segmenter=options.segmenter, classes=classes, size=square, width=options.width, weights=weights,
        schedule=replace(schedule, epochs=options.epochs, rate=options.rate, policy=options.policy), seed=work.seed,
    )  # fmt: skip
    masks = work.each("relabelled", predict_labels, segmenter, data.train, use_tags=True, **looks)
    return Outcome(masks=masks, segmenter=segmenter, activation=activation, seeds=cues, threshold=chosen, predict=looks)


def warped_cues(
    foreground: Classifier, background: Classifier, photo: Photo, *, size: int, fraction: float, quantile: float
) -> LabelMap:
    """Return the sure labels of the photo warped to ``size``, on the networks' grid; 255 elsewhere."""
    pixels, tags = resize(photo.pixels, size, size), photo.tags or ()
    sure_object = foreground_cues(raw_maps(foreground, pixels, tags), tags, fraction=fraction)  # (K, h, w)
    saliency = gradient_saliency(background, pixels, layer=3)  # author code: conv4
    return cue_labels(sure_object, tags, background_cues(saliency, quantile=quantile))


def fit_constrained(
    photos: Photos, cues: PerImage[LabelMap], backbone: Backbone, *, segmenter: str, classes: int, size: int,
    width: int, weights: tuple[float, float, float], schedule: Schedule, seed: int, job: Job,
) -> Segmenter:  # fmt: skip
    """Train the segmenter with the seed, expand and constrain losses."""
    torch.manual_seed(seed)
    network = build_segmenter(segmenter, backbone, classes, width=width)

    def loss(network: nn.Module, images: Tensor, labels: Tensor, tags: Tensor) -> Mapping[str, Tensor]:
        scores = network(images.float() / 255).float()  # (B, C, h, w)
        p, q = at_edges(scores, images.float())
        grid = (scores.shape[2], scores.shape[3])
        seed_, expand, constrain = weights
        return {
            "seed": seed_ * seed_loss(p, resize_labels(labels, grid)),
            "expand": expand * expand_loss(p, tags > 0, **decays_on(math.prod(grid))),
            "constrain": constrain * constrain_loss(p, q),
        }

    return fit(network, WarpedViews(photos, cues, classes, size), loss, schedule, seed=seed, job=job)


def decays_on(cells: int) -> dict[str, float]:
    """Return how fast the expand loss forgets the lower ranks of a grid: the author code's is for 41 x 41 cells.

    On other grids the same share of the photo weighs as much; unchanged, 0.996 would average over most of 17 x 17.
    """
    scale = 41 * 41 / cells
    return {"decay_present": 0.996**scale, "decay_background": 0.999**scale}  # author code
