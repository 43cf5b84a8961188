"""SEC's cues against loops over pixels, and their conflicts by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.errors import OptionError
from tagmask.seed import background_cues, cue_labels, foreground_cues

few = settings(deadline=None, max_examples=30)
grids = st.tuples(st.integers(0, 3), st.integers(1, 6), st.integers(1, 6))  # K, h, w
seeds = st.integers(0, 10_000)


@few
@given(shape=grids, seed=seeds)
def test_foreground_cues_exceed_a_fraction_of_their_own_maximum(shape, seed):
    maps = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    cues = foreground_cues(maps, classes=range(1, shape[0] + 1), fraction=0.2)
    for k, i, j in np.ndindex(*shape):
        assert cues[k, i, j] == (maps[k, i, j] > np.float32(0.2) * max(maps[k].flatten()))


def test_a_map_that_is_nowhere_positive_gives_no_cue():
    maps = np.array([[[-1.0, -0.1]], [[0.0, 0.0]]])
    assert not foreground_cues(maps, classes=(1, 2)).any()


@few
@given(
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7)), seed=seeds, quantile=st.sampled_from([0.0, 0.1, 0.5, 1.0])
)
def test_background_cues_are_the_least_salient_pixels_of_the_median(shape, seed, quantile):
    saliency = np.random.default_rng(seed).random(shape)
    height, width = shape
    padded = np.pad(saliency, 1, mode="symmetric")
    median = np.array([[np.median(padded[i : i + 3, j : j + 3]) for j in range(width)] for i in range(height)])
    ranked = sorted(median.flatten())
    place = quantile * (len(ranked) - 1)  # between two ranks the value is interpolated
    under, over = ranked[int(place)], ranked[min(int(place) + 1, len(ranked) - 1)]
    limit = under + (over - under) * (place - int(place))
    sure = np.abs(median - limit) > 1e-12
    np.testing.assert_array_equal(background_cues(saliency, quantile)[sure], (median < limit)[sure])


def test_a_speck_is_no_background_and_a_constant_map_gives_none():
    saliency = np.ones((9, 9))
    saliency[4, 4] = 0  # the median removes it
    assert not background_cues(saliency).any()
    saliency[:3, :3] = 0
    cues = background_cues(saliency, quantile=0.15)
    assert cues[0, 0]
    assert not cues[4, 4]


def test_conflicts_by_hand():
    large, small = [[1, 1, 1, 0, 0, 0]], [[0, 1, 1, 0, 0, 0]]
    background = np.array([[1, 0, 1, 1, 1, 0]], dtype=bool)
    labels = cue_labels(np.array([large, small], dtype=bool), classes=(3, 8), background=background).labels
    assert labels.tolist() == [[3, 8, 8, 0, 0, 255]]
    swapped = cue_labels(np.array([small, large], dtype=bool), classes=(3, 8), background=background).labels
    assert swapped.tolist() == [[8, 3, 3, 0, 0, 255]]


@few
@given(shape=grids, seed=seeds)
def test_the_smallest_class_wins_and_the_first_of_equal_ones(shape, seed):
    random = np.random.default_rng(seed)
    foreground, background = random.random(shape) < 0.5, random.random(shape[1:]) < 0.5
    classes = tuple(range(5, 5 + shape[0]))
    labels = cue_labels(foreground, classes, background).labels
    for i, j in np.ndindex(*shape[1:]):
        claims = [(int(foreground[k].sum()), c) for k, c in enumerate(classes) if foreground[k, i, j]]
        wanted = min(claims)[1] if claims else (0 if background[i, j] else 255)
        assert labels[i, j] == wanted


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="maps must be"):
        foreground_cues(np.zeros((2, 3, 3)), classes=(1,))
    with pytest.raises(ValueError, match="foreground must be"):
        cue_labels(np.zeros((1, 3, 3), dtype=bool), classes=(1,), background=np.zeros((2, 3), dtype=bool))
    with pytest.raises(OptionError, match="fraction"):
        foreground_cues(np.zeros((1, 3, 3)), classes=(1,), fraction=20)
    with pytest.raises(OptionError, match="quantile"):
        background_cues(np.zeros((3, 3)), quantile=10)
