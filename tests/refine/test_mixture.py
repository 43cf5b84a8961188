"""Mixtures of Gaussians against the equations of expectation maximisation, written with loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from tagmask.refine.mixture import fit_mixture, log_density, responsibilities


def drawn(seed, n=30):
    random = np.random.default_rng(seed)
    return random.normal(0, 10, (n, 3)) + random.integers(0, 3, (n, 1)) * 20, random.random(n) + 0.01


def density(mixture, point):
    parts = zip(mixture.shares, mixture.means, mixture.covariances, strict=True)
    return [share * multivariate_normal(mean=mean, cov=covariance).pdf(point) for share, mean, covariance in parts]


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), components=st.integers(1, 5))
def test_densities_are_sums_over_components(seed, components):
    points, weights = drawn(seed)
    mixture = fit_mixture(points, weights, components=components, steps=2)
    assert mixture.shares.sum() == pytest.approx(1)
    expected = np.array([density(mixture, point) for point in points])  # (N, K)
    np.testing.assert_allclose(log_density(mixture, points), np.log(expected.sum(axis=1)), rtol=1e-6)
    np.testing.assert_allclose(
        responsibilities(mixture, points), expected / expected.sum(axis=1, keepdims=True), atol=1e-8
    )


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), components=st.integers(1, 4))
def test_a_step_is_that_of_the_equations(seed, components):
    points, weights = drawn(seed)
    before = fit_mixture(points, weights, components=components, steps=3, spread=2.0)
    after = fit_mixture(points, weights, components=components, steps=4, spread=2.0)
    belongs = np.array([density(before, point) for point in points])
    belongs /= belongs.sum(axis=1, keepdims=True)
    for k in range(len(before.shares)):
        mass = sum(w * r for w, r in zip(weights, belongs[:, k], strict=True))
        mean = sum(w * r * p for w, r, p in zip(weights, belongs[:, k], points, strict=True)) / mass
        covariance = sum(
            w * r * np.outer(p - mean, p - mean) for w, r, p in zip(weights, belongs[:, k], points, strict=True)
        ) / mass + 2.0 * np.eye(3)
        assert after.shares[k] == pytest.approx(mass / weights.sum())
        np.testing.assert_allclose(after.means[k], mean, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(after.covariances[k], covariance, rtol=1e-6, atol=1e-8)


def test_steps_do_not_make_it_less_likely():
    points, weights = drawn(5, n=200)
    likely = [
        (weights * log_density(fit_mixture(points, weights, steps=steps, spread=1e-6), points)).sum()
        for steps in range(8)
    ]
    assert (np.diff(likely) > -1e-6).all()


def test_two_heaps_are_found_and_points_of_no_weight_do_not_count():
    random = np.random.default_rng(0)
    heaps = random.normal(0, 1, (80, 2))
    heaps[60:, 0] += 50
    far = random.normal(500, 3, (40, 2))
    mixture = fit_mixture(
        np.concatenate([heaps, far]), np.concatenate([np.ones(80), np.zeros(40)]), components=2, spread=0.1
    )
    order = np.argsort(mixture.means[:, 0])
    np.testing.assert_allclose(mixture.means[order], [[0, 0], [50, 0]], atol=0.6)
    np.testing.assert_allclose(mixture.shares[order], [0.75, 0.25], atol=0.01)


def test_fewer_points_than_components():
    mixture = fit_mixture(np.array([[3.0, 4.0]]), np.ones(1), components=5, spread=1.0)
    assert len(mixture.shares) == 1
    np.testing.assert_allclose(mixture.means, [[3, 4]])
    np.testing.assert_allclose(mixture.covariances, [np.eye(2)])


@pytest.mark.parametrize("weights", [np.zeros(4), np.ones(3), np.array([1, 1, np.nan, 1])])
def test_nonsense_is_refused(weights):
    with pytest.raises(ValueError, match="expected points"):
        fit_mixture(np.zeros((4, 3)), weights)
