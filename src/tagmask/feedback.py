"""Segmenter and localiser label for each other: proposals scored, joined to labels, sorted by these, learned, scored anew.

Qi, Liu, Shi, Zhao, Jia. Augmented Feedback in Semantic Segmentation under Image Level Supervision. ECCV 2016.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tagmask.augment import channels_first, resize
from tagmask.classify import mean_colour
from tagmask.data.photos import PerImage, Photos
from tagmask.fit import Schedule, fit
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.folded import as_image, folded
from tagmask.nets.localiser import Localiser
from tagmask.nets.segmenter import Segmenter
from tagmask.refine.crf import CrfOptions
from tagmask.refine.feedback import aggregate, drawn, select
from tagmask.refine.sharpen import sharpen
from tagmask.refine.votes import contrast
from tagmask.regions import region_loss
from tagmask.segment import predict_scores
from tagmask.types import BACKGROUND, UNKNOWN, Activation, Boxes, BoxScores, LabelMap, Photo
from tagmask.work import Job

REVISION = 2
TOGETHER = 256  # boxes of a photo that go through the localiser's head at a time  # ours


def contrast_scores(activation: Activation, boxes: Boxes, *, ring: float, stretch: bool) -> BoxScores:
    """Score boxes before there is a localiser: by how much more active each tag is inside than just around (see ``contrast``).

    ``stretch`` divides by the best score of the photo and tag, so that a tag that is weak in a photo is found too.  # ours
    """
    found = contrast(boxes, activation.maps, ring=ring)
    if stretch:
        found /= found.max(axis=0, initial=1e-6)
    return BoxScores(found.clip(max=1).astype(np.float32), activation.classes)


def aggregated(
    photo: Photo,
    boxes: Boxes,
    scores: BoxScores,
    *,
    above: float,
    fewest: int,
    by: str,
    pinned: bool,
    middle: str,
    widest: float,
) -> LabelMap:
    """Label a photo by what its boxes say, as ``aggregate`` does: module c."""
    labels = aggregate(
        photo.pixels, boxes, scores.values, scores.classes,
        above=above, fewest=fewest, by=by, pinned=pinned, middle=middle, widest=widest,
    )  # fmt: skip
    return LabelMap(labels)


def known_sharpened(labels: LabelMap, photo: Photo, *, crf: CrfOptions, confidence: float) -> LabelMap:
    """Refine labels with the CRF, as ``sharpen`` does, but leave unknown what is unknown."""
    sharp = sharpen(labels, photo, crf=crf, confidence=confidence).labels
    return LabelMap(np.where(labels.labels == UNKNOWN, labels.labels, sharp))


def selected(
    segmenter: Segmenter,
    photo: Photo,
    labels: LabelMap,
    boxes: Boxes,
    scores: BoxScores,
    *,
    scales: Sequence[float],
    flip: bool,
    overlap: float,
    likely: float,
    apart: float,
    unlikely: float,
    hard: float,
) -> Boxes:
    """Return the boxes that can teach, each with its class, 0 for background, as ``select`` sorts them: module d.

    Their scores say how much they look like a tag of the photo to one of the networks; masks are left behind, for the
    localiser looks at boxes. ``labels`` are what the segmenter made of the photo; its probabilities are those among the
    background and the photo's tags.
    """
    shown = [BACKGROUND, *scores.classes]
    probabilities = np.zeros((0, *photo.size), dtype=np.float32)
    if scores.classes:
        both = predict_scores(segmenter, photo.pixels, scales=scales, flip=flip)[shown]  # (K+1, H, W)
        probabilities = (both / both.sum(axis=0).clip(min=1e-12))[1:]
    taught, look = select(
        boxes, labels.labels, probabilities, scores.values, scores.classes,
        overlap=overlap, likely=likely, apart=apart, unlikely=unlikely, hard=hard,
    )  # fmt: skip
    chosen = np.flatnonzero(taught != UNKNOWN)
    return Boxes(boxes.boxes[chosen], look[chosen].astype(np.float32), tuple(taught[chosen].tolist()), photo.size)


@dataclass(frozen=True)
class BoxViews:
    """Training examples: whole photos and boxes in them, drawn anew each time from those that can teach.

    (uint8 RGB (3, size, size), float32 boxes (samples, 4), uint8 labels (samples,), 255 where there is no box). The photo's
    long side is ``size`` pixels, the rest is filled; half of the views are mirrored. ``boxes`` are as ``selected`` made them.
    """

    photos: Photos
    boxes: PerImage[Boxes]
    samples: int
    hard: float
    size: int
    fill: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.photos)

    def example(self, index: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Return one photo with boxes; which ones, and the mirroring, are random."""
        name = self.photos.names[index]
        known = self.boxes[name]
        classes = np.array(known.classes, dtype=np.uint8)
        chosen = drawn(classes, known.scores, self.samples, random, hard=self.hard)
        pixels, places = resized(self.photos[name], known.boxes[chosen], self.size)
        view = np.empty((self.size, self.size, 3), dtype=np.uint8)
        view[:] = self.fill
        view[: pixels.shape[0], : pixels.shape[1]] = pixels
        if random.integers(2):
            view = view[:, ::-1]
            places[:, [0, 2]] = self.size - places[:, [2, 0]]
        boxes = np.zeros((self.samples, 4), dtype=np.float32)
        labels = np.full(self.samples, UNKNOWN, dtype=np.uint8)
        boxes[: len(chosen)], labels[: len(chosen)] = places, classes[chosen]
        return channels_first(view), boxes, labels


def resized(photo: Photo, boxes: NDArray[np.integer], size: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the photo's pixels with a long side of ``size``, and its boxes (n, 4) in them, float32."""
    height, width = (max(1, round(side * size / max(photo.size))) for side in photo.size)
    grow = np.array([width / photo.size[1], height / photo.size[0]] * 2)
    return resize(photo.pixels, height, width), (boxes * grow).astype(np.float32)


def fit_localiser(
    photos: Photos,
    boxes: PerImage[Boxes],
    backbone: Backbone,
    *,
    width: int,
    cells: int,
    classes: int,
    samples: int,
    hard: float,
    size: int,
    schedule: Schedule,
    seed: int,
    job: Job,
) -> Localiser:
    """Train module b, a Localiser, on boxes of a known class (see ``BoxViews``); ``classes`` is C with the background."""
    torch.manual_seed(seed)
    network = Localiser(build_backbone(backbone), classes, width=width, cells=cells)
    views = BoxViews(photos, boxes, samples, hard, size, mean_colour(network))

    def loss(network: nn.Module, images: Tensor, places: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        return {"boxes": region_loss(network(images.float() / 255, places), labels, balance=False)}

    return fit(network, views, loss, schedule, seed=seed, job=job)


def rescored(localiser: Localiser, photo: Photo, boxes: Boxes, *, size: int) -> BoxScores:
    """Return the localiser's probability of each tag in each box, among the background and the photo's tags (ours)."""
    tags = photo.tags or ()
    if not tags or not len(boxes):
        return BoxScores(np.zeros((len(boxes), len(tags)), dtype=np.float32), tags)
    pixels, places = resized(photo, boxes.boxes, size)
    quick = folded(localiser)
    with torch.no_grad():
        image = as_image(pixels, localiser)  # (1, 3, H, W)
        features, where = quick.features(image), torch.from_numpy(places).to(image.device)
        parts = [
            quick.scores_of(features, part[None], (image.shape[2], image.shape[3]))[0] for part in where.split(TOGETHER)
        ]
        scores = torch.cat(parts).float()[:, [BACKGROUND, *tags]].softmax(dim=1)[:, 1:]  # (n, K)
    return BoxScores(scores.clamp(max=1).cpu().numpy(), tags)
