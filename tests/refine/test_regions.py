"""Seeds, votes, draws and posteriors of regions against loops written from the equations."""

from __future__ import annotations

from math import log, prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.refine.regions import (
    evenly,
    joined_regions,
    local_maxima,
    majority,
    object_posterior,
    region_scores,
    seed_regions,
)
from tagmask.refine.superpixels import adjacency, without_gaps

SEEDS = st.integers(0, 999)


def partition(random, height, width, regions):
    return without_gaps(random.integers(0, regions, (height, width)))


def neighbours(ids):
    beside = {region: set() for region in range(ids.max() + 1)}
    for y, x in np.ndindex(*ids.shape):
        for v, u in ((y, x + 1), (y + 1, x)):
            if v < ids.shape[0] and u < ids.shape[1] and ids[v, u] != ids[y, x]:
                beside[ids[y, x]].add(ids[v, u])
                beside[ids[v, u]].add(ids[y, x])
    return beside


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.integers(0, 3), st.booleans(), SEEDS)
def test_seeds_are_what_loops_find(height, width, regions, classes, salient, seed):
    random = np.random.default_rng(seed)
    ids = partition(random, height, width, regions)
    maps = (random.integers(0, 11, (classes, height, width)) / 10).astype(np.float32)  # tenths: there are ties
    tags = tuple(sorted(random.choice(np.arange(1, 9), classes, replace=False).tolist()))
    n, beside = int(ids.max()) + 1, neighbours(ids)
    scores = region_scores(maps, ids)
    saliency = random.random(n) / 2 if salient else None
    got = seed_regions(
        scores, adjacency(ids), tags, floor=0.4, above=0.6, ground=0.5, saliency=saliency, dark=0.25
    )  # fmt: skip
    assert scores.shape == (n, classes)
    for s in range(n):
        mean = [np.mean([maps[k][y, x] for y, x in zip(*np.where(ids == s), strict=True)]) for k in range(classes)]
        np.testing.assert_allclose(scores[s], mean, atol=1e-6)
        claims = [
            k for k in range(classes)
            if scores[s, k] > 0.6 or (scores[s, k] >= 0.4 and all(scores[s, k] >= scores[t, k] for t in beside[s]))
        ]  # fmt: skip
        ground = all(scores[s] < 0.5) and (saliency is None or saliency[s] < 0.25)
        expected = 0 if ground else 255
        if claims:
            expected = tags[max(claims, key=lambda k: (scores[s, k], -k))]
        assert got[s] == expected


def test_equal_neighbours_are_both_maxima_and_a_lone_region_is_one():
    ids = np.array([[0, 1, 2]])
    got = local_maxima(np.array([[0.3, 0.1], [0.3, 0.2], [0.1, 0.9]]), adjacency(ids))
    np.testing.assert_array_equal(got, [[True, False], [True, False], [False, True]])
    assert local_maxima(np.zeros((1, 2)), adjacency(np.zeros((2, 2), dtype=int))).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 6), SEEDS)
def test_majority_is_what_a_loop_counts(height, width, regions, seed):
    random = np.random.default_rng(seed)
    ids = partition(random, height, width, regions)
    labels = random.choice(np.array([0, 3, 7, 255], dtype=np.uint8), (height, width))
    got = majority(labels, ids)
    assert got.dtype == np.uint8
    for region in range(ids.max() + 1):
        votes = labels[ids == region]
        votes = votes[votes != 255].tolist()
        expected = min(set(votes), key=lambda label: (-votes.count(label), label)) if votes else 255
        assert got[region] == expected


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 40), st.integers(1, 30), SEEDS)
def test_drawing_is_as_even_as_the_labels_last(count, most, seed):
    random = np.random.default_rng(seed)
    labels = random.choice(np.array([0, 0, 0, 0, 2, 5, 255], dtype=np.uint8), count)
    chosen = evenly(labels, most, random)
    known = labels[labels != 255]
    assert len(chosen) == min(most, len(known))
    assert len(set(chosen)) == len(chosen)
    assert (labels[chosen] != 255).all()
    drawn = {label: int((labels[chosen] == label).sum()) for label in set(known.tolist())}
    for label, times in drawn.items():  # who has fewer than another by two or more has none left
        assert times >= max(drawn.values()) - 1 or times == (labels == label).sum()


def test_every_region_is_drawn_at_some_time():
    random, labels = np.random.default_rng(0), np.array([0] * 20 + [4, 4] + [255], dtype=np.uint8)
    times = np.zeros(23)
    for _ in range(300):
        times[evenly(labels, 6, random)] += 1
    assert (times[20:22] == 300).all()  # three of each wanted, two there
    assert (times[:20] > 30).all()
    assert times[22] == 0


def by_hand(lab, ids, objects, ground, prior, bins, averaged):
    """Equation 2 with products of probabilities, pixel by pixel."""
    height, width = ids.shape
    places = [(y, x) for y in range(height) for x in range(width)]

    def level(value):
        return min(int(value * bins), bins - 1)

    def probability(channel, wanted, chosen):
        pixels = [p for p in places if chosen[ids[p]]]
        hits = sum(level(lab[p][channel]) == wanted for p in pixels)
        return (hits + 1) / (len(pixels) + bins)

    found = []
    for v in range(ids.max() + 1):
        mine = [p for p in places if ids[p] == v]
        likelihood = []
        for chosen in (objects, ground):
            if averaged:
                logs = [sum(log(probability(c, level(lab[p][c]), chosen)) for c in range(3)) for p in mine]
                likelihood.append(np.exp(sum(logs) / len(logs)))
            else:
                mean = [sum(lab[p][c] for p in mine) / len(mine) for c in range(3)]
                likelihood.append(prod(probability(c, level(mean[c]), chosen) for c in range(3)))
        up, down = prior[v] * likelihood[0], (1 - prior[v]) * likelihood[1]
        found.append(up / (up + down))
    return found


@pytest.mark.parametrize("averaged", [False, True])
@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(3, 6), st.integers(1, 4), st.integers(1, 16), SEEDS)
def test_posterior_is_equation_2(averaged, height, width, regions, bins, seed):
    random = np.random.default_rng(seed)
    ids = partition(random, height, width, regions)
    lab = random.integers(0, 256, (height, width, 3)) / 255
    kind = random.integers(0, 3, ids.max() + 1)  # object, ground, unknown
    prior = random.integers(0, 5, ids.max() + 1) / 4  # 0 and 1 among them
    got = object_posterior(lab, ids, kind == 0, kind == 1, prior, bins=bins, averaged=averaged)
    np.testing.assert_allclose(got, by_hand(lab, ids, kind == 0, kind == 1, prior, bins, averaged), rtol=1e-9)


def test_three_superpixels_by_hand():
    """Two bins. The object is bright (4 pixels), the ground dark (4), and the third, of 2 pixels, is bright as well."""
    ids = np.array([[0, 0, 1, 1, 2], [0, 0, 1, 1, 2]])
    lab = np.repeat(np.array([[[0.9], [0.9], [0.1], [0.1], [0.9]]] * 2), 3, axis=2)
    objects, ground = np.array([True, False, False]), np.array([False, True, True])
    # bright: (4 + 1) / (4 + 2) in the object, (2 + 1) / (6 + 2) in the ground, in each of three channels alike
    bright, dark = (5 / 6 / (3 / 8)) ** 3, (1 / 6 / (5 / 8)) ** 3
    ratio = np.array([bright, dark, bright])
    got = object_posterior(lab, ids, objects, ground, np.full(3, 0.5), bins=2)
    np.testing.assert_allclose(got, ratio / (1 + ratio))  # a prior of one half: the likelihoods alone
    prior = np.array([0.2, 0.9, 0.0])
    odds = prior / (1 - prior) * ratio
    got = object_posterior(lab, ids, objects, ground, prior, bins=2)
    np.testing.assert_allclose(got, odds / (1 + odds))
    assert got[2] == 0


def test_without_ground_not_everything_is_object():
    ids = np.array([[0, 1]])
    lab = np.array([[[0.1] * 3, [0.9] * 3]])
    got = object_posterior(lab, ids, np.array([True, False]), np.array([False, False]), np.full(2, 0.5))
    assert 0.5 < got[0] < 1
    assert 0 < got[1] < 0.5


def test_who_joins():
    labels = np.array([3, 0, 0, 0, 255, 255, 5], dtype=np.uint8)
    posterior = np.array([0.1, 0.51, 0.4, 0.2, 0.9, 0.4, 0.9])
    got = joined_regions(labels, posterior, 3, above=0.5)
    np.testing.assert_array_equal(got, [3, 3, 0, 0, 3, 255, 5])
    got = joined_regions(labels, posterior, 3, above=0.5, unsure=0.3)
    np.testing.assert_array_equal(got, [3, 3, 255, 0, 3, 255, 5])
    assert labels[1] == 0
