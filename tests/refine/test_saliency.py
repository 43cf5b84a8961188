"""Saliency against its definitions, written out: barriers by floods, geodesics by Floyd and Warshall, the normal equations."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tagmask.refine import saliency
from tagmask.refine.saliency import (
    background_connectivity,
    background_probability,
    barrier_distance,
    compromise,
    minimum_barrier,
)


def exact_barrier(plane):
    """For every pair of levels, flood from the border through all values between them."""
    best = np.full(plane.shape, np.inf)
    border = np.ones(plane.shape, dtype=bool)
    border[1:-1, 1:-1] = False
    for low, high in product(np.unique(plane), repeat=2):
        inside = (plane >= low) & (plane <= high)
        parts, _ = ndimage.label(inside)
        reached = inside & np.isin(parts, np.unique(parts[border & inside]))
        best[reached] = np.minimum(best[reached], high - low)
    return best


@settings(deadline=None, max_examples=60)
@given(
    height=st.sampled_from([1, 2, 5, 7]),
    width=st.sampled_from([1, 3, 6, 8]),
    levels=st.integers(1, 6),
    seed=st.integers(0, 999),
)
def test_scans_never_find_too_low_a_barrier(height, width, levels, seed):
    plane = np.random.default_rng(seed).integers(0, levels, (height, width)).astype(np.float32)
    exact, found, longer = exact_barrier(plane), barrier_distance(plane), barrier_distance(plane, passes=9)
    assert (found >= exact).all()
    assert (longer >= exact).all()
    assert (longer <= found).all()


def test_a_wall_is_a_barrier_and_a_gap_is_none():
    plane = np.zeros((9, 9), dtype=np.float32)
    plane[2:7, 2:7] = 5
    plane[4, 4] = 0
    assert barrier_distance(plane)[4, 4] == 5
    plane[4, 2:5] = 0
    assert barrier_distance(plane)[4, 4] == 0


def small_graph(seed, n=7):
    rng = np.random.default_rng(seed)
    colours = rng.random((n, 3)) * 40
    unlike = np.linalg.norm(colours[:, None] - colours[None], axis=2)
    pairs = np.array([(i, j) for i in range(n) for j in range(i + 1, n) if j == i + 1 or rng.random() < 0.3])
    return unlike, pairs, rng.random(n) < 0.5, rng


@pytest.mark.parametrize("seed", range(8))
def test_background_probability_by_floyd_and_warshall(seed):
    unlike, pairs, border, _ = small_graph(seed)
    n = len(unlike)
    far = np.full((n, n), np.inf)
    np.fill_diagonal(far, 0)
    rim = [(i, j) for i in range(n) for j in range(n) if border[i] and border[j] and i != j]
    for i, j in [*map(tuple, pairs), *rim]:
        far[i, j] = far[j, i] = unlike[i, j]
    for k, i, j in product(range(n), repeat=3):
        far[i, j] = min(far[i, j], far[i, k] + far[k, j])
    reach = np.exp(-(far**2) / 200)
    expected = 1 - np.exp(-((reach[:, border].sum(axis=1) / np.sqrt(reach.sum(axis=1))) ** 2) / 2)
    np.testing.assert_allclose(background_probability(unlike, pairs, border), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_compromise_solves_the_normal_equations(seed):
    unlike, pairs, _, rng = small_graph(seed)
    n = len(unlike)
    ground, contrast = rng.random(n), rng.random(n)
    matrix = np.diag(ground + contrast)
    for i, j in pairs:
        w = np.exp(-(unlike[i, j] ** 2) / 200) + 0.1
        matrix[[i, j], [i, j]] += w
        matrix[[i, j], [j, i]] -= w
    np.testing.assert_allclose(
        compromise(unlike, pairs, ground, contrast), np.linalg.solve(matrix, contrast), rtol=1e-5
    )


@pytest.mark.parametrize("method", [minimum_barrier, background_connectivity])
def test_an_object_in_the_middle_stands_out(method):
    rng = np.random.default_rng(0)
    picture = np.full((90, 120, 3), (70, 110, 60), dtype=float)
    picture[30:65, 45:80] = (200, 80, 60)
    picture = np.clip(picture + rng.normal(0, 8, picture.shape), 0, 255).astype(np.uint8)
    found = method(picture)
    truth = np.zeros((90, 120), dtype=bool)
    truth[30:65, 45:80] = True
    assert found.dtype == np.float32
    assert found[truth].mean() > 0.7
    assert found[~truth].mean() < 0.2


@pytest.mark.parametrize("method", [minimum_barrier, background_connectivity])
@settings(deadline=None, max_examples=20)
@given(
    height=st.sampled_from([1, 2, 9, 40]), width=st.sampled_from([1, 3, 17, 50]), flat=st.booleans(), grey=st.booleans()
)
def test_any_image_gives_values_from_0_to_1(method, height, width, flat, grey):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if grey:
        pixels[..., 1:] = pixels[..., :1]
    if flat:
        pixels[:] = 77
    found = method(pixels)
    assert found.shape == (height, width)
    assert np.isfinite(found).all()
    assert 0 <= found.min() <= found.max() <= 1
    if flat:
        assert (found == 0).all()
    assert saliency.PASSES == 3  # as the paper has it
