"""The random walk against the power of the dense matrix, written pair by pair from the equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.errors import OptionError
from tagmask.refine.walk import half_disc, transition, walk, walk_on_device


def dense(affinity, offsets, beta, normalise="column", sources=None, targets=None):
    """Return T (N, N), source by target, float64."""
    height, width = affinity.shape[1:]
    matrix = np.eye(height * width)
    for p, (dy, dx) in enumerate(offsets):
        for y in range(height):
            for x in range(width):
                b, a = y + dy, x + dx
                if 0 <= b < height and 0 <= a < width:
                    value = np.float64(affinity[p, y, x]) ** beta
                    for (j, k), (m, n) in (((y, x), (b, a)), ((b, a), (y, x))):
                        free = (sources is None or sources[j, k]) and (targets is None or targets[m, n])
                        matrix[j * width + k, m * width + n] = value * free
    sums = matrix.sum(axis=0 if normalise == "column" else 1, keepdims=True)
    return matrix / sums


def problem(height, width, radius, seed, maps=2):
    rng = np.random.default_rng(seed)
    offsets = half_disc(radius)
    affinity = rng.random((len(offsets), height, width)).astype(np.float32)
    affinity[rng.random(affinity.shape) < 0.1] = 0
    affinity[rng.random(affinity.shape) < 0.1] = 1
    return affinity, offsets, rng.random((maps, height, width)).astype(np.float32), rng.random((height, width)) < 0.5


@settings(deadline=None, max_examples=60)
@given(
    height=st.sampled_from([1, 2, 5, 11]),
    width=st.sampled_from([1, 3, 13, 37]),
    radius=st.integers(1, 5),
    beta=st.sampled_from([0, 1, 8]),
    steps=st.sampled_from([0, 1, 7, 64]),
    normalise=st.sampled_from(["column", "row"]),
    stage=st.sampled_from(["plain", "inside", "into"]),
    maps=st.sampled_from([0, 1, 3]),
    seed=st.integers(0, 99),
)
def test_equals_the_power_of_the_dense_matrix(height, width, radius, beta, steps, normalise, stage, maps, seed):
    affinity, offsets, values, inner = problem(height, width, radius, seed, maps)
    masks = {"plain": {}, "inside": {"sources": inner, "targets": inner}, "into": {"targets": ~inner}}[stage]
    step = transition(affinity, offsets, beta=beta, normalise=normalise, **masks)
    matrix = np.linalg.matrix_power(dense(affinity, offsets, beta, normalise, **masks), steps)
    expected = (values.reshape(maps, height * width) @ matrix).reshape(values.shape)
    found = walk(values, step, steps)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(walk_on_device(torch.from_numpy(values), step, steps), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("radius", "pairs"), [(1, 0), (2, 4), (3, 12), (5, 34)])
def test_the_half_disc_holds_each_pair_once(radius, pairs):
    offsets = {tuple(offset) for offset in half_disc(radius)}
    both = offsets | {(-y, -x) for y, x in offsets}
    near = {(y, x) for y in range(-9, 10) for x in range(-9, 10) if 0 < y * y + x * x < radius**2}
    assert both == near
    assert len(offsets) == pairs


def test_values_stay_an_average_and_rows_keep_their_mass():
    affinity, offsets, values, _ = problem(17, 23, 5, seed=3)
    averaged = walk(values, transition(affinity, offsets, beta=8), 256)
    assert values.min() <= averaged.min() < averaged.max() <= values.max()
    kept = walk(values, transition(affinity, offsets, beta=8, normalise="row"), 256)
    np.testing.assert_allclose(kept.sum(axis=(1, 2)), values.sum(axis=(1, 2)), rtol=1e-3)


def test_retabs_second_stage_leaves_the_interior_alone():
    affinity, offsets, values, inner = problem(17, 23, 5, seed=4)
    after = walk(values, transition(affinity, offsets, beta=8, targets=~inner), 256)
    np.testing.assert_allclose(after[:, inner], values[:, inner], rtol=1e-5)
    assert np.abs(after - values)[:, ~inner].max() > 0.1


def test_wrong_values_are_refused():
    affinity, offsets, values, _ = problem(5, 7, 3, seed=0)
    with pytest.raises(OptionError, match="radius"):
        half_disc(0)
    with pytest.raises(OptionError, match="normalise"):
        transition(affinity, offsets, beta=8, normalise="both")
    with pytest.raises(OptionError, match="beta"):
        transition(affinity, offsets, beta=-1)
    with pytest.raises(ValueError, match="affinity"):
        transition(affinity[1:], offsets, beta=1)
    with pytest.raises(OptionError, match="steps"):
        walk(values, transition(affinity, offsets, beta=1), -1)
    with pytest.raises(ValueError, match="maps"):
        walk(values[:, 1:], transition(affinity, offsets, beta=1))
