"""Stages that teach a network to label frames: each alone, then with a look at the frames before."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tagmask.classify import mean_colour
from tagmask.data.photos import PerImage, Photos
from tagmask.fit import Schedule, fit
from tagmask.losses import pixel_cross_entropy
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.scene import resized
from tagmask.nets.temporal import TemporalSegmenter
from tagmask.types import LabelMap
from tagmask.video.clips import Clips, ClipViews, EncodedClips, EncodedViews
from tagmask.video.pseudo import Motion
from tagmask.video.scenes import LabelledFrames
from tagmask.work import Job

COMPARED = 4  # pixels a cell of the coarsest grid on which scores are compared with labels  # ours


def fit_image(
    photos: Photos,
    labels: PerImage[LabelMap],
    backbone: Backbone,
    *,
    classes: int,
    crop: tuple[int, int],
    zoom: tuple[float, float],
    jitter: float,
    auxiliary: float,
    built: Mapping[str, Any],
    schedule: Schedule,
    seed: int,
    job: Job,
) -> TemporalSegmenter:
    """Train the image network, whose options are ``built``, with cross entropy on each frame alone; 255 is ignored."""
    torch.manual_seed(seed)
    network = TemporalSegmenter(build_backbone(backbone), classes, **built, frames=0)
    views = LabelledFrames(photos, labels, crop, zoom, jitter, fill=mean_colour(network))

    def loss(network: nn.Module, images: Tensor, truth: Tensor) -> Mapping[str, Tensor]:
        assert isinstance(network, TemporalSegmenter)
        scores, *inner = network.training_maps(images.float() / 255)
        return {"pixels": _surprise(scores, truth), "inner": auxiliary * pixel_cross_entropy(inner, truth)}

    return fit(network, views, loss, schedule, seed=seed, job=job)


def fit_settled(
    image: TemporalSegmenter,
    clips: EncodedClips,
    *,
    attention: Mapping[str, Any],
    drop: float,
    schedule: Schedule,
    seed: int,
    job: Job,
) -> TemporalSegmenter:
    """Train what follows the encoder of the ``image`` network on clips that it has encoded; it learns no more itself."""
    network = _looking_back(image, attention, seed)
    network.settled = ("trunk", "context", "auxiliary")
    for name in network.settled:
        getattr(network, name).requires_grad_(False)

    def loss(network: nn.Module, maps: Tensor, fine: Tensor, truth: Tensor, past: Tensor) -> Mapping[str, Tensor]:
        assert isinstance(network, TemporalSegmenter)
        maps, present = _seen(network, maps.float(), past)
        return {"pixels": _surprise(network.last_of(maps, fine.float(), present), truth)}

    return fit(network, EncodedViews(clips, drop), loss, schedule, seed=seed, job=job)


def fit_temporal(
    image: TemporalSegmenter,
    photos: Photos,
    labels: PerImage[LabelMap],
    *,
    movers: dict,
    size: tuple[int, int],
    past: int,
    motion: Motion,
    real: float,
    attention: Mapping[str, Any],
    auxiliary: float,
    drop: float,
    schedule: Schedule,
    seed: int,
    job: Job,
) -> TemporalSegmenter:
    """Train all of a network that starts as the ``image`` network on clips drawn anew; every frame has its gradient (paper)."""
    network = _looking_back(image, attention, seed)
    network.slow = ("trunk", "context")
    views = ClipViews(Clips(photos, labels, size, past, motion, movers["places"], real), drop)

    def loss(network: nn.Module, frames: Tensor, truth: Tensor, past: Tensor) -> Mapping[str, Tensor]:
        assert isinstance(network, TemporalSegmenter)
        frames, present = _seen(network, frames.float() / 255, past)
        count, length = frames.shape[:2]
        encoded = network.encode(frames.flatten(end_dim=1))
        maps, fine, *inner = (
            part.unflatten(0, (count, length)) for part in (encoded.map, encoded.fine, *encoded.auxiliary)
        )
        scores = network.last_of(maps, fine[:, -1], present)
        inner = [head(part[:, -1]) for head, part in zip(network.auxiliary, inner, strict=True)]
        return {"pixels": _surprise(scores, truth), "inner": auxiliary * pixel_cross_entropy(inner, truth)}

    return fit(network, views, loss, schedule, seed=seed, job=job)


def _looking_back(image: TemporalSegmenter, attention: Mapping[str, Any], seed: int) -> TemporalSegmenter:
    """Return a network with the weights of the ``image`` network, and the transformer as it starts."""
    torch.manual_seed(seed)
    network = TemporalSegmenter(copy.deepcopy(image.trunk), image.classes, **{**image.options, **attention})
    network.load_state_dict({**network.state_dict(), **image.state_dict()})
    return network


def _seen(network: TemporalSegmenter, frames: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
    """Return of clips (B, T+1, ...) the frames that any of them needs, and which of those before each sees, bool (B, t)."""
    most = int(past.max()) if network.transformer is not None else 0
    ages = torch.arange(most, 0, -1, device=past.device)
    return frames[:, frames.shape[1] - 1 - most :], ages[None] <= past[:, None]


def _surprise(scores: Tensor, truth: Tensor) -> Tensor:
    """Cross entropy of scores, brought to a grid of `COMPARED` pixels where theirs is coarser."""
    height, width = (-(-side // COMPARED) for side in truth.shape[1:])
    if scores.shape[2] < height:
        scores = resized(scores, truth.new_empty((1, 1, height, width)))
    return pixel_cross_entropy([scores], truth)
