"""The cut beside huge costs, doubled pairs and many nodes: where rounding to integers could go wrong."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.refine.graphcut import graph_cut


def energy(x, costs, pairs, weights):
    x = np.asarray(x, dtype=int)
    return costs[np.arange(len(x)), x].sum() + weights[x[pairs[:, 0]] != x[pairs[:, 1]]].sum()


@settings(deadline=None, max_examples=40)
@given(n=st.integers(2, 8), seed=st.integers(0, 999), huge=st.sampled_from([1.0, 1e6, 1e15]))
def test_nodes_fixed_by_huge_costs_leave_the_others_exact(n, seed, huge):
    rng = np.random.default_rng(seed)
    costs, fixed = rng.normal(0, 1, (n, 2)), rng.random(n) < 0.4
    side = rng.integers(0, 2, n)
    costs[fixed, 1 - side[fixed]] += huge * 30
    pairs = np.array([rng.choice(n, 2, replace=False) for _ in range(2 * n)])
    weights = rng.exponential(1, len(pairs))
    rest = np.where(
        fixed[:, None], 0, costs
    )  # without the huge numbers, where floats could not tell the labellings apart
    allowed = [x for x in product((0, 1), repeat=n) if (np.array(x) == side)[fixed].all()]
    least = min(energy(x, rest, pairs, weights) for x in allowed)
    found = graph_cut(costs, pairs, weights)
    np.testing.assert_array_equal(found[fixed], side[fixed])
    assert energy(found, rest, pairs, weights) == pytest.approx(least, abs=1e-6)


def test_a_chain_of_many_nodes_is_what_dynamic_programming_finds():
    rng = np.random.default_rng(0)
    n = 5000  # total flow is far beyond 32 bits
    costs, weights = rng.normal(0, 1, (n, 2)), rng.exponential(1, n - 1)
    pairs = np.stack([np.arange(n - 1), np.arange(1, n)], axis=1)
    best = costs[0]  # (2,) of the chain so far, by the label of its last node
    for cost, weight in zip(costs[1:], weights, strict=True):
        best = cost + np.minimum(best, best[::-1] + weight)
    assert energy(graph_cut(costs, pairs, weights), costs, pairs, weights) == pytest.approx(best.min(), abs=1e-4)


def test_a_pair_given_many_times_adds_up():
    costs = np.array([[0.0, 3.0], [1.0, 0.0]])
    pairs = np.tile([[0, 1], [1, 0]], (3000, 1))
    assert graph_cut(costs, pairs, np.full(6000, 0.9 / 6000)).tolist() == [False, True]
    assert graph_cut(costs, pairs, np.full(6000, 1.1 / 6000)).tolist() == [False, False]


def test_no_node_no_pair_and_no_minimum():
    none = np.zeros((0, 2), dtype=int)
    assert graph_cut(np.zeros((0, 2)), none, np.zeros(0)).tolist() == []
    assert graph_cut(np.array([[0, 1e-3], [5, 0], [1, 1]]), none, np.zeros(0)).tolist() == [False, True, False]
    for weight in (np.inf, np.nan):
        with pytest.raises(ValueError, match="finite"):
            graph_cut(np.zeros((2, 2)), np.array([[0, 1]]), np.array([weight]))
    for pair in ([0, 0], [0, 2], [-1, 1]):
        with pytest.raises(ValueError, match="different nodes"):
            graph_cut(np.zeros((2, 2)), np.array([pair]), np.ones(1))
