"""Compiled sums over the products of cells with the cells around them, against loops over every cell."""

import numpy as np
import pytest

from tagmask.refine.window_likeness import CHANNELS, likeness
from tagmask.refine.windows import ABREAST


@pytest.mark.parametrize("radius", [0, 1, 3, 9])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 6, 3), (4, ABREAST + 1, CHANNELS + 5)])
def test_sums_are_those_of_loops(shape, radius):
    random = np.random.default_rng(radius)
    maps, weights = random.normal(size=shape).astype(np.float32), random.random(shape[:2]).astype(np.float32)
    scaled = (maps * weights[:, :, None]).astype(np.float64)
    logs, sums = np.empty(shape[:2]), np.empty(shape[:2])
    for y in range(shape[0]):
        for x in range(shape[1]):
            around = np.s_[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
            products = scaled[around].reshape(-1, shape[2]) @ scaled[y, x]
            logs[y, x], sums[y, x] = np.logaddexp.reduce(products), products.sum()
    for begin, end in ((0, shape[0]), (shape[0] // 2, shape[0])):
        found = likeness(maps, weights, radius, begin, end)
        np.testing.assert_allclose(found[0], logs[begin:end], atol=1e-4)
        np.testing.assert_allclose(found[1], sums[begin:end], atol=1e-4)


def test_arrays_may_lie_in_memory_as_they_like():
    maps = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    weights = np.ones((4, 5), dtype=np.float32)
    plain = likeness(maps, weights, 2, 0, 4)
    for one, other in zip(plain, likeness(np.asfortranarray(maps), weights, 2, 0, 4), strict=True):
        assert np.array_equal(one, other)


def test_large_products_are_no_trouble():
    maps = np.full((3, 4, 2), 1000, dtype=np.float32)
    logs, _ = likeness(maps, np.ones((3, 4), dtype=np.float32), 1, 0, 3)
    assert np.isfinite(logs).all()
