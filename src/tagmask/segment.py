"""Train a segmentation network on masks (the user's or pseudo masks), and predict with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from tagmask.augment import channels_first, random_view, resize, resize_labels
from tagmask.classify import mean_colour, tag_vector
from tagmask.data.photos import PerImage, Photos
from tagmask.fit import Schedule, fit
from tagmask.label import resized_labels, restrict_to_tags
from tagmask.losses import pixel_cross_entropy
from tagmask.nets.backbones import Backbone
from tagmask.nets.folded import as_image, folded
from tagmask.nets.segmenter import Segmenter, build_segmenter
from tagmask.refine.batch import mean_field_batch
from tagmask.refine.crf import CrfOptions, mean_field, unary_from_probabilities
from tagmask.types import LabelMap, Photo
from tagmask.work import Job

TILE, OVERLAP = 1024, 128  # pixels: larger photos are predicted in overlapping tiles  # ours


@dataclass(frozen=True)
class LabelledViews:
    """Training examples: (uint8 RGB (3, crop, crop), uint8 labels (crop, crop), 255 where padded or unknown)."""

    photos: Photos
    labels: PerImage[LabelMap]
    crop: int
    scales: tuple[float, float]
    fill: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.photos)

    def example(self, index: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Return a random view of one photo and of its labels."""
        name = self.photos.names[index]
        view, labels = random_view(
            self.photos[name].pixels,
            self.labels[name].labels,
            crop=self.crop,
            scale=random.uniform(*self.scales),
            fill=self.fill,
            random=random,
        )
        assert labels is not None
        return channels_first(view), labels


@dataclass(frozen=True)
class WarpedViews:
    """Training examples of the early papers: the whole photo warped to a square, with its tags.

    (uint8 RGB (3, size, size), uint8 labels (h, w) as they are, float32 tags (C-1,) in {0, 1}). With ``mirror`` the photo
    and its labels are mirrored together, half of the time.
    """

    photos: Photos
    labels: PerImage[LabelMap]
    classes: int
    size: int
    mirror: bool = False

    def __len__(self) -> int:
        return len(self.photos)

    def example(self, index: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Return one photo, its labels and its tags; only the mirroring is random."""
        photo = self.photos[self.photos.names[index]]
        way = -1 if self.mirror and random.integers(2) else 1
        pixels = channels_first(resize(photo.pixels, self.size, self.size)[:, ::way])
        labels = np.ascontiguousarray(self.labels[photo.name].labels[:, ::way])
        return pixels, labels, tag_vector(photo.tags or (), self.classes - 1)


def fit_segmenter(
    photos: Photos,
    labels: PerImage[LabelMap],
    backbone: Backbone,
    *,
    segmenter: str,
    classes: int,
    crop: int,
    scales: tuple[float, float],
    schedule: Schedule,
    seed: int,
    job: Job,
    width: int | None = None,
    start: Segmenter | None = None,
) -> Segmenter:
    """Train the named segmenter with pixel-wise cross entropy; 255 is ignored, ``classes`` is C with the background.

    With ``start`` a copy of that network goes on learning; it then says what is built.
    """
    torch.manual_seed(seed)
    shape = {} if width is None else {"width": width}
    network = build_segmenter(segmenter, backbone, classes, **shape) if start is None else deepcopy(start)
    views = LabelledViews(photos, labels, crop, scales, fill=mean_colour(network))

    def loss(network: nn.Module, images: Tensor, truth: Tensor) -> Mapping[str, Tensor]:
        assert isinstance(network, Segmenter)
        return {"pixels": pixel_cross_entropy(network.training_maps(images.float() / 255), truth)}

    return fit(network, views, loss, schedule, seed=seed, job=job)


def predict_scores(
    segmenter: Segmenter, pixels: NDArray[np.uint8], *, scales: Sequence[float] = (1.0,), flip: bool = False
) -> NDArray[np.float32]:
    """Return class probabilities float32 (C, H, W), averaged over ``scales`` and, with ``flip``, mirror images.

    A photo with a side over 1024 pixels is predicted in tiles that overlap by 128 and are averaged.
    """
    height, width = pixels.shape[:2]
    if max(height, width) <= TILE:
        return _whole(segmenter, pixels, scales, flip)
    total = np.zeros((segmenter.classes, height, width), dtype=np.float32)
    seen = np.zeros((height, width), dtype=np.float32)
    for top in _starts(height):
        for left in _starts(width):
            place = np.s_[top : top + TILE, left : left + TILE]
            total[(slice(None), *place)] += _whole(segmenter, pixels[place], scales, flip)
            seen[place] += 1
    return total / seen


def predict_labels(
    segmenter: Segmenter,
    photo: Photo,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    crf: CrfOptions | None = None,
    use_tags: bool = False,
    square: int = 0,
    size: tuple[int, int] | None = None,
) -> LabelMap:
    """Return the labels of one photo, at its own size or at ``size``.

    ``square`` warps the photo to that side before the network sees it, as the early papers do (0: not at all).

    ``use_tags`` leaves out the classes that the photo is known not to show (only where its tags are known); ``crf``
    refines the probabilities along the photo's edges.
    """
    seen = resize(photo.pixels, square, square) if square else photo.pixels
    scores = predict_scores(segmenter, seen, scales=scales, flip=flip)  # (C, H, W)
    if square:
        scores = _to_size(torch.from_numpy(scores)[None], photo.size)[0].numpy()
    present = list(range(len(scores)))
    if use_tags and photo.tags is not None:
        present = [0, *photo.tags]
        scores = np.ascontiguousarray(restrict_to_tags(scores, photo.tags)[present])  # (K+1, H, W)
        scores /= scores.sum(axis=0, keepdims=True).clip(min=1e-12)
    if crf is not None and len(present) > 1:
        scores = _refined(unary_from_probabilities(scores), photo.pixels, crf, next(segmenter.parameters()).device)
    return resized_labels(scores, present, size or photo.size)


def _refined(
    unary: NDArray[np.float32], pixels: NDArray[np.uint8], crf: CrfOptions, device: torch.device
) -> NDArray[np.float32]:
    """Return the CRF's marginals (K, H, W), computed where the network is."""
    if device.type != "cuda" or crf.shrink > 1:
        return mean_field(unary, pixels, crf)
    return (
        mean_field_batch(torch.from_numpy(unary)[None].to(device), torch.from_numpy(pixels)[None], crf)[0].cpu().numpy()
    )


def fit_to_photo(labels: LabelMap, size: tuple[int, int]) -> LabelMap:
    """Return the labels at ``size`` (height, width), by the nearest pixel."""
    return labels if labels.labels.shape == size else LabelMap(labels=resize_labels(labels.labels, *size))


def _whole(segmenter: Segmenter, pixels: NDArray[np.uint8], scales: Sequence[float], flip: bool) -> NDArray[np.float32]:
    """Predict one photo or tile as a whole: float32 (C, H, W)."""
    size = pixels.shape[:2]
    network, device = folded(segmenter), next(segmenter.parameters()).device
    total = torch.zeros(1, segmenter.classes, *size, device=device)
    with torch.no_grad():
        for scale in scales:
            height, width = (max(1, round(side * scale)) for side in size)
            image = as_image(resize(pixels, height, width), segmenter)
            for mirrored in (False, True) if flip else (False,):
                scores = network(image.flip(3) if mirrored else image).float()  # (1, C, h, w)
                total += _to_size(scores.flip(3) if mirrored else scores, size).softmax(dim=1)
    return (total[0] / (len(scales) * (2 if flip else 1))).cpu().numpy()


def _to_size(scores: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(scores, size=tuple(size), mode="bilinear", align_corners=False)


def _starts(side: int) -> list[int]:
    """Return where tiles begin along one side, the last flush with its end.

    >>> _starts(800), _starts(2000)
    ([0], [0, 896, 976])
    """
    if side <= TILE:
        return [0]
    return [*range(0, side - TILE, TILE - OVERLAP), side - TILE]
