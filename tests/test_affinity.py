"""Sure labels by the published rule, the walk against the power of its dense matrix, and that affinity is learned."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.affinity import (
    affinity_labels,
    affinity_planes,
    calibrated,
    carried,
    fit_affinity,
    labels_of_cells,
    propagate,
)
from tagmask.errors import OptionError
from tagmask.fit import Schedule
from tagmask.nets.affinity import AffinityNet
from tagmask.nets.backbones import build_backbone
from tagmask.progress import Narrator
from tagmask.refine.crf import CrfOptions, mean_field, unary_from_probabilities
from tagmask.refine.walk import half_disc, transition
from tagmask.types import Activation, LabelMap, Photo
from tagmask.work import Job
from tests.conftest import TINY

CRF = CrfOptions(iterations=2)
CPU = torch.device("cpu")


def problem(height, width, classes, seed):
    """Return a photo of blocks and maps that are sure here and unsure there."""
    random = np.random.default_rng(seed)
    pixels = np.kron(random.integers(0, 256, (7, 7, 3)), np.ones((9, 9, 1)))[:height, :width].astype(np.uint8)
    maps = np.kron(random.random((len(classes), 16, 16)) ** 2, np.ones((1, 4, 4)))[:, :height, :width]
    return Photo("p", pixels, classes), Activation(maps.astype(np.float32), classes)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return AffinityNet(build_backbone(TINY), stride=8).eval()


def cells_by_hand(scores, stride, top=0, left=0):
    """Average scores (K, H, W) over each cell of an image cut at (top, left), as far as it lies inside: (K, h, w)."""
    cut = scores[:, top:, left:]
    height, width = (-(-side // stride) for side in cut.shape[1:])
    means = np.empty((len(scores), height, width))
    for y in range(height):
        for x in range(width):
            cell = cut[:, y * stride : (y + 1) * stride, x * stride : (x + 1) * stride]
            means[:, y, x] = cell.mean(axis=(1, 2), dtype=np.float64)
    return means


def sure_by_hand(photo, activation, low, high, stride, top=0, left=0):
    """Return the labels of cells, by the rule of the author code: (h, w)."""
    loudest, best = activation.maps.max(axis=0), []
    for power in (low, high):
        scores = np.concatenate([(1 - loudest[None]) ** power, activation.maps]).astype(np.float32)
        q = mean_field(-np.log(scores.clip(1e-5, 1)), photo.pixels, CRF)
        best.append(np.array([0, *activation.classes])[cells_by_hand(q, stride, top, left).argmax(axis=0)])
    labels = best[0].copy()
    labels[best[0] == 0] = 255
    labels[best[1] == 0] = 0
    return labels


@settings(deadline=None, max_examples=40)
@given(
    height=st.sampled_from([1, 7, 24, 37]),
    width=st.sampled_from([1, 13, 40]),
    classes=st.sampled_from([(3,), (1, 254)]),
    stride=st.sampled_from([1, 4, 5, 8]),
    top=st.integers(0, 8),
    left=st.integers(0, 8),
    seed=st.integers(0, 99),
)
def test_sure_labels_of_any_crop_are_those_of_the_published_rule(height, width, classes, stride, top, left, seed):
    photo, activation = problem(height, width, classes, seed)
    top, left = min(top, height - 1), min(left, width - 1)
    labels = affinity_labels(activation, photo, low=0.5, high=3, stride=stride, crf=CRF).labels
    assert labels.shape == photo.size
    seen = labels_of_cells(torch.from_numpy(labels[None, top:, left:].copy()), stride)[0].numpy()
    expected = sure_by_hand(photo, activation, 0.5, 3, stride, top, left)
    centres = [
        np.arange(n) * stride + stride // 2 < side
        for n, side in zip(seen.shape, (height - top, width - left), strict=True)
    ]
    inside = np.ix_(*centres)
    np.testing.assert_array_equal(seen[inside], expected[inside])
    outside = np.ones(seen.shape, dtype=bool)
    outside[inside] = False
    assert (seen[outside] == 255).all()


def test_published_powers_divide_into_objects_background_and_unknown():
    pixels = np.repeat(
        np.repeat(np.array([[[250, 0, 0], [0, 250, 0], [0, 0, 250], [9, 9, 9]]], np.uint8), 16, 1), 32, 0
    )
    maps = np.repeat(np.array([[0.9, 0, 0.2, 0.02], [0, 0.9, 0.1, 0]], np.float32)[:, None], 16, axis=2).repeat(
        32, axis=1
    )
    labels = affinity_labels(Activation(maps, (2, 5)), Photo("p", pixels, (2, 5)), low=4, high=32, stride=8, crf=CRF)
    # (1 - 0.2)^4 = 0.41 is above 0.2 and (1 - 0.2)^32 = 0.0008 below; (1 - 0.02)^32 = 0.52 is above 0.02
    np.testing.assert_array_equal(labels.labels[:, 4::8], np.tile([2, 2, 5, 5, 255, 255, 0, 0], (32, 1)))


def test_a_photo_without_tags_is_background_surely_and_after_the_walk(network):
    photo, nothing = (
        Photo("p", np.zeros((20, 30, 3), dtype=np.uint8), ()),
        Activation(np.zeros((0, 20, 30), np.float32), ()),
    )
    found = affinity_labels(nothing, photo, low=4, high=32, stride=8, crf=CRF)
    walked = propagate(network, photo, nothing, alpha=16, beta=8, radius=5, steps=256)
    for labels in (found.labels, walked.labels):
        assert labels.shape == (20, 30)
        assert not labels.any()


def test_labels_are_those_at_the_centres_of_cells():
    labels = torch.arange(30).reshape(1, 5, 6)
    assert labels_of_cells(labels, 2).tolist() == [[[7, 9, 11], [19, 21, 23], [255, 255, 255]]]
    assert labels_of_cells(labels, 1).tolist() == labels.tolist()


def test_calibration_moves_the_threshold_and_keeps_the_order():
    maps = np.array([[[0, 0.2, 0.5, 0.9, 1]]], dtype=np.float32)
    moved = calibrated(Activation(maps, (4,)), threshold=0.5, target=0.2)
    np.testing.assert_allclose(moved.maps, maps ** (np.log(0.2) / np.log(0.5)), rtol=1e-6)
    np.testing.assert_allclose(moved.maps[0, 0, [0, 2, 4]], [0, 0.2, 1], atol=1e-6)
    assert moved.classes == (4,)
    np.testing.assert_array_equal(calibrated(Activation(maps, (4,)), threshold=0.3, target=0.3).maps, maps)
    with pytest.raises(OptionError, match="threshold 1"):
        calibrated(Activation(maps, (4,)), threshold=1, target=0.2)


def dense(planes, radius, beta):
    """Return T (N, N), source by target, its columns summing to one."""
    _, height, width = planes.shape
    matrix = np.eye(height * width)
    for plane, (dy, dx) in zip(planes.astype(np.float64), half_disc(radius).tolist(), strict=True):
        for y in range(height):
            for x in range(width):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    a, b = y * width + x, (y + dy) * width + x + dx
                    matrix[a, b] = matrix[b, a] = plane[y, x] ** beta
    return matrix / matrix.sum(axis=0)


def grown_by_hand(cells, stride):
    """Resize (h, w) to whole cells of pixels, bilinearly, the value of a cell being that of its centre."""
    rows, columns = (np.arange(side * stride) for side in cells.shape)
    y, x = (
        np.clip((index + 0.5) / stride - 0.5, 0, side - 1)
        for index, side in zip((rows, columns), cells.shape, strict=True)
    )
    along = np.stack([np.interp(x, np.arange(len(row)), row) for row in cells])
    return np.stack([np.interp(y, np.arange(len(column)), column) for column in along.T], axis=1)


@pytest.mark.parametrize(
    ("height", "width", "radius", "steps"), [(29, 41, 3, 256), (16, 8, 5, 64), (40, 40, 2, 7), (9, 90, 4, 1)]
)
def test_propagating_is_the_power_of_the_dense_matrix(network, height, width, radius, steps):
    photo, activation = problem(63, 63, (2, 9), seed=height)
    pixels = np.resize(photo.pixels, (height, width, 3))
    maps = np.resize(activation.maps, (2, height, width))
    photo, activation = Photo("p", pixels, (2, 9)), Activation(maps, (2, 9))
    planes = affinity_planes(network, photo, radius=radius)
    assert planes.shape == (len(half_disc(radius)), -(-height // 8), -(-width // 8))
    start = np.concatenate([(1 - maps.max(axis=0, keepdims=True)) ** 2, maps])
    means = cells_by_hand(start, 8)
    walked = means.reshape(3, -1) @ np.linalg.matrix_power(dense(planes, radius, 8), steps)
    expected = np.stack([grown_by_hand(m, 8)[:height, :width] for m in walked.reshape(means.shape)])
    step = transition(planes, half_disc(radius), beta=8)
    found = carried(start.astype(np.float32), step, steps=steps, stride=8, device=CPU)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    settings_ = {"alpha": 2, "beta": 8, "radius": radius, "steps": steps}
    labels = propagate(network, photo, activation, **settings_).labels
    np.testing.assert_array_equal(labels, np.array([0, 2, 9])[found.argmax(axis=0)])
    sharp = propagate(network, photo, activation, crf=CRF, **settings_).labels
    q = mean_field(unary_from_probabilities(found), pixels, CRF)
    np.testing.assert_array_equal(sharp, np.array([0, 2, 9])[q.argmax(axis=0)])


def test_planes_are_the_affinities_of_the_networks_features(network):
    photo, _ = problem(29, 41, (2,), seed=0)
    features = network(torch.from_numpy(photo.pixels.transpose(2, 0, 1)[None].copy()).float() / 255)[0].detach().numpy()
    planes = affinity_planes(network, photo, radius=3)
    for plane, (dy, dx) in zip(planes, half_disc(3).tolist(), strict=True):
        for y in range(4):
            for x in range(6):
                inside = 0 <= y + dy < 4 and 0 <= x + dx < 6
                apart = np.abs(features[:, y, x] - features[:, y + dy, x + dx]).mean() if inside else np.inf
                assert plane[y, x] == pytest.approx(np.exp(-apart), abs=1e-4)


class Halves(dict):
    """Photos of two colours, dark to the left and bright to the right of a place that differs; what is there by name."""

    names = ("a", "b", "c", "d")

    def __init__(self, labelled):
        places = dict(zip(self.names, (16, 24, 32, 40), strict=True))
        super().__init__({name: self.labels(x) if labelled else self.photo(name, x) for name, x in places.items()})

    @staticmethod
    def photo(name, x):
        pixels = np.full((56, 56, 3), 60, dtype=np.uint8)
        pixels[:, x:] = 200
        return Photo(name, pixels, (1,))

    @staticmethod
    def labels(x):
        labels = np.zeros((56, 56), dtype=np.uint8)
        labels[:, x:] = 1
        return LabelMap(labels)


@pytest.mark.parametrize("learn_trunk", [True, False])
def test_affinity_is_learned_from_sure_labels(tmp_path, learn_trunk):
    schedule = Schedule(epochs=60, batch=4, rate=0.2, momentum=0.0005, bias_rate=2.0)
    learned = fit_affinity(
        Halves(labelled=False), Halves(labelled=True), TINY, stride=8, radius=3, crop=48, learn_trunk=learn_trunk,
        schedule=schedule, seed=0, job=Job(tmp_path, "cpu", "32-true", Narrator(quiet=True), "affinity"),
    )  # fmt: skip
    losses = [json.loads(line)["affinity"] for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:2])
    planes = affinity_planes(learned, Halves.photo("new", 32), radius=3)
    right = half_disc(3).tolist().index([0, 1])
    across, within = planes[right][2:5, 3].mean(), planes[right][2:5, [1, 5]].mean()  # cell 3 ends at pixel 32
    assert across < 0.4 * within


def test_impossible_options_are_refused(network):
    photo, activation = problem(16, 16, (1,), seed=0)
    with pytest.raises(OptionError, match="low <= high"):
        affinity_labels(activation, photo, low=5, high=4, stride=8, crf=CRF)
    with pytest.raises(OptionError, match="background power"):
        propagate(network, photo, activation, alpha=0, beta=8, radius=5, steps=4)
