"""Label photos region by region: seeds of superpixels teach a network what objects of a class have in common (MCOF).

Wang, You, Li, Ma. Weakly-Supervised Semantic Segmentation by Iteratively Mining Common Object Features. CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tagmask.augment import channels_first, random_view
from tagmask.classify import mean_colour
from tagmask.data.photos import PerImage, Photos
from tagmask.errors import OptionError, did_you_mean
from tagmask.fit import Schedule, fit
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.folded import as_image, folded
from tagmask.nets.region import RegionNet
from tagmask.refine.regions import evenly, joined_regions, majority, object_posterior, region_scores, seed_regions
from tagmask.refine.superpixels import adjacency, felzenszwalb, region_means
from tagmask.types import BACKGROUND, UNKNOWN, Activation, LabelMap, Photo, Regions, Saliency
from tagmask.work import Job

REVISION = 2
TOGETHER = 256  # regions of a photo that go through the head at a time  # ours
WRONG = ("background", "unknown", "tags")  # what becomes of regions taken for a class that the photo does not show


def superpixels(photo: Photo, *, scale: float, sigma: float, smallest: int) -> Regions:
    """Cut a photo by ``felzenszwalb``."""
    return Regions(felzenszwalb(photo.pixels, scale=scale, sigma=sigma, smallest=smallest))


def cam_seeds(
    activation: Activation,
    regions: Regions,
    saliency: Saliency | None,
    *,
    floor: float,
    above: float,
    ground: float,
    dark: float,
) -> LabelMap:
    """Label the regions that ``seed_regions`` is sure of; saliency has a say only where there is one tag."""
    salient = (
        region_means(saliency.unit, regions.ids) if saliency is not None and len(activation.classes) == 1 else None
    )
    labels = seed_regions(
        region_scores(activation.maps, regions.ids), adjacency(regions.ids), activation.classes,
        floor=floor, above=above, ground=ground, dark=dark,
        saliency=salient,
    )  # fmt: skip
    return LabelMap(labels[regions.ids])


def voted(labels: LabelMap, regions: Regions) -> LabelMap:
    """Give each region the label that most of its pixels have."""
    return LabelMap(majority(labels.labels, regions.ids)[regions.ids])


@dataclass(frozen=True)
class RegionViews:
    """Training examples: views of photos with regions drawn from those whose label is known, evenly over the labels.

    (uint8 RGB (3, crop, crop), uint8 ids (crop, crop) of the drawn regions, 255 elsewhere, uint8 labels (samples,), 255
    where there is no region, or none in view). ``labels`` has one label a region, as ``voted`` gives it.
    """

    photos: Photos
    regions: PerImage[Regions]
    labels: PerImage[LabelMap]
    samples: int
    crop: int
    scales: tuple[float, float]
    fill: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.photos)

    def example(self, index: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Return a random view of one photo, and of regions drawn anew."""
        name = self.photos.names[index]
        ids = self.regions[name].ids
        labels = majority(self.labels[name].labels, ids)  # (n,)
        chosen = evenly(labels, self.samples, random)
        places = np.full(len(labels), UNKNOWN, dtype=np.uint8)
        places[chosen] = np.arange(len(chosen))
        view, seen = random_view(
            self.photos[name].pixels, places[ids],
            crop=self.crop, scale=random.uniform(*self.scales), fill=self.fill, random=random,
        )  # fmt: skip
        assert seen is not None
        truth = np.full(self.samples, UNKNOWN, dtype=np.uint8)
        truth[: len(chosen)] = labels[chosen]
        truth[np.bincount(seen.ravel(), minlength=256)[: self.samples] == 0] = UNKNOWN
        return channels_first(view), seen, truth


def fit_regions(
    photos: Photos,
    regions: PerImage[Regions],
    labels: PerImage[LabelMap],
    backbone: Backbone,
    *,
    head: str,
    width: int,
    maps: int,
    classes: int,
    samples: int,
    balance: bool,
    crop: int,
    scales: tuple[float, float],
    schedule: Schedule,
    seed: int,
    job: Job,
) -> RegionNet:
    """Train a RegionNet on the regions whose label is known; ``classes`` is C with the background.

    Of each photo at most ``samples`` regions are drawn in an epoch, evenly over the labels, 254 or less. ``balance`` lets
    every label of a batch weigh the same besides: objects then reach far.
    """
    torch.manual_seed(seed)
    network = RegionNet(build_backbone(backbone), classes, head=head, width=width, maps=maps)
    views = RegionViews(photos, regions, labels, samples, crop, scales, mean_colour(network))

    def loss(network: nn.Module, images: Tensor, ids: Tensor, truth: Tensor) -> Mapping[str, Tensor]:
        scores = network(images.float() / 255, ids, truth.shape[1])  # (B, R, C)
        return {"regions": region_loss(scores, truth, balance=balance)}

    return fit(network, views, loss, schedule, seed=seed, job=job)


def region_loss(scores: Tensor, labels: Tensor, *, balance: bool) -> Tensor:
    """Cross-entropy of logits (B, R, C) over the regions whose label, uint8 (B, R), is not 255: their mean.

    With ``balance`` the mean over the labels of the batch of their means. Without a known label 0. Source: MCOF.
    """
    flat, truth = scores.float().flatten(end_dim=1), labels.long().flatten()
    surprise = functional.cross_entropy(input=flat, target=truth, ignore_index=UNKNOWN, reduction="none")  # (N,)
    known = truth != UNKNOWN
    if not balance:
        return surprise.sum() / known.sum().clamp(min=1)
    member = functional.one_hot(truth.masked_fill(~known, 0), scores.shape[2]) * known[:, None]  # (N, C)
    counts = member.sum(dim=0)  # (C,)
    weights = (member / counts.clamp(min=1)).sum(dim=1)  # (N,)
    return (weights * surprise).sum() / (counts > 0).sum().clamp(min=1)


def predict_regions(network: RegionNet, photo: Photo, regions: Regions, *, wrong: str) -> LabelMap:
    """Label each region with its best class, and clear those whose class the photo does not show.

    ``wrong`` says what these become: background (paper), unknown, or the best of the tags and the background. A photo
    without tags is background.
    """
    if wrong not in WRONG:
        raise OptionError(f"wrong is {wrong!r}{did_you_mean(wrong, WRONG)}; expected one of {', '.join(WRONG)}.")
    if not photo.tags:
        return LabelMap(np.full(photo.size, BACKGROUND, dtype=np.uint8))
    scores = region_logits(network, photo, regions)  # (n, C)
    shown = np.array([BACKGROUND, *photo.tags], dtype=np.uint8)
    if wrong == "tags":
        labels = shown[scores[:, shown].argmax(axis=1)]
    else:
        best = scores.argmax(axis=1)
        cleared = BACKGROUND if wrong == "background" else UNKNOWN
        labels = np.where(np.isin(best, shown), best, cleared).astype(np.uint8)
    return LabelMap(labels[regions.ids])


@torch.no_grad()
def region_logits(network: RegionNet, photo: Photo, regions: Regions) -> NDArray[np.float32]:
    """Return the network's logits of every region, float32 (n, C)."""
    quick = folded(network)
    image = as_image(photo.pixels, network)
    ids = torch.from_numpy(regions.ids[None]).to(device=image.device, dtype=torch.int64)  # (1, H, W)
    features = quick.features(image)
    parts = [
        quick.scores_of(features, ids - start, min(TOGETHER, regions.count - start))[0]
        for start in range(0, regions.count, TOGETHER)
    ]
    return torch.cat(parts).float().cpu().numpy()


def with_saliency(
    photo: Photo,
    regions: Regions,
    objects: LabelMap,
    saliency: Saliency,
    *,
    above: float,
    unsure: float,
    averaged: bool,
) -> LabelMap:
    """Add to the objects of a photo with one tag the regions that stand out and are like them in colour.

    See ``object_posterior`` and ``joined_regions``. A photo with no object yet, or with several tags, stays as it is.
    """
    if photo.tags is None or len(photo.tags) != 1:
        return objects
    labels = majority(objects.labels, regions.ids)  # (n,)
    inside = labels == photo.tags[0]
    if not inside.any():
        return objects
    lab = cv2.cvtColor(photo.pixels, code=cv2.COLOR_RGB2LAB) / 255  # (H, W, 3)
    prior = region_means(saliency.unit, regions.ids)
    posterior = object_posterior(lab, regions.ids, inside, labels == BACKGROUND, prior, averaged=averaged)
    return LabelMap(joined_regions(labels, posterior, photo.tags[0], above=above, unsure=unsure)[regions.ids])
