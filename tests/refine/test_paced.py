"""Closed forms of self-paced learning against a numeric minimiser, labels against all labels that there are."""

from itertools import product

import numpy as np
import pytest
from scipy.optimize import minimize

from tagmask.errors import OptionError
from tagmask.refine.paced import (
    NOTHING,
    Pace,
    cheapest_labels,
    first_labels,
    hinge,
    instance_weights,
    photo_objective,
    shown,
    spread,
)


def value(weights, losses, diversity):
    return losses @ weights - diversity * np.sqrt(weights.sum(axis=-1))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("diversity", [0.0, 0.3, 1.5])
def test_no_weights_are_better_than_the_closed_form(seed, diversity):
    random = np.random.default_rng(seed)
    losses = random.normal(0.3, 0.5, random.integers(1, 7)).round(1 if seed % 3 == 0 else 9)  # some equal
    found = instance_weights(losses, diversity)
    assert ((found >= 0) & (found <= 1)).all()
    best = value(found, losses, diversity)
    for start in random.random((4, len(losses))):
        numeric = minimize(
            lambda v: value(v, losses, diversity), start.clip(0.05, 0.95), bounds=[(1e-9, 1)] * len(losses), method="L-BFGS-B"
        )  # fmt: skip
        assert best <= numeric.fun + 1e-6
    assert best <= min(value(v, losses, diversity) for v in random.random((2000, len(losses)))) + 1e-12
    assert best <= min(value(np.array(v), losses, diversity) for v in product((0.0, 1.0), repeat=len(losses))) + 1e-12


def test_of_weights_in_part_there_is_one_at_most():
    losses = np.array([-0.2, 0.1, 0.15, 0.16, 0.9])
    weights = instance_weights(losses, 0.5)
    np.testing.assert_allclose(weights[[0, 1, 4]], [1, 1, 0])
    assert ((weights > 0) & (weights < 1)).sum() <= 1
    assert instance_weights(np.zeros(0), 0.5).shape == (0,)
    assert (instance_weights(np.array([0.1, 0.1]), 0.0) == 0).all()
    # More diversity never takes weight away: it asks for the same total from every photo.
    assert (instance_weights(losses, 1.0) >= weights).all()


def cost_of(owner, margins, weights, before, hysteresis):
    positive = shown(np.array(owner), margins.shape[1])
    return (weights * hinge(margins, positive)).sum() + hysteresis * (np.array(owner) != before).sum()


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("hysteresis", [0.0, 0.4])
def test_the_labels_are_the_cheapest_of_all_that_are_allowed(seed, hysteresis):
    random = np.random.default_rng(seed)
    tags, count = random.integers(1, 4), random.integers(3, 6)
    margins = random.normal(size=(count, tags))
    weights = random.random((count, tags)) * (random.random((count, tags)) < 0.7)
    before = random.integers(NOTHING, tags, count)
    found = cheapest_labels(margins, weights, before, hysteresis=hysteresis)
    assert set(range(tags)) <= set(found.tolist())
    everything = [owner for owner in product(range(NOTHING, tags), repeat=int(count)) if set(range(tags)) <= set(owner)]
    best = min(cost_of(owner, margins, weights, before, hysteresis) for owner in everything)
    assert cost_of(found, margins, weights, before, hysteresis) == pytest.approx(best, abs=1e-6)


def test_labels_of_what_nobody_believes_stay():
    before = np.array([0, NOTHING, 1, NOTHING])
    margins = np.array([[-2.0, 3.0], [2.0, 2.0], [3.0, -2.0], [1.0, 1.0]])
    np.testing.assert_array_equal(cheapest_labels(margins, np.zeros((4, 2)), before), before)
    changed = cheapest_labels(margins, np.ones((4, 2)), before)
    assert changed[0] == 1
    assert changed[2] == 0
    np.testing.assert_array_equal(cheapest_labels(margins, np.ones((4, 2)), before, hysteresis=9.0), before)


def test_more_tags_than_boxes():
    found = cheapest_labels(np.zeros((1, 3)), np.ones((1, 3)), np.array([NOTHING]))
    assert found.shape == (1,)
    assert found[0] >= 0
    assert first_labels(np.ones((1, 3)), np.array([[0, 0, 4, 4]]))[0] >= 0


def test_first_labels_by_hand():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 3, 3], [20, 0, 30, 10], [0, 1, 10, 10]])
    prior = np.array([[1.0, 0.9], [0.6, 0.8], [0.9, 0.1], [0.5, 0.85], [0.4, 0.3]])
    # Both tags like the first box best: it goes to the first tag, for the second has another that is nearly as good.
    np.testing.assert_array_equal(first_labels(prior, boxes), [0, 0, NOTHING, 1, NOTHING])
    np.testing.assert_array_equal(first_labels(prior[:, :1], boxes, share=0.3), [0, 0, NOTHING, NOTHING, 0])
    np.testing.assert_array_equal(first_labels(np.zeros((5, 1)), boxes) == 0, [True, False, False, False, False])


def test_spread_is_the_mean_overlap_of_the_best():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5], [50, 50, 60, 60]])
    assert spread(boxes, np.array([0.9, 0.8, 0.1]), top=2) == pytest.approx(0.5)
    assert spread(boxes, np.array([0.9, 0.8, 0.1])) == pytest.approx(0.5 / 3)
    assert spread(boxes[:1], np.ones(1)) == 1.0


def test_the_objective_says_what_the_closed_forms_make_small():
    random = np.random.default_rng(3)
    margins, prior, tags = random.normal(size=(5, 2)), random.random((5, 2)), (1, 3)
    owner = np.array([0, 1, NOTHING, 0, NOTHING])
    pace = Pace(np.array([0.3, 9.0, 0.6]), np.array([0.5, 9.0, 1.5]), cost=2.0)
    losses = pace.instance_losses(margins, owner, prior, tags, 1.0)
    best = np.stack([instance_weights(column, pace.diversity) for column in losses.T], axis=1)
    given = photo_objective(margins, owner, best, 1.0, prior, 1.0, tags, pace)
    by_hand = sum(value(best[:, k], losses[:, k], 0.5) for k in range(2)) - (1.0 + 0.2)
    assert given == pytest.approx(by_hand)
    for _ in range(200):
        assert given <= photo_objective(margins, owner, random.random((5, 2)), 1.0, prior, 1.0, tags, pace) + 1e-12
    loss = float((best * hinge(margins, shown(owner, 2))).sum())
    without = photo_objective(margins, owner, best, 0.0, prior, 1.0, tags, pace)
    assert given - without == pytest.approx(pace.photo_loss(loss, 1.0, tags))


@pytest.mark.parametrize("wrong", [{"diversity": -1.0}, {"instance_prior": -0.1}, {"cost": 0.0}])
def test_impossible_paces_are_refused(wrong):
    with pytest.raises(OptionError, match="expected"):
        Pace(np.zeros(1), np.zeros(1), **wrong)
