"""Optical flow between two frames by dense inverse search (DIS), and what one does with it.

Kroeger, Timofte, Dai, Van Gool. Fast Optical Flow using Dense Inverse Search. ECCV 2016, as OpenCV has it.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tagmask.errors import OptionError

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
SMALLEST = 32  # pixels a side below which frames are padded  # ours
MOST_PLANES = 128  # that OpenCV 5 moves at once; more it drops without a word  # measured


def optical_flow(first: NDArray[np.uint8], second: NDArray[np.uint8], preset: str = "medium") -> NDArray[np.float32]:
    """Return where each pixel of the first frame goes: float32 (H, W, 2), in pixels, x then y.

    Frames are RGB uint8 (H, W, 3). Raises ``OptionError`` for an unknown preset, ``ValueError`` for frames of two sizes.
    """
    if preset not in PRESETS:
        raise OptionError(f"the preset of the optical flow is {preset!r}; expected one of {', '.join(PRESETS)}.")
    if first.shape != second.shape:
        raise ValueError(f"both frames must have one size, got {first.shape} and {second.shape}")
    height, width = first.shape[:2]
    below, right = max(0, SMALLEST - height), max(0, SMALLEST - width)
    frames = (
        np.pad(cv2.cvtColor(frame, code=cv2.COLOR_RGB2GRAY), ((0, below), (0, right)), mode="edge")
        for frame in (first, second)
    )
    search: Any = cv2.DISOpticalFlow.create(PRESETS[preset])
    return np.ascontiguousarray(search.calc(*frames, None)[:height, :width])


def warp(values: NDArray[Any], flow: NDArray[np.float32], *, nearest: bool = False) -> NDArray[Any]:
    """Return ``values`` (H, W) or (H, W, D) of the second frame as the first frame sees them, along its flow (H, W, 2).

    Between pixels the values, uint8 or float32 and D at most 128, are interpolated; with ``nearest`` those of the nearest
    pixel are taken, of any type (labels). Beyond the border the border's are taken. Raises ``ValueError`` for what cannot
    be interpolated.
    """
    y, x = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32) + np.moveaxis(flow[..., ::-1], 2, 0)
    if nearest:
        height, width = values.shape[:2]
        return values[np.rint(y.clip(0, height - 1)).astype(np.intp), np.rint(x.clip(0, width - 1)).astype(np.intp)]
    if values.dtype not in (np.uint8, np.float32) or values[0, 0].size > MOST_PLANES:
        raise ValueError(f"expected uint8 or float32 (H, W, up to {MOST_PLANES}), got {values.dtype} {values.shape}")
    moved = cv2.remap(src=values, map1=x, map2=y, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return moved.reshape(values.shape)  # OpenCV drops an axis of one


def consistent(forward: NDArray[np.float32], backward: NDArray[np.float32], limit: float = 1.0) -> NDArray[np.bool_]:
    """Say, bool (H, W), which pixels come back to within ``limit`` pixels when they go forward and then backward.

    Pixels that leave the frame do not come back. Source of the default: web_videos (recalled).
    """
    height, width = forward.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    to_x, to_y = x + forward[..., 0], y + forward[..., 1]
    inside = (to_x >= 0) & (to_x <= width - 1) & (to_y >= 0) & (to_y <= height - 1)
    error = np.linalg.norm(forward + warp(backward, forward), axis=2)
    return inside & (error < limit)
