"""Train the decoder on the masks of clips, and let it label photos: one class at a time, the surest wins.

Hong, Yeo, Kwak, Lee, Han. Weakly Supervised Semantic Segmentation Using Web-Crawled Videos. CVPR 2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tagmask.augment import channels_first, random_view
from tagmask.classify import mean_colour
from tagmask.data.photos import PerImage
from tagmask.errors import DataError
from tagmask.fit import Schedule, fit
from tagmask.footage import Footage
from tagmask.label import labels_from_scores
from tagmask.losses import pixel_cross_entropy
from tagmask.nets.classifier import Classifier
from tagmask.nets.decoder import Decoder
from tagmask.nets.folded import as_image, folded
from tagmask.refine.crf import CrfOptions, mean_field, unary_from_probabilities
from tagmask.types import Activation, LabelMap, Photo
from tagmask.watching import ATTENTION, FRAME, MASK
from tagmask.work import Job

SURE = 0.5  # an object is where the decoder says so with more than this  # paper


@dataclass(frozen=True)
class CutViews:
    """Training examples: (uint8 RGB (3, crop, crop), uint8 attention (1, crop, crop), uint8 labels (crop, crop)).

    Labels are 0 ground, 1 object, 255 where padded. ``frames`` are (clip, number of the frame).
    """

    seen: PerImage[Footage]
    cut: PerImage[Footage]
    frames: list[tuple[str, int]]
    crop: int
    scales: tuple[float, float]
    fill: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.frames)

    def example(self, index: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Return a random view of one frame, of the attention in it and of its mask."""
        clip, number = self.frames[index]
        seen, mask = self.seen[clip], self.cut[clip].picture(MASK, number)
        scale, draw = random.uniform(*self.scales), random.bit_generator.state
        view, labels = random_view(
            seen.picture(FRAME, number), mask, crop=self.crop, scale=scale, fill=self.fill, random=random
        )
        random.bit_generator.state = draw  # the same view of the attention
        grey = np.repeat(seen.picture(ATTENTION, number)[..., None], 3, axis=2)
        attention, _ = random_view(
            grey, None, crop=self.crop, scale=scale, fill=np.zeros(3, dtype=np.uint8), random=random
        )
        assert labels is not None
        return channels_first(view), np.ascontiguousarray(attention[None, ..., 0]), labels


def fit_decoder(
    classifier: Classifier,
    seen: PerImage[Footage],
    cut: PerImage[Footage],
    *,
    width: int,
    stages: int,
    crop: int,
    scales: tuple[float, float],
    schedule: Schedule,
    seed: int,
    job: Job,
) -> Decoder:
    """Train a decoder on a copy of the classifier's trunk, which stays as it is, with the masks that are worth it.

    ``seen`` holds frames and attention of every clip, ``cut`` the masks. Pixel-wise cross entropy on the decoder's grid.
    Raises DataError where no mask is worth learning from.
    """
    frames = [(name, number) for name in cut.names for number in cut[name].facts["kept"]]
    if not frames:
        raise DataError(
            f"no frame of {len(cut)} clips gives a mask to learn from; give more clips, lower --frame-score, or let other "
            "masks pass (--mask-least, --mask-most, --mask-inside)."
        )
    torch.manual_seed(seed)
    network = Decoder(deepcopy(classifier.trunk), width=width, stages=stages)
    views = CutViews(seen, cut, frames, crop, scales, mean_colour(network))

    def loss(network: nn.Module, images: Tensor, attention: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        logits = network(images.float() / 255, attention.float() / 255)  # (B, 2, h, w)
        return {"extent": pixel_cross_entropy([logits], labels)}

    return fit(network, views, loss, schedule, seed=seed, job=job)


def extents(decoder: Decoder, attention: Activation, photo: Photo) -> NDArray[np.float32]:
    """Return how far the object of each class in ``attention`` reaches: probabilities float32 (K, H, W)."""
    quick, found = folded(decoder), np.zeros((len(attention.classes), *photo.size), dtype=np.float32)
    with torch.no_grad():
        image = as_image(photo.pixels, decoder)
        features = quick.features(image) if len(found) else []
        for place, seen in enumerate(attention.maps):
            logits = quick.decode(features, torch.from_numpy(seen)[None, None].to(image.device)).float()
            grown = functional.interpolate(logits, size=photo.size, mode="bilinear", align_corners=False)
            found[place] = grown.softmax(dim=1)[0, 1].cpu().numpy()
    return found


def decoded_labels(decoder: Decoder, attention: Activation, photo: Photo, *, crf: CrfOptions | None = None) -> LabelMap:
    """Label each pixel with the class in ``attention`` that reaches there most surely, background where none is likely.

    ``crf`` sharpens these probabilities first, with what they leave as that of the background.
    """
    found = extents(decoder, attention, photo)
    scores = np.concatenate([np.full((1, *photo.size), SURE, dtype=np.float32), found])  # (K+1, H, W)
    if crf is not None and len(found):
        scores[0] = 1 - found.max(axis=0)
        scores /= scores.sum(axis=0, keepdims=True)
        scores = mean_field(unary_from_probabilities(scores), photo.pixels, crf)
    return labels_from_scores(scores, attention.classes)
