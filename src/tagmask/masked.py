"""What a classifier loses when a box is painted over says how much of a tag it holds; and the boxes that follow from that.

Li, Huang, Li, Wang, Yang. Weakly Supervised Object Localization With Progressive Domain Adaptation. CVPR 2016.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from tagmask.augment import resize
from tagmask.nets.classifier import Classifier
from tagmask.nets.folded import as_image, folded
from tagmask.refine.boxes import areas, standing_out, strongest_apart, whole_pixels
from tagmask.types import Activation, Boxes, Photo

AT_ONCE = 16  # painted copies of a photo that a network looks at together  # ours
NO_TAG = 0  # the class of boxes in a photo without tags


@torch.no_grad()
def mask_out_boxes(
    classifier: Classifier, photo: Photo, boxes: NDArray[np.integer], *, side: int = 0
) -> NDArray[np.float32]:
    """Return by how much the probability of each tag falls when a box is painted in the mean colour: float32 (n, K).

    What rises counts as 0. ``side`` is the longest side at which the copies are looked at, 0 the photo's own.
    """
    tags, (height, width) = photo.tags or (), photo.size
    pixels, scale = photo.pixels, side / max(height, width) if side else 1.0
    if scale < 1:
        pixels = resize(pixels, *(max(1, round(length * scale)) for length in photo.size))
        grow = np.array([pixels.shape[1] / width, pixels.shape[0] / height] * 2)
        boxes = whole_pixels(boxes * grow, (pixels.shape[0], pixels.shape[1]))
    image = as_image(pixels, classifier)  # (1, 3, H, W)
    mean = classifier.trunk.get_buffer("mean").reshape(3, 1, 1)
    wanted = torch.tensor([tag - 1 for tag in tags], dtype=torch.long, device=image.device)
    quick = folded(classifier)
    whole = quick(image)[0, wanted].float().sigmoid()  # (K,)
    drops = [torch.zeros(0, len(tags))]
    for start in range(0, len(boxes), AT_ONCE):
        part = boxes[start : start + AT_ONCE].tolist()
        painted = image.repeat(len(part), 1, 1, 1)
        for copy, (x0, y0, x1, y1) in zip(painted, part, strict=True):
            copy[:, y0:y1, x0:x1] = mean
        drops.append((whole - quick(painted)[:, wanted].float().sigmoid()).relu().cpu())
    return torch.cat(drops).numpy()


def masked_prior(
    classifier: Classifier,
    photo: Photo,
    found: Boxes,
    activation: Activation,
    *,
    thin: float,
    candidates: int,
    kept: int,
    side: int,
    size_power: float,
) -> Boxes:
    """Return the ``kept`` most promising boxes of a photo, each once for every tag, with its prior as score.

    The prior is what ``mask_out_boxes`` says, over the box's share of the photo to the power ``size_power`` (0: not), over
    the largest of that tag. Only the ``candidates`` in which activations stand out most are asked for, of those that
    overlap by more than ``thin`` one. Boxes are in blocks, one a tag, all in the same order (``prior_of`` takes them
    apart). A photo without tags gives any boxes, as class 0.
    """
    whole = np.array([[0, 0, photo.size[1], photo.size[0]]], dtype=np.int32)
    boxes, tags = found.boxes if len(found) else whole, photo.tags or ()
    if not tags:
        chosen = np.unique(np.linspace(0, len(boxes) - 1, min(kept, len(boxes))).round().astype(np.int64))
        return _blocks(boxes[chosen], np.zeros((len(chosen), 1)), (NO_TAG,), photo.size)
    contrast = np.stack([standing_out(values, boxes) for values in activation.maps])  # (K, n)
    ranks = np.argsort(np.argsort(-contrast, axis=1, kind="stable"), axis=1).min(axis=0)
    boxes = boxes[strongest_apart(boxes, -ranks.astype(np.float32), overlap=thin, most=candidates)]
    drops = mask_out_boxes(classifier, photo, boxes, side=side).astype(np.float64)
    drops /= (areas(boxes)[:, None] / (photo.size[0] * photo.size[1])) ** size_power
    prior = drops / drops.max(axis=0).clip(min=1e-12)  # (n, K)
    kept_ones = np.argsort(-prior.max(axis=1), kind="stable")[:kept]
    return _blocks(boxes[kept_ones], prior[kept_ones], tags, photo.size)


def prior_of(held: Boxes) -> tuple[NDArray[np.int32], NDArray[np.float64], tuple[int, ...]]:
    """Return boxes (n, 4), their prior (n, K) and the K tags of what ``masked_prior`` gave; K is 0 without tags."""
    tags = tuple(dict.fromkeys(held.classes))
    count = len(held) // max(len(tags), 1)
    prior = held.scores.reshape(len(tags), count).T.astype(np.float64)
    return (held.boxes[:count], prior[:, :0], ()) if tags == (NO_TAG,) else (held.boxes[:count], prior, tags)


def best_boxes(held: Boxes) -> Boxes:
    """Return the box of the largest prior for each tag."""
    boxes, prior, tags = prior_of(held)
    best = prior.argmax(axis=0) if len(tags) else np.zeros(0, dtype=np.int64)
    scores = prior[best, np.arange(len(tags))].astype(np.float32)
    return Boxes(boxes[best], scores, tags, held.size)


def activation_boxes(activation: Activation, threshold: float) -> Boxes:
    """Return for each tag the box around the largest connected part where its map is over ``threshold``.

    The score is the mean of the map in there. A tag that is over it nowhere gets the whole photo, with score 0.
    """
    height, width = activation.maps.shape[1:]
    boxes, scores = [], []
    for values in activation.maps:
        parts, count = ndimage.label(values > threshold)
        sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
        if not count:
            boxes.append((0, 0, width, height))
            scores.append(0.0)
            continue
        largest = int(sizes.argmax())
        rows, columns = ndimage.find_objects(parts)[largest]
        boxes.append((columns.start, rows.start, columns.stop, rows.stop))
        scores.append(float(values[parts == largest + 1].mean()))
    return Boxes(
        np.array(boxes, dtype=np.int32).reshape(-1, 4),
        np.array(scores, dtype=np.float32),
        activation.classes,
        (height, width),
    )


def _blocks(
    boxes: NDArray[np.int32], prior: NDArray[np.float64], tags: tuple[int, ...], size: tuple[int, int]
) -> Boxes:
    classes = tuple(tag for tag in tags for _ in range(len(boxes)))
    return Boxes(np.tile(boxes, (len(tags), 1)), prior.T.astype(np.float32).ravel(), classes, size)
