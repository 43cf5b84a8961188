"""Two trainings on whole photos: a classifier whose attention is gathered while it learns, and a network that learns it.

Attention wanders over the parts of an object from epoch to epoch; together the maps cover more of it than the last one
does (OAA). A second network learns the gathered maps, and shows more of the object still (OAA+).
Jiang, Hou, Cao, Cheng, Wei, Xiong. Integral Object Mining via Online Attention Accumulation. ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from tagmask.activate import multi_scale_cam
from tagmask.attention import Accumulated, AttentionMemory, Rule, wiped
from tagmask.augment import channels_first, jittered, resize
from tagmask.classify import needed_tags, tag_vector
from tagmask.data.photos import PerImage, Photos
from tagmask.fit import Schedule, fit
from tagmask.losses import integral_attention_loss, multi_label_soft_margin
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.classifier import Classifier
from tagmask.types import Activation, Photo
from tagmask.work import Job


@dataclass(frozen=True)
class SquareViews:
    """Training examples: whole photos warped to a square, mirrored half of the time with ``mirror``.

    Their colours are ``jittered``, where that is given.

    (uint8 RGB (3, size, size), targets, number of the photo, whether it is mirrored). The targets are the tags, float32
    (C-1,) in {0, 1}, or with ``attention`` maps of them, float32 (C-1, h, w) in [0, 1], mirrored with the photo.
    """

    photos: Photos
    classes: int
    size: int
    mirror: bool
    attention: PerImage[Activation] | None = None
    jitter: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.photos)

    def example(self, index: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Return one photo, its targets, and what is needed to lay its maps back onto it."""
        photo = self.photos[self.photos.names[index]]
        mirrored = self.mirror and bool(random.integers(2))
        way = -1 if mirrored else 1
        pixels = resize(photo.pixels, self.size, self.size)[:, ::way]
        view = channels_first(jittered(pixels, self.jitter, random) if self.jitter else pixels)
        if self.attention is None:
            targets = tag_vector(photo.tags or (), self.classes)
        else:
            known = self.attention[photo.name]
            targets = np.zeros((self.classes, *known.maps.shape[1:]), dtype=np.float32)
            targets[[tag - 1 for tag in known.classes]] = known.maps[:, :, ::way]
        return view, targets, np.asarray(index), np.asarray(mirrored)


def fit_accumulating(
    photos: Photos,
    backbone: Backbone,
    *,
    classes: int,
    size: int,
    rule: Rule,
    schedule: Schedule,
    seed: int,
    job: Job,
    mirror: bool = False,
    convs: int = 0,
    width: int = 512,
    jitter: tuple[float, ...] = (),
    reasoning: Mapping[str, Any] | None = None,
    least: float = 0.0,
) -> Accumulated:
    """Train a classifier on tags, and keep what it sees of each on the way.

    ``classes`` is C-1; photos are warped to a square of side ``size``; ``convs`` 3x3 convolutions of ``width`` come
    before the head, without dropout, which would disturb the maps; ``reasoning`` are the options of its reasoning unit
    (``nodes``, ``graph``, ``relu_first``; see ``Classifier``). Of a tag whose probability is below ``least`` no map is
    taken. Raises DataError where nothing can be learned.
    """
    needed_tags(photos, classes)
    network = _network(backbone, classes, convs, width, seed, reasoning)
    with torch.no_grad():
        rows, columns = network.eval().maps(torch.zeros(1, 3, size, size)).shape[2:]
    tags = {name: photos.tags(name) or () for name in photos.names}
    memory = AttentionMemory(job.folder / "maps.npy", list(tags.values()), (rows, columns), rule, least)

    def loss(
        network: nn.Module, images: Tensor, targets: Tensor, index: Tensor, mirrored: Tensor
    ) -> Mapping[str, Tensor]:
        assert isinstance(network, Classifier)
        photo_and_way = list(zip(index.tolist(), (-1 if m else 1 for m in mirrored.tolist()), strict=True))
        seen = images.float() / 255  # (B, 3, H, W)
        if rule.drop_rate:
            chosen = torch.rand(len(seen)) < rule.drop_rate  # a photo each: the author code's batch holds one
            last = torch.from_numpy(np.stack([memory.last(i)[:, ::way] for i, way in photo_and_way]))  # (B, h, w)
            seen = wiped(seen, (last * chosen[:, None, None]).to(seen), network.trunk.mean, rule.drop_threshold)
        maps = network.maps(seen)  # (B, C-1, h, w)
        for (i, way), raw in zip(photo_and_way, maps.detach().float().cpu().numpy(), strict=True):
            memory.see(i, raw[:, :, ::way])
        return {"tags": multi_label_soft_margin(maps.mean(dim=(2, 3)), targets)}

    views = SquareViews(photos, classes, size, mirror, jitter=jitter)
    fit(network, views, loss, schedule, seed=seed, job=job, memory=memory)
    return Accumulated(network, memory.finished(), tags)


def fit_integral(
    photos: Photos,
    attention: PerImage[Activation],
    backbone: Backbone,
    *,
    classes: int,
    size: int,
    hybrid: bool,
    schedule: Schedule,
    seed: int,
    job: Job,
    mirror: bool = False,
    convs: int = 0,
    width: int = 512,
    jitter: tuple[float, ...] = (),
    reasoning: Mapping[str, Any] | None = None,
) -> Classifier:
    """Train a network of the same shape to show ``attention``, which lies on its grid of the square.

    ``hybrid`` takes the paper's loss, else the cross entropy with soft targets with which the paper compares. The rest
    is as in ``fit_accumulating``.
    """
    network = _network(backbone, classes, convs, width, seed, reasoning)

    def loss(network: nn.Module, images: Tensor, targets: Tensor, *_: Tensor) -> Mapping[str, Tensor]:
        assert isinstance(network, Classifier)
        maps = network.maps(images.float() / 255)  # (B, C-1, h, w)
        if not hybrid:
            return {"cross entropy": multi_label_soft_margin(maps, targets)}
        enhance, constrain = integral_attention_loss(maps, targets)
        return {"enhance": enhance, "constrain": constrain}

    return fit(
        network, SquareViews(photos, classes, size, mirror, attention, jitter), loss, schedule, seed=seed, job=job
    )


def square_cam(
    classifier: Classifier, photo: Photo, *, size: int, scales: Sequence[float] = (1.0,), flip: bool = False
) -> Activation:
    """Return what the network shows of each tag in the photo warped to the square on which it was trained.

    ``scales`` are of the square. The maps have the photo's size and are stretched as by ``grown``.
    """
    square = replace(photo, pixels=resize(photo.pixels, size, size))
    return grown(multi_scale_cam(classifier, square, scales=scales, flip=flip), photo)


def grown(activation: Activation, photo: Photo) -> Activation:
    """Return the maps at the photo's size, bicubic, each stretched to 0..1 (a flat one stays as it is).

    Source: author code.
    """
    height, width = photo.size
    maps = np.empty((len(activation.classes), height, width), dtype=np.float32)
    for small, large in zip(activation.maps, maps, strict=True):
        cv2.resize(src=small, dst=large, dsize=(width, height), interpolation=cv2.INTER_CUBIC)
        low, high = large.min(), large.max()
        if high > low:
            large -= low
            large /= high - low
    return Activation(maps=maps.clip(0, 1), classes=activation.classes)


def _network(
    backbone: Backbone, classes: int, convs: int, width: int, seed: int, reasoning: Mapping[str, Any] | None
) -> Classifier:
    torch.manual_seed(seed)
    unit = reasoning or {}
    return Classifier(build_backbone(backbone), classes=classes, convs=convs, width=width, dropout=0.0, **unit)
