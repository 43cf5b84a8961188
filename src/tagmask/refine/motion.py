"""What moves against the rest of a frame: pixels that are enclosed by where the optical flow changes suddenly.

Papazoglou, Ferrari. Fast Object Segmentation in Unconstrained Video. ICCV 2013. (Their borders also go by the direction of
the flow; here by how much it changes alone.  # ours)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

JUMP = 0.5  # pixels by which the motion of two neighbours differs where a moving thing ends  # ours
LEAST_MOVING = 0.005  # share of a frame that must be enclosed by such ends, or the motion says nothing  # ours


def inside_motion(flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how much each pixel is enclosed by where the motion (H, W, 2) changes suddenly: float32 (H, W) in [0, 1].

    That is the share of rays in eight directions that cross such a border an odd number of times; 0.5 everywhere, which
    says nothing, where next to nothing moves against the rest (else a speck would make ground of a frame).
    """
    steps = [np.gradient(flow[..., axis]) if min(flow.shape[:2]) > 1 else [flow[..., axis] * 0] for axis in (0, 1)]
    border = np.sqrt(sum(part**2 for pair in steps for part in pair)) > JUMP
    inside = enclosed(border)
    return inside if (inside > 0.5).mean() >= LEAST_MOVING else np.full_like(inside, 0.5)


def enclosed(border: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the share of eight rays from a pixel that meet the border, bool (H, W), an odd number of times."""
    odd = np.zeros(border.shape, dtype=np.int64)
    for turned in (False, True):
        for flipped in (False, True):
            way = np.s_[:: -1 if flipped else 1]
            seen = border.T[way] if turned else border[way]
            for aside in (0,) if turned else (-1, 0, 1):
                met = _met(np.ascontiguousarray(seen), aside)[way]
                odd += (met.T if turned else met) % 2
    return (odd / 8).astype(np.float32)


def _met(border: NDArray[np.bool_], aside: int) -> NDArray[np.int32]:
    """Count how often a ray from each pixel, one row up and ``aside`` columns to the right a step, enters the border."""
    met = np.zeros(border.shape, dtype=np.int32)
    width = border.shape[1]
    here = np.s_[max(0, -aside) : width - max(0, aside)]
    there = np.s_[max(0, aside) : width - max(0, -aside)]
    for row in range(1, len(border)):
        enters = border[row - 1, there] & ~border[row, here]
        met[row, here] = met[row - 1, there] + enters
    return met
