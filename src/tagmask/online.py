"""Train a segmentation network on masks and on what it predicts itself, held to the tags (RDC's online term).

Wei, Xiao, Shi, Jie, Feng, Huang. Revisiting Dilated Convolution. CVPR 2018. https://arxiv.org/abs/1805.04574
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tagmask.classify import mean_colour, tag_vector
from tagmask.data.photos import PerImage, Photos
from tagmask.fit import Schedule, fit
from tagmask.losses import pixel_cross_entropy, resize_labels
from tagmask.nets.segmenter import Segmenter
from tagmask.segment import LabelledViews
from tagmask.types import UNKNOWN, LabelMap
from tagmask.work import Job


@dataclass(frozen=True)
class TaggedLabelledViews:
    """Training examples: those of ``LabelledViews``, and the photo's tags as float32 (C-1,) in {0, 1}."""

    views: LabelledViews
    classes: int

    def __len__(self) -> int:
        return len(self.views)

    def example(self, index: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Return a random view of one photo, its labels and the photo's tags."""
        photos = self.views.photos
        tags = tag_vector(photos.tags(photos.names[index]) or (), self.classes - 1)
        return (*self.views.example(index, random), tags)


def fit_online(
    segmenter: Segmenter,
    photos: Photos,
    labels: PerImage[LabelMap],
    *,
    crop: int,
    scales: tuple[float, float],
    schedule: Schedule,
    seed: int,
    job: Job,
) -> Segmenter:
    """Train a copy of ``segmenter`` further, on ``labels`` (255 is ignored) and on its own predictions alike.

    The predictions are hard and noisy: ``segmenter`` should have learned from ``labels`` already.
    """
    network = deepcopy(segmenter)  # others hold the one that was given
    fill = mean_colour(network)
    views = TaggedLabelledViews(LabelledViews(photos, labels, crop, scales, fill), network.classes)
    colour = torch.from_numpy(fill).view(1, 3, 1, 1)

    def loss(network: nn.Module, images: Tensor, truth: Tensor, tags: Tensor) -> Mapping[str, Tensor]:
        assert isinstance(network, Segmenter)
        maps = network.training_maps(images.float() / 255)
        inside = (truth != UNKNOWN) | (images != colour.to(images.device)).any(dim=1)  # not the padding of the view
        own = online_labels(maps[-1], tags, inside)
        return {"pixels": pixel_cross_entropy(maps, truth), "online": pixel_cross_entropy(maps, own)}

    return fit(network, views, loss, schedule, seed=seed, job=job)


@torch.no_grad()
def online_labels(scores: Tensor, tags: Tensor, inside: Tensor) -> Tensor:
    """Return the best class of each cell among the background and the photo's tags: int64 (B, h, w), 255 outside.

    ``scores`` are logits (B, C, h, w), ``tags`` 0/1 (B, C-1), ``inside`` bool (B, H, W) says what shows the photo.
    """
    allowed = nn.functional.pad(tags > 0, pad=(1, 0), value=True)  # (B, C)
    best = scores.masked_fill(~allowed[:, :, None, None], -torch.inf).argmax(dim=1)  # (B, h, w)
    return best.masked_fill(~resize_labels(inside, (scores.shape[2], scores.shape[3])), UNKNOWN)
