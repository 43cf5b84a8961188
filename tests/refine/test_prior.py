"""Masks from reactions: the sum and its range, the area limits, and diverse masks against brute force."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.refine.crf import CrfOptions, unary_from_probabilities
from tagmask.refine.exact import mean_field_exact
from tagmask.refine.prior import diverse_m_best, fused, object_masks

ALONE = CrfOptions(spatial_weight=0, bilateral_weight=0)  # no pixel hears another


def spot(height=40, width=52, rows=slice(8, 22), columns=slice(10, 30)):
    """Draw a photo of a bright box on dark ground, and a coarse map (h, w) that is higher on the box."""
    pixels = np.full((height, width, 3), 40, dtype=np.uint8)
    pixels[rows, columns] = (220, 180, 90)
    on = np.zeros((height, width), dtype=bool)
    on[rows, columns] = True
    coarse = np.where(on, 0.9, 0.1).reshape(height // 4, 4, width // 4, 4).mean(axis=(1, 3))
    return pixels, on, coarse.astype(np.float32)


@pytest.mark.parametrize("norm_each", [False, True])
def test_the_sum_is_stretched_to_its_range(norm_each):
    maps = np.random.default_rng(0).random((2, 3, 4)) * np.array([1, 50])[:, None, None] + 7
    found = fused(maps, norm_each=norm_each)
    ranges = [(m.min(), m.max() - m.min()) if norm_each else (0, 1) for m in maps]
    total = [[sum((maps[s, y, x] - a) / b for s, (a, b) in enumerate(ranges)) for x in range(4)] for y in range(3)]
    low, high = np.min(total), np.max(total)
    np.testing.assert_allclose(found, [[(v - low) / (high - low) for v in row] for row in total], atol=1e-6)
    assert found.dtype == np.float32


def test_where_nothing_stands_out_nothing_is_an_object():
    pixels, _, _ = spot()
    even = fused(np.ones((2, 5, 5)))
    assert not even.any()
    assert not object_masks(even, pixels).any()


def test_a_crf_draws_the_mask_along_the_edges_of_the_photo():
    pixels, on, coarse = spot()
    sharp = object_masks(coarse, pixels, crf=CrfOptions(bilateral_xy=20.0))
    assert sharp.shape == (1, 40, 52)
    raw = object_masks(coarse, pixels, crf=None)
    assert ((sharp[0] & on).sum() / (sharp[0] | on).sum()) > 0.95 > ((raw[0] & on).sum() / (raw[0] | on).sum())


@pytest.mark.parametrize("area", [(0.5, 1.0), (0.0, 0.05)])
def test_outside_of_the_area_limits_the_mean_decides(area):
    pixels, on, coarse = spot()
    (mask,) = object_masks(coarse, pixels, area=area, count=3)
    (free,) = object_masks(coarse, pixels, area=(0.0, 1.0), crf=None)
    assert 0 < free.mean() < mask.mean() < 1
    assert mask[on].all()


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.integers(0, 999))
def test_without_neighbours_each_pixel_takes_the_cheapest_label_and_pays_for_earlier_ones(
    classes, height, width, count, seed
):
    random = np.random.default_rng(seed)
    unary = random.random((classes, height, width)).astype(np.float32)
    pixels = random.integers(0, 255, (height, width, 3), dtype=np.uint8)
    found = diverse_m_best(unary, pixels, ALONE, count=count, diversity=0.3)
    assert (found.shape, found.dtype) == ((count, height, width), np.uint8)
    for y, x in np.ndindex(height, width):
        earlier: list[int] = []
        for m in range(count):
            costs = [float(unary[k, y, x]) + 0.3 * earlier.count(k) for k in range(classes)]
            assert costs[found[m, y, x]] == pytest.approx(min(costs), abs=1e-6)
            earlier.append(int(found[m, y, x]))


def test_two_best_of_a_tiny_photo_by_trying_every_labeling():
    """Two halves of one colour each: labelings of the dense energy, minus the reward for what differs from the first."""
    crf = CrfOptions(spatial_xy=1.0, spatial_weight=1.0, bilateral_xy=4.0, bilateral_rgb=20.0, bilateral_weight=3.0)
    pixels = np.zeros((2, 4, 3), dtype=np.uint8)
    pixels[:, 2:] = 200
    p = np.array([[0.1, 0.2, 0.8, 0.9], [0.1, 0.4, 0.9, 0.8]])
    unary = unary_from_probabilities(np.stack([1 - p, p]))
    reward = 2.5
    first, second = diverse_m_best(unary, pixels, crf, count=2, diversity=reward)

    kernel = kernel_by_hand(pixels, crf)

    def energy(x, earlier=()):
        own = sum(unary.reshape(2, -1)[k, n] for n, k in enumerate(x))
        pairs = sum(kernel[u, v] for u in range(8) for v in range(8) if u < v and x[u] != x[v])
        return own + pairs - reward * sum(a != b for other in earlier for a, b in zip(x, other, strict=True))

    labelings = list(product((0, 1), repeat=8))
    best = min(labelings, key=energy)
    assert tuple(first.ravel()) == best == tuple((p > 0.5).ravel())
    other = min(labelings, key=lambda x: energy(x, [best]))
    assert tuple(second.ravel()) == other != best


def kernel_by_hand(pixels, crf):
    """Return the weights (N, N) of both normalised kernels."""
    places = [(y, x) for y in range(pixels.shape[0]) for x in range(pixels.shape[1])]
    total = np.zeros((len(places),) * 2)
    for xy, rgb, weight in (
        (crf.spatial_xy, np.inf, crf.spatial_weight),
        (crf.bilateral_xy, crf.bilateral_rgb, crf.bilateral_weight),
    ):
        kernel = np.zeros_like(total)
        for (i, u), (j, v) in product(enumerate(places), repeat=2):
            apart = sum((a - b) ** 2 for a, b in zip(u, v, strict=True)) / xy**2
            unlike = sum((float(a) - float(b)) ** 2 for a, b in zip(pixels[u], pixels[v], strict=True)) / rgb**2
            kernel[i, j] = np.exp(-(apart + unlike) / 2)
        n = 1 / np.sqrt(kernel.sum(axis=1))
        total += weight * n[:, None] * kernel * n[None]
    return total


def test_later_masks_solve_the_crf_with_the_dearer_labels():
    """As by the exact CRF, wherever that is not in two minds."""
    pixels, _, _ = spot(12, 16, slice(3, 8), slice(4, 11))
    smooth = np.random.default_rng(1).random((2, 3, 4)).astype(np.float32).repeat(4, axis=1).repeat(4, axis=2)
    unary, crf = 2 * smooth, CrfOptions(bilateral_xy=8.0, bilateral_rgb=40.0)
    found = diverse_m_best(unary, pixels, crf, count=3, diversity=0.5)
    dearer = unary.copy()
    for labels in found:
        q = mean_field_exact(torch.from_numpy(dearer)[None], torch.from_numpy(pixels)[None], crf)[0].numpy()
        sure = np.abs(q[0] - q[1]) > 0.2
        assert sure.mean() > 0.5
        np.testing.assert_array_equal(labels[sure], q.argmax(axis=0)[sure])
        for y, x in np.ndindex(*labels.shape):
            dearer[labels[y, x], y, x] += np.float32(0.5)


def test_a_reward_of_nothing_repeats_the_best_and_the_energies_stay():
    pixels, _, coarse = spot()
    unary = unary_from_probabilities(np.stack([1 - coarse, coarse])).repeat(4, axis=1).repeat(4, axis=2)
    before = unary.copy()
    first, second = diverse_m_best(unary, pixels, count=2, diversity=0.0)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(unary, before)
