"""Frames of any size on the canvas that the tracker sees, and the view of an object that becomes its template."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tagmask.augment import resize, resize_labels

Size = tuple[int, int]  # height, width
Pixels = NDArray[np.uint8]
MARGIN = 1.5  # a template shows so many times the box of its object; author code (RANet)
ZOOM = 2.0  # and is enlarged no more than this, for frames are not enlarged at all  # ours


@dataclass(frozen=True)
class Canvas:
    """How a frame of one size lies on the canvas: made as large as fits, in the middle, the rest filled.

    ``size`` is the canvas's, ``inner`` that of the frame on it, ``top`` and ``left`` where it begins.
    """

    frame: Size
    size: Size
    inner: Size
    top: int
    left: int

    @classmethod
    def of(cls, frame: Size, size: Size) -> Canvas:
        """Lay a frame on a canvas of this size, or of the same turned by 90 degrees where that is the frame's shape.

        >>> Canvas.of((480, 854), (240, 432))
        Canvas(frame=(480, 854), size=(240, 432), inner=(240, 427), top=0, left=2)
        >>> Canvas.of((854, 480), (240, 432)).size
        (432, 240)
        """
        if (frame[0] > frame[1]) != (size[0] > size[1]) and frame[0] != frame[1]:
            size = (size[1], size[0])
        scale = min(size[0] / frame[0], size[1] / frame[1])
        inner = (max(1, min(size[0], round(frame[0] * scale))), max(1, min(size[1], round(frame[1] * scale))))
        return cls(frame, size, inner, (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2)

    def place(self, pixels: Pixels, fill: Pixels) -> Pixels:
        """Return an RGB frame (H, W, 3) on the canvas, whose rest has the colour ``fill`` (3,)."""
        canvas = np.empty((*self.size, 3), dtype=np.uint8)
        canvas[:] = fill
        canvas[self._window] = pixels if self.inner == self.frame else resize(pixels, *self.inner)
        return canvas

    def place_labels(self, labels: Pixels) -> Pixels:
        """Return labels (H, W) on the canvas, 0 beside the frame."""
        canvas = np.zeros(self.size, dtype=np.uint8)
        canvas[self._window] = labels if self.inner == self.frame else resize_labels(labels, *self.inner)
        return canvas

    def back(self, maps: Tensor) -> Tensor:
        """Return maps (K, h, w) of the canvas, of any number of cells, at the pixels of the frame: (K, H, W), bilinear."""
        whole = functional.interpolate(maps[None], size=self.size, mode="bilinear", align_corners=False)
        inner = whole[(..., *self._window)]
        if self.inner != self.frame:
            inner = functional.interpolate(inner, size=self.frame, mode="bilinear", align_corners=False)
        return inner[0]

    @property
    def _window(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.inner[0]), slice(self.left, self.left + self.inner[1])


def template_view(pixels: Pixels, labels: Pixels, size: Size, fill: Pixels) -> tuple[Pixels, Pixels]:
    """Return a view of ``size`` around the object, and its labels: RGB (h, w, 3), uint8 (h, w).

    ``pixels`` and ``labels`` are a whole canvas; in the labels 1 is the object, 0 the background, 255 neither for sure. The
    view has the aspect of ``size`` and shows 1.5 times the object's box, but at most twice as large as the canvas does.
    Beyond the canvas it has the colour ``fill`` and the label 0. Raises ``ValueError`` where there is no object.
    """
    there = np.argwhere(labels == 1)
    if not len(there):
        raise ValueError("there is no object to make a template of")
    low, high = there.min(axis=0), there.max(axis=0) + 1
    box = MARGIN * (high - low)
    tall = max(box[0], box[1] * size[0] / size[1], size[0] / ZOOM)  # of the view, in pixels of the canvas
    tall = min(tall, max(size[0], box[0] / MARGIN, box[1] / MARGIN * size[0] / size[1]))
    zoom, middle = size[0] / tall, (low + high) / 2
    # From the view's pixels to the canvas's; the middle of a pixel has a whole number.
    top, left = middle - np.array(size) / zoom / 2 + 0.5 / zoom - 0.5
    matrix = np.array([[1 / zoom, 0, left], [0, 1 / zoom, top]])
    seen = _moved(pixels, matrix, size, cv2.INTER_LINEAR, fill.tolist())
    return seen, _moved(labels, matrix, size, cv2.INTER_NEAREST, 0)


def as_frames(pixels: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Return uint8 RGB (B, H, W, 3) as float32 (B, 3, H, W) in [0, 1], channels last."""
    frames = torch.from_numpy(pixels).to(device=device).permute(0, 3, 1, 2)
    return frames.float().div(255).contiguous(memory_format=torch.channels_last)


def _moved(values: Pixels, matrix: NDArray[np.float64], size: Size, how: int, border: float | list[int]) -> Pixels:
    return np.asarray(
        cv2.warpAffine(
            src=values, M=matrix, dsize=(size[1], size[0]), flags=how | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT, borderValue=border,
        ),
        dtype=np.uint8,
    )  # fmt: skip
