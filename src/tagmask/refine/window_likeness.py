"""How alike cells are to the cells around them, in two numbers: compiled, for one image, without keeping the products.

As in `window_attention`, cells side by side in a row are computed at once, one a lane. Arrays in, arrays out.
"""

from __future__ import annotations

import numpy as np

from tagmask.refine.lanes import exponential, fill, lanes, larger, load, store
from tagmask.refine.lattice import compiled
from tagmask.refine.window_attention import TOGETHER
from tagmask.refine.windows import ABREAST, Floats

CHANNELS = 32  # that are summed before the next: what a row of cells sees of them stays in the cache  # ours


def likeness(maps: Floats, weights: Floats, radius: int, begin: int, end: int) -> tuple[Floats, Floats]:
    """Return, over the dot products of cells with those around them, the log of the sum of exponentials, and the sum.

    Both are (end - begin, w), of the rows from ``begin`` to ``end`` of maps (h, w, D), each cell times its weight (h, w).
    The up to (2 radius + 1)^2 cells that there are count, the cell itself among them.
    """
    _, width, _ = maps.shape
    room = -(-width // ABREAST) * ABREAST  # the last lanes may have no cell
    most, exponentials, sums = (np.empty((end - begin, room), dtype=np.float32) for _ in range(3))
    edge = np.full((1, room + 2 * radius + TOGETHER), -np.inf, dtype=np.float32)
    edge[:, radius : radius + width] = 0
    _likeness(
        np.ascontiguousarray(maps), np.ascontiguousarray(weights), radius, begin, edge, most, exponentials, sums,
        lanes(ABREAST),
    )  # fmt: skip
    return most[:, :width] + np.log(exponentials[:, :width]), sums[:, :width]


@compiled()
def _likeness(
    maps: Floats,
    weights: Floats,
    radius: int,
    begin: int,
    edge: Floats,
    most: Floats,
    exponentials: Floats,
    sums: Floats,
    abreast: tuple[np.float32, ...],
) -> None:
    """Fill ``most`` (rows, padded), ``exponentials`` of what is left, and ``sums``, from row ``begin`` on."""
    height, width, depth = maps.shape
    side, room = 2 * radius + 1, most.shape[1]
    # The rows in reach, turned: those of a channel lie in line.
    near = np.zeros((side * depth, edge.shape[1]), dtype=np.float32)
    wide = -(-side // TOGETHER) * TOGETHER
    products = np.empty((side * wide, room), dtype=np.float32)
    held = np.full(side, -1)
    for n in range(len(most)):
        y = begin + n
        first, last = max(0, y - radius), min(height, y + radius + 1)
        for row in range(first, last):
            if held[row % side] != row:
                held[row % side] = row
                for block in range(0, depth, CHANNELS):
                    for x in range(width):
                        for channel in range(block, min(block + CHANNELS, depth)):
                            near[row % side * depth + channel, radius + x] = maps[row, x, channel] * weights[row, x]
        products[: (last - first) * wide] = 0
        for channel in range(0, depth, CHANNELS):
            here, stop = y % side * depth, min(channel + CHANNELS, depth)
            for row in range(first, last):
                there, place = row % side * depth, (row - first) * wide
                for x in range(0, room, ABREAST):
                    for dx in range(0, wide, TOGETHER):
                        _add(near, here, there, channel, stop, radius, x, dx, products, place + dx, abreast)
        for x in range(0, room, ABREAST):
            _sum_up(products, (last - first) * wide, wide, side, edge, x, n, most, exponentials, sums, abreast)


@compiled()
def _add(
    near: Floats,
    here: int,
    there: int,
    first: int,
    last: int,
    radius: int,
    x: int,
    dx: int,
    products: Floats,
    place: int,
    abreast: tuple[np.float32, ...],
) -> None:
    """Add to four rows of ``products`` those of some channels of cells from ``x`` on with the cells ``dx`` further on."""
    a, b = load(products, place, x, abreast), load(products, place + 1, x, abreast)
    c, d = load(products, place + 2, x, abreast), load(products, place + 3, x, abreast)
    for channel in range(first, last):
        own, row = load(near, here + channel, radius + x, abreast), there + channel
        a = a + own * load(near, row, x + dx, abreast)
        b = b + own * load(near, row, x + dx + 1, abreast)
        c = c + own * load(near, row, x + dx + 2, abreast)
        d = d + own * load(near, row, x + dx + 3, abreast)
    store(products, place, x, a)
    store(products, place + 1, x, b)
    store(products, place + 2, x, c)
    store(products, place + 3, x, d)


@compiled()
def _sum_up(
    products: Floats,
    count: int,
    wide: int,
    side: int,
    edge: Floats,
    x: int,
    n: int,
    most: Floats,
    exponentials: Floats,
    sums: Floats,
    abreast: tuple[np.float32, ...],
) -> None:
    """Write row ``n`` of what there is to know of cells from ``x`` on; products beyond the border are 0 so far."""
    largest, total = fill(np.float32(-np.inf), abreast), fill(np.float32(0), abreast)
    summed = total
    for start in range(0, count, wide):
        for dx in range(side):
            product = load(products, start + dx, x, abreast)
            total = total + product
            largest = larger(largest, product + load(edge, 0, x + dx, abreast))
    for start in range(0, count, wide):
        for dx in range(side):
            product = load(products, start + dx, x, abreast) + load(edge, 0, x + dx, abreast)
            summed = summed + exponential(product - largest)
    store(most, n, x, largest)
    store(exponentials, n, x, summed)
    store(sums, n, x, total)
