"""Boxes to learn from, detectors that learn, and masks cut out of boxes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tagmask.data.photos import Photos
from tagmask.detect import BoxViews, box_loss, checked_detector, cut_boxes, detect_boxes, drawn_boxes, fit_detector
from tagmask.errors import OptionError
from tagmask.fit import Schedule
from tagmask.nets.backbones import build_backbone
from tagmask.nets.boxes import BoxNet, FasterBoxNet
from tagmask.nets.folded import folded
from tagmask.nets.storage import load_network, save_network
from tagmask.pacing import KeptBoxes
from tagmask.refine.boxes import moved, overlaps
from tagmask.refine.grabcut import object_in_box
from tagmask.types import Boxes
from tests.conftest import TINY


def held(boxes, classes, size=(48, 48), scores=None):
    scores = np.ones(len(boxes)) if scores is None else scores
    return Boxes(
        np.array(boxes, dtype=np.int32).reshape(-1, 4), np.asarray(scores, dtype=np.float32), tuple(classes), size
    )


def proposals(seed=0, count=60):
    random = np.random.default_rng(seed)
    low = random.integers(0, 36, (count, 2))
    return np.concatenate([low, low + random.integers(6, 12, (count, 2))], axis=1).astype(np.int32)


@pytest.fixture(params=["rcnn", "faster-rcnn"])
def network(request):
    torch.manual_seed(0)
    trunk = build_backbone(TINY)
    made = BoxNet(trunk, 4, cells=3, width=16, side=48) if request.param == "rcnn" else FasterBoxNet(trunk, 4, 16, 48)
    return made.eval()


def test_drawn_boxes_are_what_fast_rcnn_draws():
    objects, classes = np.array([[5, 5, 20, 20], [30, 30, 40, 44]], dtype=np.int32), np.array([2, 3], dtype=np.uint8)
    everything = np.concatenate([objects, proposals()])
    iou = overlaps(everything, objects)
    boxes, labels, moves = drawn_boxes(everything, objects, classes, 32, np.random.default_rng(0))
    assert boxes.shape == moves.shape == (32, 4)
    assert 1 <= ((labels > 0) & (labels < 255)).sum() <= 8
    for box, label, move in zip(boxes.astype(np.int32), labels, moves, strict=True):
        best = overlaps(box[None], objects)[0]
        if label in (2, 3):
            assert best[label - 2] == best.max() >= 0.5
            np.testing.assert_array_equal(moved(box[None], move[None], (48, 48))[0], objects[label - 2])
        else:
            assert label == 0
            assert best.max() < 0.5
            assert not move.any()
    near = int(((iou.max(axis=1) < 0.5) & (iou.max(axis=1) >= 0.1)).sum())
    drawn_near = sum(overlaps(b[None], objects).max() >= 0.1 for b in boxes[labels == 0])
    assert drawn_near == min(near, int((labels == 0).sum()))
    few = drawn_boxes(objects[:1], objects, classes, 8, np.random.default_rng(0))
    assert few[1].tolist() == [2] + [255] * 7
    empty = drawn_boxes(everything, objects[:0], classes[:0], 8, np.random.default_rng(0))
    assert not empty[1].any()


def test_a_mirrored_view_has_mirrored_boxes(toy):
    photos = Photos(toy.train[:1])
    name, place = photos.names[0], [[4, 6, 20, 30]]
    found = KeptBoxes({name: held(place, [0])})
    views = BoxViews(photos, found, KeptBoxes({name: held(place, [3])}), 48, 4, np.zeros(3, dtype=np.uint8))
    seen = set()
    for seed in range(8):
        image, boxes, labels, _, objects, names = views.example(0, np.random.default_rng(seed))
        assert image.shape == (3, 48, 48)
        assert names[0] == 3
        assert not names[1:].any()
        assert (labels[0], labels[-1]) == (3, 255)
        random = np.random.default_rng(seed)
        scale = random.uniform(0.7, 1.0)
        mirrored = bool(random.integers(2))
        expected = np.array([4, 6, 20, 30]) * scale
        x0, y0, x1, y1 = objects[0]
        left = 48 - x1 if mirrored else x0
        np.testing.assert_allclose([left, y0], expected[:2], atol=1)
        np.testing.assert_allclose([x1 - x0, y1 - y0], expected[2:] - expected[:2], atol=1.5)
        np.testing.assert_array_equal(boxes[0], objects[0])
        seen.add(mirrored)
    assert seen == {True, False}


def test_the_loss_by_hand():
    scores, moves = torch.zeros(1, 3, 4), torch.zeros(1, 3, 4, 4)
    moves[0, 1, 2] = torch.tensor([0.5, 0.0, 0.0, 3.0])
    labels = torch.tensor([[0, 2, 255]], dtype=torch.uint8)
    terms = box_loss(scores, moves, labels, torch.zeros(1, 3, 4))
    assert float(terms["classes"]) == pytest.approx(np.log(4))
    assert float(terms["places"]) == pytest.approx((0.125 + 2.5) / 2)
    nothing = box_loss(
        scores.requires_grad_(), moves.requires_grad_(), torch.full_like(labels, 255), torch.zeros(1, 3, 4)
    )
    sum(nothing.values()).backward()
    assert float(sum(nothing.values()).detach()) == 0


@pytest.mark.parametrize("detector", ["rcnn", "faster-rcnn"])
def test_a_detector_learns_and_finds(toy, work, detector):
    photos = toy.train[:4]
    found = KeptBoxes({s.name: held(proposals(), [0] * 60) for s in photos})
    truth = KeptBoxes({s.name: held([[8, 8, 30, 30]], s.tags[:1]) if n else held([], []) for n, s in enumerate(photos)})
    network = work.once(
        "detector", fit_detector, photos, found, truth, TINY,
        detector=detector, classes=len(toy.classes), side=48, samples=8, width=16, cells=3,
        schedule=Schedule(1, 2, 0.01), seed=0,
    )  # fmt: skip
    kept = work.each("boxes", detect_boxes, network, photos, found, truth, overlap=0.3, least=0.05)
    for sample in photos[1:]:
        boxes = kept[sample.name]
        assert set(boxes.classes) == {*sample.tags[:1]} | ({*sample.tags} & {*boxes.classes})
        assert (np.diff(boxes.scores) <= 0).all()
        for tag in set(boxes.classes):
            mine = boxes.boxes[np.array(boxes.classes) == tag]
            assert (np.triu(overlaps(mine, mine), k=1) <= 0.31).all()


def test_without_tags_all_classes_are_looked_for(network, toy):
    photo = Photos(toy.train)[toy.train[0].name]
    found = detect_boxes(network, photo, held(proposals(), [0] * 60), None, overlap=0.3, least=0.01)
    assert set(found.classes) <= {1, 2, 3}
    known = detect_boxes(
        network, replace(photo, tags=(2,)), held([], []), held([[1, 1, 9, 9]], [2]), overlap=0.3, least=1.0
    )
    assert known.classes == (2,)
    assert len(detect_boxes(network, replace(photo, tags=()), found, held([], []), overlap=0.3, least=0.0)) == 0


def test_networks_on_disk_and_folded(network, tmp_path):
    save_network(network, tmp_path)
    again = load_network(tmp_path)
    assert again.side == 48
    x = torch.rand(1, 3, 40, 48)
    if isinstance(network, BoxNet):
        for one, other in zip(network.answers(x), again.answers(x), strict=True):
            assert torch.equal(one, other)
        torch.testing.assert_close(folded(network).answers(x)[0], network.answers(x)[0], atol=1e-4, rtol=1e-3)
    else:
        assert torch.equal(network(x)[0]["boxes"], again(x)[0]["boxes"])


def test_masks_are_cut_from_sure_boxes_and_the_best_of_each_class(toy):
    photo = Photos(toy.train)[toy.train[0].name]
    places = [[2, 2, 20, 20], [10, 10, 40, 40], [25, 5, 45, 25], [0, 30, 15, 47]]
    boxes = held(places, [1, 2, 1, 1], scores=[0.9, 0.2, 0.3, 0.6])
    labels = cut_boxes(boxes, photo, iterations=1, least=0.5, sure=0.5).labels
    expected = np.zeros((48, 48), dtype=np.uint8)
    for index in (1, 3, 0):  # the third is neither sure nor the best of its class
        expected[object_in_box(photo.pixels, tuple(places[index]), least=0.5, iterations=1)] = boxes.classes[index]
    np.testing.assert_array_equal(labels, expected)
    assert not cut_boxes(held([], []), photo, iterations=1, least=0.5, sure=0.5).labels.any()


def test_unknown_detectors_are_refused():
    with pytest.raises(OptionError, match="did you mean 'rcnn'"):
        checked_detector("rcn")
