"""K-means of numbers, exactly: in one dimension clusters are intervals, and the best cuts between them can be computed.

Wang, Song. Ckmeans.1d.dp: Optimal k-means Clustering in One Dimension by Dynamic Programming. R Journal 2011.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tagmask.errors import OptionError
from tagmask.refine.lattice import compiled


def kmeans_1d(
    values: NDArray[np.floating], clusters: int = 3, *, lowest: float | None = None
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Return the centres, float64 (k,) ascending, and the cluster of each value, uint8 in 0..k-1 of the shape of ``values``.

    No clusters have a smaller sum of squared distances to their centres. There are ``clusters`` of them, or as many as
    there are different values. ``lowest`` fixes the first centre, where no value is below it; its cluster may be empty then,
    and there are no more of the others than values above it. For n different values it takes a time of n log n. Raises
    ``OptionError`` unless ``clusters`` is in 1..255, ``ValueError`` without a value, for one that is not finite and for one
    below ``lowest``.

    >>> centres, labels = kmeans_1d(np.array([0.0, 7.0, 0.0, 1.0, 8.0]), clusters=2)
    >>> centres.round(2).tolist(), labels.tolist()
    ([0.33, 7.5], [0, 1, 0, 0, 1])
    """
    if not 1 <= clusters <= 255:
        raise OptionError(f"k-means is asked for {clusters} clusters; expected 1 to 255.")
    x, place, counts = np.unique(values.ravel().astype(np.float64), return_inverse=True, return_counts=True)
    if not len(x) or not np.isfinite(x[[0, -1]]).all() or (lowest is not None and x[0] < lowest):
        raise ValueError(f"k-means needs finite values{'' if lowest is None else f' of {lowest} or more'}")
    pinned = lowest is not None
    origin = float(np.average(x, weights=counts)) if lowest is None else lowest  # so that squares are small
    k = min(clusters, len(x) if lowest is None else 1 + int((x > lowest).sum()))
    sums = np.zeros((3, len(x) + 1))  # of the weights, the values and their squares, up to each value
    sums[:, 1:] = np.cumsum([counts, counts * (x - origin), counts * (x - origin) ** 2], axis=1)
    starts = _best_starts(sums, k, pinned)  # (k,)
    mass, moment = np.diff(sums[:2, np.append(starts, len(x))], axis=1)
    centres = origin + moment / np.maximum(mass, 1)
    if lowest is not None:
        centres[0] = lowest
    labels = np.searchsorted(starts, np.arange(len(x)), side="right") - 1  # of the different values
    return centres, labels[place].astype(np.uint8).reshape(values.shape)


@compiled()
def _best_starts(sums: NDArray[np.float64], k: int, pinned: bool) -> NDArray[np.int64]:
    """Return where each of the k intervals of n sorted values starts, int64 (k,); the first may be empty if ``pinned``.

    ``before[j]`` is the least cost of the first j values. The best start of the last interval grows with j, so that the
    starts found for some j narrow the search for those between them.
    """
    n = sums.shape[1] - 1
    before = np.empty(n + 1)
    for j in range(n + 1):
        before[j] = sums[2, j] if pinned else _spread(sums, 0, j)
    chosen = np.zeros((k, n + 1), dtype=np.int64)
    stack = np.empty((128, 4), dtype=np.int64)
    for layer in range(1, k):
        first = layer - 1 if pinned else layer  # the fewest values before this interval
        best = np.full(n + 1, np.inf)
        stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3] = first + 1, n, first, n - 1
        top = 0
        while top >= 0:
            low, high, least, most = stack[top, 0], stack[top, 1], stack[top, 2], stack[top, 3]
            top -= 1
            if low > high:
                continue
            middle = (low + high) // 2
            start = least
            for i in range(least, min(most, middle - 1) + 1):
                cost = before[i] + _spread(sums, i, middle)
                if cost < best[middle]:
                    best[middle], start = cost, i
            chosen[layer, middle] = start
            for lower, upper, left, right in ((low, middle - 1, least, start), (middle + 1, high, start, most)):
                top += 1
                stack[top, 0], stack[top, 1], stack[top, 2], stack[top, 3] = lower, upper, left, right
        before = best
    starts = np.zeros(k, dtype=np.int64)
    end = n
    for layer in range(k - 1, 0, -1):
        end = chosen[layer, end]
        starts[layer] = end
    return starts


@compiled()
def _spread(sums: NDArray[np.float64], start: int, end: int) -> float:
    """Return the sum of squared distances of the values from ``start`` to before ``end`` to their mean."""
    mass, moment = sums[0, end] - sums[0, start], sums[1, end] - sums[1, start]
    return max(0.0, sums[2, end] - sums[2, start] - moment * moment / mass) if mass > 0 else 0.0
