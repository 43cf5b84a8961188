"""Training the tracker: its losses by hand, that it learns, and that a kill leaves no trace."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.video.conftest import SMALL, TINY, moving
from torch.nn import functional

import tagmask
from tagmask.cli import _parser, main
from tagmask.data.pixels import write_mask
from tagmask.errors import DataError, OptionError, RunError
from tagmask.video import fit_tracker as module
from tagmask.video.fit_tracker import SHAPE, Options, fit_tracker
from tagmask.video.tracking_loss import centre_losses, mask_losses

QUICK = {**SMALL, "epochs": 2.0, "batch": 4, "rate": 1e-3}


def go(data, out, **more):
    return fit_tracker(data, out, backbone=TINY, device="cpu", quiet=True, **{**QUICK, **more})


def curve(folder):
    return [json.loads(line) for line in (folder / "tracker/curve.jsonl").read_text().splitlines()]


def test_losses_of_masks_are_those_of_the_formulas():
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 5, 6), torch.randint(0, 2, (3, 5, 6), dtype=torch.uint8)
    labels[0, 2] = 255
    labels[2] = 0
    found = mask_losses(logits, labels)
    pixels, overlap = [], []
    for k in range(3):
        known = labels[k] != 255
        p, t = logits[k][known].sigmoid(), labels[k][known].float()
        pixels.append(functional.binary_cross_entropy(p, t))
        both, union = (p * t).sum(), (p + t - p * t).sum()
        overlap.append(1 - (both + 1) / (union + 1))
    assert float(found["pixels"]) == pytest.approx(float(torch.stack(pixels).mean()), rel=1e-5)
    assert float(found["overlap"]) == pytest.approx(float(torch.stack(overlap).mean()), rel=1e-5)
    perfect = mask_losses((labels == 1).float() * 200 - 100, labels)
    assert float(sum(perfect.values())) == pytest.approx(0, abs=1e-6)
    assert all(value.isfinite() for value in mask_losses(logits, torch.full_like(labels, 255)).values())


def test_losses_of_centres_are_those_of_loops():
    torch.manual_seed(0)
    stride, owner = 8, torch.tensor([0, 0, 1])
    labels = torch.zeros(3, 32, 48, dtype=torch.uint8)
    labels[0, 8:24, 0:16], labels[1, 0:8, 32:48] = 1, 1  # the third object is not there
    pointing = torch.randn(2, 3, 4, 6)
    found = centre_losses(pointing, labels, owner, stride)
    heat, wrong, count = torch.zeros(2, 4, 6), 0.0, 0
    for k in (0, 1):
        rows, columns = np.nonzero(labels[k].numpy())
        row, column = (rows.mean() - 3.5) / 8, (columns.mean() - 3.5) / 8
        for y in range(4):
            for x in range(6):
                away = (y - row) ** 2 + (x - column) ** 2
                heat[owner[k], y, x] = max(float(heat[owner[k], y, x]), np.exp(-away / 2))
                if labels[k, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].float().mean() >= 0.5:
                    dy, dx = pointing[owner[k], 1:, y, x].tolist()
                    wrong, count = wrong + abs(dy - (row - y)) + abs(dx - (column - x)), count + 1
    assert float(found["heat"]) == pytest.approx(200 * float((pointing[:, 0] - heat).square().mean()), rel=1e-4)
    assert float(found["offset"]) == pytest.approx(0.01 * 8 * wrong / count, rel=1e-4)
    nothing = centre_losses(pointing, labels * 0, owner, stride)
    assert float(nothing["offset"]) == 0
    assert float(nothing["heat"]) == pytest.approx(200 * float(pointing[:, 0].square().mean()), rel=1e-4)


@pytest.mark.parametrize(
    ("optimizer", "share"), [({"head_rate": 5.0}, 0.8), ({"optimizer": "sgd", "rate": 1e-4}, 0.99)]
)
def test_it_learns(toy, tmp_path, optimizer, share):
    go(toy, tmp_path / "run", epochs=14.0, motion=0.1, pair=0.0, **optimizer)
    points = curve(tmp_path / "run")
    for term, most in (("pixels", share), ("heat", 0.99)):
        first, last = ([point[term] for point in part] for part in (points[:8], points[-8:]))
        assert np.mean(last) < most * np.mean(first), term


@pytest.mark.parametrize(
    "more", [{}, {"optimizer": "sgd", "rate": 1e-4}, {"centre": False, "local": 0, "select": "rank"}]
)
def test_a_killed_training_ends_with_the_same_bytes(toy, tmp_path, monkeypatch, more):
    go(toy, tmp_path / "whole", **more)
    calls, loss = [], module.tracking_loss

    def power_cut(network, *batch):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return loss(network, *batch)

    monkeypatch.setattr(module, "tracking_loss", power_cut)
    with pytest.raises(KeyboardInterrupt):
        go(toy, tmp_path / "cut", **more)
    go(toy, tmp_path / "cut", **more)
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    again = go(toy, tmp_path / "cut", **more)  # nothing is left to do
    assert len(calls) < 12
    again.start(*next(moving(1)))


def test_mixed_precision_learns_too(toy, tmp_path):
    go(toy, tmp_path, precision="bf16-mixed")
    assert all(np.isfinite(point["loss"]) for point in curve(tmp_path))


CHOICES = {
    "size": (64, 64), "stride": 16, "embed": 12, "width": 16, "isometric": False, "eps": 0.5, "gain": 3.0,
    "local": 2, "centre": False,
    "select": "rank", "keep": 5, "previous": False,
}  # fmt: skip


def test_every_option_reaches_its_stage(toy, tmp_path, monkeypatch):
    assert set(CHOICES) == set(SHAPE)
    told = []

    def no_fit(network, examples, loss, schedule, **more):
        told.append((network, examples, schedule, more))
        return network.eval()

    monkeypatch.setattr(module, "fit", no_fit)
    for number, change in enumerate([{name: value} for name, value in CHOICES.items()]):
        go(toy, tmp_path / str(number), **change)
        ((name, value),) = change.items()
        found = told[-1][0].options[name]
        assert found == (list(value) if isinstance(value, tuple) else value)
    go(
        toy,
        tmp_path / "rest",
        pair=0.7,
        motion=0.4,
        batch=3,
        epochs=1.5,
        rate=0.5,
        head_rate=2.0,
        optimizer="sgd",
        output_stride=8,
    )
    network, examples, schedule, more = told[-1]
    assert (examples.pair, examples.motion, more["adam"], network.trunk.output_stride) == (0.7, 0.4, False, 8)
    assert (schedule.batch, schedule.epochs, schedule.rate, schedule.head_rate) == (3, 1.5, 0.5, 2.0)
    go(toy, tmp_path / "clips", clips=True, gap=3)
    assert told[-1][1].gap == 3


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two clips in our layout, with a list of classes and no tags."""
    from PIL import Image

    root = tmp_path_factory.mktemp("clips")
    for name, objects in (("a", 1), ("b", 2)):
        for part in ("images", "masks"):
            (root / part / name).mkdir(parents=True)
        for number, (frame, ids) in enumerate(moving(6, objects=objects)):
            Image.fromarray(frame).save(root / f"images/{name}/{number:05d}.png")
            write_mask(root / f"masks/{name}/{number:05d}.png", ids)
    (root / "classes.txt").write_text("background\nfirst\nsecond\n")
    lines = [f"{name}/{number:05d},first" for name in "ab" for number in range(6)]
    (root / "tags.csv").write_text("\n".join(["image,tags", *lines]) + "\n")
    return root


def test_from_photos_to_clips_by_the_command_line(toy_folder, clips, tmp_path, capsys):
    flags = [
        "--backbone",
        "test_resnet",
        "--weights",
        "none",
        "--device",
        "cpu",
        "--quiet",
        "--batch",
        "4",
        "--epochs",
        "1",
    ]
    shape = ["--size", "64", "96", "--embed", "8", "--width", "8", "--no-isometric"]
    assert main(["fit-tracker", str(toy_folder), "--out", str(tmp_path / "photos"), *flags, *shape]) == 0
    assert "tagmask track CLIP" in capsys.readouterr().out
    more = ["--start", str(tmp_path / "photos"), "--clips"]
    assert main(["fit-tracker", str(clips), "--out", str(tmp_path / "clips"), *flags, *more]) == 0
    before, after = (tagmask.load_tracker(tmp_path / name).network for name in ("photos", "clips"))
    assert after.options == before.options
    assert not after.options["isometric"]
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    told = json.loads((tmp_path / "clips/options.json").read_text())
    assert told["options"]["clips"] is True
    assert told["start"] == str((tmp_path / "photos").resolve())
    capsys.readouterr()
    assert main(["fit-tracker", str(clips), "--out", str(tmp_path / "other"), *flags, *more, "--local", "2"]) == 2
    assert "local is 2, the tracker to start from has 4" in capsys.readouterr().err
    assert main(["fit-tracker", str(clips), "--out", str(tmp_path / "other2"), *flags, "--start", str(tmp_path)]) == 2
    assert "holds no tracker to start from" in capsys.readouterr().err
    assert main(["fit-tracker", str(toy_folder), "--out", str(tmp_path / "clips"), *flags]) == 2
    assert "holds a run of fit-tracker on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimizer": "adamw"}, "did you mean 'adam'"),
        ({"batch": 0}, "batch is 0"),
        ({"gap": 0}, "gap is 0"),
        ({"epochs": 0.0}, "epochs is 0"),
        ({"rate": -1.0}, "rate is -1"),
        ({"eps": -0.5}, "eps is -0.5"),
        ({"local": -1}, "local is -1"),
        ({"gain": 0.5}, "gain is 0.5"),
        ({"pair": 1.5}, "pair is 1.5"),
        ({"motion": -0.1}, "motion is -0.1"),
        ({"select": "best"}, "select is 'best'"),
        ({"size": (60, 96)}, "size is"),
        ({"isometrik": True}, "did you mean 'isometric'"),
    ],
)
def test_nonsense_is_refused_before_any_training(toy, tmp_path, options, words):
    with pytest.raises(OptionError, match=words):
        go(toy, tmp_path / "run", **options)


def test_data_without_masks_is_refused(toy, tmp_path):
    bare = replace(toy, samples=tuple(replace(sample, mask=None) for sample in toy.samples))
    with pytest.raises(DataError, match="has a mask; give masks/"):
        go(bare, tmp_path / "run")
    some = replace(toy, samples=(*toy.samples[:8], *bare.samples[8:]))
    go(some, tmp_path / "some", epochs=0.5)


def test_another_run_is_not_written_over(toy, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RunError, match="is not empty"):
        go(toy, tmp_path)


def test_every_option_is_a_flag_with_a_source():
    from pathlib import Path

    from tagmask.registry import options_in

    told = options_in(Path(module.__file__).read_text())
    assert [name for name, _, _ in told] == list(Options.__dataclass_fields__)
    for name, _, what in told:
        assert ";" in what, name
    words = [
        "fit-tracker",
        "x",
        "--out",
        "y",
        *(f"--{name.replace('_', '-')}" for name, default, _ in told if default == "True"),
    ]
    assert _parser(words).parse_args(words).option_centre is True
