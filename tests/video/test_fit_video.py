"""Training from frames with masks to a network that labels clips: both methods, resumed, with every option in its place."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import TINY

import tagmask
from tagmask.cli import main
from tagmask.errors import DataError, OptionError, RunError
from tagmask.nets.storage import load_network
from tagmask.registry import options_in
from tagmask.video import fit_video as module
from tagmask.video import learn
from tagmask.video.fit_video import Options, fit_video

QUICK = {
    "channels": 16, "hidden": 8, "skip": 4, "heads": 2, "radius": 2, "frames": 2, "epochs": 2.0, "batch": 4,
    "crop": (32, 48), "clips": 8, "clip_epochs": 2.0, "detail": 8,
}  # fmt: skip


def go(data, out, **changes):
    options = {"backbone": TINY, "device": "cpu", "quiet": True, **QUICK, **changes}
    return fit_video(data, out, **options)


def state(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


MIXED = {"precision": "bf16-mixed", "position": True, "layer_norm": "post", "network": "bisenet"}


@pytest.mark.parametrize(
    "changes", [{}, {"method": "frame"}, {"method": "frame", "extra": True}, {"settled": False}, MIXED]
)
def test_it_runs_repeats_itself_and_can_be_used(toy, tmp_path, changes):
    first = go(toy, tmp_path / "first", **changes)
    assert 0 <= first.metrics["val"]["miou"] <= 1
    assert first.metrics["classes"][0] == "background"
    assert sum(first.metrics["shares"].values()) == pytest.approx(1, abs=1e-3)
    assert "mIoU" in first.verdict()
    go(toy, tmp_path / "again", **changes)
    assert state(tmp_path / "first") == state(tmp_path / "again")
    resumed = go(toy, tmp_path / "first", **changes)
    assert all(stage["computed"] == 0 for stage in resumed.metrics["stages"])
    names = [stage["name"] for stage in resumed.metrics["stages"]]
    wanted = ["labels", "image", *([] if changes == {"method": "frame"} else ["movers", "labeller"])]
    assert [name for name in names if name != "clips"] == wanted
    assert ("clips" in names) == (changes in ({}, {"method": "frame", "extra": True}, MIXED))
    stream = tagmask.load_labeller(tmp_path / "first")
    assert stream.reach == (0 if "method" in changes else 2)
    assert stream.step(np.zeros((40, 50, 3), np.uint8)).shape == (40, 50)


def test_methods_and_rows_share_what_they_have_in_common(toy, tmp_path, shared):
    go(toy, tmp_path / "stt", store=shared)
    for name, changes in {"control": {"method": "frame", "extra": True}, "all": {"share": 1.0}}.items():
        done = go(toy, tmp_path / name, store=shared, **changes)
        fresh = [stage["name"] for stage in done.metrics["stages"] if stage["computed"]]
        assert fresh == ["labeller"]
    assert state(tmp_path / "stt") != state(tmp_path / "control")
    image = load_network(tmp_path / "stt" / "image")
    looking = load_network(tmp_path / "stt")
    for name, value in image.state_dict().items():
        if name.split(".")[0] in ("trunk", "context"):
            assert torch.equal(value, looking.state_dict()[name]), f"{name} is settled"
    assert (looking.transformer.write.weight != 0).any()
    assert looking.options["frames"] == 2


def test_training_that_was_killed_ends_with_the_same_bytes(toy, tmp_path, monkeypatch):
    go(toy, tmp_path / "whole")
    surprise, calls = learn._surprise, []

    def power_cut(*given):
        calls.append(1)
        if len(calls) in (4, 9):
            raise KeyboardInterrupt
        return surprise(*given)

    monkeypatch.setattr(learn, "_surprise", power_cut)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            go(toy, tmp_path / "cut")
    go(toy, tmp_path / "cut")
    assert state(tmp_path / "cut") == state(tmp_path / "whole")


def test_every_option_reaches_its_stage(toy, tmp_path, monkeypatch):
    seen = {}

    def once(self, name, function, *inputs, **options):
        seen[name] = options
        if name in ("image", "labeller"):
            return module.build_network(self.backbone, 6, Options(**QUICK), 0).eval()
        return {"shares": [0] * 6, "places": []}

    monkeypatch.setattr(module.Work, "once", once)
    monkeypatch.setattr(module, "score_frames", lambda *given: {})
    monkeypatch.setattr(module, "asdict", lambda value: {})
    monkeypatch.setattr(module, "max", lambda values: 0, raising=False)
    changes = {
        "network": "bisenet", "output_stride": 32, "channels": 24, "hidden": 12, "skip": 6, "detail": 12, "epochs": 3.0,
        "rate": 0.5, "head_rate": 3.0, "batch": 6, "crop": (64, 32), "zoom": (0.7, 0.9), "jitter": 0.1, "auxiliary": 0.7,
        "frames": 5, "start": 2, "end": 4, "growth": 2, "share": 0.3, "choice": "lowest", "radius": 4, "scale": "root",
        "heads": 3, "reduction": 2, "layer_norm": "post", "position": True, "clips": 11, "clip_epochs": 5.0, "clip_rate": 0.25,
        "drop": 0.9, "real": 0.4, "movers": ("disc", "ring"), "objects": 1, "forward": 0.1, "shift": 9.0,
    }  # fmt: skip
    go(toy, tmp_path / "a", **changes)
    image, labeller, clips = seen["image"], seen["labeller"], seen["clips"]
    told = {**image, **image["built"], **labeller["attention"], **clips, "drop": labeller["drop"]}
    told |= {"forward": clips["motion"].zoom, "shift": clips["motion"].shift, "objects": clips["motion"].objects}
    told |= {"clips": clips["count"], "output_stride": 32}
    for schedule, names in (
        (image["schedule"], ("epochs", "rate")),
        (labeller["schedule"], ("clip_epochs", "clip_rate")),
    ):
        told |= dict(zip(names, (schedule.epochs, schedule.rate), strict=True))
        assert (schedule.batch, schedule.head_rate) == (6, 3.0)
        told |= {"batch": schedule.batch, "head_rate": schedule.head_rate}
    told["movers"] = tuple(module.class_names(toy)[place] for place in seen["movers"]["classes"])
    assert {name: told[name] for name in changes} == changes
    assert {field.name for field in fields(Options)} - set(changes) == {"settled", "extra"}
    go(toy, tmp_path / "b", settled=False, auxiliary=0.6)
    assert seen["labeller"]["auxiliary"] == 0.6
    assert seen["labeller"]["past"] == 2


def test_all_options_are_told_and_their_source(capsys):
    for name, _, what in options_in(module.Path(module.__file__).read_text()):
        assert ";" in what, name
    with pytest.raises(SystemExit):
        main(["fit-video", "--help"])
    assert "--clip-epochs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "sst"}, r"method 'sst' is not known \(did you mean 'stt'\?\)"),
        ({"shares": 1}, r"no option 'shares' \(did you mean 'share'\?\)"),
        ({"share": 1.5}, "share is 1.5"),
        ({"heads": 5}, "5 heads cannot share"),
        ({"crop": (8, 64)}, "crop is"),
        ({"zoom": (2.0, 1.0)}, "zoom is"),
        ({"drop": 1.5}, "drop is 1.5"),
        ({"batch": 1}, "batch is 1"),
        ({"frames": 0}, "frames is 0"),
        ({"clips": 0}, "clips 0"),
        ({"choice": "bottom"}, "choice is 'bottom'"),
        ({"rate": -1.0}, "rate is -1.0"),
    ],
)
def test_nonsense_is_refused_before_anything_is_kept(toy, tmp_path, changes, words):
    with pytest.raises(OptionError, match=words):
        go(toy, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_frames_without_masks_and_other_runs_are_refused(toy, tmp_path, shared):
    bare = toy.only(tuple(replace(sample, mask=None) for sample in toy.samples))
    with pytest.raises(DataError, match="no frame of 'train' has a mask"):
        go(bare, tmp_path / "out")
    go(toy, tmp_path / "out", method="frame", store=shared)
    with pytest.raises(RunError, match="holds a run of fit-video frame"):
        go(toy, tmp_path / "out", store=shared)


def test_data_without_a_background_learns_all_its_classes(tmp_path):
    random = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / "drive" / part).mkdir(parents=True)
    for number in range(5):
        labels = np.zeros((40, 56), np.uint8)
        labels[20:], labels[25:35, 10:20], labels[:3] = 1, 2, 255
        pixels = np.array([[90, 160, 250], [70, 70, 70], [200, 20, 20], [0, 0, 0]], np.uint8)[np.minimum(labels, 3)]
        noise = random.integers(-9, 9, pixels.shape)
        Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(
            tmp_path / f"drive/images/f_{number}.png"
        )
        Image.fromarray(labels).save(tmp_path / f"drive/masks/f_{number}.png")
    (tmp_path / "drive/classes.txt").write_text("sky\nroad\ncar\n")
    done = go(tagmask.load_data(tmp_path / "drive"), tmp_path / "run", epochs=40.0, rate=0.02, zoom=(0.9, 1.1), clips=4)
    assert done.metrics["classes"] == ["sky", "road", "car"]
    assert done.metrics["shares"]["sky"] > 0.3
    assert "val" not in done.metrics
    labels = done.labeller().step(pixels)
    assert (labels[4:14] == 0).mean() > 0.8  # sky, and not a background that nobody learned
    assert (labels[36:] == 1).mean() > 0.8
    assert "label-video" in done.verdict()


def test_the_command_line_does_the_same(toy_folder, tmp_path, capsys):
    flags = [f"--{name.replace('_', '-')}" for name in QUICK]
    values = [[str(part) for part in (value if isinstance(value, tuple) else (value,))] for value in QUICK.values()]
    words = [word for flag, value in zip(flags, values, strict=True) for word in (flag, *value)]
    run = ["--backbone", "test_resnet", "--weights", "none", "--device", "cpu", "--quiet", "--limit", "6"]
    assert main(["fit-video", str(toy_folder), "--out", str(tmp_path / "run"), *run, *words]) == 0
    assert "mIoU" in capsys.readouterr().out
    assert json.loads((tmp_path / "run/options.json").read_text())["command"].startswith("tagmask fit-video")
    clip = ["label-video", str(toy_folder / "images"), "--model", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    assert main([*clip, "--device", "cpu", "--quiet"]) == 0
    assert "(16 frames)" in capsys.readouterr().out
    assert len(list((tmp_path / "out/masks").glob("*.png"))) == 16
    assert (tmp_path / "out/overlay.mp4").exists()
    assert main(["label-video", "nowhere", "--model", str(tmp_path / "run"), "--out", str(tmp_path / "o2")]) == 2
    assert "nowhere: no such file or folder" in capsys.readouterr().err
    assert main([*clip[:3], str(tmp_path / "none"), *clip[4:], "--quiet"]) == 2
    assert "holds no network" in capsys.readouterr().err


@pytest.mark.parametrize(("real", "told"), [(0.5, True), (0.0, False)])
def test_it_tells_which_frames_follow_on_each_other(toy, tmp_path, capsys, real, told):
    go(toy, tmp_path, quiet=False, real=real)
    assert ("frames follow on another, by their names" in " ".join(capsys.readouterr().err.split())) == told
