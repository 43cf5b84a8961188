"""Cues that grow while a segmenter learns from them (DSRG), and all that follows from cues: the growing network, its masks,
and networks trained on these.

Huang, Wang, Wang, Liu, Wang. Weakly-Supervised Semantic Segmentation Network with Deep Seeded Region Growing. CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tagmask.augment import resize
from tagmask.classify import tag_vector
from tagmask.data.photos import PerImage, Photos
from tagmask.edges import UNARIES, at_edges
from tagmask.errors import OptionError, did_you_mean
from tagmask.fit import Schedule, fit
from tagmask.losses import balanced_seed_loss, constrain_loss, resize_labels, seed_loss
from tagmask.nets.backbones import Backbone
from tagmask.nets.folded import as_image, folded
from tagmask.nets.segmenter import SEGMENTERS, Segmenter, build_segmenter
from tagmask.refine.crf import SEC_TEST_CRF
from tagmask.refine.grow import grow
from tagmask.retrain import Retrained, retrain
from tagmask.seed import cue_labels, with_every_class
from tagmask.segment import WarpedViews, predict_labels
from tagmask.types import BACKGROUND, UNKNOWN, Dataset, LabelMap, Photo
from tagmask.work import Job, Work

CLIP = (0.05, 20.0)  # bounds of q / p in the boundary loss; author code
RELABEL_SCALES = (0.75, 1.0, 1.25)  # of the square: 241, 321 and 401 pixels; author code


@dataclass(frozen=True)
class Growth:
    """How sure the network must be for cues to grow (see ``refine.grow``), and from what its CRF starts (see ``edges``)."""

    background: float
    foreground: float
    override_cues: bool
    unary: str


@dataclass(frozen=True)
class FromCues:
    """What came of the cues: the label maps on the way by name, those of the validation photos, and the end."""

    steps: Mapping[str, PerImage[LabelMap]]
    val_steps: Mapping[str, PerImage[LabelMap]]
    end: Retrained


def checked_growing(options: Any) -> None:
    """Raise OptionError for options of ``segment_from_cues`` that are impossible."""
    known = {"segmenter": tuple(SEGMENTERS), "unary": UNARIES, "grow_policy": ("poly", "step")}
    for name, values in known.items():
        value = getattr(options, name)
        if value not in values:
            raise OptionError(f"{name} is {value!r}{did_you_mean(value, values)}; expected {', '.join(values)}.")
    for name in ("background", "grow_background", "grow_object"):
        if getattr(options, name) > 1:
            raise OptionError(f"{name} is {getattr(options, name)}; expected a number in 0..1.")
    if options.grow_batch < 1 or options.grow_epochs <= 0:
        raise OptionError(
            f"grow_batch is {options.grow_batch} and grow_epochs {options.grow_epochs}; expected positive numbers."
        )


def segment_from_cues(work: Work, data: Dataset, cues: PerImage[LabelMap], options: Any) -> FromCues:
    """Train a network whose cues grow, let it label the training photos, and train ``retrain``'s networks on that.

    ``cues`` lie on the network's grid of the warped square. Read of ``options``, a recipe's: ``size grow_stride grow_epochs
    grow_rate grow_policy grow_batch mirror unary grow_background grow_object override_cues balanced growing first_epoch
    go_on`` (see ``dsrg``), and what ``retrain`` reads.
    """
    growth = Growth(options.grow_background, options.grow_object, options.override_cues, options.unary)
    schedule = Schedule(
        options.grow_epochs, options.grow_batch, options.grow_rate,
        policy=options.grow_policy, drops=7, drop_by=0.33, bias_rate=2,  # author code
    )  # fmt: skip
    inputs = (data.train, cues, replace(work.backbone, output_stride=options.grow_stride))
    learning: dict[str, Any] = {
        "segmenter": options.segmenter, "classes": len(data.classes), "size": options.size, "width": options.width,
        "mirror": options.mirror, "balanced": options.balanced, "growing": options.growing, "growth": growth,
        "schedule": schedule, "seed": work.seed,
    }  # fmt: skip
    looks = {"scales": RELABEL_SCALES, "square": options.size, "crf": SEC_TEST_CRF}
    steps: dict[str, PerImage[LabelMap]] = {"cues": cues}

    if options.growing and options.first_epoch and options.grow_epochs > 1:
        early = work.once("first-epoch", fit_growing, *inputs, **learning, until=1 / options.grow_epochs)
        steps["grown after an epoch"] = work.each(
            "grown-early", grown_cues, early, cues, data.train, size=options.size, growth=growth
        )
    network = work.once("growing-network", fit_growing, *inputs, **learning)
    if options.growing:
        steps["grown"] = work.each("grown", grown_cues, network, cues, data.train, size=options.size, growth=growth)
    masks = work.each("relabelled", predict_labels, network, data.train, use_tags=True, **looks)
    steps["after the growing network"] = masks
    end = retrain(work, data, masks, options, start=network if options.go_on else None)
    val = {"after the growing network": work.each("val-relabelled", predict_labels, network, data.val, **looks)}
    return FromCues({**steps, **end.steps}, val, end)


def grid_cues(
    foreground: NDArray[np.bool_],
    maps: NDArray[np.float32],
    classes: tuple[int, ...],
    saliency: NDArray[np.float32],
    *,
    background: float,
) -> LabelMap:
    """Return one label a cell: the ``foreground`` (K, h, w), background where the saliency (h, w) is below, else 255.

    Conflicts are settled as in ``seed.cue_labels``, and every class keeps a cue, by its map (K, h, w) if need be. A photo
    without classes is background  # ours
    """
    if not classes:
        return LabelMap(np.full(saliency.shape, BACKGROUND, dtype=np.uint8))
    cues = cue_labels(foreground, classes, saliency < background)
    return with_every_class(cues, maps, classes, saliency)


def on_grid(values: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Bring maps (K, H, W) to the cells of a square grid, (K, side, side): area average when shrinking, else bilinear."""
    how = cv2.INTER_AREA if values[0:1].size > side * side else cv2.INTER_LINEAR
    out = np.empty((len(values), side, side), dtype=np.float32)
    for source, target in zip(values, out, strict=True):
        cv2.resize(src=source, dst=target, dsize=(side, side), interpolation=how)
    return out


def fit_growing(
    photos: Photos,
    cues: PerImage[LabelMap],
    backbone: Backbone,
    *,
    segmenter: str,
    classes: int,
    size: int,
    width: int,
    mirror: bool,
    balanced: bool,
    growing: bool,
    growth: Growth,
    schedule: Schedule,
    seed: int,
    job: Job,
    until: float = 1.0,
) -> Segmenter:
    """Train a segmenter on cues that grow by its own answer, always from the original ones, and on the edges of the photo.

    Without ``growing`` the cues stay, without ``balanced`` background and objects share one mean. ``until`` ends the
    training early (see ``fit``). The curve notes the share of the cells that is ``labelled``, which is not minimised.
    """
    torch.manual_seed(seed)
    only = {"multi_scale": False} if segmenter == "deeplab-v2" else {}  # author code: one scale, four branches
    network = build_segmenter(segmenter, backbone, classes, width=width, **only)
    of_seeds = balanced_seed_loss if balanced else seed_loss

    def loss(network: nn.Module, images: Tensor, labels: Tensor, tags: Tensor) -> Mapping[str, Tensor]:
        scores = network(images.float() / 255).float()  # (B, C, h, w)
        p, q = at_edges(scores, images.float(), growth.unary)  # author code: grows by q, though the paper's text says p
        labels = resize_labels(labels, (scores.shape[2], scores.shape[3]))
        if growing:
            labels = grown_labels(labels, q, tags, growth)
        return {
            "seed": of_seeds(p, labels),
            "boundary": constrain_loss(p, q, clip=CLIP),
            "labelled": (labels != UNKNOWN).float().mean(),
        }

    views = WarpedViews(photos, cues, classes, size, mirror)
    return fit(network, views, loss, schedule, seed=seed, job=job, until=until)


def grown_cues(network: Segmenter, cues: LabelMap, photo: Photo, *, size: int, growth: Growth) -> LabelMap:
    """Return the cues of one photo as they grow by ``network``, on its grid of the photo warped to ``size``."""
    image = as_image(resize(photo.pixels, size, size), network)
    with torch.no_grad():
        scores = folded(network)(image).float()  # (1, C, h, w)
        _, q = at_edges(scores, image * 255, growth.unary)
        labels = resize_labels(torch.from_numpy(cues.labels)[None].to(q.device), (scores.shape[2], scores.shape[3]))
        tags = torch.from_numpy(tag_vector(photo.tags or (), network.classes - 1))[None]
        return LabelMap(grown_labels(labels, q, tags, growth)[0].cpu().numpy())


def grown_labels(labels: Tensor, q: Tensor, tags: Tensor, growth: Growth) -> Tensor:
    """Return the cues uint8 (B, h, w) grown by the probabilities q (B, C, h, w), among the tags (B, C-1) in {0, 1}."""
    batch = zip(labels.cpu().numpy(), q.cpu().numpy(), tags.cpu().numpy(), strict=True)
    grown = [
        grow(
            its, likely, (np.flatnonzero(present) + 1).tolist(),
            background=growth.background, foreground=growth.foreground, override_cues=growth.override_cues,
        )
        for its, likely, present in batch
    ]  # fmt: skip
    return torch.from_numpy(np.stack(grown)).to(labels.device)
