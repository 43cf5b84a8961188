"""Train a detector on pseudo boxes, find objects with it, and cut masks out of boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tagmask.augment import channels_first, resize
from tagmask.classify import mean_colour
from tagmask.data.photos import PerImage, Photos
from tagmask.errors import OptionError, did_you_mean
from tagmask.fit import Schedule, fit
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.boxes import DETECTORS, BoxNet, FasterBoxNet
from tagmask.nets.folded import as_image, folded
from tagmask.refine.boxes import HIT, moved, moves_between, overlaps, strongest_apart, whole_pixels
from tagmask.refine.grabcut import object_in_box
from tagmask.types import BACKGROUND, UNKNOWN, Boxes, LabelMap, Photo
from tagmask.work import Job

REVISION = 2
Detector = BoxNet | FasterBoxNet
POSITIVE = 0.25  # share of the boxes drawn from a photo that show an object  # recalled (Fast R-CNN)
NEAR = 0.1  # boxes of the background overlap an object by this at least, where there are such  # recalled (Fast R-CNN)
ZOOM = (0.7, 1.0)  # the longest side of a training photo, in parts of the largest  # ours
MOST_TRUE = 32  # pseudo boxes of a photo that are learned from  # ours
TOGETHER = 256  # boxes that go through the head at a time  # ours


def checked_detector(name: str) -> None:
    """Raise OptionError unless ``name`` is one of ``DETECTORS``."""
    if name not in DETECTORS:
        known = ", ".join(DETECTORS)
        raise OptionError(f"detector is {name!r}{did_you_mean(name, tuple(DETECTORS))}; expected one of {known}.")


@dataclass(frozen=True)
class BoxViews:
    """Training examples: whole photos in a square, half of them mirrored, with boxes drawn from the proposals of each.

    (uint8 RGB (3, side, side), float32 boxes (samples, 4), uint8 labels (samples,) with 0 for the background and 255 where
    there is no box, float32 moves (samples, 4) to the object, float32 objects (32, 4), uint8 their classes (32,), 0 where
    there is none).
    """

    photos: Photos
    found: PerImage[Boxes]
    truth: PerImage[Boxes]
    side: int
    samples: int
    fill: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.photos)

    def example(self, index: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Return one photo at a random scale, and boxes drawn anew."""
        name = self.photos.names[index]
        pixels, truth = self.photos[name].pixels, self.truth[name]
        scale = random.uniform(*ZOOM) * self.side / max(pixels.shape[:2])
        height, width = (max(1, round(length * scale)) for length in pixels.shape[:2])
        grow = np.array([width / pixels.shape[1], height / pixels.shape[0]] * 2)
        canvas = np.empty((self.side, self.side, 3), dtype=np.uint8)
        canvas[:] = self.fill
        canvas[:height, :width] = resize(pixels, height, width)
        objects = whole_pixels(truth.boxes[:MOST_TRUE] * grow, (height, width))
        classes = np.array(truth.classes[:MOST_TRUE], dtype=np.uint8)
        proposals = np.concatenate([objects, whole_pixels(self.found[name].boxes * grow, (height, width))])
        if random.integers(2):
            canvas = np.ascontiguousarray(canvas[:, ::-1])
            for boxes in (objects, proposals):
                boxes[:, [0, 2]] = self.side - boxes[:, [2, 0]]
        drawn = drawn_boxes(proposals, objects, classes, self.samples, random)
        held, names = np.zeros((MOST_TRUE, 4), dtype=np.float32), np.zeros(MOST_TRUE, dtype=np.uint8)
        held[: len(objects)], names[: len(objects)] = objects, classes
        return channels_first(canvas), *drawn, held, names


def drawn_boxes(
    proposals: NDArray[np.int32],
    objects: NDArray[np.int32],
    classes: NDArray[np.uint8],
    samples: int,
    random: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]:
    """Draw boxes (samples, 4) to learn from, up to a quarter of them on objects (m, 4); with labels and moves to these.

    A box that overlaps an object by half is of its class, others are background. Label 255 fills up. Source: Fast R-CNN.
    """
    iou = overlaps(proposals, objects) if len(objects) else np.zeros((len(proposals), 1))
    nearest, best = iou.argmax(axis=1), iou.max(axis=1)
    positive = random.permutation(np.flatnonzero(best >= HIT))[: max(1, round(POSITIVE * samples))]
    order = random.permutation(np.flatnonzero(best < HIT))
    order = order[np.argsort(best[order] < NEAR, kind="stable")]  # those near an object first
    chosen = np.concatenate([positive, order[: samples - len(positive)]])
    boxes, moves = np.zeros((samples, 4), dtype=np.float32), np.zeros((samples, 4), dtype=np.float32)
    labels = np.full(samples, UNKNOWN, dtype=np.uint8)
    boxes[:, 2:] = 1
    boxes[: len(chosen)] = proposals[chosen]
    labels[: len(chosen)] = BACKGROUND
    hits = len(positive)
    if hits:
        labels[:hits] = classes[nearest[positive]]
        moves[:hits] = moves_between(proposals[positive], objects[nearest[positive]])
    return boxes, labels, moves


def fit_detector(
    photos: Photos,
    found: PerImage[Boxes],
    truth: PerImage[Boxes],
    backbone: Backbone,
    *,
    detector: str,
    classes: int,
    side: int,
    samples: int,
    width: int,
    cells: int,
    schedule: Schedule,
    seed: int,
    job: Job,
) -> nn.Module:
    """Train a detector on the boxes ``truth``; ``classes`` is C with the background.

    "rcnn" learns to tell proposals (``found``) apart, "faster-rcnn" to propose too. Raises OptionError for others.
    """
    checked_detector(detector)
    torch.manual_seed(seed)
    sizes = {"width": width, "side": side, **({"cells": cells} if detector == "rcnn" else {})}
    network = DETECTORS[detector](build_backbone(backbone), classes, **sizes)
    views = BoxViews(photos, found, truth, side, samples, mean_colour(network))

    def loss(
        network: nn.Module, images: Tensor, boxes: Tensor, labels: Tensor, moves: Tensor, objects: Tensor, names: Tensor
    ) -> Mapping[str, Tensor]:
        if isinstance(network, BoxNet):
            scores, found_moves = network(images.float() / 255, boxes)
            return box_loss(scores, found_moves, labels, moves)
        targets = [{"boxes": b[n > 0], "labels": n[n > 0].long()} for b, n in zip(objects, names, strict=True)]
        terms: dict[str, Tensor] = network(images.float() / 255, targets)
        return terms

    return fit(network, views, loss, schedule, seed=seed, job=job)


def box_loss(scores: Tensor, moves: Tensor, labels: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """Return cross-entropy of logits (B, R, C), and the smooth L1 of the moves (B, R, C, 4) of boxes on objects.

    ``labels`` uint8 (B, R), 255 counts nowhere; ``wanted`` (B, R, 4). Both are means over the boxes that count. Source:
    Fast R-CNN.
    """
    flat, truth = scores.float().flatten(end_dim=1), labels.long().flatten()
    known = (truth != UNKNOWN).sum().clamp(min=1)
    surprise = functional.cross_entropy(input=flat, target=truth, ignore_index=UNKNOWN, reduction="sum") / known
    on_object = (truth != UNKNOWN) & (truth != BACKGROUND)
    mine = moves.float().flatten(end_dim=1)[on_object, truth[on_object]]  # (N, 4)
    far = functional.smooth_l1_loss(input=mine, target=wanted.flatten(end_dim=1)[on_object], reduction="sum") / known
    return {"classes": surprise, "places": far}


@torch.no_grad()
def detect_boxes(
    network: nn.Module, photo: Photo, found: Boxes, before: Boxes | None, *, overlap: float, least: float
) -> Boxes:
    """Return what the detector finds in a photo, the surest first.

    A box has at least the probability ``least``, and of two of one class that overlap by more than ``overlap`` one stays.
    Where the photo's tags are known, only these are found, and each of them at least once: the surest box whatever its
    probability, or that of ``before``, which a detector without any takes.
    """
    assert isinstance(network, BoxNet | FasterBoxNet)
    boxes, scores, classes = _looked(network, photo, found)
    tags = range(1, network.classes) if photo.tags is None or before is None else photo.tags
    kept: list[tuple[NDArray[np.int32], NDArray[np.float32], int]] = []
    for tag in tags:
        mine = np.flatnonzero((classes == tag) & (scores >= least))
        mine = mine[strongest_apart(boxes[mine], scores[mine], overlap=overlap)]
        if not len(mine) and before is not None and photo.tags is not None:
            mine = np.flatnonzero(classes == tag)
            mine = mine[scores[mine].argsort(kind="stable")[::-1][:1]]
            if not len(mine):
                held = np.flatnonzero(np.array(before.classes) == tag)
                kept.append((before.boxes[held], before.scores[held] * np.float32(0), tag))
                continue
        kept.append((boxes[mine], scores[mine], tag))
    places = np.concatenate([np.zeros((0, 4), dtype=np.int32), *(part[0] for part in kept)])
    sure = np.concatenate([np.zeros(0, dtype=np.float32), *(part[1] for part in kept)])
    named = np.array([tag for part in kept for tag in [part[2]] * len(part[0])], dtype=np.int64)
    order = np.argsort(-sure, kind="stable")
    return Boxes(places[order], sure[order], tuple(named[order].tolist()), photo.size)


def _looked(
    network: Detector, photo: Photo, found: Boxes
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
    """Return all boxes (n, 4) with a score and a class: of proposals one for each class."""
    scale = network.side / max(photo.size)
    height, width = (max(1, round(length * scale)) for length in photo.size)
    image = as_image(resize(photo.pixels, height, width), network)
    grow = np.array([width / photo.size[1], height / photo.size[0]] * 2)
    if isinstance(network, FasterBoxNet):
        (seen,) = network(image)
        boxes = whole_pixels(seen["boxes"].float().cpu().numpy() / grow, photo.size)
        return boxes, seen["scores"].float().cpu().numpy(), seen["labels"].cpu().numpy()
    whole = np.array([[0, 0, photo.size[1], photo.size[0]]], dtype=np.int32)
    proposals = found.boxes if len(found) else whole
    quick, count = folded(network), network.classes - 1
    features = quick.features(image)
    parts: list[tuple[Any, Any]] = []
    for start in range(0, len(proposals), TOGETHER):
        part = torch.from_numpy((proposals[start : start + TOGETHER] * grow).astype(np.float32)).to(image.device)
        logits, moves = quick.scores_of(features, part[None], (height, width))
        parts.append((logits[0].softmax(dim=1)[:, 1:].cpu().numpy(), moves[0, :, 1:].cpu().numpy()))
    scores = np.concatenate([part[0] for part in parts])  # (n, C-1)
    moves_of = np.concatenate([part[1] for part in parts]).reshape(-1, 4)
    boxes = moved(np.repeat(proposals, count, axis=0), moves_of, photo.size)
    return boxes, scores.ravel().astype(np.float32), np.tile(np.arange(1, count + 1), len(proposals))


def cut_boxes(boxes: Boxes, photo: Photo, *, iterations: int, least: float, sure: float) -> LabelMap:
    """Return the labels of what GrabCut finds in the boxes, where they meet the class of the surest.

    Boxes with a score below ``sure`` count only where they are the surest of their class. What is less than the share
    ``least`` of its box gives way to the whole box.
    """
    labels = np.full(photo.size, BACKGROUND, dtype=np.uint8)
    first = {tag: int(np.argmax(np.where(np.array(boxes.classes) == tag, boxes.scores, -1))) for tag in boxes.classes}
    for index in np.argsort(boxes.scores, kind="stable").tolist():
        tag = boxes.classes[index]
        if boxes.scores[index] >= sure or first[tag] == index:
            x0, y0, x1, y1 = boxes.boxes[index].tolist()
            labels[object_in_box(photo.pixels, (x0, y0, x1, y1), least=least, iterations=iterations)] = tag
    return LabelMap(labels)
