"""Assignment of tags against all answers there are, and the order programme, iteration, attention."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from tagmask.refine import assignment
from tagmask.refine.assignment import best_tags, iterated_tags, objective, rescaled, solved_tags

lams = st.sampled_from([0.0, 1.0, 30.0])


def case(n, classes, seed, density=0.5):
    """Scores with one to all of the tags each, and a graph."""
    random = np.random.default_rng(seed)
    scores = np.full((n, classes), -np.inf)
    for j in range(n):
        own = 1 + random.permutation(classes - 1)[: random.integers(1, classes)]
        scores[j, own] = random.random(len(own))
    dense = np.triu(random.random((n, n)) * (random.random((n, n)) < density), k=1)
    return scores, csr_array((dense + dense.T).astype(np.float32))


def value_of(tags, scores, dense, lam):
    """The sum of the equation, term by term."""
    total = 0.0
    for i in range(1, scores.shape[1]):
        x = (np.asarray(tags) == i).astype(float)
        total += x @ dense @ x
        total += lam * sum(scores[j, i] for j in range(len(x)) if x[j])
    return total


def best_of_all(scores, dense, lam, kept):
    choices = [[0, *np.flatnonzero(np.isfinite(row)).tolist()] for row in scores]
    answers = (tags for tags in product(*choices) if sum(tag > 0 for tag in tags) == kept)
    return max(value_of(tags, scores, dense, lam) for tags in answers)


def allowed(tags, scores, kept):
    assert np.count_nonzero(tags) == kept
    assert all(tag == 0 or np.isfinite(scores[j, tag]) for j, tag in enumerate(tags))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 7), st.integers(2, 4), lams, st.floats(0, 1), st.integers(0, 9999))
def test_the_programme_finds_the_best_of_all_answers(n, classes, lam, share, seed):
    scores, graph = case(n, classes, seed)
    kept = round(share * n)
    answer = solved_tags(scores, graph, lam, kept)
    allowed(answer.tags, scores, kept)
    assert answer.value == pytest.approx(value_of(answer.tags, scores, graph.toarray(), lam), rel=1e-6, abs=1e-6)
    assert answer.value == pytest.approx(best_of_all(scores, graph.toarray(), lam, kept), rel=1e-5, abs=1e-5)
    assert answer.gap == 0


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), st.integers(2, 6), lams, st.floats(0, 1), st.integers(0, 9999))
def test_programme_iteration_attention(n, classes, lam, share, seed):
    scores, graph = case(n, classes, seed, density=min(1, 4 / n))
    kept = round(share * n)
    by_attention, iterated = best_tags(scores, kept), iterated_tags(scores, graph, lam, kept)
    solved = solved_tags(scores, graph, lam, kept)
    values = [objective(tags, scores, graph, lam) for tags in (by_attention, iterated, solved.tags)]
    for tags in (by_attention, iterated, solved.tags):
        allowed(tags, scores, kept)
    assert values[0] <= values[1] <= values[2]
    assert values[2] == pytest.approx(solved.value)


def test_attention_alone_is_the_programme_without_a_graph():
    scores, graph = case(9, 4, 1)
    alone = solved_tags(scores, csr_array(graph.shape), 2.0, 5)
    np.testing.assert_array_equal(alone.tags, best_tags(scores, 5))
    equal = np.array([[-np.inf, 0.5, 0.5]] * 2)
    assert best_tags(equal, 1).tolist() == [1, 0]  # the first of equal ones


def test_alike_instances_outvote_a_wrong_attention():
    scores = np.full((4, 3), -np.inf)
    scores[:3, 1], scores[3] = 0.9, [-np.inf, 0.4, 0.6]
    dense = np.ones((4, 4)) - np.eye(4)
    assert best_tags(scores, 4).tolist() == [1, 1, 1, 2]
    for solve in (iterated_tags, lambda *case: solved_tags(*case).tags):
        assert solve(scores, csr_array(dense), 1.0, 4).tolist() == [1, 1, 1, 1]
        assert solve(scores, csr_array(dense), 1000.0, 4).tolist() == [1, 1, 1, 2]


def test_noise_is_what_nothing_is_like():
    scores = np.full((5, 2), -np.inf)
    scores[:, 1] = 0.5
    dense = np.zeros((5, 5))
    dense[:4, :4] = 1 - np.eye(4)
    assert solved_tags(scores, csr_array(dense), 30.0, 4).tags.tolist() == [1, 1, 1, 1, 0]
    assert solved_tags(scores, csr_array(dense), 30.0, 0).tags.tolist() == [0] * 5


def test_a_limit_leaves_the_iterated_answer_and_says_how_far_off_it_may_be(monkeypatch):
    scores, graph = case(8, 4, 3)
    best, plain = solved_tags(scores, graph, 1.0, 6), iterated_tags(scores, graph, 1.0, 6)

    class Nothing:
        x, status, mip_dual_bound = None, 1, None

    monkeypatch.setattr(assignment, "milp", lambda **given: Nothing())
    cut = solved_tags(scores, graph, 1.0, 6, seconds=0.001)
    np.testing.assert_array_equal(cut.tags, plain)
    assert cut.value * (1 + cut.gap) >= best.value - 1e-9
    Nothing.mip_dual_bound = -best.value
    assert solved_tags(scores, graph, 1.0, 6).gap == pytest.approx(best.value / cut.value - 1, abs=1e-9)


def test_rescaling_keeps_the_balance_of_both_terms():
    _, graph = case(20, 3, 0)
    twice = csr_array(graph * 2)
    assert rescaled(30.0, twice, 5.0) == pytest.approx(2 * rescaled(30.0, graph, 5.0))
    ring = csr_array(np.roll(np.eye(6), 1, axis=1) + np.roll(np.eye(6), -1, axis=1))
    assert rescaled(30.0, ring, 5.0) == pytest.approx(12.0)
