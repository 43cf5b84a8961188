"""K-means in one dimension against all ways to cut the sorted values."""

from itertools import combinations, combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.errors import OptionError
from tagmask.refine.kmeans import kmeans_1d


def cost(values, centres, labels):
    return float(((values - centres[labels]) ** 2).sum())


def least_cost(values, clusters, lowest):
    """The least cost over all ways to cut the sorted values into intervals; the first may be empty if its centre is fixed."""
    x = np.sort(values.ravel())
    places = range(len(x)) if lowest is not None else range(1, len(x))
    ways = combinations_with_replacement if lowest is not None else combinations
    best = np.inf
    for k in range(1, clusters + 1):
        for cuts in ways(places, k - 1):
            parts = np.split(x, cuts)
            first = parts[0].mean() if lowest is None else lowest
            total = ((parts[0] - first) ** 2).sum()
            best = min(best, total + sum(((p - p.mean()) ** 2).sum() for p in parts[1:] if len(p)))
    return best


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=9), st.integers(1, 4), st.booleans(), st.sampled_from([0.0, 1e4])
)
def test_no_cut_is_better(numbers, clusters, pinned, offset):
    values = np.array(numbers) / 7 + offset
    lowest = offset if pinned else None
    centres, labels = kmeans_1d(values, clusters, lowest=lowest)
    assert cost(values, centres, labels) == pytest.approx(least_cost(values, clusters, lowest), abs=1e-6)
    assert (np.diff(centres) > 0).all()
    above = len(set(numbers) - {0})
    assert len(centres) == (min(clusters, 1 + above) if pinned else min(clusters, len(set(numbers))))
    for index, centre in enumerate(centres):
        if index == 0 and pinned:
            assert centre == offset
        else:
            assert centre == pytest.approx(values[labels == index].mean(), abs=1e-9)


def test_many_values_are_nearest_to_their_own_centre():
    random = np.random.default_rng(0)
    values = random.exponential(size=(120, 90))
    for lowest in (None, 0.0):
        centres, labels = kmeans_1d(values, 5, lowest=lowest)
        assert labels.shape == values.shape
        np.testing.assert_array_equal(labels, np.abs(values[..., None] - centres).argmin(axis=2))
        for index in range(0 if lowest is None else 1, 5):
            assert centres[index] == pytest.approx(values[labels == index].mean())


def test_equal_values_are_one_cluster():
    for value in (0.0, 0.3, -5.0):
        centres, labels = kmeans_1d(np.full((4, 5), value))
        assert centres.tolist() == [value]
        assert not labels.any()
    centres, labels = kmeans_1d(np.zeros(7), lowest=0.0)
    assert (centres.tolist(), labels.any()) == ([0.0], False)


def test_a_fixed_centre_keeps_the_others_for_what_is_not_there():
    values = np.concatenate([np.zeros(1000), [1.0, 1.1, 5.0, 5.1], [0.02] * 900])
    free, _ = kmeans_1d(values, 3)
    fixed, labels = kmeans_1d(values, 3, lowest=0.0)
    assert (fixed[0], free[0] > 0) == (0.0, True)
    np.testing.assert_allclose(fixed, [0.0, 1.05, 5.05])
    assert labels[-1] == 0
    centres, labels = kmeans_1d(np.array([4.0, 5.0, 4.0]), 3, lowest=0.0)  # nothing is near 0
    assert (centres.tolist(), labels.tolist()) == ([0.0, 4.0, 5.0], [1, 2, 1])


def test_nonsense_is_refused():
    for clusters in (0, 256):
        with pytest.raises(OptionError, match="expected 1 to 255"):
            kmeans_1d(np.ones(3), clusters)
    for values in (np.zeros(0), np.array([1.0, np.nan]), np.array([-np.inf, 0.0])):
        with pytest.raises(ValueError, match="finite values"):
            kmeans_1d(values)
    with pytest.raises(ValueError, match=r"of 0\.5 or more"):
        kmeans_1d(np.array([0.4, 1.0]), lowest=0.5)
