"""Random views of a photo (and its labels) for training: scaled, cut, padded with the mean colour, mirrored."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tagmask.types import UNKNOWN

Pixels = NDArray[np.uint8]


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resize uint8 RGB (H, W, 3) to (height, width, 3): area average when shrinking, bilinear when growing."""
    shrinking = height * width < pixels.shape[0] * pixels.shape[1]
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)  # type: ignore[return-value]


def resize_labels(labels: Pixels, height: int, width: int) -> Pixels:
    """Resize uint8 labels (H, W) by the nearest pixel centre."""
    return cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)  # type: ignore[return-value]


def random_view(
    pixels: Pixels,
    labels: Pixels | None,
    *,
    crop: int | tuple[int, int],
    scale: float,
    fill: Pixels,
    random: np.random.Generator,
) -> tuple[Pixels, Pixels | None]:
    """Return a (crop, crop, 3) view of ``pixels`` resized by ``scale``, and of ``labels`` (255 where padded).

    ``crop`` may be height and width. ``fill`` is the colour (3,) outside the photo; half of the views are mirrored.
    """
    tall, wide = (crop, crop) if isinstance(crop, int) else crop
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    pixels = resize(pixels, height, width)
    view = np.empty((tall, wide, 3), dtype=np.uint8)
    view[:] = fill
    # One offset per side, negative inside the padding: the photo may lie anywhere in the view, or the view in the photo.
    (top, y), (left, x) = _offset(height, tall, random), _offset(width, wide, random)
    rows, columns = min(height, tall), min(width, wide)
    view[y : y + rows, x : x + columns] = pixels[top : top + rows, left : left + columns]
    mirrored = bool(random.integers(2))
    seen = None
    if labels is not None:
        seen = np.full((tall, wide), UNKNOWN, dtype=np.uint8)
        resized = resize_labels(labels, height, width)
        seen[y : y + rows, x : x + columns] = resized[top : top + rows, left : left + columns]
        seen = np.ascontiguousarray(seen[:, ::-1]) if mirrored else seen
    return (np.ascontiguousarray(view[:, ::-1]) if mirrored else view), seen


def _offset(side: int, crop: int, random: np.random.Generator) -> tuple[int, int]:
    """Return (start in the photo, start in the view) of a random placement along one side."""
    place = int(random.integers(abs(side - crop) + 1))
    return (place, 0) if side > crop else (0, place)


def jittered(pixels: Pixels, strength: tuple[float, ...], random: np.random.Generator) -> Pixels:
    """Return uint8 RGB (H, W, 3) in other colours: brightness, contrast, saturation and hue changed in random order.

    ``strength`` holds four numbers: the first three are multiplied by up to 1 - s .. 1 + s, the hue moves by up to s of
    the circle of colours, to either side. Source: torchvision's ColorJitter.
    """
    factors = [np.float32(random.uniform(max(0, 1 - s), 1 + s)) for s in strength[:3]]
    turn = np.float32(360 * random.uniform(-strength[3], strength[3]))  # degrees
    values = pixels.astype(np.float32) / 255
    for step in random.permutation(4):
        if step == 3:
            hues = cv2.cvtColor(values, cv2.COLOR_RGB2HSV)
            hues[..., 0] = (hues[..., 0] + turn) % 360
            values = cv2.cvtColor(hues, cv2.COLOR_HSV2RGB)  # type: ignore[assignment]
            continue
        grey = cv2.cvtColor(values, cv2.COLOR_RGB2GRAY)[..., None]  # (H, W, 1)
        towards = (np.float32(0), grey.mean(), grey)[step]
        values = (factors[step] * values + (1 - factors[step]) * towards).clip(0, 1)
    return (values * 255).round().astype(np.uint8)


def channels_first(pixels: Pixels) -> Pixels:
    """(H, W, 3) -> (3, H, W), contiguous."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
