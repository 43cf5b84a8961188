"""How far a number would move with other clips or frames: the bootstrap, over sequences or over blocks of frames.

Efron, Tibshirani. An Introduction to the Bootstrap. 1993 (percentile intervals); Carlstein. The Use of Subseries Values.
Annals of Statistics 1986 (blocks that do not overlap). What is compared is compared on the same draws: paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000  # source
BLOCK = 10  # consecutive frames, which resemble each other and so are drawn together  # source
LEVEL = 0.95  # source
AT_ONCE = 500  # draws in memory  # ours

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Interval:
    """A value and where ``LEVEL`` of its draws lie."""

    value: float
    low: float
    high: float

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves out 0: whether there is a difference that these data can show."""
        return self.low > 0 or self.high < 0


def paired(
    first: Sequence[float] | NDArray[np.float64],
    second: Sequence[float] | NDArray[np.float64],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Return by how much ``second`` is above ``first`` on average; each holds a number a sequence, in the same order.

    Sequences are drawn with replacement, and bring both their numbers. Raises ``ValueError`` where they do not pair up.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"expected one number a sequence from both, got {a.shape} and {b.shape}")
    return over_units(np.stack([b - a, np.ones_like(a)], axis=1), mean, draws=draws, seed=seed, level=level)


def over_blocks(
    counts: NDArray[Any],
    statistic: Statistic,
    *,
    clips: Sequence[int] | None = None,
    block: int = BLOCK,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Return the statistic of frames whose counts are summed, with its interval over blocks of consecutive frames.

    ``counts`` (N, ...) are a frame's (or a pair of frames') each, in order; ``statistic`` as in `over_units`. ``clips``
    says how many frames of ``counts`` each clip has (default: all are of one): no block reaches over a cut. The blocks
    of a clip have ``block`` frames each, or are as near to it as equal lengths can be.
    """
    lengths = [len(counts)] if clips is None else list(clips)
    if sum(lengths) != len(counts) or min(lengths, default=0) < 1 or block < 1:
        raise ValueError(f"clips of {lengths} frames and blocks of {block} do not cut up {len(counts)} frames")
    starts, begin = [], 0
    for length in lengths:
        parts = max(1, round(length / block))
        starts += [begin + part * length // parts for part in range(parts)]
        begin += length
    return over_units(np.add.reduceat(counts, starts, axis=0), statistic, draws=draws, seed=seed, level=level)


def over_units(
    counts: NDArray[Any],
    statistic: Statistic,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Return the statistic of the sum of ``counts`` (N, ...), and its percentile interval with the N drawn anew.

    ``statistic`` takes sums float64 (S, ...) of S draws to S numbers. Draws for which it is nan are left out. The same
    seed gives the same interval. Raises ``ValueError`` for impossible sizes.
    """
    units = len(counts)
    if units < 1 or draws < 1 or not 0 < level < 1:
        raise ValueError(f"cannot draw {draws} times from {units} units at the level {level}")
    flat = np.asarray(counts, dtype=np.float64).reshape(units, -1)
    random = np.random.default_rng(seed)
    values = []
    for start in range(0, draws, AT_ONCE):
        # How often each unit is drawn: all that a sum needs to know.
        often = random.multinomial(n=units, pvals=np.full(units, 1 / units), size=min(AT_ONCE, draws - start))
        values.append(statistic((often @ flat).reshape(-1, *counts.shape[1:])))
    value = float(statistic(flat.sum(axis=0).reshape(1, *counts.shape[1:]))[0])
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(np.concatenate(values), [tail, 100 - tail]).tolist()
    return Interval(value, low, high)


def mean(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide sums (S, 2) of values and of how many there are: a statistic of numbers, (N, 2) of (value, 1)."""
    return sums[:, 0] / sums[:, 1]


def miou(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean IoU of confusion matrices (S, C, C+1), over the classes that occur in each: a statistic of mIoU and of TC."""
    hits = np.diagonal(sums, axis1=1, axis2=2)  # (S, C)
    union = sums.sum(axis=2) + sums[..., :-1].sum(axis=1) - hits
    iou = np.divide(hits, union, out=np.zeros_like(hits), where=union > 0)
    occurring = (union > 0).sum(axis=1)
    return np.divide(iou.sum(axis=1), occurring, out=np.full(len(sums), np.nan), where=occurring > 0)


def difference(statistic: Statistic) -> Statistic:
    """Return the statistic of counts (N, 2, ...) that says by how much the second of both is above the first."""
    return lambda sums: statistic(sums[:, 1]) - statistic(sums[:, 0])
