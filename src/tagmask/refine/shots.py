"""Where one shot of a film ends and the next begins: many pixels change their colour at once."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

SHOT_CHANGE = 0.35  # share of the pixels that change their colour at a cut; in clips without one up to 0.15 do  # ours
BINS, THUMB = 8, 64  # of each colour; pixels a side of the picture whose colours are counted  # ours


def colour_shares(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return how often each of 8x8x8 colours occurs in an RGB frame uint8 (H, W, 3), as shares: float32 (512,)."""
    small = cv2.resize(frame, (THUMB, THUMB), interpolation=cv2.INTER_AREA)
    places = (small // (256 // BINS)).astype(np.int64) @ np.array([BINS * BINS, BINS, 1])
    return (np.bincount(places.ravel(), minlength=BINS**3) / places.size).astype(np.float32)


def colour_change(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """Return the share of the pixels, in [0, 1], that must change their colour to get from one to the other.

    >>> colour_change(np.array([1.0, 0.0], dtype=np.float32), np.array([0.25, 0.75], dtype=np.float32))
    0.75
    """
    return float(np.abs(after - before).sum() / 2)
