"""Painting boxes over: against one forward pass for each, and the boxes that follow."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tagmask.augment import resize
from tagmask.data.photos import Photos
from tagmask.masked import activation_boxes, best_boxes, mask_out_boxes, masked_prior, prior_of
from tagmask.nets.backbones import build_backbone
from tagmask.nets.classifier import Classifier
from tagmask.refine.boxes import standing_out
from tagmask.types import Activation, Boxes
from tests.conftest import TINY


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    made = Classifier(build_backbone(TINY), classes=5).eval()
    torch.nn.init.normal_(made.head.weight, std=1.0)
    with torch.no_grad():
        made.head.weight[3] = -made.head.weight[1]  # what one tag loses the other gains
    return made


@pytest.fixture
def photo(toy):
    return replace(Photos(toy.train)[toy.train[0].name], tags=(2, 4))


def grid():
    corners = [(x, y, x + w, y + h) for x in (0, 7, 20) for y in (0, 11) for w, h in ((9, 20), (25, 14))]
    return np.array(corners, dtype=np.int32)


def listed(boxes, size=(48, 48)):
    return Boxes(boxes, np.ones(len(boxes), dtype=np.float32), (0,) * len(boxes), size)


@pytest.mark.parametrize("side", [0, 24, 99])
def test_what_a_painted_box_takes_away(classifier, photo, side):
    drops = mask_out_boxes(classifier, photo, grid(), side=side)
    assert drops.shape == (len(grid()), 2)
    pixels, boxes = photo.pixels, grid()
    if side == 24:
        pixels, boxes = resize(pixels, 24, 24), np.rint(boxes / 2).astype(int)
    image = torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy()).float() / 255
    with torch.no_grad():
        whole = classifier(image)[0, [1, 3]].sigmoid()
        for (x0, y0, x1, y1), found in zip(boxes, drops, strict=True):
            copy = image.clone()
            copy[:, :, y0:y1, x0:x1] = classifier.trunk.mean
            expected = (whole - classifier(copy)[0, [1, 3]].sigmoid()).clamp(min=0)
            np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    assert mask_out_boxes(classifier, photo, grid()[:0]).shape == (0, 2)


def test_the_prior_keeps_the_best_of_what_stands_out(classifier, photo):
    maps = np.random.default_rng(0).random((2, 48, 48), dtype=np.float32)
    activation, options = Activation(maps, (2, 4)), {"side": 0, "size_power": 0.0, "thin": 1.0}
    held = masked_prior(classifier, photo, listed(grid()), activation, candidates=6, kept=4, **options)
    boxes, prior, tags = prior_of(held)
    assert tags == (2, 4)
    assert boxes.shape == (4, 4)
    assert prior.max() == pytest.approx(1.0)
    strongest = [set(np.argsort(-standing_out(m, grid()), kind="stable")[:6].tolist()) for m in maps]
    places = [np.flatnonzero((grid() == box).all(axis=1))[0] for box in boxes]
    assert set(places) <= strongest[0] | strongest[1]
    everything = masked_prior(classifier, photo, listed(grid()), activation, candidates=99, kept=99, **options)
    drops = mask_out_boxes(classifier, photo, prior_of(everything)[0])
    np.testing.assert_allclose(prior_of(everything)[1], drops / drops.max(axis=0).clip(1e-12), atol=1e-6)
    best = best_boxes(everything)
    assert best.classes == (2, 4)
    np.testing.assert_array_equal(best.boxes, prior_of(everything)[0][prior_of(everything)[1].argmax(axis=0)])
    sized = masked_prior(
        classifier, photo, listed(grid()), activation, candidates=99, kept=99, **{**options, "size_power": 9.0}
    )
    felt = prior_of(everything)[1].max(axis=0) > 0
    assert felt.any()
    sides = [(kept.boxes[:, 2:] - kept.boxes[:, :2]).prod(axis=1)[felt] for kept in (best_boxes(sized), best)]
    assert (sides[0] <= sides[1]).all()


def test_photos_without_tags_or_proposals(classifier, photo):
    options = {"thin": 0.75, "candidates": 5, "kept": 3, "side": 0, "size_power": 0.0}
    nothing = Activation(np.zeros((0, 48, 48), dtype=np.float32), ())
    held = masked_prior(classifier, replace(photo, tags=()), listed(grid()), nothing, **options)
    boxes, prior, tags = prior_of(held)
    assert (len(boxes), prior.shape, tags) == (3, (3, 0), ())
    assert len(best_boxes(held)) == 0
    maps = Activation(np.ones((2, 48, 48), dtype=np.float32), (2, 4))
    assert prior_of(masked_prior(classifier, photo, listed(grid()[:0]), maps, **options))[0].tolist() == [
        [0, 0, 48, 48]
    ]


def test_boxes_of_activations_by_hand():
    maps = np.zeros((2, 10, 12), dtype=np.float32)
    maps[0, 1:4, 2:7], maps[0, 6:8, 9:11] = 0.5, 1.0
    found = activation_boxes(Activation(maps, (1, 3)), 0.3)
    assert found.boxes.tolist() == [[2, 1, 7, 4], [0, 0, 12, 10]]
    assert found.scores.tolist() == [0.5, 0.0]
    assert len(activation_boxes(Activation(maps[:0], ()), 0.3)) == 0


def test_of_boxes_that_are_nearly_the_same_one_is_looked_at(classifier, photo):
    boxes = np.array([[0, 0, 20, 20], [0, 0, 20, 21], [0, 1, 20, 20], [25, 25, 40, 40]], dtype=np.int32)
    maps = np.random.default_rng(1).random((2, 48, 48), dtype=np.float32)
    options = {"candidates": 9, "kept": 9, "side": 0, "size_power": 0.0}
    kept, _, _ = prior_of(
        masked_prior(classifier, photo, listed(boxes), Activation(maps, (2, 4)), thin=0.75, **options)
    )
    assert len(kept) == 2
    assert [25, 25, 40, 40] in kept.tolist()
