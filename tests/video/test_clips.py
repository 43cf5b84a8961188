"""Clips made of labelled photos, drawn anew or kept as a settled network sees them."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import TINY

from tagmask.data.photos import Photos, Truth
from tagmask.nets.backbones import build_backbone
from tagmask.nets.temporal import TemporalSegmenter
from tagmask.progress import Narrator
from tagmask.types import Sample
from tagmask.video import clips as module
from tagmask.video.clips import Clips, ClipViews, EncodedClips, EncodedViews, encode_clips, fewer, find_movers
from tagmask.video.pseudo import Motion
from tagmask.work import Job

SIZE, PAST = (32, 48), 3


@pytest.fixture
def frames(tmp_path):
    """Six frames of one drive, of growing brightness, with masks; and one that stands alone."""
    samples = []
    for name, value in [*((f"drive_{30 * n:03d}", 30 * n) for n in range(6)), ("alone", 200)]:
        labels = np.zeros((60, 80), np.uint8)
        labels[20:40, 30:45] = 2
        Image.fromarray(np.full((60, 80, 3), value, np.uint8)).save(tmp_path / f"{name}.png")
        Image.fromarray(labels).save(tmp_path / f"{name}-mask.png")
        samples.append(Sample(name, tmp_path / f"{name}.png", None, tmp_path / f"{name}-mask.png"))
    return Photos(samples), Truth(samples, classes=3)


@pytest.fixture
def image_network():
    torch.manual_seed(0)
    return TemporalSegmenter(build_backbone(TINY), 3, channels=8, hidden=8, skip=4, frames=0).eval()


def job(folder):
    folder.mkdir(exist_ok=True)
    return Job(folder, "cpu", "32-true", Narrator(quiet=True), "test")


def encode(network, frames, folder, count=9, **changes):
    options = {"size": SIZE, "past": PAST, "motion": Motion(), "real": 0.3, "seed": 1, **changes}
    photos, truth = frames
    movers = find_movers(truth, classes=(2,))
    return encode_clips(network, photos, truth, movers=movers, count=count, job=job(folder), **options)


def arrays(found):
    return {name: np.array(getattr(found, name)) for name in module.ARRAYS}


def test_movers_are_whole_objects_of_their_classes(frames):
    _, truth = frames
    found = find_movers(truth, classes=(2,))["places"]
    assert len(found) == 7
    assert found[0] == ["drive_000", 2, 20, 30, 40, 45]
    assert find_movers(truth, classes=(1,)) == {"places": []}


def test_real_clips_are_the_photos_before(frames):
    clips = Clips(*frames, SIZE, PAST, Motion(gain=0, noise=0), real=1.0)
    seen, labels, past = clips.draw("drive_090", np.random.default_rng(0))
    assert seen.shape == (4, *SIZE, 3)
    assert labels.shape == SIZE
    assert past == 2
    assert np.abs(seen.reshape(4, -1).mean(axis=1) - [30, 30, 60, 90]).max() < 1.5
    _, _, past = clips.draw("drive_030", np.random.default_rng(0))
    assert past == 1
    _, _, past = clips.draw("drive_000", np.random.default_rng(0))  # nothing before it: a pseudo-clip
    assert past == PAST
    seen, _, past = clips.draw("alone", np.random.default_rng(0))
    assert past == PAST
    assert np.abs(seen.mean(axis=(1, 2, 3)) - 200).max() < 2


def test_examples_see_fewer_frames_now_and_then(frames):
    views = ClipViews(Clips(*frames, SIZE, PAST, Motion()), drop=0.5)
    images, labels, _ = views.example(0, np.random.default_rng(0))
    assert images.shape == (4, 3, *SIZE)
    assert labels.shape == SIZE
    counts = [int(fewer(np.asarray(7), np.random.default_rng(seed), 0.5)) for seed in range(400)]
    assert set(counts) == set(range(8))
    assert np.mean(np.array(counts) == 7) == pytest.approx(0.5 + 0.5 / 8, abs=0.08)
    assert all(fewer(np.asarray(7), np.random.default_rng(seed), 0.0) == 7 for seed in range(20))


def test_what_is_kept_is_what_the_network_sees(frames, image_network, tmp_path):
    found = encode(image_network, frames, tmp_path / "a")
    assert found.maps.shape == (9, PAST + 1, 8, 2, 3)
    assert found.maps.dtype == np.float16
    (tmp_path / "kept").mkdir()
    found.save(tmp_path / "kept")
    kept = EncodedClips.load(tmp_path / "kept", device="cpu", key="k")
    assert kept.key == "k"
    views = EncodedViews(kept, drop=0.0)
    assert len(views) == 9
    maps, fine, labels, past = views.example(2, np.random.default_rng(0))
    assert maps.shape == (PAST + 1, 8, 2, 3)
    assert labels.shape == SIZE
    assert past == kept.past[2]
    photos, truth = frames
    clips = Clips(photos, truth, SIZE, PAST, Motion(), find_movers(truth, classes=(2,))["places"], 0.3)
    name = photos.names[np.random.default_rng([1, 0]).permutation(7)[2]]
    images, expected, _ = clips.draw(name, np.random.default_rng([1, 1, 2]))
    assert np.array_equal(labels, expected)
    with torch.no_grad():
        encoded = image_network.encode(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 255)
    np.testing.assert_allclose(maps, encoded.map, atol=5e-3)
    np.testing.assert_allclose(fine, encoded.fine[-1], atol=5e-3)


def test_drawing_that_was_killed_goes_on_and_ends_with_the_same_bytes(frames, image_network, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "KEEP_EVERY", 2)
    whole = arrays(encode(image_network, frames, tmp_path / "whole"))
    calls, draw = [], Clips.draw

    def power_cut(self, name, random):
        calls.append(name)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return draw(self, name, random)

    monkeypatch.setattr(Clips, "draw", power_cut)
    with pytest.raises(KeyboardInterrupt):
        encode(image_network, frames, tmp_path / "cut")
    assert int((tmp_path / "cut/done").read_text()) >= 2
    before = len(calls)
    resumed = arrays(encode(image_network, frames, tmp_path / "cut"))
    assert len(calls) - before < 9
    for name, value in whole.items():
        assert np.array_equal(value, resumed[name]), name


def test_all_photos_are_drawn_as_often(frames, image_network, tmp_path, monkeypatch):
    drawn, draw = [], Clips.draw
    monkeypatch.setattr(Clips, "draw", lambda self, name, random: drawn.append(name) or draw(self, name, random))
    encode(image_network, frames, tmp_path / "a", count=14)
    assert {drawn[1:].count(name) for name in frames[0].names} == {2}  # the first is a try, for its shapes
