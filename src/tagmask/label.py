"""From scores to one label a pixel: the only place where channels become class ids.

Channel k of an activation belongs to ``activation.classes[k]``; channel 0 of a stack of scores is the background.
Everywhere the background wins ties, and an activation without classes gives background.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from tagmask.errors import OptionError
from tagmask.types import BACKGROUND, UNKNOWN, Activation, LabelMap, Saliency


def threshold_labels(activation: Activation, threshold: float, size: tuple[int, int] | None = None) -> LabelMap:
    """Label each pixel with its strongest class, or background where none exceeds ``threshold`` (in [0, 1]).

    ``size`` (H, W) resizes the maps bilinearly before the decision. Raises ``OptionError`` outside [0, 1].

    >>> maps = np.array([[[0.1, 0.3, 0.9]], [[0.2, 0.2, 0.2]]], dtype=np.float32)
    >>> threshold_labels(Activation(maps, classes=(3, 7)), threshold=0.2).labels
    array([[0, 3, 3]], dtype=uint8)
    """
    winner, value = strongest(activation, size=size)
    return LabelMap(np.where(value > _threshold(threshold), winner, np.uint8(BACKGROUND)))


def confident_labels(activation: Activation, low: float, high: float) -> LabelMap:
    """Label the sure pixels only: the strongest class above ``high``, background up to ``low``, 255 between.

    Raises ``OptionError`` unless 0 <= low <= high <= 1. With low = high this is ``threshold_labels``.
    """
    if low > high:
        raise OptionError(f"The low threshold {low} exceeds the high one {high}; give low <= high.")
    winner, value = strongest(activation)
    unsure = np.where(value > _threshold(low), np.uint8(UNKNOWN), np.uint8(BACKGROUND))
    return LabelMap(np.where(value > _threshold(high), winner, unsure))


def dense_labels(
    activation: Activation, saliency: NDArray[np.floating], *, share: float, background: float
) -> LabelMap:
    """Label objects by the activation and background by the saliency float (H, W) in [0, 1]; the rest is 255.

    A class reaches as far as its map is at least ``share`` of its maximum, in [0, 1]; of two classes the one with the
    larger value wins. Background is where the saliency is below ``background``. Equal classes, and what is both an object
    and background, are 255. A photo without classes is background. Source: RDC (Wei et al. CVPR 2018).
    """
    maps = activation.maps  # (K, H, W)
    if not len(maps):
        return LabelMap(np.full(saliency.shape, BACKGROUND, dtype=np.uint8))
    reached = maps >= _threshold(share) * maps.max(axis=(1, 2), keepdims=True)
    values = np.where(reached, maps, np.float32(0))
    value = values.max(axis=0)  # (H, W)
    thing, ground = value > 0, saliency < _threshold(background)
    single = (values == value).sum(axis=0) == 1
    winner = np.array(activation.classes, dtype=np.uint8)[values.argmax(axis=0)]
    labels = np.full(value.shape, UNKNOWN, dtype=np.uint8)
    labels[ground & ~thing] = BACKGROUND
    kept = thing & single & ~ground
    labels[kept] = winner[kept]
    return LabelMap(labels)


def strongest(
    activation: Activation, size: tuple[int, int] | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the strongest class's id, uint8 (H, W), and its value, float32 (H, W), at every pixel.

    Of equal classes the first wins; without classes both are 0. ``size`` (H, W) resizes the maps bilinearly first.
    """
    maps = activation.maps  # (K, H, W)
    height, width = maps.shape[1:] if size is None else size
    if not len(maps):
        return np.zeros((height, width), dtype=np.uint8), np.zeros((height, width), dtype=np.float32)
    if maps.shape[1:] != (height, width):
        maps = np.stack([cv2.resize(src=m, dsize=(width, height), interpolation=cv2.INTER_LINEAR) for m in maps])
    winner = maps.argmax(axis=0)  # (H, W)
    value = np.take_along_axis(maps, winner[None], axis=0)[0]  # (H, W)
    return np.array(activation.classes, dtype=np.uint8)[winner], value


def salient_labels(
    activation: Activation,
    saliency: Saliency,
    *,
    least: float = 0.3,  # author code
    conflict: float = 0.9,  # author code
    salient: float = 32 / 255,  # author code
    strong: float = 0.8,  # author code
    smallest: float = 0.01,  # author code
) -> LabelMap:
    """Label pixels by the strongest of the maps, each stretched to 0..1, and of the background, 1 - ``saliency``.

    Values below ``least`` count as 0. 255 is where more than one of these exceed ``conflict``; where the background won
    though the pixel is ``salient`` or a map above ``strong``; and everywhere, if less than the share ``smallest`` is
    objects. A photo without classes is all background  # ours. Source: OAA and NSROM, author code.
    """
    grey, maps = saliency.unit, activation.maps
    if not len(maps):
        return LabelMap(np.full(grey.shape, BACKGROUND, dtype=np.uint8))
    scores = np.concatenate([1 - grey[None], maps])  # (K+1, H, W)
    labels = labels_from_scores(np.where(scores < least, 0, scores), activation.classes).labels
    labels[(scores > conflict).sum(axis=0) > 1] = UNKNOWN
    labels[(labels == BACKGROUND) & ((grey >= salient) | (maps.max(axis=0) > strong))] = UNKNOWN
    return without_small(LabelMap(labels), smallest)


def without_small(labels: LabelMap, smallest: float) -> LabelMap:
    """Return the labels, or 255 everywhere where less than the share ``smallest`` of the pixels is objects."""
    objects = (labels.labels != BACKGROUND) & (labels.labels != UNKNOWN)
    return labels if objects.mean() >= smallest else LabelMap(np.full_like(labels.labels, UNKNOWN))


def background_scores(activation: Activation, threshold: float) -> NDArray[np.float32]:
    """Put a constant background channel before the maps: float32 (K+1, H, W).

    Raises ``OptionError`` unless ``threshold`` lies in [0, 1].
    """
    background = np.full((1, *activation.maps.shape[1:]), _threshold(threshold))
    return np.concatenate([background, activation.maps])


def background_power(activation: Activation, alpha: float) -> NDArray[np.float32]:
    """Put the background (1 - max of the maps)^alpha before the maps: float32 (K+1, H, W).

    A larger ``alpha`` (above 0) leaves less background. Raises ``OptionError`` otherwise. Source: psa (Ahn and Kwak,
    CVPR 2018), author code.
    """
    if not alpha > 0:
        raise OptionError(f"The background power is {alpha}; give a number above 0.")
    loudest = activation.maps.max(axis=0, keepdims=True, initial=0)  # (1, H, W)
    return np.concatenate([(1 - loudest) ** np.float32(alpha), activation.maps])


def labels_from_scores(scores: NDArray[np.floating], classes: Sequence[int]) -> LabelMap:
    """Label each pixel with the best of the scores (K+1, H, W), background first, then the K ids in ``classes``.

    Raises ``ValueError`` when the channels do not match the classes.
    """
    if scores.ndim != 3 or len(scores) != len(classes) + 1:
        raise ValueError(f"scores must be ({len(classes) + 1}, H, W), got {scores.shape}")
    return LabelMap(np.array([BACKGROUND, *classes], dtype=np.uint8)[scores.argmax(axis=0)])


def resized_labels(scores: NDArray[np.floating], classes: Sequence[int], size: tuple[int, int]) -> LabelMap:
    """Label a photo of ``size`` (H, W) from smaller or larger scores (K, h, w), channel k of class ``classes[k]``.

    The scores are resized bilinearly, one channel at a time, so that a photo of any size needs the memory of two maps.
    """
    height, width = size
    best = np.full(size, -np.inf, dtype=np.float32)
    labels = np.full(size, BACKGROUND, dtype=np.uint8)
    for channel, klass in zip(scores, classes, strict=True):
        if channel.shape != size:
            channel = cv2.resize(src=channel, dsize=(width, height), interpolation=cv2.INTER_LINEAR)
        better = channel > best
        best[better] = channel[better]
        labels[better] = klass
    return LabelMap(labels=labels)


def restrict_to_tags(scores: NDArray[np.floating], tags: Sequence[int]) -> NDArray[np.floating]:
    """Return a copy of the scores (C, H, W) with classes that are not tagged at minus infinity.

    ``tags`` are class ids 1..C-1; the background stays. Raises ``ValueError`` on an id that is none of these.
    """
    if any(not 1 <= tag < len(scores) for tag in tags):
        raise ValueError(f"tags must lie in 1..{len(scores) - 1}, got {tuple(tags)}")
    absent = np.ones(len(scores), dtype=bool)  # (C,)
    absent[[BACKGROUND, *tags]] = False
    kept = scores.copy()
    kept[absent] = -np.inf
    return kept


def _threshold(value: float) -> np.float32:
    """Check a threshold; as float32, like the maps, so that a map value of exactly 0.3 ties with the threshold 0.3."""
    if not 0 <= value <= 1:
        raise OptionError(f"The threshold is {value}; activations lie in [0, 1], give a number in that range.")
    return np.float32(value)
