"""The stages of Augmented Feedback: first scores, labels, what boxes teach, the views of them, learning, scoring anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tagmask.data.photos import Photos, Truth
from tagmask.feedback import (
    TOGETHER,
    BoxViews,
    aggregated,
    contrast_scores,
    fit_localiser,
    known_sharpened,
    rescored,
    resized,
    selected,
)
from tagmask.files import KINDS
from tagmask.fit import Schedule
from tagmask.nets.backbones import build_backbone
from tagmask.nets.localiser import Localiser
from tagmask.nets.segmenter import build_segmenter
from tagmask.progress import Narrator
from tagmask.refine.boxes import box_of, packed
from tagmask.refine.crf import DEEPLAB_V1_CRF
from tagmask.refine.feedback import aggregate, select
from tagmask.segment import predict_scores
from tagmask.types import Activation, Boxes, BoxScores, LabelMap, Photo
from tagmask.work import Job
from tests.conftest import TINY
from tests.test_regions import Each

SORTING = {"overlap": 0.5, "likely": 0.5, "apart": 0.3, "unlikely": 0.2, "hard": 0.5}
VOTING = {"above": 0.5, "fewest": 5, "by": "sum", "pinned": True, "middle": "background", "widest": 0.6}


def held(rows, size, classes=None, scores=None):
    boxes = np.array(rows, dtype=np.int32).reshape(-1, 4)
    sure = np.ones(len(boxes)) if scores is None else np.array(scores)
    return Boxes(boxes, sure.astype(np.float32), tuple(classes or [0] * len(boxes)), size)


@pytest.mark.parametrize("shape", [(0, 0), (0, 2), (4, 0), (3, 2)])
def test_scores_on_disk(tmp_path, shape):
    _, write, read = KINDS[BoxScores]
    value = BoxScores(np.random.default_rng(0).random(shape, dtype=np.float32), tuple(range(3, 3 + shape[1])))
    write(tmp_path / "a.npz", value)
    again = read(tmp_path / "a.npz")
    np.testing.assert_array_equal(again.values, value.values)
    assert (again.classes, again.values.dtype) == (value.classes, np.float32)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((3, 1), dtype=np.float32), r"\(n, 2\)"),
        (np.zeros((3, 2)), "float64"),
        (np.full((3, 2), 1.5, dtype=np.float32), "0, 1"),
        (np.full((3, 2), np.nan, dtype=np.float32), "0, 1"),
    ],
)
def test_what_are_no_scores_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        BoxScores(values, (1, 2))


def test_first_scores_are_activation_inside_less_around():
    maps = np.zeros((2, 30, 40), dtype=np.float32)
    maps[0, 10:20, 10:20], maps[1, 5:10, 30:40] = 0.8, 0.2
    boxes = held([[10, 10, 20, 20], [12, 12, 18, 18], [30, 5, 40, 10], [0, 0, 40, 30]], (30, 40))
    plain = contrast_scores(Activation(maps, (2, 5)), boxes, ring=0.2, stretch=False)
    np.testing.assert_allclose(plain.values[:, 0], [0.8, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(plain.values[:, 1], [0, 0, 0.2, 0], atol=1e-6)
    assert plain.classes == (2, 5)
    stretched = contrast_scores(Activation(maps, (2, 5)), boxes, ring=0.2, stretch=True)
    np.testing.assert_allclose(stretched.values[:, 1], [0, 0, 1, 0], atol=1e-6)
    for empty in (Activation(maps * 0, (2, 5)), Activation(maps[:0], ())):
        assert not contrast_scores(empty, boxes, ring=0.2, stretch=True).values.any()
    assert contrast_scores(Activation(maps, (2, 5)), held([], (30, 40)), ring=0.2, stretch=True).values.shape == (0, 2)


def test_labels_are_those_of_the_pure_part():
    random = np.random.default_rng(0)
    photo = Photo("a", random.integers(0, 256, (30, 40, 3), dtype=np.uint8), (2,))
    boxes, scores = held([[4, 4, 20, 20], [6, 6, 18, 22], [8, 4, 16, 18]], (30, 40)), np.array([[0.9], [0.6], [0.8]])
    got = aggregated(photo, boxes, BoxScores(scores.astype(np.float32), (2,)), **VOTING).labels
    np.testing.assert_array_equal(got, aggregate(photo.pixels, boxes, scores.astype(np.float32), (2,)))
    assert set(np.unique(got)) == {0, 2}


def test_the_crf_leaves_open_what_is_open():
    random = np.random.default_rng(0)
    photo = Photo("a", random.integers(0, 256, (30, 40, 3), dtype=np.uint8), (2,))
    for values in ((0, 2, 255), (0, 255), (255,), (2, 255)):
        labels = random.choice(np.array(values, dtype=np.uint8), (30, 40))
        got = known_sharpened(LabelMap(labels), photo, crf=DEEPLAB_V1_CRF, confidence=0.7).labels
        np.testing.assert_array_equal(got == 255, labels == 255)
        assert set(np.unique(got)) <= {0, *values}


def test_boxes_that_teach_are_those_of_the_pure_part(toy):
    torch.manual_seed(0)
    segmenter = build_segmenter("deeplab-v1", TINY, 6, width=8).eval()
    photo = Photos(toy.train)[toy.train[0].name]
    truth = Truth(toy.train, classes=6)[photo.name]
    random = np.random.default_rng(0)
    low = random.integers(0, 30, (25, 2))
    boxes = held(np.concatenate([low, low + random.integers(5, 18, (25, 2))], axis=1), (48, 48))
    scores = BoxScores(random.random((25, len(photo.tags)), dtype=np.float32), photo.tags)
    got = selected(segmenter, photo, truth, boxes, scores, scales=(1.0,), flip=True, **{**SORTING, "likely": 0.0})
    both = predict_scores(segmenter, photo.pixels, flip=True)[[0, *photo.tags]]
    chances = (both / both.sum(axis=0))[1:]
    taught, look = select(boxes, truth.labels, chances, scores.values, photo.tags, likely=0.0)
    chosen = taught != 255
    assert 0 < chosen.sum() == len(got)
    np.testing.assert_array_equal(got.boxes, boxes.boxes[chosen])
    assert got.classes == tuple(taught[chosen].tolist())
    np.testing.assert_allclose(got.scores, look[chosen], rtol=1e-5)


def test_a_photo_without_tags_is_not_looked_at():
    photo = Photo("a", np.zeros((20, 30, 3), dtype=np.uint8), ())
    boxes = held([[0, 0, 9, 9], [5, 5, 30, 20]], (20, 30))
    nothing = BoxScores(np.zeros((2, 0), dtype=np.float32), ())
    got = selected(None, photo, LabelMap(photo.pixels[..., 0]), boxes, nothing, scales=(1.0,), flip=False, **SORTING)
    assert (got.classes, got.scores.tolist()) == ((0, 0), [0, 0])
    assert rescored(None, photo, boxes, size=30).values.shape == (2, 0)
    assert rescored(None, replace(photo, tags=(1, 2)), held([], (20, 30)), size=30).values.shape == (0, 2)


def test_photos_and_boxes_grow_together():
    random = np.random.default_rng(0)
    photo = Photo("a", random.integers(0, 256, (20, 30, 3), dtype=np.uint8), ())
    pixels, places = resized(photo, np.array([[0, 0, 30, 20], [3, 4, 6, 8]]), 60)
    assert (pixels.shape, places.dtype) == ((40, 60, 3), np.float32)
    assert places.tolist() == [[0, 0, 60, 40], [6, 8, 12, 16]]
    assert resized(photo, np.zeros((0, 4), dtype=int), 15)[0].shape == (10, 15, 3)
    assert resized(Photo("b", photo.pixels[:1], ()), np.zeros((0, 4), dtype=int), 15)[0].shape == (1, 15, 3)


def test_views_show_a_photo_and_its_boxes():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (20, 40, 3), dtype=np.uint8)
    rows = [[0, 0, 40, 20], [3, 4, 9, 12], [20, 2, 30, 18]]
    photos = Each(["a", "b"], lambda name: Photo(name, pixels, (1,)))
    boxes = Each(["a", "b"], lambda name: held(rows if name == "a" else [], (20, 40), (5, 0, 0)[: 3 * (name == "a")]))
    views = BoxViews(photos, boxes, samples=6, hard=0.5, size=40, fill=np.array([1, 2, 3], dtype=np.uint8))
    assert len(views) == 2
    seen = set()
    for seed in range(8):
        image, places, labels = views.example(0, np.random.default_rng(seed))
        again = views.example(0, np.random.default_rng(seed))
        assert all((a == b).all() for a, b in zip((image, places, labels), again, strict=True))
        assert (image.shape, places.shape, places.dtype, labels.shape) == ((3, 40, 40), (6, 4), np.float32, (6,))
        mirrored = not np.array_equal(image[:, :20].transpose(1, 2, 0), pixels)
        seen.add(mirrored)
        if mirrored:
            image, places = image[:, :, ::-1], places.copy()
            places[:3, [0, 2]] = 40 - places[:3, [2, 0]]
        np.testing.assert_array_equal(image[:, :20].transpose(1, 2, 0), pixels)
        assert (image[:, 20:] == [[[1]], [[2]], [[3]]]).all()
        assert sorted(zip(places[:3].tolist(), labels[:3].tolist(), strict=True)) == sorted(
            zip(rows, (5, 0, 0), strict=True)
        )
        assert (labels[3:] == 255).all()
        assert not places[3:].any()
    assert seen == {False, True}
    assert (views.example(1, random)[2] == 255).all()


def objects(sample, truth):
    """The box of each class in a photo's mask as positive, and four corners as ground."""
    rows, classes = [], []
    for tag in sample.tags:
        box = box_of(truth.labels == tag)
        if box is not None:
            rows.append(box)
            classes.append(tag)
    corners = [[0, 0, 8, 8], [40, 0, 48, 8], [0, 40, 8, 48], [40, 40, 48, 48]]
    free = [c for c in corners if not truth.labels[c[1] : c[3], c[0] : c[2]].any()]
    return held([*rows, *free], (48, 48), [*classes, *[0] * len(free)])


def test_the_localiser_learns_which_box_shows_what(toy, tmp_path):
    photos, truth = Photos(toy.train), Truth(toy.train, classes=6)
    samples = {sample.name: sample for sample in toy.train}
    boxes = Each(photos.names, lambda name: objects(samples[name], truth[name]))
    job = Job(tmp_path, "cpu", "32-true", Narrator(quiet=True), "l")
    network = fit_localiser(
        photos, boxes, replace(TINY, output_stride=8), width=32, cells=3, classes=6, samples=8, hard=0.5, size=48,
        schedule=Schedule(epochs=25, batch=4, rate=0.005), seed=0, job=job,
    )  # fmt: skip
    margins = []
    for name in photos.names:
        known, tags = boxes[name], samples[name].tags
        scores = rescored(network, photos[name], known, size=48)
        assert scores.classes == tags
        for k, tag in enumerate(tags):
            own = np.array(known.classes) == tag
            ground = np.array(known.classes) == 0
            if own.any() and ground.any():
                margins.append(scores.values[own, k].mean() - scores.values[ground, k].mean())
    assert np.mean(np.array(margins) > 0) > 0.8


def test_many_boxes_are_scored_as_if_alone():
    torch.manual_seed(0)
    network = Localiser(build_backbone(TINY), classes=4, width=8, cells=2).eval()
    random = np.random.default_rng(0)
    photo = Photo("a", random.integers(0, 256, (40, 50, 3), dtype=np.uint8), (1, 3))
    low = random.integers(0, 30, (TOGETHER + 9, 2))
    boxes = held(np.concatenate([low, low + random.integers(1, 10, low.shape)], axis=1), (40, 50))
    got = rescored(network, photo, boxes, size=50).values
    image = torch.from_numpy(photo.pixels.transpose(2, 0, 1)[None] / np.float32(255))
    with torch.no_grad():
        logits = network(image, torch.from_numpy(boxes.boxes[None].astype(np.float32)))[0]
    np.testing.assert_allclose(got, logits[:, [0, 1, 3]].softmax(dim=1)[:, 1:], atol=1e-4)


def test_masks_of_proposals_count():
    maps = np.zeros((1, 30, 40), dtype=np.float32)
    mask = np.zeros((30, 40), dtype=bool)
    mask[10:20, 10:12] = True
    maps[0][mask] = 1
    boxes = held([[10, 10, 20, 20]], (30, 40))
    masked = replace(boxes, masks=packed([np.where(np.arange(40) < 12, mask, False)]))
    plain, own = (
        contrast_scores(Activation(maps, (1,)), b, ring=0.2, stretch=False).values[0, 0] for b in (boxes, masked)
    )
    assert (round(float(plain), 4), float(own)) == (0.2, 1.0)
