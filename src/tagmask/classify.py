"""Train a multi-label classifier on the tags of whole images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tagmask.augment import channels_first, random_view, resize
from tagmask.data.photos import Photos
from tagmask.errors import DataError
from tagmask.fit import Schedule, fit
from tagmask.losses import multi_label_soft_margin
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.classifier import Classifier
from tagmask.nets.multi_dilated import MultiDilated
from tagmask.work import Job

LONG_SIDE = (0.625, 1.25)  # of the crop: irn resizes the long side to 320..640 and crops 512  # author code


@dataclass(frozen=True)
class TaggedViews:
    """Training examples: (uint8 RGB (3, crop, crop), float32 targets (C-1,) in {0, 1}).

    A photo's long side is made ``long_side`` times the crop, drawn evenly from that range.
    """

    photos: Photos
    classes: int
    crop: int
    fill: NDArray[np.uint8]
    warp: bool = False
    long_side: tuple[float, float] = LONG_SIDE

    def __len__(self) -> int:
        return len(self.photos)

    def example(self, index: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Return a random view of one photo with its tags."""
        photo = self.photos[self.photos.names[index]]
        targets = tag_vector(photo.tags or (), self.classes)
        if self.warp:
            return channels_first(resize(photo.pixels, self.crop, self.crop)), targets
        scale = random.uniform(*self.long_side) * self.crop / max(photo.size)
        view, _ = random_view(photo.pixels, None, crop=self.crop, scale=scale, fill=self.fill, random=random)
        return channels_first(view), targets


def tag_vector(tags: tuple[int, ...], classes: int) -> NDArray[np.float32]:
    """Return float32 (C-1,) with 1 at each tag; tag ids count from 1.

    >>> tag_vector((1, 3), 3)
    array([1., 0., 1.], dtype=float32)
    """
    vector = np.zeros(classes, dtype=np.float32)
    vector[[tag - 1 for tag in tags]] = 1
    return vector


def fit_classifier(
    photos: Photos,
    backbone: Backbone,
    *,
    classes: int,
    crop: int,
    schedule: Schedule,
    seed: int,
    job: Job,
    convs: int = 0,
    width: int = 1024,
    hidden: int = 0,
    balance: bool = False,
    warp: bool = False,
) -> Classifier:
    """Train on tags with the multi-label soft margin loss.

    ``classes`` is C-1, the number of tags; ``convs``, ``width`` and ``hidden`` shape the head (see ``Classifier``).
    ``warp`` shows every photo whole, warped to the crop's square, as the early papers do; else random views are cut.
    ``balance`` weighs each tag's two answers by how rare they are. Raises DataError where nothing can be learned.
    """
    counts = needed_tags(photos, classes)
    torch.manual_seed(seed)
    network = Classifier(build_backbone(backbone), classes=classes, convs=convs, width=width, hidden=hidden)
    views = TaggedViews(photos, classes, crop, mean_colour(network), warp)
    weights = torch.from_numpy(balanced_weights(counts, len(photos))) if balance else None

    def loss(network: nn.Module, images: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        logits = network(images.float() / 255)  # (B, C-1)
        if weights is None:
            return {"tags": multi_label_soft_margin(logits, targets)}
        chosen = torch.where(targets > 0, weights[1].to(logits), weights[0].to(logits))  # (B, C-1)
        return {"tags": multi_label_soft_margin(logits, targets, chosen)}

    return fit(network, views, loss, schedule, seed=seed, job=job)


def fit_multi_dilated(
    photos: Photos,
    backbone: Backbone,
    *,
    classes: int,
    crop: int,
    rates: Sequence[int],
    width: int,
    schedule: Schedule,
    seed: int,
    job: Job,
) -> MultiDilated:
    """Train a branch for each of the dilations ``rates`` on tags; the losses of the branches are summed.

    ``classes`` is C-1, ``width`` the channels of a branch. Raises DataError where nothing can be learned, OptionError for
    rates below 1. Source: RDC (Wei et al. CVPR 2018).
    """
    needed_tags(photos, classes)
    torch.manual_seed(seed)
    network = MultiDilated(build_backbone(backbone), classes=classes, rates=rates, width=width)
    views = TaggedViews(photos, classes, crop, mean_colour(network))

    def loss(network: nn.Module, images: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        assert isinstance(network, MultiDilated)
        logits = network.rate_logits(images.float() / 255).unbind(dim=1)  # R of (B, C-1)
        return {f"branch {n}": multi_label_soft_margin(each, targets) for n, each in enumerate(logits, start=1)}

    return fit(network, views, loss, schedule, seed=seed, job=job)


def needed_tags(photos: Photos, classes: int) -> NDArray[np.int64]:
    """Return ``tag_counts``; raises DataError where no image has a tag."""
    counts = tag_counts(photos, classes)
    if not counts.any():
        raise DataError("no image has a tag, so there is nothing to learn; check the tags with `tagmask check`.")
    return counts


def tag_counts(photos: Photos, classes: int) -> NDArray[np.int64]:
    """Return int64 (C-1,): the number of images with each tag."""
    tags = [tag - 1 for name in photos.names for tag in photos.tags(name) or ()]
    return np.bincount(np.asarray(tags, dtype=np.int64), minlength=classes)


def balanced_weights(counts: NDArray[np.int64], images: int) -> NDArray[np.float32]:
    """Return float32 (2, C-1): weights of the answers no and yes, so that each weighs as much over the data set.

    A tag that no image (or every image) has keeps the weight 1 on its only answer.  # ours
    """
    both = np.stack([images - counts, counts]).astype(np.float32)  # (2, C-1)
    return np.where(both > 0, images / (2 * np.maximum(both, 1)), 1).astype(np.float32)


def mean_colour(network: nn.Module) -> NDArray[np.uint8]:
    """Return the colour (3,) that the network sees as zero: padding with it makes no border fire."""
    mean = network.get_submodule("trunk").get_buffer("mean")
    return (mean.detach().cpu().flatten() * 255).round().to(torch.uint8).numpy()
