"""Many looks of a fickle network at one photo, and its training.

Lee, Kim, Lee, Lee, Yoon. FickleNet. CVPR 2019. https://arxiv.org/abs/1902.10421
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tagmask.augment import resize
from tagmask.classify import TaggedViews, mean_colour, needed_tags
from tagmask.data.photos import Photos
from tagmask.fit import Schedule, fit
from tagmask.losses import multi_label_soft_margin
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.fickle import FickleNet
from tagmask.nets.folded import as_image, folded
from tagmask.types import Activation, Photo
from tagmask.work import Job

TOGETHER = 25  # looks computed at a time  # ours


def fit_fickle(
    photos: Photos,
    backbone: Backbone,
    *,
    classes: int,
    crop: int,
    kernel: int,
    dropout: float,
    keep_centre: bool,
    schedule: Schedule,
    seed: int,
    job: Job,
) -> FickleNet:
    """Train on tags with the multi-label soft margin loss; ``classes`` is C-1, the rest is the network's.

    Raises DataError where nothing can be learned.
    """
    needed_tags(photos, classes)
    torch.manual_seed(seed)
    network = FickleNet(build_backbone(backbone), classes, kernel=kernel, dropout=dropout, keep_centre=keep_centre)

    def loss(network: nn.Module, images: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        return {"tags": multi_label_soft_margin(network(images.float() / 255), targets)}

    return fit(network, TaggedViews(photos, classes, crop, mean_colour(network)), loss, schedule, seed=seed, job=job)


def fickle_maps(
    network: FickleNet, photo: Photo, *, size: int, looks: int, gather: str = "mean", seed: int = 0
) -> Activation:
    """Return the ``mean`` or the ``highest`` of the maps of many looks, on the network's grid of the warped photo.

    The trunk sees the photo, warped to ``size``, once. Without ``looks`` there is the map of the mean mask, without chance.
    What chance does follows from ``seed`` and the photo's name.
    """
    tags = photo.tags or ()
    if not tags:
        side = -(-size // network.trunk.output_stride)
        return Activation(maps=np.zeros((0, side, side), dtype=np.float32), classes=())
    image = as_image(resize(photo.pixels, size, size), network)
    with torch.no_grad():
        quick = folded(network)
        found = quick.responses_of(quick.trunk(image)[-1], [tag - 1 for tag in tags])  # (1, K, s*s, h, w)
    answers = found[0].cpu().numpy()
    if not looks:
        maps = scaled(answers.sum(axis=1))
    else:
        random = np.random.default_rng([seed, zlib.crc32(photo.name.encode())])
        both = over_looks(answers, looks, random, dropout=network.dropout, keep_centre=network.keep_centre)
        maps = both[("highest", "mean").index(gather)]
    return Activation(maps=maps.astype(np.float32).clip(0, 1), classes=tags)


def over_looks(
    answers: NDArray[np.float32], looks: int, random: np.random.Generator, *, dropout: float, keep_centre: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the highest and the mean (K, h, w) of the maps of so many looks, each map divided by its maximum.

    The map of a look is the positive part of x * dS/dx summed over channels, for features x and the score S of the class
    (Grad-CAM form). S is linear in x, so it is what the cells that are seen answer, ``answers`` (K, s*s, h, w): no look
    needs a network or a gradient. Memory does not grow with the looks.
    """
    classes, places, height, width = answers.shape
    cells = height * width
    by_cell = answers.reshape(classes, places, cells).transpose(0, 2, 1).astype(np.float64) / (1 - dropout)
    always = np.zeros((classes, cells))
    if keep_centre:
        always = by_cell[:, :, places // 2] * (1 - dropout)
        by_cell[:, :, places // 2] = 0
    by_cell = by_cell.reshape(classes, cells * places)  # (K, N*s*s)
    highest, total = np.zeros((classes, cells)), np.zeros((classes, cells))
    for start in range(0, looks, TOGETHER):
        count = min(TOGETHER, looks - start)
        kept = kept_places(count * cells * places, 1 - dropout, random)
        look_and_cell, which = kept // places, kept % (cells * places)
        for k in range(classes):
            sums = np.bincount(look_and_cell, weights=by_cell[k, which], minlength=count * cells)
            maps = scaled(sums.reshape(count, cells) + always[k])  # (looks, N)
            np.maximum(highest[k], maps.max(axis=0), out=highest[k])
            total[k] += maps.sum(axis=0)
    shape = (classes, height, width)
    return highest.reshape(shape), total.reshape(shape) / looks


def kept_places(places: int, share: float, random: np.random.Generator) -> NDArray[np.int64]:
    """Return which of ``places`` are kept, in order, each with probability ``share``, in time that follows those kept."""
    expected = share * places
    kept = np.array([-1])
    while kept[-1] < places:  # once: more gaps are drawn than will be needed
        gaps = random.geometric(share, size=int(expected + 6 * np.sqrt(expected) + 16))
        kept = np.concatenate([kept, kept[-1] + gaps.cumsum()])
    return kept[1 : np.searchsorted(kept, places)]


def scaled(maps: NDArray[np.floating]) -> NDArray[np.floating]:
    """Divide the positive part of each map (K, ...) by its maximum; one that is nowhere positive is 0."""
    positive = np.maximum(maps, 0)
    most = positive.max(axis=tuple(range(1, maps.ndim)), keepdims=True)
    return positive / np.where(most > 0, most, 1)
