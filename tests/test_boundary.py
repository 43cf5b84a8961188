"""Boundaries of masks by hand, the loss from its equation, and the two directed stages of the walk."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tagmask.affinity import affinity_planes, propagate
from tagmask.boundary import (
    boundary_labels,
    boundary_loss,
    find_edges,
    fit_boundary,
    off_edges,
    propagate_around,
)
from tagmask.data.photos import PerImage, Photos, Truth
from tagmask.fit import Schedule
from tagmask.nets.affinity import AffinityNet
from tagmask.nets.backbones import build_backbone
from tagmask.nets.boundary import BoundaryNet
from tagmask.nets.storage import load_network, save_network
from tagmask.progress import Narrator
from tagmask.refine.walk import half_disc
from tagmask.types import Activation, LabelMap, Photo
from tagmask.work import Job
from tests.conftest import TINY


def boundary_by_hand(labels, band):
    found = np.zeros_like(labels)
    height, width = labels.shape
    for y in range(height):
        for x in range(width):
            around = labels[max(0, y - band) : y + band + 1, max(0, x - band) : x + band + 1]
            edge = labels[y, x] == 255 or (band and len(set(around[around != 255].tolist())) > 1)
            found[y, x] = 1 if edge else 2 * (labels[y, x] > 0)
    return found


@given(st.integers(1, 6), st.integers(1, 7), st.integers(0, 2), st.data())
@settings(max_examples=60, deadline=None)
def test_boundary_pixels_are_those_found_one_by_one(height, width, band, data):
    values = data.draw(st.lists(st.sampled_from([0, 0, 3, 254, 255]), min_size=height * width, max_size=height * width))
    labels = np.array(values, dtype=np.uint8).reshape(height, width)
    np.testing.assert_array_equal(boundary_labels(LabelMap(labels), band=band).labels, boundary_by_hand(labels, band))


def test_the_loss_is_one_mean_and_two_halves_and_padding_counts_for_nothing():
    labels = torch.tensor([[[1, 0, 0, 2, 255]]])
    logits = torch.tensor([[[0.3, -1.0, 2.0, 0.7, 9.0]]], dtype=torch.float64)
    cost = nn.functional.binary_cross_entropy_with_logits(
        logits, torch.tensor([[[1.0, 0, 0, 0, 0]]], dtype=torch.float64), reduction="none"
    )[0, 0]
    expected = cost[0] + 0.5 * (cost[1] + cost[2]) / 2 + 0.5 * cost[3]
    assert float(boundary_loss(logits, labels)) == pytest.approx(float(expected), rel=1e-6)
    assert float(boundary_loss(logits[..., 1:3], labels[..., 1:3])) == pytest.approx(
        float(0.5 * (cost[1] + cost[2]) / 2), rel=1e-6
    )


@pytest.mark.parametrize("size", [(48, 48), (37, 61), (9, 70)])
def test_the_network_gives_a_logit_for_every_pixel_and_is_kept(tmp_path, size):
    torch.manual_seed(0)
    network = BoundaryNet(build_backbone(TINY), stride=8).eval()
    image = torch.rand(1, 3, *size)
    with torch.no_grad():
        assert network(image).shape == (1, 1, *size)
        save_network(network, tmp_path)
        assert torch.equal(load_network(tmp_path)(image), network(image))


class Edges(PerImage):
    """The boundaries of masks."""

    def __init__(self, truth):
        super().__init__(truth.names)
        self.truth = truth

    def __getitem__(self, name):
        return boundary_labels(self.truth[name], band=2)

    def key_of(self, name):
        return self.truth.key_of(name)


def test_edges_are_learned_and_found(toy, tmp_path):
    photos, truth = Photos(toy.train), Truth(toy.train, len(toy.classes))
    job = Job(tmp_path, "cpu", "32-true", Narrator(quiet=True), "boundary")
    network = fit_boundary(
        photos, Edges(truth), TINY, stride=8, crop=48, seed=0, job=job,
        schedule=Schedule(epochs=6, batch=4, rate=0.01),
    )  # fmt: skip
    curve = [json.loads(line)["loss"] for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert np.mean(curve[-4:]) < np.mean(curve[:4])
    photo = photos[photos.names[0]]
    edges = find_edges(network, photo)
    assert edges.labels.shape == photo.size
    assert set(np.unique(edges.labels)) <= {0, 1}


def test_nothing_is_sure_on_an_edge():
    labels, edges = np.array([[0, 3, 3]], dtype=np.uint8), np.array([[0, 1, 0]], dtype=np.uint8)
    assert off_edges(LabelMap(labels), LabelMap(edges)).labels.tolist() == [[0, 255, 3]]


def two_stages_by_hand(scores, affinity, offsets, edge, beta, steps):
    """Walk with dense matrices as the paper's code says; scores (K, N), sources in the rows, targets in the columns."""
    height, width = edge.shape
    pair = np.zeros((edge.size, edge.size))
    for p, (dy, dx) in enumerate(offsets.tolist()):
        for y in range(height):
            for x in range(width):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    i, j = y * width + x, (y + dy) * width + x + dx
                    pair[i, j] = pair[j, i] = affinity[p, y, x]
    off = ~edge.ravel()
    first = np.where(off[:, None] & off[None, :], pair, 0)
    second = np.where((~off[:, None] & ~off[None, :]) | (off[:, None] & ~off[None, :]), pair, 0)
    for allowed in (first, second):
        np.fill_diagonal(allowed, 1)
        matrix = allowed**beta
        matrix /= matrix.sum(axis=0, keepdims=True)
        scores = scores @ np.linalg.matrix_power(matrix, steps)
    return scores


@pytest.mark.parametrize("kind", ["no edge", "all edge", "a wall"])
def test_two_stages_are_those_of_dense_matrices(kind):
    random = np.random.default_rng(4)
    torch.manual_seed(0)
    network = AffinityNet(build_backbone(TINY), stride=1).eval()  # a pixel is a cell: nothing is pooled or grown
    photo = Photo("p", random.integers(0, 256, (7, 9, 3), dtype=np.uint8), (2, 5))
    activation = Activation(random.random((2, 7, 9)).astype(np.float32), (2, 5))
    edge = np.zeros((7, 9), dtype=np.uint8)
    edge[:, {"no edge": [], "all edge": range(9), "a wall": [3, 4]}[kind]] = 1
    found = propagate_around(
        network, photo, activation, LabelMap(edge), alpha=2.0, beta=3.0, radius=3, steps=5
    ).labels.ravel()
    background = (1 - activation.maps.max(axis=0, keepdims=True)) ** 2
    start = np.concatenate([background, activation.maps]).reshape(3, -1).astype(np.float64)
    planes = affinity_planes(network, photo, radius=3).astype(np.float64)
    scores = two_stages_by_hand(start, planes, half_disc(3), edge.astype(bool), 3.0, 5)
    best = np.sort(scores, axis=0)
    clear = best[-1] - best[-2] > 1e-5
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found[clear], np.array([0, 2, 5])[scores.argmax(axis=0)][clear])
    if kind == "no edge":
        plain = propagate(network, photo, activation, alpha=2.0, beta=3.0, radius=3, steps=5)
        np.testing.assert_array_equal(found, plain.labels.ravel())


def test_a_photo_without_tags_is_background():
    network = AffinityNet(build_backbone(TINY), stride=8).eval()
    photo = Photo("p", np.zeros((5, 6, 3), dtype=np.uint8), ())
    empty = Activation(np.zeros((0, 5, 6), dtype=np.float32), ())
    edges = LabelMap(np.zeros((5, 6), dtype=np.uint8))
    assert not propagate_around(network, photo, empty, edges, alpha=1.0, beta=1.0, radius=2, steps=1).labels.any()
