"""What every export format asks of a mask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tagmask.errors import DataError
from tagmask.types import UNKNOWN

NamedMask = tuple[str, NDArray[np.uint8]]


def checked(masks: Iterable[NamedMask], classes: Sequence[str]) -> Iterator[NamedMask]:
    """Pass ``masks`` on one at a time; raises DataError for a class id that ``classes`` does not name."""
    for name, labels in masks:
        if labels.dtype != np.uint8 or labels.ndim != 2:
            raise ValueError(f"mask of {name!r} must be uint8 (H, W), got {labels.dtype} {labels.shape}")
        highest = int(labels[labels != UNKNOWN].max(initial=0))
        if highest >= len(classes):
            raise DataError(
                f"mask of {name!r} holds class id {highest}, expected 0..{len(classes) - 1} or {UNKNOWN}; "
                "export it with the class list of the run that made it."
            )
        yield name, labels
