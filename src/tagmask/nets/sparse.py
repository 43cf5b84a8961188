"""Sparse attention of a frame's cells to those of the frames before it: which cells ask, whom, and what they are told.

Li, Wang, Chen, Niu, Si, Qian, Zhang. STT. ACM MM 2021. https://doi.org/10.1145/3474085.3475409
Maps are (B, h, w, D) or (B, T, h, w, D), the oldest frame first. Tensors in, tensors out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tagmask.errors import OptionError, did_you_mean
from tagmask.refine import windows
from tagmask.refine.window_attention import attention
from tagmask.refine.window_likeness import likeness

SCALES = ("unit", "root", "none")
CHOICES = ("top", "random", "lowest")
UNIT_TEMPERATURE = 0.1  # ours
SHORTEST = 1e-12  # length of a cell's map that its directions are divided by at least  # ours
LEAST_SHARED = 64  # queries a thread has at least  # ours
AT_ONCE = 2**25  # numbers gathered at a time where nothing is compiled: 128 MiB  # ours


def key_radii(frames: int, start: int = 1, end: int = 5, growth: int = 1) -> tuple[int, ...]:
    """Return how far cells look in each of the frames before, the oldest first: ``start`` in the nearest, growing to ``end``.

    Source: the paper, equation 5.

    >>> key_radii(7)
    (5, 5, 5, 4, 3, 2, 1)
    """
    return tuple(min(start + age * growth, end) for age in reversed(range(frames)))


def keys_of(radii: Sequence[int]) -> int:
    """Return the number of keys of a query that is far from the border.

    >>> keys_of(key_radii(7))
    527
    """
    return sum((2 * radius + 1) ** 2 for radius in radii)


@torch.no_grad()
def dissimilarity(maps: Tensor, radius: int, scale: str = "unit") -> Tensor:
    """Return how much each cell differs from the cells around it (NSM), float (B, h, w), 0 where all are the same.

    It is the KL divergence of the uniform distribution from the softmax of the dot products, plus the mean of 1 - cosine,
    over the up to (2 radius + 1)^2 cells that there are. KL(uniform || softmax S) = logsumexp S - mean S - log n. (The
    paper's equation 2 has the sign turned round.) ``scale`` "unit" takes cosines over 0.1, "root" dot products over the
    root of D, and "none" dot products as printed, which rank cells by their length. Source: the paper, equations 1 to 4.
    """
    if scale not in SCALES:
        raise OptionError(
            f"the scale of the dissimilarity is {scale!r}{did_you_mean(scale, SCALES)}; expected {', '.join(SCALES)}."
        )
    depth = maps.shape[3]
    maps = maps.float()
    number = _number(maps.shape[1:3], radius).to(maps.device)  # (h, w)
    to_unit = 1 / torch.linalg.vector_norm(maps, dim=3).clamp(min=SHORTEST)  # (B, h, w)
    factor = {"unit": to_unit / UNIT_TEMPERATURE**0.5, "root": depth**-0.25, "none": 1.0}[scale]
    logs, sums = _likeness(maps, torch.ones_like(to_unit) * factor, radius)
    cosines = UNIT_TEMPERATURE * sums if scale == "unit" else _likeness(maps, to_unit, radius)[1]
    return (logs - sums / number - number.log()) + (1 - cosines / number)


def _number(grid: Sequence[int], radius: int) -> Tensor:
    """Return of how many cells the window around each cell is, float (h, w)."""
    rows, columns = (torch.arange(side) for side in grid)
    high, wide = (
        (places + radius + 1).clamp(max=len(places)) - (places - radius).clamp(min=0) for places in (rows, columns)
    )
    return (high[:, None] * wide).float()


def _likeness(maps: Tensor, weights: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Return the log of the sum of exponentials of products with the cells around, and their sum, both (B, h, w).

    The cells of maps (B, h, w, D) are multiplied by their weights (B, h, w) before.
    """
    count, height, width, depth = maps.shape
    if not _compiles(maps):
        maps = maps * weights[..., None]
        everywhere = torch.arange(height * width, device=maps.device).expand(count, -1)
        products = window_scores(maps.reshape(count, -1, depth), everywhere, maps[:, None], (radius,))[:, :, 0]
        sums = products.masked_fill(products == -torch.inf, 0).sum(dim=2)
        return products.logsumexp(dim=2).view(count, height, width), sums.view(count, height, width)
    parts = max(1, torch.get_num_threads() // count)
    bounds = [height * part // parts for part in range(parts + 1)]
    images = zip(*(x.detach().contiguous().numpy() for x in (maps, weights)), strict=True)
    jobs = [(*image, radius, *rows) for image in images for rows in pairwise(bounds) if rows[0] < rows[1]]
    found = zip(*_by_threads(likeness, jobs), strict=True)
    logs, sums = (torch.from_numpy(np.concatenate(part)).view(count, height, width) for part in found)
    return logs, sums


def chosen_cells(score: Tensor, share: float, choice: str = "top", draw: int | None = None) -> Tensor:
    """Return which cells ask: int64 (B, k), ascending, the ceil(share h w) with the highest ``score`` (B, h, w).

    ``choice`` "lowest" takes those with the lowest score, "random" any: those that torch's generator gives, or where
    ``draw`` is a number, those that belong to that number.
    """
    if choice not in CHOICES:
        raise OptionError(
            f"the choice of cells is {choice!r}{did_you_mean(choice, CHOICES)}; expected {', '.join(CHOICES)}."
        )
    flat = score.flatten(start_dim=1)
    number = -int(-share * flat.shape[1] // 1)
    if choice == "random":
        generator = None if draw is None else torch.Generator().manual_seed(draw)
        flat = torch.rand(flat.shape, generator=generator).to(flat.device)
    return flat.topk(number, dim=1, largest=choice != "lowest", sorted=False).indices.sort(dim=1).values


def window_attention(
    queries: Tensor,
    where: Tensor,
    keys: Tensor,
    values: Tensor,
    radii: Sequence[int],
    *,
    heads: int = 1,
    present: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Return what k cells read from the windows around them in T frames: (B, k, D).

    ``queries`` (B, k, D) stand at the cells ``where`` (B, k), as y w + x; ``keys`` and ``values`` are (B, T, h, w, D), of
    frame t those within ``radii[t]``. D is shared by the ``heads``. Keys beyond the border do not exist, nor those of
    frames that are not ``present``, bool (B, T), of which each image has one or more. ``bias`` (heads, n) is added to the
    logits. Source: the paper, equation 6.
    """
    kind = torch.promote_types(queries.dtype, torch.float32)  # half precision is for layers, not for sums of many terms
    queries, keys, values = (x.to(kind) for x in (queries, keys, values))
    queries = queries / (queries.shape[2] // heads) ** 0.5
    if _compiles(queries) and not torch.is_grad_enabled():
        return _attention(queries, where, keys, values, np.array(radii), heads, present, bias)
    scores = window_scores(queries, where, keys, radii, heads=heads, present=present)  # (B, k, heads, n)
    if bias is not None:
        scores = scores + bias
    return window_means(scores.softmax(dim=3), where, values, radii, present=present)


def _attention(
    queries: Tensor,
    where: Tensor,
    keys: Tensor,
    values: Tensor,
    radii: NDArray[np.int64],
    heads: int,
    present: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    """`window_attention`, compiled in one piece; threads share the queries."""
    present = torch.ones(keys.shape[:2], dtype=torch.bool) if present is None else present
    added = None if bias is None else bias.detach().numpy()
    images = list(zip(*(x.detach().contiguous().numpy() for x in (queries, where, keys, values, present)), strict=True))
    parts = min(max(1, torch.get_num_threads() // len(images)), max(1, queries.shape[1] // LEAST_SHARED))
    pieces = [
        (q, w, k, v, radii, p, added, heads)
        for some, places, k, v, p in images
        for q, w in zip(np.array_split(some, parts), np.array_split(places, parts), strict=True)
    ]
    return torch.from_numpy(np.concatenate(_by_threads(attention, pieces))).view(queries.shape)


def window_scores(
    queries: Tensor,
    where: Tensor,
    maps: Tensor,
    radii: Sequence[int],
    *,
    heads: int = 1,
    present: Tensor | None = None,
) -> Tensor:
    """Return the dot products of cells with those in their windows, (B, k, heads, n), -inf where there is no cell."""
    present = torch.ones(maps.shape[:2], dtype=torch.bool) if present is None else present
    if _compiles(queries):
        return _Scores.apply(queries, where, maps, tuple(radii), heads, present)

    def some(queries: Tensor, where: Tensor) -> Tensor:
        cells, there = _cells(where, maps, radii, present)
        products = torch.einsum("bkhd,bknhd->bkhn", queries.unflatten(2, (heads, -1)), cells.unflatten(3, (heads, -1)))
        return products.masked_fill(~there[:, :, None], -torch.inf)

    return _in_parts(some, keys_of(radii) * maps.shape[4] * len(maps), queries, where)


def window_means(
    weights: Tensor, where: Tensor, maps: Tensor, radii: Sequence[int], *, present: Tensor | None = None
) -> Tensor:
    """Return the sums (B, k, D) of the cells in the windows, with ``weights`` (B, k, heads, n)."""
    present = torch.ones(maps.shape[:2], dtype=torch.bool) if present is None else present
    if _compiles(weights):
        return _Means.apply(weights, where, maps, tuple(radii), present)

    def some(weights: Tensor, where: Tensor) -> Tensor:
        cells, _ = _cells(where, maps, radii, present)
        heads = weights.shape[2]
        return torch.einsum("bkhn,bknhd->bkhd", weights, cells.unflatten(3, (heads, -1))).flatten(start_dim=2)

    return _in_parts(some, keys_of(radii) * maps.shape[4] * len(maps), weights, where)


def _compiles(values: Tensor) -> bool:
    return values.is_cpu and values.dtype == torch.float32


def _in_parts(function: Callable[..., Tensor], each: int, values: Tensor, where: Tensor) -> Tensor:
    """Apply ``function`` to some queries at a time; what ``each`` of them gathers is gathered again for the gradient."""
    size = max(1, AT_ONCE // each)
    parts = []
    for start in range(0, max(1, where.shape[1]), size):
        some = values[:, start : start + size], where[:, start : start + size]
        parts.append(checkpoint(function, *some, use_reentrant=False) if torch.is_grad_enabled() else function(*some))
    return torch.cat(parts, dim=1)


def _cells(where: Tensor, maps: Tensor, radii: Sequence[int], present: Tensor) -> tuple[Tensor, Tensor]:
    """Gather the windows of cells (B, k): their cells (B, k, n, D), and which of them there are, bool (B, k, n)."""
    count, frames, height, width, _ = maps.shape
    offsets = torch.tensor(list(window_offsets(radii)), device=maps.device)  # (n, 3)
    frame, dy, dx = offsets.unbind(dim=1)
    y, x = where[..., None] // width + dy, where[..., None] % width + dx  # (B, k, n)
    there = (y >= 0) & (y < height) & (x >= 0) & (x < width) & present.to(maps.device)[:, None, frame]
    place = (frame * height + y.clamp(0, height - 1)) * width + x.clamp(0, width - 1)
    image = torch.arange(count, device=maps.device)[:, None, None]
    return maps.reshape(count, frames * height * width, -1)[image, place], there


def window_offsets(radii: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield frame, dy and dx of every key, in the order of the columns of `window_scores`."""
    for frame, radius in enumerate(radii):
        for dy in range(-radius, radius + 1):
            for dx in range(-radius, radius + 1):
                yield frame, dy, dx


class _Scores(torch.autograd.Function):
    """`window_scores`, compiled."""

    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, where: Tensor, maps: Tensor, radii: tuple[int, ...], heads: int, present: Tensor
    ) -> Tensor:
        ctx.save_for_backward(queries, where, maps, present)
        ctx.radii = radii
        return _each_image(
            lambda q, w, m, p: windows.dots(q, w, m, np.array(radii), p, heads, -np.inf), queries, where, maps, present
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        queries, where, maps, present = ctx.saved_tensors
        radii, shape = np.array(ctx.radii), tuple(maps.shape[1:])
        needed = ctx.needs_input_grad
        to_queries = _each_image(
            lambda g, w, m, p: windows.mixes(g, w, m, radii, p), gradients[0], where, maps, present
        ) if needed[0] else None  # fmt: skip
        to_maps = _each_image(
            lambda g, w, q, p: windows.spreads(g, w, q, shape, radii, p), gradients[0], where, queries, present
        ) if needed[2] else None  # fmt: skip
        return to_queries, None, to_maps, None, None, None


class _Means(torch.autograd.Function):
    """`window_means`, compiled."""

    @staticmethod
    def forward(
        ctx: Any, weights: Tensor, where: Tensor, maps: Tensor, radii: tuple[int, ...], present: Tensor
    ) -> Tensor:
        ctx.save_for_backward(weights, where, maps, present)
        ctx.radii = radii
        return _each_image(lambda a, w, m, p: windows.mixes(a, w, m, np.array(radii), p), weights, where, maps, present)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        weights, where, maps, present = ctx.saved_tensors
        radii, shape, heads = np.array(ctx.radii), tuple(maps.shape[1:]), weights.shape[2]
        needed = ctx.needs_input_grad
        to_weights = _each_image(
            lambda g, w, m, p: windows.dots(g, w, m, radii, p, heads, 0), gradients[0], where, maps, present
        ) if needed[0] else None  # fmt: skip
        to_maps = _each_image(
            lambda a, w, g, p: windows.spreads(a, w, g, shape, radii, p), weights, where, gradients[0], present
        ) if needed[2] else None  # fmt: skip
        return to_weights, None, to_maps, None, None


def _each_image(function: Callable[..., Any], *batches: Tensor) -> Tensor:
    """Apply ``function`` to the arrays of each image, and stack what it returns."""
    images = list(zip(*(batch.detach().contiguous().numpy() for batch in batches), strict=True))
    return torch.from_numpy(np.stack(_by_threads(function, images)))


def _by_threads(function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Return ``function(*job)`` of every job, by as many threads as torch has."""
    threads = min(len(jobs), torch.get_num_threads())
    if threads < 2:
        return [function(*job) for job in jobs]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda job: function(*job), jobs))
