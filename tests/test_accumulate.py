"""The two trainings on whole photos: what feeds back survives a kill, and maps lie where the photo does."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.accumulate import SquareViews, fit_accumulating, fit_integral, grown, square_cam
from tagmask.activate import multi_scale_cam
from tagmask.attention import AttentionMemory, Rule
from tagmask.augment import channels_first, resize
from tagmask.data.photos import PerImage, Photos
from tagmask.errors import DataError
from tagmask.fit import Schedule
from tagmask.nets.backbones import build_backbone
from tagmask.nets.classifier import Classifier
from tagmask.progress import Narrator
from tagmask.types import Activation, Photo
from tagmask.work import Job
from tests.conftest import TINY

SCHEDULE = Schedule(epochs=4, batch=5, rate=0.01)  # 12 photos: batches go over the ends of epochs


def job(folder):
    folder.mkdir(exist_ok=True)
    return Job(folder, "cpu", "32-true", Narrator(quiet=True), "test")


def accumulate(samples, folder, rule, schedule=SCHEDULE, **more):
    return fit_accumulating(
        Photos(samples), TINY, classes=5, size=40, rule=rule, schedule=schedule, seed=3, job=job(folder), **more
    )


def content(found):
    return found.maps.read_bytes(), [tensor.numpy().tobytes() for tensor in found.network.state_dict().values()]


@pytest.mark.parametrize("stop", [9, 40])
@pytest.mark.parametrize(
    "options",
    [
        {"rule": Rule()},
        {"rule": Rule(update="ave", ranked=False), "mirror": True},
        {"rule": Rule(drop_rate=0.5), "convs": 1},
    ],
    ids=["max", "mean, mirrored", "drop"],
)
def test_a_training_cut_short_ends_with_the_same_network_and_maps(toy, tmp_path, monkeypatch, options, stop):
    whole = accumulate(toy.train, tmp_path / "whole", **options)
    see, calls = AttentionMemory.see, []

    def power_cut(self, index, maps):
        see(self, index, maps)
        calls.append(index)
        if len(calls) == stop:  # in the middle of a batch, the memory ahead of the network
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(AttentionMemory, "see", power_cut)
        with pytest.raises(KeyboardInterrupt):
            accumulate(toy.train, tmp_path / "cut", **options)
    kept = [path.name for path in (tmp_path / "cut").glob("memory-*")]
    assert len(kept) == 1  # the state of the last checkpoint, and of no other
    assert content(accumulate(toy.train, tmp_path / "cut", **options)) == content(whole)


def test_a_photo_is_seen_once_an_epoch_and_taken_after_the_first(toy, tmp_path):
    found = accumulate(toy.train, tmp_path / "a", Rule(ranked=False), Schedule(epochs=3, batch=4, rate=0.01))
    rows = np.load(found.maps)
    assert set(rows["seen"]) == {3}
    assert set(rows["taken"]) == {2}
    ranked = np.load(accumulate(toy.train, tmp_path / "b", Rule(), Schedule(epochs=3, batch=4, rate=0.01)).maps)
    assert 0 < ranked["taken"].sum() < rows["taken"].sum()
    short = Schedule(epochs=2, batch=4, rate=0.01)
    unsure = np.load(accumulate(toy.train, tmp_path / "c", Rule(ranked=False), short, least=1.0).maps)
    assert not unsure["taken"].any()
    assert unsure["map"].max() > 0.99  # the last epoch's


def test_what_is_dropped_changes_what_is_learned(toy, tmp_path):
    weights = {}
    for rate, threshold in ((0.0, 0.6), (1.0, 0.6), (1.0, 1.0)):
        rule = Rule(ranked=False, start=0, drop_rate=rate, drop_threshold=threshold)
        weights[rate, threshold] = content(accumulate(toy.train, tmp_path / f"{rate}{threshold}", rule))[1]
    assert weights[0.0, 0.6] != weights[1.0, 0.6]
    assert weights[0.0, 0.6] == weights[1.0, 1.0]  # nothing lies above the maximum


def test_maps_of_mirror_images_are_laid_back_onto_the_photo(toy, tmp_path, monkeypatch):
    """A network whose maps are the brightness of the photo must show each photo alike, mirrored or not."""
    seen = {}

    def brightness(self, x):
        small = torch.nn.functional.adaptive_avg_pool2d(x.mean(dim=1, keepdim=True), 5)
        return small.expand(-1, self.classes, -1, -1) + 0 * self.head.weight.sum()

    monkeypatch.setattr(Classifier, "maps", brightness)
    monkeypatch.setattr(
        AttentionMemory, "see", lambda self, index, maps: seen.setdefault(index, []).append(maps[0].copy())
    )
    accumulate(toy.train, tmp_path / "a", Rule(), mirror=True)
    photos = Photos(toy.train)
    for index, maps in seen.items():
        pixels = resize(photos[photos.names[index]].pixels, 40, 40)
        expected = pixels.reshape(5, 8, 5, 8, 3).mean(axis=(1, 3, 4)) / 255
        for its in maps:
            np.testing.assert_allclose(its, expected, atol=1e-5)


class Ramps(PerImage[Activation]):
    """Maps that rise from left to right, for the tags of each photo."""

    def __init__(self, photos):
        super().__init__(photos.names)
        self.photos = photos

    def key_of(self, name):
        return name

    def __getitem__(self, name):
        tags = self.photos.tags(name)
        return Activation(np.tile(np.linspace(0, 1, 4, dtype=np.float32), (len(tags), 3, 1)), tags)


def test_photo_tags_and_maps_are_mirrored_together(toy):
    photos = Photos(toy.train)
    views = SquareViews(photos, classes=5, size=32, mirror=True, attention=Ramps(photos))
    ways = set()
    for seed in range(12):
        view, targets, index, mirrored = views.example(1, np.random.default_rng(seed))
        assert (int(index), targets.shape) == (1, (5, 3, 4))
        straight = channels_first(resize(photos[photos.names[1]].pixels, 32, 32))
        np.testing.assert_array_equal(view, straight[:, :, ::-1] if mirrored else straight)
        ramp = np.linspace(0, 1, 4, dtype=np.float32)[:: -1 if mirrored else 1]
        for tag in range(1, 6):
            expected = ramp if tag in photos.tags(photos.names[1]) else np.zeros(4)
            np.testing.assert_array_equal(targets[tag - 1], np.tile(expected, (3, 1)))
        ways.add(bool(mirrored))
    assert ways == {False, True}
    _, targets, *_ = SquareViews(photos, classes=5, size=32, mirror=False).example(1, np.random.default_rng(0))
    assert tuple(np.flatnonzero(targets) + 1) == photos.tags(photos.names[1])


def test_colours_vary_and_nothing_else(toy):
    photos = Photos(toy.train)
    plain, jittered, still = (
        SquareViews(photos, classes=5, size=32, mirror=True, attention=Ramps(photos), jitter=jitter).example(
            1, np.random.default_rng(4)
        )
        for jitter in ((), (0.3, 0.3, 0.3, 0.1), (0.0, 0.0, 0.0, 0.0))
    )
    assert (plain[0] != jittered[0]).any()
    for part in range(1, 4):
        np.testing.assert_array_equal(plain[part], jittered[part])
    assert np.abs(plain[0].astype(int) - still[0]).max() <= 1


@pytest.mark.parametrize("hybrid", [True, False])
def test_a_second_network_learns_the_maps(toy, tmp_path, hybrid):
    found = accumulate(toy.train, tmp_path / "a", Rule())
    schedule = Schedule(epochs=12, batch=4, rate=0.02)
    fit_integral(
        Photos(toy.train),
        found,
        TINY,
        classes=5,
        size=40,
        hybrid=hybrid,
        schedule=schedule,
        seed=0,
        job=job(tmp_path / "b"),
    )
    curve = [json.loads(line) for line in (tmp_path / "b" / "curve.jsonl").read_text().splitlines()]
    assert set(curve[0]) == {"step", "loss", "lr", *(("enhance", "constrain") if hybrid else ("cross entropy",))}
    assert np.mean([point["loss"] for point in curve[-9:]]) < 0.9 * curve[0]["loss"]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 17), st.integers(1, 17), st.integers(0, 99))
def test_maps_grow_as_the_cubic_says(h, w, height, width, seed):
    maps = np.random.default_rng(seed).random((2, h, w)).astype(np.float32)
    photo = Photo("a", np.zeros((height, width, 3), dtype=np.uint8), (2, 5))
    found = grown(Activation(maps, (2, 5)), photo)
    assert found.classes == (2, 5)
    for plane, its in zip(maps, found.maps, strict=True):
        expected = np.array([[cubic(plane, y, x, its.shape) for x in range(width)] for y in range(height)])
        if np.ptp(expected) > 1e-3:
            np.testing.assert_allclose(its, (expected - expected.min()) / np.ptp(expected), atol=2e-3)


def cubic(plane, y, x, size, a=-0.75):
    """Convolve with Keys' cubic at one place; beyond the border its cells repeat."""
    total, (h, w) = 0.0, plane.shape
    v, u = (y + 0.5) * h / size[0] - 0.5, (x + 0.5) * w / size[1] - 0.5
    for j in range(int(np.floor(v)) - 1, int(np.floor(v)) + 3):
        for i in range(int(np.floor(u)) - 1, int(np.floor(u)) + 3):
            weight = 1.0
            for d in (abs(v - j), abs(u - i)):
                near = (a + 2) * d**3 - (a + 3) * d**2 + 1
                weight *= near if d <= 1 else a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0
            total += weight * plane[min(max(j, 0), h - 1), min(max(i, 0), w - 1)]
    return total


def test_flat_maps_and_none_at_all_grow_too():
    photo = Photo("a", np.zeros((9, 1, 3), dtype=np.uint8), (1, 2))
    flat = np.stack([np.ones((2, 2), dtype=np.float32), np.zeros((2, 2), dtype=np.float32)])
    np.testing.assert_allclose(
        grown(Activation(flat, (1, 2)), photo).maps, np.stack([np.ones((9, 1)), np.zeros((9, 1))])
    )
    assert grown(Activation(flat[:0], ()), photo).maps.shape == (0, 9, 1)


def test_the_square_is_what_the_network_sees(toy):
    torch.manual_seed(0)
    network = Classifier(build_backbone(TINY), classes=5).eval()
    pixels = np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)
    photo, square = Photo("a", pixels, (1, 4)), Photo("a", resize(pixels, 40, 40), (1, 4))
    found = square_cam(network, photo, size=40, scales=(0.5, 1.0), flip=True)
    expected = grown(multi_scale_cam(network, square, scales=(0.5, 1.0), flip=True), photo)
    np.testing.assert_array_equal(found.maps, expected.maps)
    assert found.maps.shape == (2, 30, 50)


def test_nothing_to_learn_is_said_at_once(toy, tmp_path):
    negatives = [type(sample)(sample.name, sample.image, tags=()) for sample in toy.train]
    with pytest.raises(DataError, match="no image has a tag"):
        accumulate(negatives, tmp_path / "a", Rule())
