"""Features of boxes: against the means of the map's cells, and on disk."""

import numpy as np
import pytest
import torch

from tagmask.augment import resize
from tagmask.box_features import BoxFeatures, box_features, warped_boxes
from tagmask.data.photos import Photos
from tagmask.masked import masked_prior
from tagmask.nets.backbones import build_backbone
from tagmask.nets.classifier import Classifier
from tagmask.nets.folded import as_image
from tagmask.pacing import KeptBoxes, boxes_without
from tagmask.types import Activation, Boxes
from tests.conftest import TINY


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return Classifier(build_backbone(TINY), classes=5).eval()


def test_a_box_is_what_the_network_sees_of_it_alone(classifier, toy):
    pixels = Photos(toy.train)[toy.train[0].name].pixels
    boxes = np.array([[0, 0, 48, 48], [8, 16, 40, 48], [0, 0, 48, 24]])
    found = warped_boxes(classifier, pixels, boxes, side=32, cells=2)
    for row, (x0, y0, x1, y1) in zip(found, boxes, strict=True):
        with torch.no_grad():
            image = as_image(resize(pixels[y0:y1, x0:x1].copy(), 32, 32), classifier)
            last = classifier.features(image)[-1][0].numpy()  # (D, 2, 2): the trunk has stride 16
        np.testing.assert_allclose(row, last.ravel() / np.linalg.norm(last), atol=1e-5)
    one = warped_boxes(classifier, pixels, boxes, side=32, cells=1)
    halves = found.reshape(3, -1, 4).mean(axis=2)
    np.testing.assert_allclose(one, halves / np.linalg.norm(halves, axis=1, keepdims=True), atol=1e-5)
    assert warped_boxes(classifier, pixels, boxes[:0], side=32, cells=2).shape == (0, found.shape[1])


def test_one_file_holds_the_boxes_of_all_photos(classifier, toy, work):
    listed = np.array([[0, 0, 30, 30], [10, 5, 40, 48], [3, 3, 9, 20]], dtype=np.int32)
    found = Boxes(listed, np.ones(3, dtype=np.float32), (0, 0, 0), (48, 48))
    photos, held = work.photos(toy.train), {}
    for name in photos.names:
        tags = photos.tags(name)
        activation = Activation(np.random.default_rng(0).random((len(tags), 48, 48), dtype=np.float32), tags)
        held[name] = masked_prior(
            classifier, photos[name], found, activation, thin=1.0, candidates=3, kept=2, side=0, size_power=0.0
        )  # fmt: skip
    work._made[id(classifier)] = (classifier, "a classifier")
    features = work.once("features", box_features, classifier, toy.train, KeptBoxes(held), side=32, cells=2)
    assert isinstance(features, BoxFeatures)
    for name in photos.names:
        rows = features[name]
        expected = warped_boxes(classifier, photos[name].pixels, held[name].boxes[:2], side=32, cells=2)
        np.testing.assert_allclose(rows[:, :-1], expected, atol=1e-5)
        assert (rows[:, -1] == 1).all()
    assert len({features.key_of(name) for name in photos.names}) == len(photos)
    tag = toy.train[0].tags[0]
    without = [name for name in photos.names if tag not in photos.tags(name)]
    some = boxes_without(tag, photos, features, 5, seed=0)
    assert len(some) == 5
    pool = np.concatenate([features[name] for name in without])
    assert all((pool == row).all(axis=1).any() for row in some)
    np.testing.assert_array_equal(some, boxes_without(tag, photos, features, 5, seed=0))
    assert len(boxes_without(tag, photos, features, 10**6, seed=0)) == len(pool)
