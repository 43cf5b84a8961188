"""Intervals that can be worked out by hand, and those of plain resampling in a loop."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from tagmask.evaluate import Confusion
from tagmask.video.bootstrap import difference, mean, miou, over_blocks, over_units, paired


def by_hand(values, level):
    """Percentiles of the mean over all n^n draws, each equally likely."""
    draws = sorted(float(sum(map(Fraction, draw)) / len(values)) for draw in product(values, repeat=len(values)))
    tail = 50 * (1 - level)
    return np.percentile(draws, [tail, 100 - tail])


def test_two_sequences_give_three_means():
    """Differences 0 and 4: drawn twice the mean is 0, 2 or 4 with the chances 1/4, 1/2, 1/4."""
    found = paired([1, 1], [1, 5], level=0.95)
    assert (found.value, found.low, found.high) == (2, 0, 4)
    assert not found.resolved
    middle = paired([1, 1], [1, 5], level=0.4)  # from 30 % to 70 %: within the half that is 2
    assert (middle.low, middle.high) == (2, 2)
    assert middle.resolved


def test_all_draws_of_five_sequences():
    values = [-3, 1, 2, 4, 7]
    found = paired(np.zeros(5), values, draws=40_000, level=0.8)
    low, high = by_hand(values, 0.8)
    assert found.value == pytest.approx(2.2)
    assert found.low == pytest.approx(low, abs=0.11)
    assert found.high == pytest.approx(high, abs=0.11)


def test_the_same_seed_gives_the_same_interval():
    a, b = np.random.default_rng(0).random((2, 12))
    assert paired(a, b, draws=1200, seed=5) == paired(a, b, draws=1200, seed=5)
    assert paired(a, b, draws=1200, seed=5) != paired(a, b, draws=1200, seed=6)


def test_a_difference_is_resolved_where_the_interval_leaves_out_zero():
    rng = np.random.default_rng(0)
    base = rng.normal(50, 23, 20)
    assert paired(base, base + rng.normal(5, 1, 20)).resolved  # the spread of sequences does not hide it
    assert paired(base, base - rng.normal(5, 1, 20)).high < 0
    assert not paired(base, base + rng.normal(0, 4, 20)).resolved


def test_blocks_are_drawn_whole():
    """Twenty frames, ten of 0 and ten of 1: two blocks, so the mean is 0, 1/2 or 1; frame by frame it is near 1/2."""
    values = np.stack([np.repeat([0.0, 1.0], 10), np.ones(20)], axis=1)
    blocks = over_blocks(values, mean)
    assert (blocks.value, blocks.low, blocks.high) == (0.5, 0, 1)
    frames = over_blocks(values, mean, block=1)
    assert 0.2 < frames.low < 0.4
    assert 0.6 < frames.high < 0.8


def test_blocks_are_of_nearly_equal_length_and_never_reach_over_a_cut():
    seen = []

    def spy(sums):
        seen.append(sums)
        return sums[:, 0]

    # 26 and 3 frames in blocks of 10: 8 + 9 + 9, and one of 3. The weights of units show up in one-hot sums.
    units = np.zeros((29, 1))
    units[[0, 8, 17, 26], 0] = [1, 100, 10_000, 1_000_000]
    over_blocks(units, spy, clips=[26, 3], draws=50)
    counts = np.stack([(seen[0][:, 0] // 100**k % 100) for k in range(4)], axis=1)
    assert (counts.sum(axis=1) == 4).all()
    lengths = over_blocks(np.ones((29, 1)), lambda sums: sums[:, 0], clips=[26, 3], draws=4000, level=0.999)
    assert (lengths.low, lengths.high) == (12, 36)  # four times the shortest, the longest block


def looped_miou(matrix):
    hits = np.diagonal(matrix)
    unions = [matrix[c].sum() + matrix[:, c].sum() - hits[c] for c in range(len(matrix))]
    return np.mean([h / u for h, u in zip(hits, unions, strict=True) if u])


def counts_of(seed, frames=24, classes=5):
    rng, made = np.random.default_rng(seed), []
    for _ in range(frames):
        confusion = Confusion(classes)
        truth = rng.integers(0, classes - 1, (8, 9), dtype=np.uint8)
        confusion.add(truth, np.where(rng.random((8, 9)) < 0.3, rng.choice([0, 1, 255]), truth).astype(np.uint8))
        made.append(confusion.matrix)
    return np.stack(made)


def test_miou_is_that_of_the_summed_counts():
    counts = counts_of(0)
    found = over_blocks(counts, miou, draws=400, seed=3)
    whole = Confusion(5)
    whole.matrix = counts.sum(axis=0)
    assert found.value == pytest.approx(whole.scores().miou)
    assert found.low < found.value < found.high
    assert miou(counts.astype(float)) == pytest.approx([looped_miou(one) for one in counts])
    assert np.isnan(miou(np.zeros((1, 5, 6)))).all()


def test_both_sides_of_a_difference_are_drawn_together():
    counts = counts_of(0)
    same = over_blocks(np.stack([counts, counts], axis=1), difference(miou), draws=200)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    other = counts_of(1)
    found = over_blocks(np.stack([counts, other], axis=1), difference(miou), draws=200)
    assert found.value == pytest.approx(over_blocks(other, miou).value - over_blocks(counts, miou).value)


def test_impossible_requests_are_refused():
    with pytest.raises(ValueError, match="one number a sequence"):
        paired([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="one number a sequence"):
        paired([], [])
    with pytest.raises(ValueError, match="do not cut up 20 frames"):
        over_blocks(np.ones((20, 2)), mean, clips=[10, 11])
    with pytest.raises(ValueError, match="cannot draw 0 times"):
        over_units(np.ones((3, 2)), mean, draws=0)
