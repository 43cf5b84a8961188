"""Products of cells with the cells around them, in several maps at once: compiled, for one image.

The T maps have one grid (h, w); in map t the window of a cell reaches ``radii[t]`` cells to every side. Columns of all
windows lie one after the other: map after map, row after row. Heads share the D channels evenly. Arrays in, arrays out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tagmask.refine.lanes import fill, lanes, load, store
from tagmask.refine.lattice import compiled

ABREAST = 16  # cells of a row that are computed side by side: a register of AVX-512  # ours

Floats = NDArray[np.float32]


def dots(
    queries: Floats,
    where: NDArray[np.int64],
    maps: Floats,
    radii: NDArray[np.int64],
    present: NDArray[np.bool_],
    heads: int,
    outside: float,
) -> Floats:
    """Return the dot products of k queries (k, D) with the cells around them, (k, heads, n), n columns a head.

    ``where`` (k,) are the queries' cells, y * w + x, ``maps`` (T, h, w, D), ``present`` (T,). Cells beyond the border and
    those of maps that are not present give ``outside``.
    """
    _, height, width, _ = maps.shape
    along, reach = _along(maps, radii)
    scores = np.empty((len(queries) * heads, int(((2 * radii + 1) ** 2).sum())), dtype=np.float32)
    spare = np.zeros((1, ABREAST), dtype=np.float32)
    _dots(
        np.ascontiguousarray(queries), where, along, reach, height, width, radii, present, heads, np.float32(outside),
        scores, spare, lanes(ABREAST),
    )  # fmt: skip
    return scores.reshape(len(queries), heads, -1)


def mixes(
    weights: Floats, where: NDArray[np.int64], maps: Floats, radii: NDArray[np.int64], present: NDArray[np.bool_]
) -> Floats:
    """Return the sums (k, D) of the cells around k cells, weighted by (k, heads, n); all else as in ``dots``."""
    _, height, width, depth = maps.shape
    count, heads, columns = weights.shape
    mixed = np.empty((count, depth), dtype=np.float32)
    flat = np.ascontiguousarray(weights).reshape(-1, columns)
    cells = np.ascontiguousarray(maps).reshape(-1, depth)
    _mixes(flat, where, cells, height, width, radii, present, mixed, lanes(depth // heads))
    return mixed


def spreads(
    weights: Floats,
    where: NDArray[np.int64],
    queries: Floats,
    shape: tuple[int, ...],
    radii: NDArray[np.int64],
    present: NDArray[np.bool_],
) -> Floats:
    """Return maps of ``shape`` (T, h, w, D) to whose cells each query (k, D) was added, weighted: what ``mixes`` undoes."""
    _, height, width, depth = shape
    heads, columns = weights.shape[1:]
    maps = np.zeros((shape[0] * height * width, depth), dtype=np.float32)
    flat, queries = np.ascontiguousarray(weights).reshape(-1, columns), np.ascontiguousarray(queries)
    _spreads(flat, where, queries, height, width, radii, present, maps, lanes(depth // heads))
    return maps.reshape(shape)


def _along(maps: Floats, radii: NDArray[np.int64]) -> tuple[Floats, int]:
    """Return maps (T, h, w, D) as (T h D, left + w + more), so that cells side by side lie so in memory; and left."""
    frames, height, width, depth = maps.shape
    reach = int(radii.max())
    along = np.zeros((frames, height, depth, width + 2 * reach + ABREAST), dtype=np.float32)
    along[..., reach : reach + width] = maps.transpose(0, 1, 3, 2)
    return along.reshape(-1, along.shape[3]), reach


@compiled()
def _dots(
    queries: Floats,
    where: NDArray[np.int64],
    along: Floats,
    left: int,
    height: int,
    width: int,
    radii: NDArray[np.int64],
    present: NDArray[np.bool_],
    heads: int,
    outside: np.float32,
    scores: Floats,
    spare: Floats,
    abreast: tuple[np.float32, ...],
) -> None:
    """Fill ``scores`` (k heads, n)."""
    depth, columns = queries.shape[1], scores.shape[1]
    each = depth // heads
    for n in range(len(queries)):
        y, x, first, column = where[n] // width, where[n] % width, n * heads, 0
        for t in range(len(radii)):
            reach = radii[t]
            side = 2 * reach + 1
            for row in range(y - reach, y + reach + 1):
                if row < 0 or row >= height or not present[t]:
                    scores[first : first + heads, column : column + side] = outside
                    column += side
                    continue
                for head in range(heads):
                    for begin in range(0, side, ABREAST):
                        start = left + x - reach + begin
                        channel, base = head * each, (t * height + row) * depth
                        a = fill(np.float32(0), abreast)
                        b, c, d = a, a, a  # four sums, for each addition waits for the one before
                        while channel + 4 <= (head + 1) * each:
                            at = base + channel
                            a = a + fill(queries[n, channel], abreast) * load(along, at, start, abreast)
                            b = b + fill(queries[n, channel + 1], abreast) * load(along, at + 1, start, abreast)
                            c = c + fill(queries[n, channel + 2], abreast) * load(along, at + 2, start, abreast)
                            d = d + fill(queries[n, channel + 3], abreast) * load(along, at + 3, start, abreast)
                            channel += 4
                        while channel < (head + 1) * each:
                            a = a + fill(queries[n, channel], abreast) * load(along, base + channel, start, abreast)
                            channel += 1
                        summed = (a + b) + (c + d)
                        if column + begin + ABREAST <= columns:
                            store(
                                scores, first + head, column + begin, summed
                            )  # what is too much the next row overwrites
                        else:
                            store(spare, 0, 0, summed)
                            for i in range(min(ABREAST, side - begin)):
                                scores[first + head, column + begin + i] = spare[0, i]
                    for i in range(0, min(side, reach - x)):
                        scores[first + head, column + i] = outside
                    for i in range(max(0, width - x + reach), side):
                        scores[first + head, column + i] = outside
                column += side


@compiled()
def _mixes(
    weights: Floats,
    where: NDArray[np.int64],
    cells: Floats,
    height: int,
    width: int,
    radii: NDArray[np.int64],
    present: NDArray[np.bool_],
    mixed: Floats,
    each: tuple[np.float32, ...],
) -> None:
    """Fill ``mixed`` (k, D) from ``weights`` (k heads, n) and ``cells`` (T h w, D); ``each`` are the channels of a head."""
    heads = mixed.shape[1] // len(each)
    for n in range(len(mixed)):
        y, x = where[n] // width, where[n] % width
        for head in range(heads):
            place, channel, column = n * heads + head, head * len(each), 0
            a = fill(np.float32(0), each)
            b = a
            for t in range(len(radii)):
                reach = radii[t]
                side = 2 * reach + 1
                for row in range(y - reach, y + reach + 1):
                    if 0 <= row < height and present[t]:
                        base, offset, stop = (t * height + row) * width, column - x + reach, min(width, x + reach + 1)
                        i = max(0, x - reach)
                        while i + 2 <= stop:
                            a = a + fill(weights[place, offset + i], each) * load(cells, base + i, channel, each)
                            b = b + fill(weights[place, offset + i + 1], each) * load(
                                cells, base + i + 1, channel, each
                            )
                            i += 2
                        if i < stop:
                            a = a + fill(weights[place, offset + i], each) * load(cells, base + i, channel, each)
                    column += side
            store(mixed, n, channel, a + b)


@compiled()
def _spreads(
    weights: Floats,
    where: NDArray[np.int64],
    queries: Floats,
    height: int,
    width: int,
    radii: NDArray[np.int64],
    present: NDArray[np.bool_],
    cells: Floats,
    each: tuple[np.float32, ...],
) -> None:
    """Add to ``cells`` (T h w, D) the ``queries`` (k, D), weighted by (k heads, n)."""
    heads = queries.shape[1] // len(each)
    for n in range(len(queries)):
        y, x = where[n] // width, where[n] % width
        for head in range(heads):
            place, channel, column = n * heads + head, head * len(each), 0
            query = load(queries, n, channel, each)
            for t in range(len(radii)):
                reach = radii[t]
                side = 2 * reach + 1
                for row in range(y - reach, y + reach + 1):
                    if 0 <= row < height and present[t]:
                        base, offset = (t * height + row) * width, column - x + reach
                        for i in range(max(0, x - reach), min(width, x + reach + 1)):
                            there = load(cells, base + i, channel, each)
                            store(cells, base + i, channel, there + fill(weights[place, offset + i], each) * query)
                    column += side
