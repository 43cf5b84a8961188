"""Compiled products of cells with the cells around them, against loops over every cell."""

import numpy as np
import pytest

from tagmask.refine.windows import ABREAST, dots, mixes, spreads

CASES = [  # frames' radii, grid, channels, heads
    ((0,), (1, 1), 1, 1),
    ((1, 2), (5, 6), 4, 2),
    ((9, 0, 3), (4, 7), 6, 2),
    ((2, ABREAST), (3, 40), 5, 1),
    ((5, 5, 1), (23, 30), 8, 4),
]


def drawn(radii, grid, depth, heads, seed=0):
    random = np.random.default_rng(seed)
    maps = random.normal(size=(len(radii), *grid, depth)).astype(np.float32)
    where = np.sort(random.permutation(grid[0] * grid[1])[: max(1, grid[0] * grid[1] // 2)])
    queries = random.normal(size=(len(where), depth)).astype(np.float32)
    present = np.ones(len(radii), dtype=bool)
    present[: len(radii) // 2] = random.integers(2, size=len(radii) // 2)
    return maps, where, queries, np.array(radii), present


def window(y, x, radii, grid, present):
    """Yield column, frame, row and column of the cells there are in the windows of one cell."""
    column = 0
    for t, radius in enumerate(radii):
        for dy in range(-radius, radius + 1):
            for dx in range(-radius, radius + 1):
                if 0 <= y + dy < grid[0] and 0 <= x + dx < grid[1] and present[t]:
                    yield column, t, y + dy, x + dx
                column += 1


@pytest.mark.parametrize("case", CASES)
def test_products_and_sums_are_those_of_loops(case):
    _, grid, depth, heads = case
    maps, where, queries, radii, present = drawn(*case)
    each = depth // heads
    columns = int(((2 * radii + 1) ** 2).sum())
    scores = np.full((len(where), heads, columns), -np.inf)
    weights = np.random.default_rng(1).normal(size=scores.shape).astype(np.float32)
    mixed, spread = np.zeros(queries.shape), np.zeros(maps.shape)
    for n, cell in enumerate(where):
        for column, t, y, x in window(*divmod(cell, grid[1]), radii, grid, present):
            for head in range(heads):
                part = np.s_[head * each : (head + 1) * each]
                scores[n, head, column] = queries[n, part] @ maps[t, y, x, part]
                mixed[n, part] += weights[n, head, column] * maps[t, y, x, part]
                spread[t, y, x, part] += weights[n, head, column] * queries[n, part]
    np.testing.assert_allclose(dots(queries, where, maps, radii, present, heads, -np.inf), scores, atol=1e-5)
    np.testing.assert_allclose(mixes(weights, where, maps, radii, present), mixed, atol=1e-4)
    np.testing.assert_allclose(spreads(weights, where, queries, maps.shape, radii, present), spread, atol=1e-4)


def test_what_lies_outside_has_the_value_asked_for():
    maps, where, queries, radii, present = drawn((3,), (2, 2), 4, 1)
    scores = dots(queries, where, maps, radii, present, 1, 7)
    assert (scores == 7).sum() == scores.size - len(where) * 4


def test_arrays_may_lie_in_memory_as_they_like():
    maps, where, queries, radii, present = drawn((1, 2), (5, 6), 4, 2)
    weights = np.ones((len(where), 2, 34), dtype=np.float32)
    turned = [np.asfortranarray(x) for x in (maps, queries, weights)]
    assert np.array_equal(
        dots(queries, where, maps, radii, present, 2, 0), dots(turned[1], where, turned[0], radii, present, 2, 0)
    )
    assert np.array_equal(
        mixes(weights, where, maps, radii, present), mixes(turned[2], where, turned[0], radii, present)
    )
    plain = spreads(weights, where, queries, maps.shape, radii, present)
    assert np.array_equal(plain, spreads(turned[2], where, turned[1], maps.shape, radii, present))
