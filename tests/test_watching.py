"""Frames of clips: which are chosen, one chunk in memory, broken clips, and the masks that come of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tagmask import watching
from tagmask.activate import multi_scale_cam
from tagmask.data.photos import PerImage
from tagmask.errors import DataError, OptionError
from tagmask.footage import Recorder
from tagmask.nets.backbones import build_backbone
from tagmask.nets.classifier import Classifier
from tagmask.refine.clipcut import CutOptions
from tagmask.sights import Sights, cam_of_frame, mask_of_frame
from tagmask.tagged_clips import MadeClip, TaggedClip, TaggedClips, clips_in
from tagmask.watching import FrameOptions, chunked, cut_clip, told, watched
from tests.conftest import TINY

ALL = FrameOptions(stride=1, score=0.0, others=1.0, least=1, chunk=3, change=1.0)
LOOK = {"scales": (1.0,), "flip": False}
CUT = {
    "threshold": 0.3, "calibrate": 0.5, "cut": CutOptions(regions=30, flow="ultrafast"), "area": (0.0, 1.0), "inside": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return Classifier(build_backbone(TINY), classes=5).eval()


@pytest.fixture
def made(toy):
    sample = next(sample for sample in toy.train if len(sample.tags) == 1)
    return TaggedClip(sample.name, sample.name, sample.tags[0], MadeClip(sample, 0, 7, 0))


class Each(PerImage):
    def __init__(self, values):
        super().__init__(list(values))
        self.values = values

    def key_of(self, name):
        return name

    def __getitem__(self, name):
        return self.values[name]


def runs(passing, cuts, options):
    """The chunks by number, written from what the options say."""
    found, run = [], []
    for number in range(len(passing) + 1):
        ends = number == len(passing) or not passing[number] or number in cuts
        if ends and run:
            found.append(run)
            run = []
        if number < len(passing) and passing[number]:
            run.append(number)
    long = [run for run in found if len(run) >= options.least]
    return [run[start : start + options.chunk] for run in long for start in range(0, len(run), options.chunk)]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.booleans(), max_size=14), st.sets(st.integers(1, 13)), st.integers(1, 5), st.integers(0, 3),
)  # fmt: skip
def test_runs_of_frames_that_pass(passing, cuts, chunk, shorter):
    options = FrameOptions(least=max(1, chunk - shorter), chunk=chunk, change=0.5)
    dark = False
    frames = []
    for number, passes in enumerate(passing):
        dark ^= number in cuts
        frame = np.full((8, 8, 3), 30 if dark else 200, dtype=np.uint8)
        frame[0, 0] = 255 if passes else 0
        frames.append((number, frame))
    got = chunked(iter(frames), lambda frame: bool(frame[0, 0, 0]), options)
    assert [[number for number, _ in chunk] for chunk in got] == runs(passing, cuts, options)


def test_no_more_than_a_chunk_is_read_ahead(made):
    read = []

    def frames():
        for number, frame in enumerate(made.clip):
            read.append(number)
            yield number, frame

    chunks = chunked(frames(), lambda _: True, ALL)
    assert [len(next(chunks)) for _ in range(2)] == [3, 3]
    assert read == [0, 1, 2, 3, 4, 5]


def test_what_is_seen_of_a_clip(classifier, made):
    seen = watched(classifier, made, frames=ALL, **LOOK)
    assert seen.facts == {
        "frames": 7,
        "size": [36, 36],
        "stride": 1,
        "chunks": [[0, 1, 2], [3, 4, 5], [6]],
        "error": "",
    }
    for number, frame in enumerate(made.clip):
        assert np.abs(seen.picture("frame", number).astype(int) - frame).mean() < 8
        attention = seen.picture("attention", number)
        assert attention.shape == frame.shape[:2]
        assert attention.max() == 0 or attention.max() > 200
    small = watched(classifier, made, frames=replace(ALL, stride=3, longest=20), **LOOK)
    assert small.facts["chunks"] == [[0, 3, 6]]
    assert small.facts["size"] == [36, 36]
    assert small.picture("frame", 3).shape == (20, 20, 3)
    summed = watched(classifier, made, frames=ALL, attend=multi_scale_cam, scales=(1.0, 2.0), flip=True)
    assert any((summed.picture("attention", n) != seen.picture("attention", n)).any() for n in range(7))
    for frames in (FrameOptions(stride=1, score=1.0, others=1.0, least=1), FrameOptions(score=0.0, others=0.0)):
        assert watched(classifier, made, frames=frames, **LOOK).facts["chunks"] == []


def test_a_broken_clip_gives_nothing_and_says_why(classifier, tmp_path, toy, made, work):
    folder = tmp_path / "clips/disc/wild"
    folder.mkdir(parents=True)
    for number, size in enumerate([(30, 20), (30, 20), (31, 20)]):
        Image.new("RGB", size, (9, 80, 200)).save(folder / f"{number}.png")
    clips = clips_in(tmp_path / "clips", toy.classes)
    seen = watched(classifier, clips["disc/wild"], frames=ALL, **LOOK)
    assert seen.facts["chunks"] == []
    assert seen.facts["frames"] == 0
    assert "{clip}/2.png: frame 2 has 31x20 pixels" in seen.facts["error"]
    cut = cut_clip(seen, **CUT)
    assert cut.facts["kept"] == []
    assert not len(Sights(clips, Each({"disc/wild": cut})))
    with pytest.raises(DataError, match=r"none of the 1 clips can be read to its end; .*wild/2.png: frame 2 has 31x20"):
        told(clips, Each({"disc/wild": seen}), work.narrator)
    both = TaggedClips([clips["disc/wild"], made], ["a.mp4: is empty. Not used."])
    footages = Each({"disc/wild": seen, made.name: watched(classifier, made, frames=ALL, **LOOK)})
    assert told(both, footages, work.narrator) == (
        "a.mp4: is empty. Not used.",
        f"{folder}/2.png: frame 2 has 31x20 pixels, those before have 30x20; give frames of one size. Not used.",
    )


def test_a_truncated_clip_is_dropped_though_it_began_well(classifier, made, monkeypatch):
    def broken(self):
        yield from [np.full((30, 40, 3), 90, dtype=np.uint8)] * 5
        raise DataError(f"{self.path}: is truncated (frame 5 of 9 cannot be read); copy it again.")

    monkeypatch.setattr(MadeClip, "__iter__", broken)
    seen = watched(classifier, made, frames=ALL, **LOOK)
    assert seen.facts["chunks"] == []
    assert "is truncated" in seen.facts["error"]


def footage(attention, masks=None, chunks=None, size=(40, 40)):
    """Pictures of a bright square on dark ground."""
    recorder = Recorder()
    for number, values in enumerate(attention):
        frame = np.full((20, 20, 3), 30, dtype=np.uint8)
        frame[5:15, 5:15] = 220
        recorder.add("frame", number, frame)
        recorder.add("attention", number, (values * 255).astype(np.uint8))
        if masks is not None:
            recorder.add("mask", number, masks[number].astype(np.uint8))
    numbers = list(range(len(attention)))
    facts = {"frames": len(numbers), "size": list(size), "stride": 1, "chunks": chunks or [numbers], "error": ""}
    return recorder.done(facts)


def test_masks_are_cut_chunk_by_chunk_and_the_sensible_kept(monkeypatch):
    square = np.zeros((20, 20))
    square[6:14, 6:14] = 1
    seen = footage([square, square, np.ones((20, 20)), square], chunks=[[0, 1], [2, 3]])
    sizes = []
    true = watching.cut_frames

    def spied(frames, attention, options):
        sizes.append(len(frames))
        return true(frames, attention, options)

    monkeypatch.setattr(watching, "cut_frames", spied)
    options = {**CUT, "area": (0.01, 0.9), "inside": 0.6, "cut": CutOptions(regions=40, temporal=0, rounds=1)}
    cut = cut_clip(seen, **options)
    assert sizes == [2, 2]
    assert cut.facts == {**seen.facts, "kept": [0, 1, 3]}
    mask = cut.picture("mask", 0)
    assert set(np.unique(mask)) == {0, 1}
    truth = np.zeros((20, 20), dtype=bool)
    truth[5:15, 5:15] = True
    assert ((mask == 1) & truth).sum() / ((mask == 1) | truth).sum() > 0.7


def test_attention_is_moved_so_that_the_threshold_is_undecided():
    values = np.full((20, 20), 0.25)
    values[5:15, 5:15] = 0.35
    plain = {**CUT, "cut": CutOptions(regions=25, colour=0, spatial=0, temporal=0)}
    moved, still = (cut_clip(footage([values]), **{**plain, "calibrate": c}) for c in (0.5, 0.0))
    assert moved.picture("mask", 0)[7:13, 7:13].all()
    assert not moved.picture("mask", 0)[:3].any()
    assert not still.picture("mask", 0).any()


def test_masks_of_frames_at_the_size_of_the_clip(made):
    square = np.zeros((20, 20))
    square[5:15, 5:15] = 0.6
    held = footage([square, square], masks=[square > 0, square > 0], chunks=[[1]])
    clips = TaggedClips([made])
    sights = Sights(clips, Each({made.name: held}))
    assert sights.names == [f"{made.name}/00000", f"{made.name}/00001"]
    assert sights.key_of(sights.names[0]) != sights.key_of(sights.names[1])
    for label, what in ((mask_of_frame, {}), (cam_of_frame, {"threshold": 0.5})):
        nothing, found = (label(sights[name], **what).labels for name in sights.names)
        assert nothing.shape == found.shape == (40, 40)
        assert not nothing.any()
        assert set(np.unique(found)) == {0, 1}
        assert found[13:27, 13:27].all()
    assert not cam_of_frame(sights[sights.names[1]], threshold=0.7).labels.any()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"stride": 0}, "stride 0"),
        ({"least": 31}, "must fit into a chunk"),
        ({"score": 1.5}, "expected numbers in 0..1"),
        ({"change": 2.0}, "the change at a cut is 2.0"),
    ],
)
def test_nonsense_is_refused(wrong, words):
    with pytest.raises(OptionError, match=words):
        FrameOptions(**wrong)
