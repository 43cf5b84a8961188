"""The dense CRF on the permutohedral lattice: against a lattice of dictionaries, the exact filter, and its laws."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from math import log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from tagmask.errors import OptionError
from tagmask.refine import crf
from tagmask.refine.batch import mean_field_batch
from tagmask.refine.crf import CrfOptions, mean_field, unary_from_labels, unary_from_probabilities, unary_from_scores
from tagmask.refine.exact import mean_field_exact
from tagmask.refine.lanes import exponential, fill, lanes, larger, largest, load, store, total
from tagmask.refine.lattice import build_lattice


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Draw a disc on a ground, both with a soft pattern and noise, uint8 (H, W, 3)."""
    y, x = np.mgrid[:height, :width]
    disc = np.hypot(x - 0.45 * width, y - 0.55 * height) < 0.3 * min(height, width)
    pattern = 20 * np.sin(x / 7)[..., None] * np.cos(y / 5)[..., None] * np.array([1, 0.5, -1])
    noise = np.random.default_rng(seed).normal(0, 4, (height, width, 3))
    return np.clip(np.where(disc[..., None], (200, 90, 60), (70, 120, 160)) + pattern + noise, 0, 255).astype(np.uint8)


def smooth_unary(classes: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Draw energies (K, H, W) that vary slowly."""
    coarse = np.random.default_rng(seed).normal(0, 2, (1, classes, 4, 5)).astype(np.float32)
    fine = torch.nn.functional.interpolate(torch.from_numpy(coarse), size=(height, width), mode="bicubic")
    return fine[0].numpy()


def lattice_by_dictionary(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Splat, blur and slice with a dictionary from full lattice keys to values, as the paper tells it."""
    d = features.shape[1]
    one = np.float32(1)
    deviation = np.float32(np.sqrt(2 / 3) * (d + 1))
    scale = [np.float32(float(deviation) / np.sqrt((i + 1) * (i + 2))) for i in range(d)]
    corners = []
    for feature in features:
        lifted, total = [np.float32(0)] * (d + 1), np.float32(0)
        for j in range(d, 0, -1):
            scaled = feature[j - 1] * scale[j - 1]
            lifted[j], total = total - np.float32(j) * scaled, total + scaled
        lifted[0] = total
        anchor = [int(np.rint(c * (one / np.float32(d + 1)))) * (d + 1) for c in lifted]
        residual = [c - np.float32(a) for c, a in zip(lifted, anchor, strict=True)]
        order = sorted(range(d + 1), key=lambda i: (-residual[i], i))  # largest first, of equals the earlier
        rank = [order.index(i) + sum(anchor) // (d + 1) for i in range(d + 1)]
        anchor = [a + (d + 1) * ((r < 0) - (r > d)) for a, r in zip(anchor, rank, strict=True)]
        rank = [r % (d + 1) for r in rank]
        descending = sorted(
            ((float(c) - a, r) for c, a, r in zip(lifted, anchor, rank, strict=True)), key=lambda t: t[1]
        )
        u = [value / (d + 1) for value, _ in descending]  # sorted residuals in units of d + 1
        for corner in range(d + 1):
            share = 1 + u[d] - u[0] if corner == 0 else u[d - corner] - u[d - corner + 1]
            key = tuple(a + (corner if r <= d - corner else corner - d - 1) for a, r in zip(anchor, rank, strict=True))
            assert sum(key) == 0
            corners.append((key, share))
    table = defaultdict(lambda: np.zeros(values.shape[1]))
    for index, (key, share) in enumerate(corners):
        table[key] = table[key] + share * values[index // (d + 1)]
    for axis in range(d + 1):
        blurred = defaultdict(lambda: np.zeros(values.shape[1]))
        for key, value in table.items():
            sides = [
                table.get(tuple(c + sign * (d if i == axis else -1) for i, c in enumerate(key)), 0) for sign in (1, -1)
            ]
            blurred[key] = value + 0.5 * (sides[0] + sides[1])
        table = blurred
    filtered = np.zeros_like(values)
    for index, (key, share) in enumerate(corners):
        filtered[index // (d + 1)] += share * table[key]
    return filtered / (1 + 2.0**-d)


@pytest.mark.parametrize(("d", "height", "width"), [(2, 7, 5), (5, 6, 8), (5, 1, 11), (2, 1, 1)])
def test_lattice_equals_a_dictionary_of_keys(d, height, width):
    y, x = np.mgrid[:height, :width]
    colours = textured(height, width).reshape(-1, 3) / 13.0
    features = np.concatenate([np.stack([x.ravel(), y.ravel()], axis=1) / 1.7, colours], axis=1)[:, :d]
    features = features.astype(np.float32)
    points = np.random.default_rng(1).random((height * width, 3)).astype(np.float32)
    n = 1 / np.sqrt(lattice_by_dictionary(features, np.ones((height * width, 1))) + 1e-20)
    expected = n * lattice_by_dictionary(features, n * points)
    np.testing.assert_allclose(build_lattice(features).filter(points), expected, atol=1e-5)


def test_hash_table_grows():
    features = np.random.default_rng(0).uniform(0, 40, (3000, 5)).astype(np.float32)
    lattice = build_lattice(features)
    assert lattice.size > 2 * 4096  # it started with room for 4096
    assert sorted(set(lattice.vertices.ravel())) == list(range(1, lattice.size))
    for axis in range(6):  # being a neighbour is mutual
        left, right = lattice.neighbours[axis].T
        here = np.arange(lattice.size)
        assert np.array_equal(right[left[left > 0]], here[left > 0])
        assert np.array_equal(left[right[right > 0]], here[right > 0])


@pytest.mark.parametrize(("height", "width"), [(60, 80), (80, 60)])
def test_agrees_with_the_exact_filter(height, width):
    pixels, unary = textured(height, width), smooth_unary(3, height, width) / 2
    y, x = np.mgrid[:height, :width]
    misplaced = np.hypot(x - 0.55 * width, y - 0.45 * height) < 0.3 * min(height, width)
    unary[1] -= 2 * misplaced
    unary[0] -= 2 * ~misplaced
    exact = mean_field_exact(torch.from_numpy(unary)[None], torch.from_numpy(pixels).float()[None])[0].numpy()
    assert (unary.argmin(axis=0) != exact.argmax(axis=0)).mean() > 0.1  # else agreement would be easy
    assert (mean_field(unary, pixels).argmax(axis=0) == exact.argmax(axis=0)).mean() > 0.98  # measured 1.0


def test_follows_the_image_and_not_its_transpose():
    pixels = textured(40, 56)
    y, x = np.mgrid[:40, :56]
    disc = np.hypot(x - 0.45 * 56, y - 0.55 * 40) < 0.3 * 40
    noisy = np.where(np.random.default_rng(0).random((40, 56)) < 0.3, ~disc, disc)
    labels = mean_field(unary_from_labels(noisy.astype(np.uint8), classes=2), pixels).argmax(axis=0)
    assert (labels == disc).mean() > 0.99
    with pytest.raises(ValueError, match="pixels must be"):
        mean_field(np.zeros((2, 40, 56), dtype=np.float32), pixels.transpose(1, 0, 2).copy())


@settings(deadline=None, max_examples=40)
@given(
    height=st.sampled_from([1, 2, 7, 13, 31]),
    width=st.sampled_from([1, 3, 11, 29]),
    classes=st.sampled_from([1, 2, 3, 5, 254]),
    iterations=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_marginals_sum_to_one_and_follow_a_permutation_of_classes(height, width, classes, iterations, seed):
    rng = np.random.default_rng(seed)
    unary = rng.normal(0, 3, (classes, height, width)).astype(np.float32)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    options = CrfOptions(iterations=iterations)
    q = mean_field(unary, pixels, options)
    assert q.shape == unary.shape
    assert q.dtype == np.float32
    assert q.min() >= 0
    np.testing.assert_allclose(q.sum(axis=0), 1, atol=1e-5)
    if classes == 1:
        assert (q == 1).all()
    order = rng.permutation(classes)
    np.testing.assert_allclose(mean_field(unary[order], pixels, options), q[order], atol=1e-5)


def test_without_iterations_it_is_the_softmax():
    unary = np.random.default_rng(0).normal(0, 40, (21, 9, 17)).astype(np.float32)
    q = mean_field(unary, textured(9, 17), CrfOptions(iterations=0))
    np.testing.assert_allclose(q, torch.softmax(-torch.from_numpy(unary), dim=0).numpy(), rtol=1e-5, atol=1e-30)


def test_nothing_known_stays_unknown():
    q = mean_field(np.zeros((4, 9, 23), dtype=np.float32), np.full((9, 23, 3), 77, dtype=np.uint8))
    np.testing.assert_allclose(q, 0.25, atol=1e-6)


def test_threads_share_a_lattice_and_agree():
    pixels, unary = textured(33, 47), smooth_unary(3, 33, 47)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: mean_field(unary, pixels), range(12)))
    assert all(np.array_equal(found[0], q) for q in found)


def test_unary_of_probabilities_and_scores():
    p = np.array([0.0, 0.25, 1.0]).reshape(3, 1, 1)
    np.testing.assert_allclose(unary_from_probabilities(p).ravel(), [-log(1e-5), log(4), 0], rtol=1e-6)
    np.testing.assert_array_equal(unary_from_scores(p).ravel(), [0, -0.25, -1])
    assert unary_from_probabilities(p).dtype == unary_from_scores(p).dtype == np.float32


def test_unary_of_labels():
    labels = np.array([[0, 2, 255]], dtype=np.uint8)
    energy = unary_from_labels(labels, classes=3, confidence=0.7, unknown=255)
    assert energy.dtype == np.float32
    np.testing.assert_allclose(
        np.exp(-energy[:, 0]), [[0.7, 0.15, 1 / 3], [0.15, 0.15, 1 / 3], [0.15, 0.7, 1 / 3]], 1e-6
    )
    assert np.isfinite(unary_from_labels(labels[:, :1], classes=1)).all()
    with pytest.raises(ValueError, match=r"0\.\.2, got 0\.\.255"):
        unary_from_labels(labels, classes=3)
    with pytest.raises(OptionError, match="confidence"):
        unary_from_labels(labels, classes=3, confidence=1.0)


@pytest.mark.parametrize("wrong", [{"spatial_xy": 0.0}, {"bilateral_rgb": -1.0}, {"bilateral_weight": float("nan")}])
def test_impossible_options_are_refused(wrong):
    with pytest.raises(OptionError, match=next(iter(wrong))):
        CrfOptions(**wrong)


def test_deviations_too_small_for_the_keys_are_refused():
    with pytest.raises(OptionError, match="too small for this image"):
        mean_field(
            np.zeros((2, 40, 50), dtype=np.float32), textured(40, 50), CrfOptions(bilateral_xy=1e-3, bilateral_rgb=1e-2)
        )


def test_energies_must_be_finite():
    unary = np.zeros((2, 3, 4), dtype=np.float32)
    unary[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="finite"):
        mean_field(unary, textured(3, 4))


def test_presets_differ_as_published():
    assert crf.SEC_TRAIN_CRF.bilateral_xy * 12 == crf.SEC_TEST_CRF.bilateral_xy
    assert (crf.IRN_CRF.bilateral_xy, crf.IRN_CRF.bilateral_rgb, crf.IRN_CRF.bilateral_weight) == (50, 5, 10)


@settings(deadline=None, max_examples=15)
@given(
    height=st.sampled_from([1, 5, 17]),
    width=st.sampled_from([1, 4, 23]),
    classes=st.sampled_from([1, 3, 21]),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_a_batch_of_tensors_equals_image_by_image(height, width, classes, batch, seed):
    rng = np.random.default_rng(seed)
    unary = rng.normal(0, 3, (batch, classes, height, width)).astype(np.float32)
    pixels = np.stack([textured(height, width, seed + b) for b in range(batch)])
    together = mean_field_batch(torch.from_numpy(unary), torch.from_numpy(pixels))
    alone = [mean_field(one, image) for one, image in zip(unary, pixels, strict=True)]
    np.testing.assert_allclose(together.numpy(), np.stack(alone), atol=1e-4)


def test_settled_messages_end_the_iterations():
    pixels, unary = textured(40, 56), smooth_unary(3, 40, 56)
    long = mean_field(unary, pixels, CrfOptions(iterations=60))
    settled = mean_field(unary, pixels, CrfOptions(iterations=60, settled=1e-3))
    first = mean_field(unary, pixels, CrfOptions(iterations=60, settled=1e9))
    np.testing.assert_allclose(settled, long, atol=2e-3)
    np.testing.assert_array_equal(first, mean_field(unary, pixels, CrfOptions(iterations=1)))
    in_a_batch = mean_field_batch(
        torch.from_numpy(unary)[None], torch.from_numpy(pixels)[None], CrfOptions(iterations=60, settled=1e-3)
    )
    np.testing.assert_allclose(in_a_batch[0].numpy(), settled, atol=2e-3)


@pytest.mark.parametrize("size", [(60, 80), (61, 83), (3, 50), (1, 1)])
def test_a_shrunken_image_gives_nearly_the_same_labels(size):
    pixels, unary = textured(*size), smooth_unary(3, *size)
    full = mean_field(unary, pixels)
    half = mean_field(unary, pixels, CrfOptions(shrink=2))
    assert half.shape == full.shape
    np.testing.assert_allclose(half.sum(axis=0), 1, atol=1e-5)
    assert (half.argmax(axis=0) == full.argmax(axis=0)).mean() > 0.9
    with pytest.raises(ValueError, match="shrink"):
        mean_field_batch(torch.from_numpy(unary)[None], torch.from_numpy(pixels)[None], CrfOptions(shrink=2))


def brute_lanes(x: np.ndarray) -> np.ndarray:
    """Softmax in float64."""
    e = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@njit
def lanes_softmax(x, out, across):
    for p in range(len(x)):
        row = load(x, p, 0, across)
        raised = exponential(row - fill(largest(larger(row, row)), across))
        store(out, p, 0, raised * fill(np.float32(1) / total(raised), across))


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16])
def test_lanes_compute_what_a_loop_would(count):
    x = np.random.default_rng(count).normal(0, 40, (200, count)).astype(np.float32)
    out = np.empty_like(x)
    lanes_softmax(x, out, lanes(count))
    np.testing.assert_allclose(out, brute_lanes(x), atol=3e-7)
