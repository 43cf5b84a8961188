"""Attention of cells to the cells around them, in several maps at once: compiled in one piece, for one image.

Cells that lie side by side in a row read windows that lie side by side too, so ``ABREAST`` of them are computed at once,
one a lane, whether all ask or not: half of them suffices to gain. Arrays in, arrays out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tagmask.refine.lanes import Lanes, exponential, fill, lanes, larger, load, store
from tagmask.refine.lattice import compiled
from tagmask.refine.windows import ABREAST, Floats

TOGETHER = 4  # sums that the loops below make at once, for each addition waits for the one before  # ours


def attention(
    queries: Floats,
    where: NDArray[np.int64],
    keys: Floats,
    values: Floats,
    radii: NDArray[np.int64],
    present: NDArray[np.bool_],
    bias: Floats | None,
    heads: int,
) -> Floats:
    """Return what k queries (k, D) read from the ``values`` around them, by the softmax of their products with ``keys``.

    Query n stands at cell ``where[n]``, y * w + x, and sees ``radii[t]`` cells to every side in map t of those that are
    ``present`` (T,), of which one must be. ``keys`` and ``values`` are (T, h, w, D); heads share the D channels evenly.
    ``bias`` (heads, n), a number for each cell of all windows, map after map and row after row, is added to the products.
    """
    columns = int(((2 * radii + 1) ** 2).sum())
    added = np.zeros((heads, columns + TOGETHER), dtype=np.float32)
    if bias is not None:
        added[:, :columns] = bias
    read = np.empty(queries.shape, dtype=np.float32)
    _attention(
        np.ascontiguousarray(queries), np.ascontiguousarray(where), np.ascontiguousarray(keys),
        np.ascontiguousarray(values), radii, present, added, read, lanes(ABREAST),
    )  # fmt: skip
    return read


@compiled()
def _attention(
    queries: Floats,
    where: NDArray[np.int64],
    keys: Floats,
    values: Floats,
    radii: NDArray[np.int64],
    present: NDArray[np.bool_],
    bias: Floats,
    read: Floats,
    abreast: tuple[np.float32, ...],
) -> None:
    """Fill ``read`` (k, D). Of each head the rows that one row of cells sees are held, turned: a channel's lie in line."""
    frames, _, width, depth = keys.shape
    heads, left = len(bias), radii.max()
    each, room, padded = depth // heads, 2 * left + 1, width + 2 * left + ABREAST + TOGETHER
    near_keys = np.zeros((frames * room * each, padded), dtype=np.float32)
    near_values = np.zeros((frames * room * each, padded), dtype=np.float32)
    edge = np.full((1, padded), np.float32(-np.inf))
    edge[0, left : left + width] = 0
    asked, answers = np.empty((each, ABREAST), dtype=np.float32), np.empty((each, ABREAST), dtype=np.float32)
    weights, sums = np.empty((bias.shape[1], ABREAST), dtype=np.float32), np.empty((1, ABREAST), dtype=np.float32)
    seen = np.empty((frames * room, 3), dtype=np.int64)
    held = np.empty((frames, room), dtype=np.int64)
    for head in range(heads):
        begin, first, above, count = head * each, 0, -1, 0
        held[:] = -1
        while first < len(where):
            cell = where[first]
            y, x = cell // width, cell % width
            if y != above:
                count = _look(y, begin, each, left, keys, values, radii, present, held, near_keys, near_values, seen)
                above = y
            last, beyond = first, min(cell + ABREAST, cell - x + width)
            asked[:] = 0
            while last < len(where) and cell <= where[last] < beyond:
                for channel in range(each):
                    asked[channel, where[last] - cell] = queries[last, begin + channel]
                last += 1
            number = _products(asked, near_keys, seen[:count], left + x, bias, head, edge, weights, abreast)
            _exponentials(weights, number, sums, abreast)
            _means(weights, near_values, seen[:count], left + x, answers, abreast)
            for n in range(first, last):
                for channel in range(each):
                    read[n, begin + channel] = answers[channel, where[n] - cell] / sums[0, where[n] - cell]
            first = last


@compiled()
def _look(
    y: int,
    begin: int,
    each: int,
    left: int,
    keys: Floats,
    values: Floats,
    radii: NDArray[np.int64],
    present: NDArray[np.bool_],
    held: NDArray[np.int64],
    near_keys: Floats,
    near_values: Floats,
    seen: NDArray[np.int64],
) -> int:
    """Hold the rows that cells of row ``y`` see, and write where each is, its first column of the bias, and its reach."""
    _, height, width, _ = keys.shape
    room = held.shape[1]
    count = column = 0
    for t in range(len(radii)):
        reach = radii[t]
        for row in range(y - reach, y + reach + 1):
            if 0 <= row < height and present[t]:
                base = (t * room + row % room) * each
                if held[t, row % room] != row:
                    held[t, row % room] = row
                    for x in range(width):
                        for channel in range(each):
                            near_keys[base + channel, left + x] = keys[t, row, x, begin + channel]
                            near_values[base + channel, left + x] = values[t, row, x, begin + channel]
                seen[count, 0], seen[count, 1], seen[count, 2] = base, column, reach
                count += 1
            column += 2 * reach + 1
    return count


@compiled()
def _products(
    asked: Floats,
    keys: Floats,
    rows: NDArray[np.int64],
    at: int,
    bias: Floats,
    head: int,
    edge: Floats,
    weights: Floats,
    abreast: tuple[np.float32, ...],
) -> int:
    """Write a row of ``weights`` for each key: its products with the cells from ``at`` on. Return how many."""
    count = 0
    for n in range(len(rows)):
        base, column, reach = rows[n]
        for dx in range(0, 2 * reach + 1, TOGETHER):  # what is beyond the window, the next row overwrites
            start = at - reach + dx
            a = fill(np.float32(0), abreast)
            b, c, d = a, a, a
            for channel in range(len(asked)):
                query, row = load(asked, channel, 0, abreast), base + channel
                a = a + query * load(keys, row, start, abreast)
                b = b + query * load(keys, row, start + 1, abreast)
                c = c + query * load(keys, row, start + 2, abreast)
                d = d + query * load(keys, row, start + 3, abreast)
            place, from_bias = count + dx, column + dx
            _finish(a, bias[head, from_bias], edge, start, weights, place, abreast)
            _finish(b, bias[head, from_bias + 1], edge, start + 1, weights, place + 1, abreast)
            _finish(c, bias[head, from_bias + 2], edge, start + 2, weights, place + 2, abreast)
            _finish(d, bias[head, from_bias + 3], edge, start + 3, weights, place + 3, abreast)
        count += 2 * reach + 1
    return count


@compiled(inline="always")
def _finish(
    product: Lanes,
    bias: np.float32,
    edge: Floats,
    start: int,
    weights: Floats,
    place: int,
    abreast: tuple[np.float32, ...],
) -> None:
    """Store a product with its bias, or -inf where there is no cell."""
    store(weights, place, 0, product + (fill(bias, abreast) + load(edge, 0, start, abreast)))


@compiled()
def _exponentials(weights: Floats, count: int, sums: Floats, abreast: tuple[np.float32, ...]) -> None:
    """Turn the first ``count`` rows of ``weights`` into exponentials, of 1 at most, and write their sums."""
    most = fill(np.float32(-np.inf), abreast)
    for n in range(count):
        most = larger(most, load(weights, n, 0, abreast))
    summed = fill(np.float32(0), abreast)
    for n in range(count):
        value = exponential(load(weights, n, 0, abreast) - most)
        store(weights, n, 0, value)
        summed = summed + value
    store(sums, 0, 0, summed)


@compiled()
def _means(
    weights: Floats,
    values: Floats,
    rows: NDArray[np.int64],
    at: int,
    answers: Floats,
    abreast: tuple[np.float32, ...],
) -> None:
    """Fill the rows of ``answers``, one a channel, with sums of ``values``, weighted."""
    end = len(answers) - 1
    for channel in range(0, end + 1, TOGETHER):
        second, third, fourth = min(channel + 1, end), min(channel + 2, end), min(channel + 3, end)
        a = fill(np.float32(0), abreast)
        b, c, d = a, a, a
        place = 0
        for n in range(len(rows)):
            base, _, reach = rows[n]
            for start in range(at - reach, at + reach + 1):
                weight = load(weights, place, 0, abreast)
                a = a + weight * load(values, base + channel, start, abreast)
                b = b + weight * load(values, base + second, start, abreast)
                c = c + weight * load(values, base + third, start, abreast)
                d = d + weight * load(values, base + fourth, start, abreast)
                place += 1
        store(answers, channel, 0, a)
        store(answers, second, 0, b)
        store(answers, third, 0, c)
        store(answers, fourth, 0, d)
