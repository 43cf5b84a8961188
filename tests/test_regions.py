"""The stages that work region by region: superpixels on disk, seeds, training views, the loss, predictions, saliency."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.data.photos import PerImage, Photos, Truth
from tagmask.errors import OptionError
from tagmask.files import KINDS
from tagmask.fit import Schedule
from tagmask.nets.backbones import build_backbone
from tagmask.nets.region import RegionNet
from tagmask.progress import Narrator
from tagmask.refine.regions import majority
from tagmask.regions import (
    TOGETHER,
    RegionViews,
    cam_seeds,
    fit_regions,
    predict_regions,
    region_logits,
    region_loss,
    superpixels,
    voted,
    with_saliency,
)
from tagmask.types import Activation, LabelMap, Photo, Regions, Saliency
from tagmask.work import Job
from tests.conftest import TINY

CUT = {"scale": 50.0, "sigma": 0.5, "smallest": 10}


class Each(PerImage):
    """A function of each image's name."""

    def __init__(self, names, function):
        super().__init__(names)
        self._function = function

    def key_of(self, name):
        return name

    def __getitem__(self, name):
        return self._function(name)


def columns(*widths, height=6):
    """Regions side by side."""
    return Regions(np.tile(np.repeat(np.arange(len(widths)), widths), (height, 1)).astype(np.int32))


@pytest.mark.parametrize("count", [1, 256, 257, 70_000])
def test_regions_on_disk(tmp_path, count):
    _, write, read = KINDS[Regions]
    regions = Regions(np.arange(count, dtype=np.int32).reshape(1, -1).repeat(2, axis=0))
    write(tmp_path / "a.npz", regions)
    found = read(tmp_path / "a.npz")
    np.testing.assert_array_equal(found.ids, regions.ids)
    assert found.ids.dtype == np.int32
    assert found.count == count


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (np.array([[0, 2]], dtype=np.int32), "without a gap"),
        (np.array([[1, 1]], dtype=np.int32), "without a gap"),
        (np.array([[0, -1]], dtype=np.int32), "from 0"),
        (np.array([[0, 1]]), "int32"),
        (np.array([0, 1], dtype=np.int32), "int32"),
    ],
)
def test_what_is_no_partition_is_refused(ids, words):
    with pytest.raises(ValueError, match=words):
        Regions(ids)


def test_seeds_of_activations_and_what_saliency_forbids():
    regions = columns(2, 3, 1, 4)
    maps = np.zeros((2, 6, 10), dtype=np.float32)
    maps[0, :, :2], maps[1, :, 2:5] = 0.9, 0.3
    limits = {"floor": 0.2, "above": 0.5, "ground": 0.1, "dark": 0.06}
    salient = Saliency.of(np.where(np.arange(10) < 6, 1.0, 0.0)[None].repeat(6, axis=0))
    both = cam_seeds(Activation(maps, (2, 5)), regions, salient, **limits).labels[0]
    np.testing.assert_array_equal(both, [2, 2, 5, 5, 5, 0, 0, 0, 0, 0])  # several tags: saliency has no say
    one = cam_seeds(Activation(maps[:1], (2,)), regions, salient, **limits).labels[0]
    np.testing.assert_array_equal(one, [2, 2, 255, 255, 255, 255, 0, 0, 0, 0])
    alone = cam_seeds(Activation(maps[:1], (2,)), regions, None, **limits).labels[0]
    np.testing.assert_array_equal(alone, [2, 2, 0, 0, 0, 0, 0, 0, 0, 0])
    nothing = cam_seeds(Activation(maps[:0], ()), regions, salient, **limits).labels
    assert not nothing.any()


def test_votes_paint_whole_regions():
    labels = np.array([[0, 3, 3, 255, 255, 7]], dtype=np.uint8).repeat(2, axis=0)
    got = voted(LabelMap(labels), columns(3, 1, 2, height=2)).labels[0]
    np.testing.assert_array_equal(got, [3, 3, 3, 255, 7, 7])


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(2, 4), st.booleans(), st.integers(0, 999))
def test_loss_is_the_mean_or_the_mean_of_the_means(batch, regions, classes, balance, seed):
    random = np.random.default_rng(seed)
    scores = torch.from_numpy(random.normal(size=(batch, regions, classes))).requires_grad_()
    labels = random.choice(np.array([*range(classes), 255], dtype=np.uint8), (batch, regions))
    got = region_loss(scores, torch.from_numpy(labels), balance=balance)
    by_label = {}
    for b, r in np.ndindex(batch, regions):
        if labels[b, r] != 255:
            row = scores[b, r].detach().numpy()
            surprise = np.log(np.exp(row).sum()) - row[labels[b, r]]
            by_label.setdefault(labels[b, r], []).append(surprise)
    everything = [value for values in by_label.values() for value in values]
    expected = np.mean([np.mean(values) for values in by_label.values()] if balance else everything) if by_label else 0
    assert float(got.detach()) == pytest.approx(expected, abs=1e-5)
    got.backward()
    assert scores.grad.isfinite().all()


def views(toy, **changes):
    photos, truth = Photos(toy.train), Truth(toy.train, classes=6)
    regions = Each(photos.names, lambda name: superpixels(photos[name], **CUT))
    seeds = Each(photos.names, lambda name: voted(truth[name], regions[name]))
    options = {"samples": 12, "crop": 40, "scales": (0.6, 1.4), "fill": np.array([1, 2, 3], dtype=np.uint8), **changes}
    return RegionViews(photos, regions, seeds, **options), regions, seeds


def test_views_show_drawn_regions_and_their_labels(toy):
    made, regions, seeds = views(toy, scales=(1.0, 1.0), crop=48)
    assert len(made) == len(toy.train)
    for index, sample in enumerate(toy.train):
        image, ids, labels = made.example(index, np.random.default_rng(index))
        assert (image.shape, ids.shape, labels.shape) == ((3, 48, 48), (48, 48), (12,))
        again = made.example(index, np.random.default_rng(index))
        assert all((a == b).all() for a, b in zip((image, ids, labels), again, strict=True))
        cut, known = regions[sample.name].ids, seeds[sample.name].labels
        mirrored = not np.array_equal(image.transpose(1, 2, 0), made.photos[sample.name].pixels)
        cut, known = (a[:, ::-1] if mirrored else a for a in (cut, known))
        for slot in range(12):
            inside = ids == slot
            assert inside.any() == (labels[slot] != 255)
            if inside.any():
                (region,) = set(cut[inside].tolist())
                assert (inside == (cut == region)).all()
                assert set(known[inside].tolist()) == {labels[slot]}


def test_regions_out_of_view_teach_nothing(toy):
    made, _, _ = views(toy, crop=9, samples=40)
    hidden = 0
    for index in range(len(made)):
        _, ids, labels = made.example(index, np.random.default_rng(index))
        for slot, label in enumerate(labels):
            assert label == 255 or (ids == slot).any()
            hidden += label == 255
    assert hidden


@pytest.mark.parametrize("head", ["pool", "mask"])
def test_both_heads_learn_what_the_seeds_say(toy, tmp_path, head):
    made, regions, seeds = views(toy)
    job = Job(tmp_path, "cpu", "32-true", Narrator(quiet=True), "r")
    network = fit_regions(
        made.photos, regions, seeds, replace(TINY, output_stride=8), head=head, width=32, maps=3, classes=6, samples=20,
        balance=True, crop=48, scales=(1.0, 1.0), schedule=Schedule(epochs=15, batch=4, rate=0.005), seed=0, job=job,
    )  # fmt: skip
    right: dict[bool, list[bool]] = {False: [], True: []}  # on ground, on objects
    for name in made.photos.names:
        found = predict_regions(network, made.photos[name], regions[name], wrong="tags")
        labels, truth = (majority(each.labels, regions[name].ids) for each in (found, seeds[name]))
        for answer, label in zip(labels, truth, strict=True):
            right[bool(label)].append(answer == label)
    assert (np.mean(right[False]) + np.mean(right[True])) / 2 > 0.6  # one answer for all would have one half at most


class Says(RegionNet):
    """Scores that are known beforehand: region r of a photo is of class ``best[r]``, then of ``second[r]``."""

    def __init__(self, best, second):
        super().__init__(build_backbone(TINY), classes=4)
        self.table = torch.zeros(len(best), 4)
        self.table[range(len(best)), second] = 1.0
        self.table[range(len(best)), best] = 2.0

    def scores_of(self, features, ids, regions):
        start = -int(ids.min())
        return self.table[None, start : start + regions]


@pytest.mark.parametrize(
    ("wrong", "expected"), [("background", [1, 0, 0, 3]), ("unknown", [1, 255, 0, 3]), ("tags", [1, 3, 0, 3])]
)
def test_what_becomes_of_classes_that_are_not_there(wrong, expected):
    network, regions = Says(best=[1, 2, 0, 3], second=[0, 3, 1, 2]), columns(2, 2, 2, 2)
    photo = Photo("a", np.zeros((6, 8, 3), dtype=np.uint8), tags=(1, 3))
    got = predict_regions(network, photo, regions, wrong=wrong).labels
    np.testing.assert_array_equal(got[0], np.repeat(expected, 2))
    negative = Photo("a", photo.pixels, tags=())
    assert not predict_regions(network, negative, regions, wrong=wrong).labels.any()


def test_an_unknown_rule_is_refused():
    photo = Photo("a", np.zeros((6, 8, 3), dtype=np.uint8), tags=(1,))
    with pytest.raises(OptionError, match="did you mean 'tags'"):
        predict_regions(Says([1], [0]), photo, columns(8), wrong="tag")


@pytest.mark.parametrize("head", ["pool", "mask"])
def test_many_regions_are_scored_as_if_alone(head):
    torch.manual_seed(0)
    network = RegionNet(build_backbone(TINY), classes=4, head=head, width=8).eval()
    random = np.random.default_rng(0)
    photo = Photo("a", random.integers(0, 256, (40, 50, 3), dtype=np.uint8), tags=(1,))
    ids = np.arange(40 * 50, dtype=np.int32).reshape(40, 50) // 7
    assert ids.max() > TOGETHER
    got = region_logits(network, photo, Regions(ids))
    image = torch.from_numpy(photo.pixels.transpose(2, 0, 1)[None] / np.float32(255))
    with torch.no_grad():
        expected = network(image, torch.from_numpy(ids[None]), ids.max() + 1)[0]
    np.testing.assert_allclose(got, expected, atol=1e-4)


SIZE = (60, 80)
QUARTERS = columns(20, 20, 20, 20, height=60)
HALF, LOUD = (Saliency.of(np.full(SIZE, value)) for value in (0.5, 1.0))
JOIN = {"above": 0.5, "unsure": 0.0, "averaged": False}


def bright(tags=(2,)):
    """A photo whose quarters are bright, bright, dark, dark."""
    pixels = np.zeros((*SIZE, 3), dtype=np.uint8)
    pixels[:, :40], pixels[:, 40:] = 220, 20
    return Photo("a", pixels, tags)


def painted(*labels):
    """One label a quarter."""
    return LabelMap(np.array(labels, dtype=np.uint8)[QUARTERS.ids])


def quarters(labels):
    return majority(labels.labels, QUARTERS.ids).tolist()


def test_saliency_adds_what_is_like_the_object_in_colour():
    found, dim = painted(2, 0, 0, 0), Saliency.of(np.full(SIZE, 0.01))
    # the bright one, though the dark ones are as salient
    assert quarters(with_saliency(bright(), QUARTERS, found, HALF, **JOIN)) == [2, 2, 0, 0]
    assert quarters(with_saliency(bright(), QUARTERS, found, dim, **JOIN)) == [2, 0, 0, 0]
    assert quarters(with_saliency(bright(), QUARTERS, found, LOUD, **JOIN)) == [2, 2, 2, 2]


def test_several_tags_no_tag_and_no_object_are_left_alone():
    found, empty = painted(2, 0, 0, 255), painted(0, 0, 0, 0)
    for photo, objects in ((bright((2, 3)), found), (bright(()), empty), (bright(None), empty), (bright(), empty)):
        assert with_saliency(photo, QUARTERS, objects, LOUD, **JOIN) is objects


def test_the_band_below_is_unknown():
    got = with_saliency(bright(), QUARTERS, painted(2, 0, 0, 0), HALF, above=1.0, unsure=0.5, averaged=True)
    assert quarters(got) == [2, 255, 0, 0]
