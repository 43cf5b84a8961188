"""The random walk that carries activations along affinities: m T^t on a grid where each cell sees those around it.

Ahn, Kwak. Learning Pixel-level Semantic Affinity with Image-level Supervision (psa). CVPR 2018; Ahn, Cho, Kwak. Weakly
Supervised Learning of Instance Segmentation with Inter-pixel Relations (irn). CVPR 2019; RETAB's two directed stages.

The published code squares a dense N x N matrix eight times. Only the few maps are wanted, and each cell has at most 2P
neighbours, always in the same places: so T is kept as 2P + 1 planes of weights, and a step is as many shifted products.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tagmask.errors import OptionError
from tagmask.refine.lanes import fill, lanes, load, store
from tagmask.refine.lattice import compiled

NORMALISATIONS = ("column", "row")
_ACROSS = lanes(32)  # ours: cells whose sums stay in registers, while their weights stay in the nearest cache


def half_disc(radius: int) -> NDArray[np.int64]:
    """Return the offsets (P, 2), as dy, dx, from a cell to the later half of those nearer than ``radius``.

    Each pair of cells appears once; 34 offsets for radius 5. Source: psa, author code.

    >>> len(half_disc(5))
    34
    """
    if radius < 1:
        raise OptionError(f"the radius of the random walk is {radius}; expected 1 or more.")
    reach = range(1 - radius, radius)
    return np.array(
        [(y, x) for y in range(radius) for x in reach if (y > 0 or x > 0) and y * y + x * x < radius * radius],
        dtype=np.int64,
    ).reshape(-1, 2)


@dataclass(frozen=True)
class Transition:
    """One step of a walk: ``weights`` float32 (2P+1, h, w), of the source at a cell + ``offsets`` int (2P+1, 2), dy, dx.

    The first offset is the cell itself. Weights of sources outside the grid are 0.
    """

    weights: NDArray[np.float32]
    offsets: NDArray[np.int64]


def transition(
    affinity: NDArray[np.floating],
    offsets: NDArray[np.integer],
    *,
    beta: float,
    normalise: str = "column",
    sources: NDArray[np.bool_] | None = None,
    targets: NDArray[np.bool_] | None = None,
) -> Transition:
    """Return the walk's step for affinities (P, h, w) in [0, 1] between each cell and that cell plus ``offsets`` (P, 2).

    Values whose partner lies outside the grid are not looked at (irn pads its grid first, psa does not). A cell's
    affinity to itself is 1. All are raised to ``beta``; then "column" divides by the sum over the sources of a target, so
    that values are convex averages (psa, irn, RETAB), "row" by the sum over the targets of a source, so that its mass is
    kept. ``sources`` and ``targets``, bool (h, w), keep only steps from the one to the other and from a cell to itself:
    RETAB's first stage has both inside the non-boundary, its second the boundary as targets. Raises ``OptionError`` for
    a negative ``beta`` or an unknown ``normalise``, ``ValueError`` for arrays that do not fit.
    """
    if affinity.ndim != 3 or len(offsets) != len(affinity):
        raise ValueError(f"affinity must be ({len(offsets)}, h, w), got {affinity.shape}")
    if not beta >= 0:
        raise OptionError(f"beta of the random walk is {beta}; expected 0 or more.")
    if normalise not in NORMALISATIONS:
        raise OptionError(f"normalise is {normalise!r}; expected one of {', '.join(NORMALISATIONS)}.")
    grid = affinity.shape[1:]
    everywhere = np.ones(grid, dtype=bool)
    steps = np.concatenate([np.zeros((1, 2), dtype=np.int64), offsets, -np.asarray(offsets, dtype=np.int64)])
    weights = np.zeros((len(steps), *grid), dtype=np.float32)
    weights[0] = 1
    power = np.asarray(affinity, dtype=np.float32) ** np.float32(beta)
    for p, offset in enumerate(offsets):
        here, there = overlap(offset, grid)  # cells whose partner lies inside, and these partners
        weights[1 + p][here] = power[p][here]  # what comes from cell + offset
        weights[1 + len(offsets) + p][there] = power[p][here]  # what comes from cell - offset
    allowed_from = everywhere if sources is None else sources
    for plane, step in zip(weights[1:], steps[1:], strict=True):
        here, there = overlap(step, grid)
        plane[here] *= allowed_from[there]
        plane *= everywhere if targets is None else targets
    if normalise == "column":
        return Transition(weights / weights.sum(axis=0), steps)
    sent = np.zeros(grid, dtype=np.float32)
    for plane, step in zip(weights, steps, strict=True):
        here, there = overlap(step, grid)
        sent[there] += plane[here]
    for plane, step in zip(weights, steps, strict=True):
        here, there = overlap(step, grid)
        plane[here] /= sent[there]
    return Transition(weights, steps)


def overlap(offset: NDArray[np.integer], grid: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return the cells for which cell + offset lies in the grid (h, w), and these cells + offset, both as slices."""
    starts = [min(max(0, -int(o)), side) for o, side in zip(offset, grid, strict=True)]
    stops = [max(start, side - max(0, int(o))) for o, side, start in zip(offset, grid, starts, strict=True)]
    here = tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))
    there = tuple(slice(a + int(o), b + int(o)) for a, b, o in zip(starts, stops, offset, strict=True))
    return here, there


def walk(maps: NDArray[np.floating], step: Transition, steps: int = 256) -> NDArray[np.float32]:
    """Return maps (K, h, w), any range, after ``steps`` steps, float32; time is linear in K, h, w, P and ``steps``.

    256 is the published number: the matrix squared eight times. The interpreter lock is released. Raises ``OptionError``
    for a negative number of steps, ``ValueError`` for maps of another grid.
    """
    _check(maps.shape, step, steps)
    count, height, width = maps.shape
    reach = int(np.abs(step.offsets).max(initial=0))
    spare = -width % len(_ACROSS)  # columns of weight 0, which stay 0
    weights = np.pad(step.weights.transpose(1, 0, 2), ((0, 0), (0, 0), (0, spare)))  # (h, 2P+1, w)
    padded = np.pad(np.asarray(maps, dtype=np.float32), ((0, 0), (reach, reach), (reach, reach + spare)))
    rows = (np.ascontiguousarray(array).reshape(-1, array.shape[2]) for array in (padded, weights))
    walked = _walk(*rows, step.offsets, count, reach, steps, _ACROSS).reshape(padded.shape)
    return walked[:, reach : reach + height, reach : reach + width].copy()


@torch.no_grad()
def walk_on_device(maps: Tensor, step: Transition, steps: int = 256) -> Tensor:
    """Return what ``walk`` returns, for a tensor (K, h, w) on any device, there, up to rounding, without a gradient."""
    _check(tuple(maps.shape), step, steps)
    height, width = maps.shape[1:]
    reach = int(np.abs(step.offsets).max(initial=0))
    weights = torch.from_numpy(step.weights).to(maps.device)
    values = maps.float()
    for _ in range(steps):
        padded = functional.pad(values, pad=(reach, reach, reach, reach))
        values = torch.zeros_like(values)
        for plane, (dy, dx) in zip(weights, step.offsets.tolist(), strict=True):
            values += plane * padded[:, reach + dy : reach + dy + height, reach + dx : reach + dx + width]
    return values


def walk_where(
    device: torch.device, maps: NDArray[np.float32], step: Transition, steps: int = 256
) -> NDArray[np.float32]:
    """Return what ``walk`` returns, computed on ``device``."""
    if device.type == "cpu":
        return walk(maps, step, steps)
    return walk_on_device(torch.from_numpy(maps).to(device), step, steps).cpu().numpy()


def _check(shape: tuple[int, ...], step: Transition, steps: int) -> None:
    if shape[1:] != step.weights.shape[1:]:
        raise ValueError(f"maps must be (K, {step.weights.shape[1]}, {step.weights.shape[2]}), got {shape}")
    if steps < 0:
        raise OptionError(f"the random walk takes {steps} steps; expected 0 or more.")


@compiled()
def _walk(
    source: NDArray[np.float32],
    weights: NDArray[np.float32],
    offsets: NDArray[np.int64],
    count: int,
    reach: int,
    steps: int,
    across: tuple[np.float32, ...],
) -> NDArray[np.float32]:
    """Walk ``count`` maps with a margin of ``reach`` around each, the rows of all below each other; they are overwritten.

    ``weights`` hold 2P+1 rows for each row of a map; their length is a multiple of the lanes. Sums run in float32.
    """
    planes, target = len(offsets), np.zeros_like(source)
    height = len(weights) // planes
    for _ in range(steps):
        for y in range(height):
            for x in range(0, weights.shape[1], len(across)):
                for k in range(count):
                    row, column = k * (height + 2 * reach) + reach + y, reach + x
                    total = fill(np.float32(0), across)
                    for p in range(planes):
                        values = load(source, row + offsets[p, 0], column + offsets[p, 1], across)
                        total = total + load(weights, y * planes + p, x, across) * values
                    store(target, row, column, total)
        source, target = target, source
    return source
