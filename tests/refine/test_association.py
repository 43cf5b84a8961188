"""Tags over many groups: which instances share one, how many of each are kept, and memory that is that of a group."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.errors import OptionError
from tagmask.refine import association
from tagmask.refine.assignment import best_tags, solved_tags
from tagmask.refine.association import Candidates, Rule, associate
from tagmask.refine.similarity import neighbour_graph

RULE = Rule()


def scene(n, kinds=3, seed=0, wrong=0.2):
    """n instances of some kinds (tags 1..kinds), each with one or two tags; of ``wrong`` attention sees the other more."""
    random = np.random.default_rng(seed)
    truth = random.integers(1, kinds + 1, n)
    owner, tag, score = [], [], []
    for j in range(n):
        other = random.integers(1, kinds + 1)
        own = sorted({int(truth[j]), int(other)})
        owner += [j] * len(own)
        tag += own
        mistaken = random.random() < wrong
        score += [0.6 if (t == truth[j]) != mistaken else 0.4 for t in own]
    features = np.eye(kinds)[truth - 1] + random.normal(0, 0.1, (n, kinds))
    return Candidates(np.array(owner), np.array(tag), np.array(score)), features.astype(np.float32), truth


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 999))
def test_scores_of_some_and_the_best_of_all(n, kinds, seed):
    some, _, _ = scene(n, kinds, seed)
    assert some.count == n
    table = np.full((n, int(some.tag.max()) + 1), -np.inf)
    table[some.owner, some.tag] = some.score
    chosen = np.flatnonzero(np.random.default_rng(seed).random(n) < 0.5)
    np.testing.assert_array_equal(some.scores(chosen), table[chosen])
    tags, scores = some.best()
    np.testing.assert_array_equal(tags, table.argmax(axis=1))
    np.testing.assert_array_equal(scores, table.max(axis=1))


def test_one_group_is_the_programme_itself():
    candidates, features, _ = scene(30)
    tags, facts = associate(candidates, features, rule=RULE, seed=0)
    graph = neighbour_graph(features, 5)
    expected = solved_tags(candidates.scores(np.arange(30)), graph, 30.0, 24)
    assert facts["value"] == pytest.approx(expected.value, rel=1e-5)
    assert facts == {**facts, "instances": 30, "noise": 6, "groups": 1, "inside": 1.0, "gap": 0.0}
    assert np.count_nonzero(tags) == 24


@pytest.mark.parametrize("grouping", ["alike", "shuffled"])
@pytest.mark.parametrize("solver", ["milp", "icm"])
def test_instances_that_look_alike_mend_what_attention_mistook(grouping, solver):
    candidates, features, truth = scene(120, wrong=0.3)
    rule = replace(RULE, grouping=grouping, solver=solver, group=40, keep=1.0, lam=2.0)
    tags, facts = associate(candidates, features, rule=rule, seed=0)
    by_attention, _ = associate(candidates, None, rule=replace(rule, graph=False), seed=0)
    assert (tags == truth).mean() > (by_attention == truth).mean() + 0.1
    assert facts["groups"] == 3
    assert (facts["gap"] is None) == (solver == "icm")
    again, _ = associate(candidates, features, rule=rule, seed=0)
    np.testing.assert_array_equal(tags, again)


@pytest.mark.parametrize("grouping", ["alike", "shuffled"])
def test_every_group_keeps_its_share(grouping):
    candidates, features, _ = scene(100)
    rule = replace(RULE, grouping=grouping, group=25, keep=0.7)
    tags, facts = associate(candidates, features, rule=rule, seed=0)
    assert np.count_nonzero(tags) == (70 if grouping == "alike" else 4 * 17)
    assert facts["noise"] == 100 - np.count_nonzero(tags)
    table = np.full((100, 4), -np.inf)
    table[candidates.owner, candidates.tag] = 0
    assert all(tag == 0 or np.isfinite(table[j, tag]) for j, tag in enumerate(tags))


def test_noise_that_looks_alike_is_thrown_out_together():
    candidates, features, _ = scene(90, kinds=2, wrong=0.0)
    random = np.random.default_rng(1)
    noise = random.choice(90, 18, replace=False)
    features[noise] = -1 + random.normal(0, 0.1, (18, 2))  # one kind of its own
    weak = np.isin(candidates.owner, noise)
    candidates = replace(candidates, score=np.where(weak, 0.1, candidates.score))
    tags, _ = associate(candidates, features, rule=replace(RULE, group=30, lam=100.0), seed=0)
    assert sorted(np.flatnonzero(tags == 0).tolist()) == sorted(noise.tolist())


def test_without_the_graph_attention_decides_and_without_both_lots():
    candidates, _, _ = scene(40)
    rule = replace(RULE, graph=False, keep=0.5)
    tags, facts = associate(candidates, None, rule=rule, seed=0)
    np.testing.assert_array_equal(tags, best_tags(candidates.scores(np.arange(40)), 20))
    assert facts["groups"] == 0
    lots = [associate(candidates, None, rule=replace(rule, lam=0.0, keep=1.0), seed=seed)[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(lots[0], lots[1])
    assert (lots[0] != lots[2]).any()
    with pytest.raises(ValueError, match="needs the features of 40"):
        associate(candidates, None, rule=RULE, seed=0)


def test_edges_that_never_count_are_left_out():
    owner, tag = np.arange(4), np.array([1, 1, 70, 200])
    candidates = Candidates(np.append(owner, 3), np.append(tag, 70)[[0, 1, 2, 3, 4]], np.full(5, 0.5))
    order = np.lexsort((candidates.tag, candidates.owner))
    candidates = Candidates(candidates.owner[order], candidates.tag[order], candidates.score)
    graph = neighbour_graph(np.ones((4, 2)), 3)
    kept = association._comparable(graph, candidates).toarray()
    expected = np.zeros((4, 4))
    expected[0, 1] = expected[1, 0] = expected[2, 3] = expected[3, 2] = 1
    np.testing.assert_allclose(kept, expected, atol=1e-6)


def test_few_instances_and_none():
    nothing = Candidates(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))
    tags, facts = associate(nothing, None, rule=RULE, seed=0)
    assert len(tags) == facts["instances"] == facts["noise"] == 0
    one = Candidates(np.zeros(1, dtype=np.int64), np.full(1, 3), np.full(1, 0.2))
    for rule in (
        RULE,
        replace(RULE, grouping="shuffled"),
        replace(RULE, rescale=True, solver="icm"),
        replace(RULE, graph=False),
    ):
        assert associate(one, np.ones((1, 4), dtype=np.float32), rule=rule, seed=0)[0].tolist() == [3]


def test_rescaling_reaches_the_programme():
    candidates, features, _ = scene(60, wrong=0.4)
    weak = replace(RULE, lam=0.05, keep=1.0)
    plain, rescaled = (associate(candidates, features, rule=replace(weak, rescale=r), seed=0)[1] for r in (False, True))
    assert plain["value"] != rescaled["value"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"solver": "cplex"}, "solver is 'cplex'; expected milp or icm"),
        ({"grouping": "alik"}, "did you mean 'alike'"),
        ({"neighbours": 0}, "neighbours is 0"),
        ({"seconds": 0.0}, "seconds is 0.0"),
        ({"group": 0}, "group is 0"),
        ({"keep": 0.0}, "keep is 0.0"),
        ({"keep": 1.5}, "keep is 1.5"),
        ({"lam": -1.0}, "lam -1.0"),
    ],
)
def test_impossible_rules_are_refused(wrong, words):
    with pytest.raises(OptionError, match=words):
        replace(RULE, **wrong)


@pytest.mark.parametrize(
    ("share", "count", "kept"), [(0.8, 400, 320), (0.29, 100, 29), (0.8, 1, 1), (1.0, 7, 7), (0.7, 9, 6)]
)
def test_shares_are_rounded_down(share, count, kept):
    assert replace(RULE, keep=share).kept_of(count) == kept
