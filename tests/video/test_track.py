"""Following objects: one template a clip, a state of one size, frames of any size, objects that leave; and whole clips."""

import csv
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from tests.video.conftest import SMALL, TINY, moving, tiny_tracker
from torch.nn import functional

import tagmask
from tagmask.cli import main
from tagmask.data.pixels import read_mask, write_mask
from tagmask.data.video import ClipWriter, open_clip
from tagmask.errors import DataError, OptionError, RunError
from tagmask.nets.backbones import build_backbone
from tagmask.nets.classifier import Classifier
from tagmask.nets.storage import save_network
from tagmask.nets.tracker import TrackerNet
from tagmask.video import matching
from tagmask.video.fit_tracker import fit_tracker
from tagmask.video.track import Tracker, load_tracker
from tagmask.video.track_clip import first_mask, track_clip
from tagmask.video.views import Canvas


def size_of(tracker):
    return sum(part.numel() * part.element_size() for part in tracker.state().values())


@pytest.mark.parametrize("objects", [1, 3])
def test_templates_are_made_once_a_clip_and_the_state_keeps_its_size(objects, monkeypatch):
    calls = []

    def counted(rows, **options):
        calls.append(tuple(rows.shape))
        return matching.isometric(rows, **options)

    monkeypatch.setattr("tagmask.nets.tracker.isometric", counted)
    tracker = Tracker(tiny_tracker())
    frames = list(moving(8, objects=objects))
    tracker.start(*frames[0])
    calls.clear()  # folding tries the network too
    tracker.start(*frames[0])
    assert calls == [(objects, 24, 8)]
    size = size_of(tracker)
    for frame, _ in itertools.islice(itertools.cycle(frames), 300 // objects):
        labels = tracker.step(frame)
        assert labels.dtype == np.uint8
        assert labels.shape == (60, 100)
        assert set(np.unique(labels)) <= set(range(objects + 1))
        assert size_of(tracker) == size
    assert len(calls) == 1
    assert tracker.templates == 2
    assert [score.object for score in tracker.scores] == list(range(1, objects + 1))


def iou(a, b):
    return np.count_nonzero(a & b) / max(1, np.count_nonzero(a | b))


@pytest.fixture
def by_colour(monkeypatch):
    """A tracker whose network does not match but sees objects 1, 2, 3 by the colours of `moving`: the rest can be checked."""
    look = TrackerNet.forward

    def forward(self, frames):
        return look(self, frames)._replace(fine=functional.avg_pool2d(frames, kernel_size=4))

    def decode(self, seen, template, past, owner, pointing=None):
        colours = seen.fine[0]
        others = torch.stack([colours[[c for c in range(3) if c != k]].amax(dim=0) for k in range(3)])
        return 40 * (colours - others - 0.35)[: len(owner)]

    monkeypatch.setattr(TrackerNet, "forward", forward)
    monkeypatch.setattr(TrackerNet, "decode", decode)
    return Tracker(tiny_tracker())


@pytest.mark.parametrize("size", [(64, 96), (60, 100), (120, 200), (100, 60), (31, 47), (300, 170)])
def test_what_is_seen_is_where_it_is_at_any_size_of_frames(by_colour, size):
    for number, (frame, ids) in enumerate(moving(8, size=size)):
        if number == 0:
            by_colour.start(frame, ids * 7)
            continue
        labels = by_colour.step(frame)
        assert labels.shape == size
        assert set(np.unique(labels)) == {0, 7}
        assert iou(labels == 7, ids == 1) > 0.8
        (score,) = by_colour.scores
        there = np.argwhere(labels == 7)
        assert (score.object, score.area) == (7, len(there))
        assert (score.row, score.column) == pytest.approx(there.mean(axis=0).tolist())
        assert 0.5 <= score.confidence <= 1
        inner, canvas = np.argwhere(ids == 1).mean(axis=0), Canvas.of(size, (64, 96))
        at = (inner + 0.5) * np.array(canvas.inner) / np.array(size) + (canvas.top, canvas.left)
        assert by_colour.state()["centres"][0, :2].numpy() * 4 + 2 == pytest.approx(at, abs=2.5)


def test_three_objects_keep_their_ids_and_one_may_leave(by_colour):
    clip = list(moving(12, size=(96, 144), objects=3))
    ids = np.array([0, 3, 41, 200], dtype=np.uint8)
    by_colour.start(clip[0][0], ids[clip[0][1]])
    for frame, truth in clip[1:]:
        labels = by_colour.step(frame)
        for k in (1, 2, 3):
            assert iou(labels == ids[k], truth == k) > 0.75 or not (truth == k).any()
        gone = not (truth == 2).any()
        assert (labels == 41).any() != gone
    assert gone
    assert [(score.object, score.area > 0) for score in by_colour.scores] == [(3, True), (41, False), (200, True)]
    by_colour.step(clip[1][0])  # and it may come back
    assert by_colour.scores[1].area > 0


@pytest.mark.slow
def test_what_was_learned_on_drawn_shapes_follows_a_disc(tmp_path):
    data = tagmask.load_data(tagmask.make_toy(tmp_path / "toy", images=24, size=64, seed=1))
    tracker = fit_tracker(
        data, tmp_path / "run", backbone=TINY, device="cpu", quiet=True, rate=2e-4, epochs=80, motion=0.1, batch=4,
        pair=0.0, **{**SMALL, "width": 16},
    )  # fmt: skip
    for number, (frame, ids) in enumerate(moving(10, size=(64, 96))):
        if number == 0:
            tracker.start(frame, ids)
        else:
            assert iou(tracker.step(frame) == 1, ids == 1) > 0.5


def test_an_object_that_leaves_keeps_its_centre_and_breaks_nothing():
    tracker = Tracker(tiny_tracker())
    (frame, ids), (then, _) = moving(2)
    tracker.start(frame, ids)
    with torch.no_grad():
        tracker.network.last[-1].bias.fill_(-100)  # from now on nothing is ever seen
    centre = tracker.state()["centres"]
    for _ in range(3):
        assert not tracker.step(then).any()
        torch.testing.assert_close(tracker.state()["centres"], centre)
        (score,) = tracker.scores
        assert (score.area, np.isnan(score.confidence), np.isnan(score.row)) == (0, True, True)
        assert all(part.isfinite().all() for part in tracker.state().values())
    with torch.no_grad():
        tracker.network.last[-1].bias.fill_(100)  # and now everything
    assert tracker.step(then).all()


def test_what_is_unknown_in_the_first_mask_is_no_object():
    frame, ids = next(moving(1))
    tracker = Tracker(tiny_tracker())
    ids[:5] = 255
    tracker.start(frame, ids)
    assert tracker.state()["ids"].tolist() == [1]
    assert set(np.unique(tracker.step(frame))) <= {0, 1}
    with pytest.raises(DataError, match="the first mask shows no object; expected ids 1 to 254"):
        tracker.start(frame, np.where(ids == 1, np.uint8(0), ids))


def test_an_object_too_small_for_the_canvas_still_has_a_template():
    frame = np.zeros((300, 500, 3), dtype=np.uint8)
    ids = np.zeros((300, 500), dtype=np.uint8)
    ids[299, 499], ids[0, 1], ids[100:200, 100:300] = 1, 2, 3
    tracker = Tracker(tiny_tracker())
    tracker.start(frame, ids)
    assert tracker.state()["ids"].tolist() == [1, 2, 3]
    assert (tracker.state()["inside"].amax(dim=1) == 1).all()
    assert tracker.step(frame).shape == (300, 500)


@pytest.mark.parametrize(
    ("frame", "mask", "words"),
    [
        (np.zeros((60, 90), dtype=np.uint8), np.ones((60, 90), dtype=np.uint8), r"the frame is uint8 \(60, 90\)"),
        (np.zeros((60, 90, 3)), np.ones((60, 90), dtype=np.uint8), "the frame is float64"),
        (
            np.zeros((60, 90, 3), dtype=np.uint8),
            np.ones((60, 91), dtype=np.uint8),
            r"the first mask is uint8 \(60, 91\)",
        ),
        (np.zeros((60, 90, 3), dtype=np.uint8), np.ones((60, 90)), "the first mask is float64"),
        (np.zeros((60, 90, 3), dtype=np.uint8), np.zeros((60, 90), dtype=np.uint8), "shows no object"),
    ],
)
def test_frames_and_masks_that_do_not_fit_are_named(frame, mask, words):
    with pytest.raises(DataError, match=words):
        Tracker(tiny_tracker()).start(frame, mask)


def test_steps_come_after_the_start_and_are_of_its_size():
    tracker, frame = Tracker(tiny_tracker()), np.zeros((60, 90, 3), dtype=np.uint8)
    with pytest.raises(RunError, match="call start"):
        tracker.step(frame)
    with pytest.raises(RunError, match="not been started"):
        tracker.state()
    assert tracker.scores == ()
    tracker.start(frame, np.ones((60, 90), dtype=np.uint8))
    with pytest.raises(DataError, match="the frame has 60x90 pixels, the first had 90x60"):
        tracker.step(np.zeros((90, 60, 3), dtype=np.uint8))


def test_who_goes_on_from_a_state_sees_the_same(model):
    frames = [frame for frame, _ in moving(10, objects=2)]
    first, second = load_tracker(model), tagmask.load_tracker(model)
    first.start(frames[0], next(moving(1, objects=2))[1])
    for frame in frames[1:5]:
        first.step(frame)
    second.restore(first.state())
    for frame in frames[5:]:
        np.testing.assert_array_equal(first.step(frame), second.step(frame))
    assert first.scores == second.scores


def test_other_networks_are_refused(tmp_path):
    save_network(Classifier(build_backbone(TINY), 3), tmp_path)
    with pytest.raises(RunError, match="holds a Classifier; expected the folder of `tagmask fit-tracker --out`"):
        load_tracker(tmp_path)
    with pytest.raises(RunError, match="missing"):
        load_tracker(tmp_path / "nothing")
    with pytest.raises(OptionError, match="device"):
        load_tracker(tmp_path, device="tpu")


def content(folder):
    return {path.name: path.read_bytes() for path in (folder / "masks").iterdir()}


def test_a_clip_is_followed_into_a_folder(model, clip, tmp_path, capsys):
    out = tmp_path / "out"
    words = [
        "track",
        str(clip),
        "--mask",
        str(tmp_path / "first.png"),
        "--model",
        str(model),
        "--out",
        str(out),
        "--quiet",
    ]
    assert main([*words, "--device", "cpu"]) == 0
    assert "12 frames" in capsys.readouterr().out
    assert sorted(content(out)) == sorted(f"{number}.png" for number in range(1, 13))  # as the frames are called
    np.testing.assert_array_equal(read_mask(out / "masks/1.png", 255), read_mask(tmp_path / "first.png", 255))
    with Image.open(out / "masks/2.png") as picture:
        assert picture.mode == "P"
    shown = list(open_clip(out / "overlay.mp4"))
    assert len(shown) == 12
    assert shown[0].shape == (60, 100, 3)
    with (out / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["frame"], row["object"]) for row in rows] == [(str(n), str(k)) for n in range(12) for k in (1, 2)]
    for row in rows:
        labels = read_mask(out / f"masks/{int(row['frame']) + 1}.png", 255)
        there = np.argwhere(labels == int(row["object"]))
        assert int(row["area"]) == len(there)
        if len(there):
            assert (float(row["row"]), float(row["column"])) == pytest.approx(there.mean(axis=0).tolist(), abs=1e-3)
            assert 0 < float(row["confidence"]) <= 1
        else:
            assert row["confidence"] == row["row"] == ""
    before = content(out)
    (out / "overlay.mp4").unlink()
    assert main(words) == 0  # nothing is computed again but the overlay
    assert content(out) == before
    assert (out / "overlay.mp4").exists()
    kept = {"log.txt", "masks", "options.json", "overlay.mp4", "scores.csv", "track.json"}
    assert {path.name for path in out.iterdir()} == kept


@pytest.mark.parametrize("stop", [0, 2, 5, 9])
@pytest.mark.parametrize("video", [False, True])
def test_an_interrupted_clip_goes_on_and_ends_with_the_same_masks(model, clip, tmp_path, monkeypatch, stop, video):
    if video:
        with ClipWriter(tmp_path / "clip.avi") as writer:
            for frame in open_clip(clip):
                writer.write(frame)
        clip = tmp_path / "clip.avi"
    how = {"device": "cpu", "every": 3, "overlay": False, "quiet": True}
    track_clip(clip, tmp_path / "first.png", model, tmp_path / "whole", **how)
    steps, step = [], Tracker.step

    def power_cut(self, frame):
        if len(steps) == stop:
            raise KeyboardInterrupt
        steps.append(1)
        return step(self, frame)

    monkeypatch.setattr(Tracker, "step", power_cut)
    with pytest.raises(KeyboardInterrupt):
        track_clip(clip, tmp_path / "first.png", model, tmp_path / "cut", **how)
    assert len(content(tmp_path / "cut")) == stop + 1
    steps.clear()
    stop = 99
    track_clip(clip, tmp_path / "first.png", model, tmp_path / "cut", **how)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    for name in ("scores.csv", "track.json", "options.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "cut/.state.safetensors").exists()


def test_only_what_came_after_the_last_checkpoint_is_done_again(model, clip, tmp_path, monkeypatch):
    steps, step = [], Tracker.step

    def power_cut(self, frame):
        steps.append(1)
        if len(steps) == 9:
            raise KeyboardInterrupt
        return step(self, frame)

    monkeypatch.setattr(Tracker, "step", power_cut)
    how = {"device": "cpu", "every": 4, "overlay": False, "quiet": True}
    with pytest.raises(KeyboardInterrupt):
        track_clip(clip, tmp_path / "first.png", model, tmp_path / "cut", **how)
    track_clip(clip, tmp_path / "first.png", model, tmp_path / "cut", **how)
    assert len(steps) == 9 + 4  # frames 8 to 11


def mistakes(clip, model, tmp_path):
    first = str(tmp_path / "first.png")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").touch()
    write_mask(tmp_path / "small.png", np.ones((9, 9), dtype=np.uint8))
    write_mask(tmp_path / "empty.png", np.zeros((60, 100), dtype=np.uint8))
    good = {"clip": str(clip), "--mask": first, "--model": str(model), "--out": str(tmp_path / "out")}
    for change, words in (
        ({"clip": str(tmp_path / "gone.mp4")}, "gone.mp4: no such file"),
        ({"--mask": str(tmp_path / "gone.png")}, "gone.png"),
        ({"--mask": str(tmp_path / "small.png")}, "small.png: the first mask is uint8 (9, 9)"),
        ({"--mask": str(tmp_path / "empty.png")}, "empty.png: the first mask shows no object"),
        ({"--model": str(tmp_path)}, "holds no network"),
        ({"--out": str(tmp_path / "other")}, "is not empty and holds no masks of a clip"),
        ({"--every": "0"}, "every is 0"),
        ({"--device": "tpu"}, "device"),
    ):
        choice = {**good, **change}
        yield [choice.pop("clip"), *itertools.chain(*choice.items())], words


def test_mistakes_are_one_line(clip, model, tmp_path, capsys):
    for words, expected in mistakes(clip, model, tmp_path):
        assert main(["track", *words, "--quiet"]) == 2, expected
        error = capsys.readouterr().err
        assert expected in error.splitlines()[-1]
        assert "Traceback" not in error
        assert not (tmp_path / "out").exists()  # and the folder is still free


def test_a_folder_of_another_clip_is_not_touched(model, clip, tmp_path):
    how = {"device": "cpu", "overlay": False, "quiet": True}
    track_clip(clip, tmp_path / "first.png", model, tmp_path / "out", **how)
    write_mask(tmp_path / "second.png", np.full((60, 100), 3, dtype=np.uint8))
    with pytest.raises(RunError, match="holds masks made with another mask"):
        track_clip(clip, tmp_path / "second.png", model, tmp_path / "out", **how)


def test_a_mask_of_nothing_but_255_is_one_object_as_davis_has_it(tmp_path):
    mask = np.zeros((4, 5), dtype=np.uint8)
    mask[1:3] = 255
    write_mask(tmp_path / "a.png", mask)
    assert set(np.unique(first_mask(tmp_path / "a.png", (4, 5)))) == {0, 1}
    mask[0, 0] = 7
    write_mask(tmp_path / "a.png", mask)
    np.testing.assert_array_equal(first_mask(tmp_path / "a.png", (4, 5)), mask)
