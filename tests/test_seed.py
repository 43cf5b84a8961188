"""SEC's cues against loops over pixels, and their conflicts by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.errors import OptionError
from tagmask.seed import (
    background_cues,
    claimed_cues,
    cue_labels,
    foreground_cues,
    strongest_cues,
    with_every_class,
)
from tagmask.types import LabelMap

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


@few
@given(shape=grids, seed=seeds, share=st.sampled_from([0.01, 0.2, 0.5, 1.0]))
def test_strongest_cues_are_the_top_of_a_sorted_map(shape, seed, share):
    maps = np.random.default_rng(seed).integers(-2, 4, size=shape).astype(np.float32)  # with ties
    cues = strongest_cues(maps, share)
    for k in range(shape[0]):
        ranked = sorted(maps[k].flatten(), reverse=True)
        least = ranked[max(1, round(share * len(ranked))) - 1]
        for i, j in np.ndindex(*shape[1:]):
            assert cues[k, i, j] == (maps[k, i, j] >= least and maps[k, i, j] > 0)


@pytest.mark.parametrize("share", [0.0, 1.1])
def test_a_share_of_nothing_or_more_than_all_is_refused(share):
    with pytest.raises(OptionError, match="share"):
        strongest_cues(np.ones((1, 2, 2)), share)


@few
@given(shape=grids, seed=seeds)
def test_a_cell_goes_to_the_best_of_the_classes_that_claim_it(shape, seed):
    random = np.random.default_rng(seed)
    highest, mean = random.random(shape), random.integers(0, 3, size=shape)
    cues = claimed_cues(highest, mean, least=0.35)
    assert cues.shape == shape
    for i, j in np.ndindex(*shape[1:]):
        claiming = [k for k in range(shape[0]) if highest[k, i, j] > 0.35]
        best = max(claiming, key=lambda k: (mean[k, i, j], -k), default=None)
        assert [bool(c) for c in cues[:, i, j]] == [k == best for k in range(shape[0])]


def test_every_class_keeps_a_cue():
    labels = LabelMap(np.array([[0, 0, 3], [255, 255, 255]], dtype=np.uint8))
    maps = np.array([[[0, 0, 9], [0, 0, 0]], [[0, 1, 8], [2, 0, 0]], [[0, 0, 0], [0, 0, 0]]], dtype=np.float32)
    saliency = np.array([[0.1, 0.1, 0.9], [0.9, 0.3, 0.2]])
    given = with_every_class(labels, maps, (3, 5, 7), saliency)
    # 5 does not take the only cue of 3, though its map is highest there; the map of 7 is blank, and 5 has the most salient
    np.testing.assert_array_equal(given.labels, [[0, 0, 3], [5, 7, 255]])
    np.testing.assert_array_equal(with_every_class(given, maps, (3, 5, 7), saliency).labels, given.labels)
    one = LabelMap(np.array([[3]], dtype=np.uint8))
    assert with_every_class(one, np.ones((2, 1, 1)), (3, 5), np.ones((1, 1))).labels.tolist() == [[3]]
