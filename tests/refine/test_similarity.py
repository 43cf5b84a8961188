"""The graph against all pairs, and groups that share its nodes out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from tagmask.errors import OptionError
from tagmask.refine.similarity import alike_groups, inside_share, neighbour_graph, shuffled_groups


def all_pairs(features, k, mutual):
    """The same by sorting every row of the full matrix."""
    n = len(features)
    cosine = np.zeros((n, n))
    for i, j in np.ndindex(n, n):
        lengths = np.linalg.norm(features[i]) * np.linalg.norm(features[j])
        cosine[i, j] = features[i] @ features[j] / lengths if lengths else 0
    near = np.zeros((n, n), dtype=bool)
    for i in range(n):
        others = [j for j in np.argsort(-cosine[i], kind="stable") if j != i]
        near[i, others[:k]] = True
    joined = near & near.T if mutual else near | near.T
    return np.where(joined, cosine.clip(min=0), 0)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 6), st.booleans(), st.integers(1, 40), st.integers(0, 999))
def test_the_graph_is_that_of_all_pairs_however_many_are_held(n, k, mutual, cells, seed):
    features = np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)
    graph = neighbour_graph(features, k, mutual=mutual, cells=cells)
    assert graph.dtype == np.float32
    np.testing.assert_allclose(graph.toarray(), all_pairs(features, k, mutual), atol=1e-5)
    assert (abs(graph - graph.T)).max() == 0
    assert not graph.diagonal().any()
    assert (graph.data > 0).all()


def test_features_of_zeros_and_too_few_neighbours():
    features = np.array([[0, 0], [1, 0], [2, 0.1], [-1, 0]], dtype=np.float32)
    graph = neighbour_graph(features, 3).toarray()
    assert not graph[0].any()
    assert not graph[3].any()
    assert graph[1, 2] == pytest.approx(2 / np.hypot(2, 0.1))
    with pytest.raises(OptionError, match="neighbours is 0"):
        neighbour_graph(features, 0)
    assert neighbour_graph(features[:0], 3).shape == (0, 0)


def clusters(count, each, seed=0):
    """Things of ``count`` kinds in a random order, the kind of each, and their graph."""
    random = np.random.default_rng(seed)
    kinds = random.permutation(np.repeat(np.arange(count), each))
    features = np.eye(count)[kinds] + random.normal(0, 0.05, (len(kinds), count))
    return kinds, neighbour_graph(features, 5)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 60), st.integers(1, 12), st.integers(0, 999))
def test_groups_hold_every_node_once_and_are_about_as_large(n, size, seed):
    random = np.random.default_rng(seed)
    dense = np.triu(random.random((n, n)) * (random.random((n, n)) < 0.1), k=1)
    graph = csr_array(dense + dense.T)
    for groups in (alike_groups(graph, size), shuffled_groups(n, size, random)):
        assert sorted(np.concatenate([*groups, []]).tolist()) == list(range(n))
        sizes = [len(group) for group in groups]
        assert len(groups) == -(-n // size)
        assert max(sizes, default=0) - min(sizes, default=0) <= 1
        assert max(sizes, default=0) <= size
        assert all((np.diff(group) > 0).all() for group in groups)
    again = alike_groups(graph, size)
    assert all((a == b).all() for a, b in zip(again, alike_groups(graph, size), strict=True))


def test_what_is_joined_shares_a_group():
    kinds, graph = clusters(count=6, each=30)
    groups = alike_groups(graph, 30)
    assert all(len(set(kinds[group])) == 1 for group in groups)
    assert inside_share(graph, groups) == 1
    by_lot = shuffled_groups(180, 30, np.random.default_rng(0))
    assert inside_share(graph, by_lot) < 0.3
    assert inside_share(csr_array((3, 3)), [np.arange(3)]) == 1


def test_a_group_grows_by_the_strongest_sum():
    dense = np.zeros((5, 5))
    for i, j, w in ((0, 1, 1.0), (0, 2, 0.7), (1, 3, 0.5), (2, 3, 0.4), (0, 4, 0.8)):
        dense[i, j] = dense[j, i] = w
    first, second = alike_groups(csr_array(dense), 3)  # 0, then 1 (1.0), then 4 (0.8)
    assert (first.tolist(), second.tolist()) == ([0, 1, 4], [2, 3])
    with pytest.raises(OptionError, match="a group holds 0"):
        alike_groups(csr_array(dense), 0)
