"""Labels from activations: ties, thresholds in float32, no class, absent tags."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.errors import OptionError
from tagmask.label import (
    background_power,
    background_scores,
    confident_labels,
    dense_labels,
    labels_from_scores,
    resized_labels,
    restrict_to_tags,
    salient_labels,
    strongest,
    threshold_labels,
)
from tagmask.types import Activation, Saliency

few = settings(deadline=None, max_examples=30)


@st.composite
def activations(draw):
    """Activations of 0..3 classes whose values are tenths, so that ties are common."""
    classes = tuple(sorted(draw(st.sets(st.integers(1, 254), max_size=3))))
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    tenths = np.random.default_rng(draw(st.integers(0, 10_000))).integers(0, 11, (len(classes), height, width))
    return Activation((tenths / 10).astype(np.float32), classes)


tenths = st.integers(0, 10).map(lambda n: n / 10)


def label_by_hand(activation, threshold):
    labels = np.zeros(activation.maps.shape[1:], dtype=np.uint8)
    for i, j in np.ndindex(*labels.shape):
        best = np.float32(threshold)
        for k, c in enumerate(activation.classes):
            if activation.maps[k, i, j] > best:
                best, labels[i, j] = activation.maps[k, i, j], c
    return labels


@few
@given(activation=activations(), threshold=tenths)
def test_threshold_labels_is_the_loop_and_the_argmax_of_background_scores(activation, threshold):
    labels = threshold_labels(activation, threshold).labels
    np.testing.assert_array_equal(labels, label_by_hand(activation, threshold))
    stacked = labels_from_scores(background_scores(activation, threshold), activation.classes)
    np.testing.assert_array_equal(labels, stacked.labels)


@few
@given(activation=activations(), pair=st.tuples(tenths, tenths).map(sorted))
def test_confident_labels_agree_with_both_thresholds(activation, pair):
    low, high = pair
    labels = confident_labels(activation, low, high).labels
    at_low, at_high = threshold_labels(activation, low).labels, threshold_labels(activation, high).labels
    np.testing.assert_array_equal(labels, np.where(at_high > 0, at_high, np.where(at_low == 0, 0, 255)))


def test_confident_labels_by_hand():
    maps = np.array([[[0.05, 0.1, 0.2, 0.3, 0.4]], [[0.0, 0.0, 0.0, 0.3, 0.9]]], dtype=np.float32)
    labels = confident_labels(Activation(maps, classes=(2, 5)), low=0.1, high=0.29).labels
    assert labels.tolist() == [[0, 0, 255, 2, 5]]  # 0.1 is not above 0.1; of two classes at 0.3 the first wins


def test_a_value_equal_to_the_threshold_in_float32_is_background():
    activation = Activation(np.full((1, 1, 1), 0.3, dtype=np.float32), classes=(1,))
    assert float(activation.maps[0, 0, 0]) > 0.3  # float32 rounds 0.3 up: compared in float64 it would not tie
    assert threshold_labels(activation, np.float64(0.3)).labels.item() == 0
    assert threshold_labels(activation, 0.2999).labels.item() == 1


def test_without_classes_everything_is_background():
    nothing = Activation(np.zeros((0, 2, 3), dtype=np.float32), classes=())
    for labels in (
        threshold_labels(nothing, 0.0),
        confident_labels(nothing, low=0.0, high=0.0),
        labels_from_scores(background_power(nothing, alpha=4), classes=()),
    ):
        np.testing.assert_array_equal(labels.labels, np.zeros((2, 3)))
    assert threshold_labels(nothing, 0.2, size=(4, 5)).labels.shape == (4, 5)


def test_resizing_interpolates_the_maps_not_the_labels():
    maps = np.array([[[1.0, 0.0]], [[0.0, 0.6]]], dtype=np.float32)
    activation = Activation(maps, classes=(4, 9))
    # Pixel centres of the four new columns lie at 0, 1/4, 3/4, 1 of the way from the first old centre to the second.
    winner, value = strongest(activation, size=(1, 4))
    np.testing.assert_allclose(value, [[1.0, 0.75, 0.45, 0.6]], atol=1e-6)
    assert winner.tolist() == [[4, 4, 9, 9]]
    assert threshold_labels(activation, 0.5, size=(1, 4)).labels.tolist() == [[4, 4, 0, 9]]


def test_resized_scores_are_labelled_without_absent_classes_and_ties_go_to_the_first():
    scores = np.array([[[0.5, 0.5]], [[0.5, 0.9]], [[9.0, 9.0]]], dtype=np.float32)
    restricted = restrict_to_tags(scores, tags=(1,))
    assert resized_labels(restricted, classes=(0, 1, 2), size=(1, 2)).labels.tolist() == [[0, 1]]
    # Resized to four columns, class 1 has 0.5, 0.6, 0.8, 0.9; minus infinity stays behind.
    assert resized_labels(restricted, classes=(0, 1, 2), size=(2, 4)).labels.tolist() == [[0, 1, 1, 1]] * 2
    assert resized_labels(scores, classes=(0, 4, 7), size=(3, 1)).labels.tolist() == [[7]] * 3


def test_background_power_by_hand():
    maps = np.array([[[0.5, 0.2]], [[0.1, 0.9]]], dtype=np.float32)
    scores = background_power(Activation(maps, classes=(1, 2)), alpha=2)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores[0], [[0.25, 0.01]], atol=1e-6)
    np.testing.assert_array_equal(scores[1:], maps)


def test_absent_classes_are_impossible_and_the_input_is_untouched():
    scores = np.array([0.1, 0.9, 0.8, 0.2])[:, None, None]
    restricted = restrict_to_tags(scores, tags=(3,))
    assert restricted.flatten().tolist() == [0.1, -np.inf, -np.inf, 0.2]
    assert scores[1, 0, 0] == 0.9
    assert restrict_to_tags(scores, tags=()).argmax(axis=0).item() == 0


def test_bad_values_are_refused():
    activation = Activation(np.zeros((1, 1, 1), dtype=np.float32), classes=(1,))
    for wrong in (-0.1, 30, float("nan")):
        with pytest.raises(OptionError, match="threshold"):
            threshold_labels(activation, wrong)
    with pytest.raises(OptionError, match="low <= high"):
        confident_labels(activation, low=0.4, high=0.3)
    with pytest.raises(OptionError, match="above 0"):
        background_power(activation, alpha=0)
    with pytest.raises(ValueError, match="scores must be"):
        labels_from_scores(np.zeros((2, 1, 1)), classes=(1, 2))
    for tag in (0, 2):
        with pytest.raises(ValueError, match="tags must lie"):
            restrict_to_tags(np.zeros((2, 1, 1)), tags=(tag,))


@few
@given(activations(), st.integers(0, 10_000), st.sampled_from([0.01, 0.3]))
def test_labels_against_saliency_step_by_step(activation, seed, smallest):
    height, width = activation.maps.shape[1:]
    grey = np.random.default_rng(seed).choice([0, 10, 20, 31, 32, 33, 60, 200, 255], size=(height, width))
    saliency = (grey / 255).astype(np.float32)
    found = salient_labels(activation, Saliency(grey.astype(np.uint8)), smallest=smallest).labels
    if not activation.classes:
        assert not found.any()
        return
    expected = np.zeros((height, width), dtype=int)
    for y, x in np.ndindex(height, width):
        scores = [float(1 - saliency[y, x]), *(float(value) for value in activation.maps[:, y, x])]
        sure = [score if score >= np.float32(0.3) else 0.0 for score in scores]
        best = sure.index(max(sure))
        expected[y, x] = 0 if best == 0 else activation.classes[best - 1]
        if sum(score > np.float32(0.9) for score in scores) > 1:
            expected[y, x] = 255
        if expected[y, x] == 0 and (grey[y, x] >= 32 or max(scores[1:]) > np.float32(0.8)):
            expected[y, x] = 255
    objects = sum(1 <= label <= 254 for label in expected.ravel())
    np.testing.assert_array_equal(found, 255 if objects < smallest * height * width else expected)


@few
@given(activations(), st.integers(0, 10_000), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_dense_labels_pixel_by_pixel(activation, seed, share):
    height, width = activation.maps.shape[1:]
    saliency = np.random.default_rng(seed).choice(np.float32([0, 0.05, 0.06, 0.07, 1]), size=(height, width))
    found = dense_labels(activation, saliency, share=share, background=0.06).labels
    for y, x in np.ndindex(height, width):
        things = {}
        for klass, plane in zip(activation.classes, activation.maps, strict=True):
            if plane[y, x] > 0 and plane[y, x] >= np.float32(share) * plane.max():
                things[klass] = plane[y, x]
        ground = saliency[y, x] < np.float32(0.06)
        best = [klass for klass, value in things.items() if value == max(things.values())]
        if not activation.classes or (ground and not things):
            expected = 0
        elif ground or len(best) != 1:
            expected = 255
        else:
            expected = best[0]
        assert found[y, x] == expected


def test_dense_labels_on_a_line():
    maps = np.array([[[0.0, 0.2, 0.3, 1.0, 0.6, 0.6, 0.5]], [[0.0, 0.0, 0.0, 0.0, 0.6, 0.9, 0.9]]], dtype=np.float32)
    saliency = np.array([[0.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.05]], dtype=np.float32)
    found = dense_labels(Activation(maps, (3, 9)), saliency, share=0.3, background=0.06)
    assert found.labels.tolist() == [[0, 255, 3, 3, 255, 9, 255]]  # unsure, both classes alike, object on background
    with pytest.raises(OptionError, match="threshold"):
        dense_labels(Activation(maps, (3, 9)), saliency, share=1.3, background=0.06)
