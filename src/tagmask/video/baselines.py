"""What every method for clips must beat: copying the first mask, pushing it along the flow, averaging logits over time.

All are streams: they yield a frame's result before they ask for the next one, and hold two frames at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tagmask.errors import OptionError
from tagmask.refine.flow import optical_flow, warp

ALPHA = 0.5  # weight of the newest logits  # source

Values = TypeVar("Values")


def copied(frames: Iterable[Any], mask: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Yield the first frame's mask, uint8 (H, W) of ids, for every frame."""
    for _ in frames:
        yield mask.copy()


def propagated(
    frames: Iterable[NDArray[np.uint8]], mask: NDArray[np.uint8], preset: str = "medium"
) -> Iterator[NDArray[np.uint8]]:
    """Yield a mask for every RGB frame uint8 (H, W, 3): the first one's ``mask``, uint8 (H, W) of ids, pushed along the flow.

    Each pixel asks where it was in the frame before (DIS flow, back in time) and takes the id of the nearest pixel there.
    Raises ``ValueError`` for frames of another size than the mask.
    """
    before = None
    for frame in frames:
        if frame.shape[:2] != mask.shape:
            raise ValueError(f"frames and mask must have one size, got {frame.shape[:2]} and {mask.shape}")
        if before is not None:
            mask = warp(mask, optical_flow(frame, before, preset), nearest=True)
        before = frame
        yield mask.copy()


def averaged(logits: Iterable[Values], alpha: float = ALPHA) -> Iterator[Values]:
    """Yield the exponential average of logits (arrays or tensors of one shape) over the frames so far, the first as it is.

    ``alpha`` in (0, 1] is the weight of the newest; 1 changes nothing. Raises OptionError for another one.
    """
    if not 0 < alpha <= 1:
        raise OptionError(f"alpha is {alpha}; expected a weight of the newest frame above 0 and up to 1.")
    return _averaged(logits, alpha)


def _averaged(logits: Iterable[Any], alpha: float) -> Iterator[Any]:
    state = None
    for newest in logits:
        state = newest if state is None else alpha * newest + (1 - alpha) * state
        yield state
