"""The stages of irn: sure labels, the network that learns from them, walks that it stops."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tagmask import relation
from tagmask.files import KINDS
from tagmask.fit import Schedule
from tagmask.label import threshold_labels
from tagmask.nets.backbones import build_backbone
from tagmask.nets.relation import RelationNet
from tagmask.refine.crf import IRN_CRF
from tagmask.refine.sharpen import sharpen
from tagmask.relation import cut_instances, fit_relation, labels_on_photo, relations_of, sure_labels, walk_activation
from tagmask.threshold import choose_threshold
from tagmask.types import Activation, LabelMap, Photo
from tagmask.work import Work
from tests.conftest import TINY

WALK = {"radius": 5, "beta": 10.0, "steps": 256}


def scene(size=(48, 64), classes=(2,)):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (*size, 3)).astype(np.uint8)
    maps = rng.random((len(classes), *size)).astype(np.float32)
    return Photo("a", pixels, classes), Activation(maps, classes)


def test_sure_labels_by_cases():
    photo, activation = scene(classes=(2, 5))
    crf = {"crf": IRN_CRF, "confidence": 0.7}
    high, low = (sharpen(threshold_labels(activation, t), photo, **crf).labels for t in (0.8, 0.6))
    found = sure_labels(activation, photo, above=0.8, below=0.6, **crf).labels
    for pixel in np.ndindex(found.shape):
        expected = high[pixel] if high[pixel] else (255 if low[pixel] else 0)
        assert found[pixel] == expected
    assert {0, 255} < set(np.unique(found))  # neither test nor CRF is trivial here
    nothing = Activation(np.zeros((0, 48, 64), dtype=np.float32), ())
    assert not sure_labels(nothing, photo, above=0.3, below=0.05, **crf).labels.any()


@pytest.fixture
def taught(work, toy):
    masks = {s.name: LabelMap(KINDS[LabelMap][2](s.mask).labels) for s in toy.train}
    photos = work.photos(toy.train)
    labels = work.each("labels", drawn, photos, table=json.dumps({n: m.labels.tolist() for n, m in masks.items()}))
    options = {
        "width": 16, "radius": 5, "crop": 48, "scales": (1.0, 1.0), "seed": 1,
        "schedule": Schedule(epochs=3, batch=4, rate=0.05, momentum=0.9),
    }  # fmt: skip
    return work.once("relation", fit_relation, photos, labels, TINY, **options), photos, labels, options


def drawn(photo: Photo, *, table: str) -> LabelMap:
    """The truth, handed over as a stage would."""
    return LabelMap(np.array(json.loads(table)[photo.name], dtype=np.uint8))


def test_the_network_learns_and_repeats_itself(taught, work, tmp_path):
    network, photos, labels, options = taught
    curve = [json.loads(line) for line in (work.out / "relation" / "curve.jsonl").read_text().splitlines()]
    assert {"affinity", "displacement"} <= set(curve[0])
    assert np.mean([p["loss"] for p in curve[-3:]]) < np.mean([p["loss"] for p in curve[:3]])
    apart = Work(out=tmp_path / "other", backbone=TINY, store=tmp_path / "other-store")
    apart.narrator.console.quiet = True
    again = apart.once("relation", fit_relation, photos, labels, TINY, **options)
    for name, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert network.mean_displacement.abs().sum() > 0


def test_the_mean_displacement_over_the_photos_is_zero(taught):
    network, photos, *_ = taught
    means = [relations_of(network, photos[name])[1].mean(axis=(1, 2)) for name in photos.names]
    np.testing.assert_allclose(np.mean(means, axis=0), 0, atol=1e-4)


def test_a_boundary_is_the_same_for_a_photo_and_its_mirror_image():
    network, (photo, _) = RelationNet(build_backbone(TINY), width=16).eval(), scene()
    mirrored = Photo("b", np.ascontiguousarray(photo.pixels[:, ::-1]), photo.tags)
    one, other = relations_of(network, photo)[0], relations_of(network, mirrored)[0]
    assert one.shape == (12, 16)
    np.testing.assert_allclose(one, other[:, ::-1], atol=1e-5)
    assert not np.allclose(relations_of(network, photo)[1], relations_of(network, mirrored)[1])


@pytest.fixture
def walled(monkeypatch):
    """A network that sees a wall in the middle, and centres left and right of it, whatever the photo."""

    def seen(network, photo):
        height, width = (-(-side // 4) for side in photo.size)
        boundary = np.zeros((height, width), dtype=np.float32)
        boundary[:, width // 2] = 1
        rows, columns = np.mgrid[:height, :width]
        centre = np.where(columns <= width // 2, width // 4, 3 * width // 4)
        return boundary, np.stack([height // 2 - rows, centre - columns]).astype(np.float32)

    monkeypatch.setattr(relation, "relations_of", seen)
    return RelationNet(build_backbone(TINY), width=16).eval()


def test_activations_fill_the_side_on_which_they_lie(walled):
    photo, _ = scene((48, 84), classes=(2, 5))  # both sides of the wall are ten cells wide
    maps = np.zeros((2, 48, 84), dtype=np.float32)
    maps[0, 20:28, 8:16], maps[1, 20:28, 68:76] = 1, 0.5
    walked = walk_activation(walled, photo, Activation(maps, (2, 5)), **WALK)
    assert walked.maps.shape == (2, 12, 21)
    assert walked.maps.max() == walked.maps[0].max() == 1  # of all classes, not of each
    assert walked.maps[1].max() == pytest.approx(0.5, rel=1e-3)
    assert walked.maps[0, :, :10].min() > 0.2
    assert not walked.maps[0, :, 10:].any()
    labels = labels_on_photo(walked, photo, threshold=0.2).labels
    assert labels.shape == photo.size
    assert set(labels[:, :36].ravel()) == {2}
    assert set(labels[:, 52:].ravel()) == {5}


def test_one_tag_on_both_sides_of_the_wall_is_two_instances(walled):
    photo, _ = scene((48, 80))
    activation = Activation(np.ones((1, 48, 80), dtype=np.float32), (2,))
    labels = LabelMap(np.full((48, 80), 2, dtype=np.uint8))
    found = cut_instances(walled, photo, activation, labels, least=0.01, **WALK)
    assert found.classes == (2, 2)
    assert len(set(found.ids[:, :36].ravel())) == len(set(found.ids[:, 52:].ravel())) == 1
    assert found.ids[0, 0] != found.ids[0, -1]


def test_without_a_tag_nothing_walks(walled):
    photo, _ = scene((31, 45))
    nothing = Activation(np.zeros((0, 31, 45), dtype=np.float32), ())
    walked = walk_activation(walled, photo, nothing, **WALK)
    assert walked.maps.shape == (0, 8, 12)
    labels = labels_on_photo(walked, photo, threshold=0.25)
    assert labels.labels.shape == (31, 45)
    assert not labels.labels.any()
    assert cut_instances(walled, photo, nothing, labels, least=0.01, **WALK).classes == ()


def test_silent_maps_stay_silent(walled):
    photo, _ = scene()
    silent = Activation(np.zeros((1, 48, 64), dtype=np.float32), (2,))
    assert not walk_activation(walled, photo, silent, **WALK).maps.any()


def test_a_threshold_can_be_chosen_for_maps_at_a_coarser_grid(work, toy):
    photos = work.photos(toy.train)
    coarse = work.each("coarse", checker, photos)
    chosen = choose_threshold(photos, coarse)
    assert 0 < chosen["threshold"] < 1
    assert chosen["photos"] > 0


def checker(photo: Photo) -> Activation:
    """A map of a fourth of the photo's size that is its redness."""
    maps = np.repeat(photo.pixels[::4, ::4, :1].transpose(2, 0, 1) / np.float32(255), len(photo.tags or ()), axis=0)
    return Activation(maps.astype(np.float32), photo.tags or ())
