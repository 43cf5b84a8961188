"""One picture that says what the package does: photos, their tags, their masks."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tagmask.data.pixels import palette

SIDE, GAP, LINE = 192, 12, 26  # pixels: a panel, the space between, a line of text  # ours


def example_picture(
    examples: Sequence[tuple[NDArray[np.uint8], Sequence[str], NDArray[np.uint8]]],
) -> NDArray[np.uint8]:
    """Return uint8 RGB: each (photo (H, W, 3), tags, labels (H, W)) a column, photo above, tags between, mask below."""
    width = GAP + len(examples) * (SIDE + GAP)
    canvas = Image.new(mode="RGB", size=(width, 2 * SIDE + LINE + 2 * GAP), color="white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=15)
    for column, (photo, tags, labels) in enumerate(examples):
        left = GAP + column * (SIDE + GAP)
        canvas.paste(Image.fromarray(_square(photo, cv2.INTER_CUBIC)), box=(left, GAP))
        draw.text((left + SIDE / 2, GAP + SIDE + LINE / 2), ", ".join(tags) or "(nothing)", "#333", font, anchor="mm")
        canvas.paste(Image.fromarray(palette()[_square(labels, cv2.INTER_NEAREST)]), box=(left, GAP + SIDE + LINE))
    return np.asarray(canvas)


def _square(pixels: NDArray[np.uint8], interpolation: int) -> NDArray[np.uint8]:
    """Cut the middle square and bring it to the side of a panel."""
    side = min(pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    middle = np.ascontiguousarray(pixels[top : top + side, left : left + side])
    return np.asarray(cv2.resize(middle, (SIDE, SIDE), interpolation=interpolation))
