"""Small pictures for the page: a photo, an activation as heat, a label map as colour; each as a data URI.

Everything here is arrays in, arrays out; drawing happens at thumbnail size, so a page costs the same for any photo.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tagmask.data.pixels import palette
from tagmask.types import BACKGROUND, UNKNOWN

Pixels = NDArray[np.uint8]

SIDE = 320  # ours: the longer side of a thumbnail; sharp at 160 CSS pixels on a dense screen
ENLARGED = 3  # ours: how much larger a small photo becomes at most
# ours: WebP quality and blur in pixels, tried until a picture keeps to its budget; only noise needs the last
ATTEMPTS = ((80, 0.0), (50, 0.0), (30, 1.0))

# source: B. Ottosson, "A perceptual color space for image processing" (Oklab), 2020
OKLAB_TO_LMS = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


@cache
def heat_ramp() -> Pixels:
    """Return the colours of an activation from 0 to 1, uint8 (256, 3): dark violet, rose, orange, pale yellow.

    Lightness rises in equal steps of Oklab, so equal differences of activation look equally large, also in grey print.
    """
    t = np.linspace(0, 1, 256)
    lightness = 0.22 + 0.72 * t  # ours
    hue = np.deg2rad(285 + 180 * t)  # ours: violet through red to yellow
    chroma = np.linspace(0, 0.19, 96)[:, None] * np.ones(256)  # ours: from grey to as vivid as sRGB allows
    linear = oklab_to_linear_rgb(lightness * np.ones_like(chroma), chroma * np.cos(hue), chroma * np.sin(hue))
    inside = np.all((linear >= 0) & (linear <= 1), axis=-1)  # (96, 256)
    most = len(chroma) - 1 - np.argmax(inside[::-1], axis=0)  # the most vivid colour that the screen can show
    linear = linear[most, np.arange(256)]  # (256, 3)
    encoded = np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
    )  # source: IEC 61966-2-1
    return np.rint(255 * encoded).astype(np.uint8)


def oklab_to_linear_rgb(
    lightness: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return linear sRGB (..., 3) of Oklab coordinates; values outside [0, 1] lie outside the screen's gamut."""
    lms = np.stack([lightness, a, b], axis=-1) @ OKLAB_TO_LMS.T
    return np.asarray(lms**3 @ LMS_TO_RGB.T)


def thumbnail(photo: Pixels) -> Pixels:
    """Return ``photo`` uint8 (H, W, 3) resized so that its longer side is ``SIDE`` pixels, if that does not enlarge it much."""
    height, width = photo.shape[:2]
    scale = min(SIDE / max(height, width), ENLARGED)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return _resize(photo, size, cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def heat(small: Pixels, activation: NDArray[np.float32]) -> Pixels:
    """Return ``activation`` (H, W) in [0, 1], of any size, as heat over the grey thumbnail ``small`` (h, w, 3)."""
    value = _resize(np.asarray(activation, dtype=np.float32), small.shape[1::-1], cv2.INTER_LINEAR)
    value = np.clip(np.nan_to_num(value), 0, 1)  # (h, w)
    opacity = (0.25 + 0.6 * value)[..., None]  # ours: the photo stays readable under both ends of the ramp
    return _mix(_grey(small), heat_ramp()[np.rint(255 * value).astype(np.intp)], opacity)


def paint(small: Pixels, labels: Pixels) -> Pixels:
    """Return ``labels`` uint8 (H, W), of any size, over the thumbnail ``small`` (h, w, 3).

    Classes take their colour and a pale outline, the background is the photo in dim grey, 255 is hatched in white.
    """
    labels = _resize(labels, small.shape[1::-1], cv2.INTER_NEAREST)  # (h, w)
    grey = _grey(small)
    known = (labels != BACKGROUND) & (labels != UNKNOWN)
    painted = _mix(grey, np.zeros_like(grey), np.float32(0.3))
    painted[known] = _mix(grey, palette()[labels], np.float32(0.62))[known]

    across, down = np.meshgrid(np.arange(labels.shape[1]), np.arange(labels.shape[0]))
    stripes = np.where((across + down) % 10 < 4, np.float32(0.85), np.float32(0.5))[..., None]
    painted[labels == UNKNOWN] = _mix(grey, np.full_like(grey, 245), stripes)[labels == UNKNOWN]

    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    edge = cv2.morphologyEx(labels, op=cv2.MORPH_GRADIENT, kernel=cross) > 0  # (h, w) both sides of every border
    painted[edge & known] = _mix(painted, np.full_like(grey, 255), np.float32(0.75))[edge & known]
    return painted


def frame(small: Pixels, boxes: Sequence[tuple[int, int, int, int, int]], scale: float) -> Pixels:
    """Return the thumbnail ``small`` (h, w, 3) with the outlines of boxes (class id, x0, y0, x1, y1), the first on top.

    Their coordinates are those of the photo, which ``scale`` brings to the thumbnail. Outlines are pale on both sides.
    """
    framed = np.array(small, order="C")
    for tag, *place in reversed(boxes):
        x0, y0, x1, y1 = (round(value * scale) for value in place)
        corners = (x0 + 1, y0 + 1), (max(x1 - 2, x0 + 1), max(y1 - 2, y0 + 1))
        for colour, thickness in ((255, 255, 255), 5), (palette()[tag].tolist(), 3):
            cv2.rectangle(framed, *corners, color=colour, thickness=thickness)
    return framed


def data_uri(pixels: Pixels, budget: int) -> str:
    """Return ``pixels`` uint8 (h, w, 3) as a WebP data URI of about ``budget`` bytes at most (base64 counted)."""
    for quality, blur in ATTEMPTS:
        softened = cv2.GaussianBlur(pixels, ksize=(0, 0), sigmaX=blur) if blur else pixels
        file = io.BytesIO()
        Image.fromarray(softened).save(file, format="WEBP", quality=quality, method=2)
        if file.tell() * 4 <= budget * 3:
            break
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _resize(array: NDArray, size: tuple[int, ...], how: int) -> NDArray:
    """Return ``array`` at ``size`` = (width, height)."""
    return cv2.resize(np.ascontiguousarray(array), dsize=(size[0], size[1]), interpolation=how)


def _grey(small: Pixels) -> Pixels:
    """Return the thumbnail without its colours, still (h, w, 3)."""
    return cv2.cvtColor(small, code=cv2.COLOR_RGB2GRAY)[..., None].repeat(3, axis=2).astype(np.uint8, copy=False)


def _mix(below: Pixels, above: Pixels, opacity: NDArray[np.float32] | np.float32) -> Pixels:
    """Return ``above`` over ``below`` at ``opacity`` in [0, 1]."""
    return np.rint(below + (above.astype(np.float32) - below) * opacity).astype(np.uint8)
