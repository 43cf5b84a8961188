"""The built-in prior: masks of objects from a network that learned nothing of them here, and a training that they steer.

Saleh, Aliakbarian, Salzmann, Petersson, Gould, Alvarez. ECCV 2016. https://arxiv.org/abs/1609.00446. The prior is worth what
the weights of the backbone are: from a random trunk (``--weights none``) it is worth nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tagmask.classify import mean_colour, needed_tags
from tagmask.data.photos import PerImage, Photos
from tagmask.errors import OptionError, did_you_mean
from tagmask.fit import Schedule, fit
from tagmask.losses import (
    classes_first_loss,
    pooled_tags_loss,
    prior_loss,
    resize_labels,
)
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.classifier import Classifier
from tagmask.nets.folded import as_image, folded
from tagmask.nets.prior import PriorNet
from tagmask.nets.segmenter import Segmenter, build_segmenter
from tagmask.online import TaggedLabelledViews
from tagmask.refine.crf import CrfOptions
from tagmask.refine.prior import fused, object_masks
from tagmask.segment import LabelledViews
from tagmask.types import BACKGROUND, UNKNOWN, LabelMap, Photo, Saliency
from tagmask.work import Job

OBJECT = 1  # the label of the prior's objects, whatever their class
LOSSES = ("mask", "classes-first", "weak")


def prior_network(backbone: Backbone, *, seed: int) -> PriorNet:
    """Return the pretrained trunk as it is; ``seed`` draws one without weights."""
    torch.manual_seed(seed)
    return PriorNet(build_backbone(backbone)).eval()


def reaction(network: PriorNet, photo: Photo, *, fuse: bool = True, norm_each: bool = False) -> Saliency:
    """Return what the trunk reacts to, in [0, 1] over the photo, on the trunk's grid (h, w).

    ``fuse`` sums its two deepest stages, else the deepest counts alone; ``norm_each``: see ``fused``.
    """
    with torch.no_grad():
        means = folded(network)(as_image(photo.pixels, network))[0].float().cpu().numpy()  # (S, h, w)
    return Saliency.of(fused(means if fuse else means[-1:], norm_each=norm_each))


def prior_mask(foreground: Saliency, photo: Photo, *, crf: CrfOptions | None, area: tuple[float, float]) -> Saliency:
    """Return the objects of a photo by ``object_masks``: 255 on them, 0 elsewhere. A negative has none."""
    if photo.tags == ():
        return _as_saliency(np.zeros(photo.size, dtype=np.bool_))
    return _as_saliency(object_masks(foreground.unit, photo.pixels, crf=crf, area=area)[0])


def chosen_prior_mask(
    foreground: Saliency, classifier: Classifier, photo: Photo, *,
    crf: CrfOptions, area: tuple[float, float], count: int, diversity: float,
) -> Saliency:  # fmt: skip
    """Return as ``prior_mask`` the one of ``count`` diverse masks in which a classifier believes most.

    The classifier sees the photo with the ground painted over. (In the paper's CheckMask a person ticks the best.)  # ours
    """
    if not photo.tags:
        return prior_mask(foreground, photo, crf=crf, area=area)
    masks = object_masks(foreground.unit, photo.pixels, crf=crf, area=area, count=count, diversity=diversity)
    beliefs = [belief(classifier, photo, mask) for mask in masks]
    return _as_saliency(masks[int(np.argmax(beliefs))])


def belief(classifier: Classifier, photo: Photo, mask: NDArray[np.bool_]) -> float:
    """Return the mean log-probability of the photo's tags where only ``mask`` (H, W) is shown, the rest in mean colour."""
    shown = np.where(mask[..., None], photo.pixels, mean_colour(classifier))
    with torch.no_grad():
        logits = folded(classifier)(as_image(shown, classifier))[0].float()  # (C-1,)
    return float(functional.logsigmoid(logits[[tag - 1 for tag in photo.tags or ()]]).mean())


def _as_saliency(mask: NDArray[np.bool_]) -> Saliency:
    return Saliency(np.where(mask, np.uint8(255), np.uint8(0)))


def prior_labels(prior: Saliency, photo: Photo) -> LabelMap:
    """Return what a prior and the tags say for sure: the ground, and the objects where there is one tag; else 255."""
    tag = photo.tags[0] if photo.tags and len(photo.tags) == 1 else UNKNOWN
    return LabelMap(np.where(prior.values > 0, np.uint8(tag), np.uint8(BACKGROUND)))


class ObjectLabels(PerImage[LabelMap]):
    """Priors as label maps that views can be cut of: ``OBJECT`` on what stands out, background elsewhere."""

    def __init__(self, prior: PerImage[Saliency]):
        super().__init__(prior.names)
        self.prior = prior

    def key_of(self, name: str) -> str:
        """The key of one prior."""
        return self.prior.key_of(name)

    def __getitem__(self, name: str) -> LabelMap:
        return LabelMap(np.where(self.prior[name].values > 0, np.uint8(OBJECT), np.uint8(BACKGROUND)))


def checked_loss(loss: str) -> None:
    """Raise OptionError unless ``loss`` is one of ``LOSSES``."""
    if loss not in LOSSES:
        raise OptionError(f"loss is {loss!r}{did_you_mean(loss, LOSSES)}; expected {', '.join(LOSSES)}.")


def fit_with_prior(
    photos: Photos,
    prior: PerImage[Saliency],
    backbone: Backbone,
    *,
    segmenter: str,
    classes: int,
    width: int,
    crop: int,
    scales: tuple[float, float],
    loss: str,
    sharpness: float,
    joint: bool,
    schedule: Schedule,
    seed: int,
    job: Job,
) -> Segmenter:
    """Train the named segmenter on tags, with the prior to say where they may be; ``classes`` is C.

    ``loss`` is mask (``prior_loss``), classes-first (``classes_first_loss``) or weak (``pooled_tags_loss``, without the
    prior). Views are random crops, of photo and prior alike; a tag is asked for though its object may lie outside, unless
    none of the prior is left, so crops should be large. All is compared on the network's grid (paper: after upsampling).
    Raises OptionError for an unknown loss, DataError where no image has a tag.
    """
    checked_loss(loss)
    needed_tags(photos, classes - 1)
    torch.manual_seed(seed)
    network = build_segmenter(segmenter, backbone, classes, width=width)
    views = LabelledViews(photos, ObjectLabels(prior), crop, scales, fill=mean_colour(network))

    def terms(network: nn.Module, images: Tensor, labels: Tensor, tags: Tensor) -> Mapping[str, Tensor]:
        p = network(images.float() / 255).float().softmax(dim=1)  # (B, C, h, w)
        return prior_terms(p, tags > 0, labels, loss=loss, sharpness=sharpness, joint=joint)

    return fit(network, TaggedLabelledViews(views, classes), terms, schedule, seed=seed, job=job)


def prior_terms(
    p: Tensor, tags: Tensor, labels: Tensor, *, loss: str, sharpness: float, joint: bool
) -> dict[str, Tensor]:
    """Return the terms of the loss by name: p (B, C, h, w), tags bool (B, C-1), and labels of a prior (B, H, W).

    These are ``OBJECT``, background, or 255 for what is no photo, which counts nowhere.
    """
    labels = resize_labels(labels, (p.shape[2], p.shape[3]))
    objects, ground = labels == OBJECT, labels == BACKGROUND  # (B, h, w)
    if loss == "weak":
        terms = pooled_tags_loss(p, tags, objects | ground, sharpness=sharpness)
    elif loss == "classes-first":
        terms = classes_first_loss(p, tags, objects, ground, sharpness=sharpness)
    else:
        terms = prior_loss(p, tags, objects, ground, sharpness=sharpness, joint=joint)
    return dict(zip(("objects", "ground", "absent"), terms, strict=True))
