"""Views, classifier, segmenter, threshold and sharpening, each on what can be checked by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.augment import random_view, resize
from tagmask.classify import balanced_weights, fit_classifier, tag_counts
from tagmask.data.photos import Photos, Truth
from tagmask.errors import DataError, OptionError
from tagmask.fit import Schedule
from tagmask.nets.segmenter import build_segmenter
from tagmask.progress import Narrator
from tagmask.refine.crf import IRN_CRF
from tagmask.refine.sharpen import sharpen
from tagmask.segment import TILE, LabelledViews, WarpedViews, fit_to_photo, predict_labels, predict_scores
from tagmask.threshold import choose_threshold, colour_information, dominant_colours, peak
from tagmask.types import Activation, LabelMap, Photo
from tagmask.work import Job

FILL = np.array([10, 20, 30], dtype=np.uint8)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(4, 40), st.floats(0.2, 2.5), st.integers(0, 99))
def test_views_keep_photo_and_labels_together(height, width, crop, scale, seed):
    labels = np.arange(height * width, dtype=np.uint32).reshape(height, width) % 200
    pixels = np.repeat(labels[..., None].astype(np.uint8), 3, axis=2)
    random = np.random.default_rng(seed)
    view, seen = random_view(pixels, labels.astype(np.uint8), crop=crop, scale=1.0, fill=FILL, random=random)
    assert view.shape == (crop, crop, 3)
    inside = seen != 255
    assert inside.sum() == min(height, crop) * min(width, crop)
    np.testing.assert_array_equal(view[inside][:, 0], seen[inside])
    assert (view[~inside] == FILL).all()
    view, seen = random_view(pixels, labels.astype(np.uint8), crop=crop, scale=scale, fill=FILL, random=random)
    assert view.shape[:2] == seen.shape == (crop, crop)


def test_resizing_is_exact_where_it_can_be():
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.testing.assert_array_equal(resize(pixels, 2, 4), pixels)
    np.testing.assert_array_equal(resize(np.repeat(np.repeat(pixels, 2, 0), 2, 1), 2, 4), pixels)


def test_counts_and_balance(toy):
    photos = Photos(toy.train)
    counts = tag_counts(photos, 5)
    assert counts.tolist() == [sum(tag in s.tags for s in toy.train) for tag in range(1, 6)]
    np.testing.assert_allclose(balanced_weights(np.array([1, 5, 0, 10]), 10), [[10 / 18, 1, 0.5, 1], [5, 1, 1, 0.5]])


def test_nothing_to_learn_is_said_at_once(toy, tmp_path, work):
    negatives = [type(s)(s.name, s.image, tags=()) for s in toy.train]
    job = Job(tmp_path, "cpu", "32-true", Narrator(quiet=True), "c")
    schedule = Schedule(epochs=1, batch=2, rate=0.1)
    with pytest.raises(DataError, match="no image has a tag"):
        fit_classifier(Photos(negatives), work.backbone, classes=5, crop=32, schedule=schedule, seed=0, job=job)


def test_training_views_of_both_kinds(toy):
    truth = Truth(toy.train, classes=6)
    views = LabelledViews(Photos(toy.train), truth, crop=40, scales=(0.5, 2.0), fill=FILL)
    image, labels = views.example(0, np.random.default_rng(0))
    assert (image.shape, labels.shape) == ((3, 40, 40), (40, 40))
    warped = WarpedViews(Photos(toy.train), truth, classes=6, size=33)
    image, labels, tags = warped.example(1, np.random.default_rng(0))
    assert (image.shape, labels.shape) == ((3, 33, 33), (48, 48))
    assert tuple(np.flatnonzero(tags) + 1) == toy.train[1].tags


def test_warped_photos_and_their_labels_are_mirrored_by_one_coin(toy):
    photos, truth = Photos(toy.train), Truth(toy.train, classes=6)
    plain = WarpedViews(photos, truth, classes=6, size=33).example(0, np.random.default_rng(0))
    views = WarpedViews(photos, truth, classes=6, size=33, mirror=True)
    seen = set()
    for seed in range(8):
        image, labels, _ = views.example(0, np.random.default_rng(seed))
        way = 1 if (image == plain[0]).all() else -1
        seen.add(way)
        np.testing.assert_array_equal(image, plain[0][:, :, ::way])
        np.testing.assert_array_equal(labels, plain[1][:, ::way])
    assert seen == {1, -1}


@pytest.fixture(scope="module")
def segmenter():
    from tests.conftest import TINY

    torch.manual_seed(0)
    return build_segmenter("deeplab-v3", TINY, 4, width=8).eval()


def test_predictions_use_the_tags_only_when_told(segmenter):
    pixels = np.random.default_rng(0).integers(0, 256, size=(40, 50, 3), dtype=np.uint8)
    scores = predict_scores(segmenter, pixels)
    np.testing.assert_allclose(scores.sum(axis=0), 1, atol=1e-5)
    free = predict_labels(segmenter, Photo("p", pixels, tags=(2,)))
    np.testing.assert_array_equal(free.labels, scores.argmax(axis=0))
    held = predict_labels(segmenter, Photo("p", pixels, tags=(2,)), use_tags=True)
    np.testing.assert_array_equal(held.labels, np.where(scores[2] > scores[0], 2, 0))
    np.testing.assert_array_equal(
        predict_labels(segmenter, Photo("p", pixels, None), use_tags=True).labels, free.labels
    )
    assert not predict_labels(segmenter, Photo("p", pixels, tags=()), use_tags=True, crf=IRN_CRF).labels.any()
    assert predict_labels(segmenter, Photo("p", pixels, None), square=33, crf=IRN_CRF, size=(80, 100)).labels.shape == (
        80,
        100,
    )


def test_scales_and_mirrors_are_averaged(segmenter):
    pixels = np.random.default_rng(0).integers(0, 256, size=(32, 48, 3), dtype=np.uint8)
    mirrored = np.ascontiguousarray(pixels[:, ::-1])
    both = (predict_scores(segmenter, pixels) + predict_scores(segmenter, mirrored)[:, :, ::-1]) / 2
    np.testing.assert_allclose(predict_scores(segmenter, pixels, flip=True), both, atol=1e-5)


def test_a_large_photo_is_predicted_in_tiles(segmenter):
    pixels = np.zeros((40, TILE + 300, 3), dtype=np.uint8)
    pixels[:, ::7] = 200
    scores = predict_scores(segmenter, pixels)
    assert scores.shape == (4, 40, TILE + 300)
    np.testing.assert_allclose(scores.sum(axis=0), 1, atol=1e-4)
    first = predict_scores(segmenter, np.ascontiguousarray(pixels[:, :TILE]))
    np.testing.assert_allclose(scores[:, :, :300], first[:, :, :300], atol=1e-6)


def test_labels_are_brought_to_the_size_of_the_photo():
    small = LabelMap(np.array([[0, 1], [2, 255]], dtype=np.uint8))
    np.testing.assert_array_equal(fit_to_photo(small, (4, 4)).labels, np.repeat(np.repeat(small.labels, 2, 0), 2, 1))
    assert fit_to_photo(small, (2, 2)) is small


def test_sharpening_moves_a_label_to_the_edge_and_keeps_class_ids():
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:, 30:] = 220
    labels = np.zeros((40, 60), dtype=np.uint8)
    labels[:, 36:] = 9
    labels[:, 33:36] = 255
    sharp = sharpen(LabelMap(labels), Photo("p", pixels, (9,)), crf=IRN_CRF, confidence=0.7).labels
    np.testing.assert_array_equal(sharp, np.where(pixels[..., 0] > 0, 9, 0))
    nothing = np.full((40, 60), 255, dtype=np.uint8)
    assert not sharpen(LabelMap(nothing), Photo("p", pixels, ()), crf=IRN_CRF, confidence=0.7).labels.any()


def information_by_hand(colours, kept):
    total = 0.0
    for colour in set(colours.tolist()):
        for side in (True, False):
            joint = np.mean((colours == colour) & (kept == side))
            if joint:
                total += joint * np.log(joint / (np.mean(colours == colour) * np.mean(kept == side)))
    return total


def test_colour_information_is_mutual_information():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, size=(12, 17, 3), dtype=np.uint8)
    maps = random.random((2, 12, 17), dtype=np.float32)
    thresholds = [0.1, 0.5, 0.77, 0.999]
    got = colour_information(pixels, Activation(maps, (1, 2)), thresholds)
    colours = dominant_colours(pixels)
    expected = [information_by_hand(colours, maps.max(axis=0).ravel() > np.float32(t)) for t in thresholds]
    np.testing.assert_allclose(got, expected, atol=1e-9)


class One(dict):
    names = ("p",)

    def tags(self, name):
        return (1,)


def test_the_threshold_that_cuts_along_the_colours_is_chosen():
    pixels = np.full((40, 40, 3), 30, dtype=np.uint8)
    pixels[10:30, 10:30] = (200, 90, 40)  # the object
    pixels = (pixels + np.random.default_rng(0).integers(0, 20, size=pixels.shape)).astype(np.uint8)
    distance = np.abs(np.arange(40) - 19.5)
    maps = (1 - np.maximum(distance[:, None], distance[None]) / 20)[None].astype(np.float32)  # 0.5 at the object's edge
    photo, activation = Photo("p", pixels, (1,)), Activation(maps.clip(0, 1), (1,))
    chosen = choose_threshold(One(p=photo), {"p": activation})
    assert chosen["threshold"] == pytest.approx(0.5, abs=0.05)
    assert choose_threshold(One(p=photo), {}, fixed=0.33)["threshold"] == 0.33
    with pytest.raises(OptionError, match="expected 0"):
        choose_threshold(One(p=photo), {}, fixed=1.5)


def test_peak_at_an_end_is_the_end():
    assert peak(np.array([0.1, 0.2, 0.3]), np.array([3.0, 2.0, 1.0])) == 0.1
    assert peak(np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 3.0])) == 0.3
