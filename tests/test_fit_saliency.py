"""A saliency network from masks or boxes: what it may learn from, what it leaves, and that a method takes it."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import tagmask
from tagmask.cli import main
from tagmask.data import load_data
from tagmask.data.novel import with_novel
from tagmask.data.photos import DrawnBoxes, Photos, Truth
from tagmask.errors import DataError, OptionError, RunError
from tagmask.nets.segmenter import Segmenter
from tagmask.nets.storage import load_network, read_extra
from tagmask.refine.boxes import box_of
from tagmask.refine.grabcut import grabcut_box, object_in_box
from tagmask.saliency import supervision_of
from tagmask.saliency_network import any_object, cut_out, fit_saliency, taught_by
from tagmask.types import Boxes, LabelMap, Photo
from tests.conftest import TINY

QUICK = {"epochs": 1.0, "crop": 33, "width": 8, "batch": 4, "backbone": TINY, "device": "cpu", "quiet": True}
FLAGS = [
    *("--backbone", "test_resnet", "--weights", "none", "--device", "cpu", "--quiet"),
    *("--epochs", "1", "--crop", "33", "--width", "8", "--batch", "4", "--zoom", "0.9", "1.1"),
]


@pytest.fixture(scope="module")
def boxed_folder(toy_folder, tmp_path_factory):
    """The drawn photos with boxes around their objects in place of masks, but for those of val."""
    folder = tmp_path_factory.mktemp("boxed") / "photos"
    shutil.copytree(toy_folder, folder)
    data = load_data(folder)
    truth = Truth(data.samples, len(data.classes))
    with (folder / "boxes.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "class", "x0", "y0", "x1", "y1"])
        for sample in data.train:
            for tag in sample.tags:
                rows.writerow([sample.name, data.classes[tag], *box_of(truth[sample.name].labels == tag)])
            sample.mask.unlink()
    return folder


def taught(data):
    """The classes that the photos of train show."""
    return [data.classes[c] for c in sorted({tag for sample in data.train for tag in sample.tags})]


def test_masks_of_all_classes_become_one_object():
    labels = np.array([[0, 3, 255], [7, 0, 1]], dtype=np.uint8)
    assert any_object(LabelMap(labels)).labels.tolist() == [[0, 1, 255], [1, 0, 1]]


def painted():
    """A red thing of 20 x 16 on green, with some noise, in a picture of 48 x 60."""
    pixels = np.full((48, 60, 3), (60, 140, 70), dtype=np.uint8)
    pixels[12:32, 20:36] = (200, 40, 30)
    noise = np.random.default_rng(0).integers(-8, 9, pixels.shape)
    return (pixels + noise).clip(0, 255).astype(np.uint8)


def test_a_box_becomes_what_grabcut_finds_in_it_or_is_full():
    pixels, box = painted(), (16, 9, 40, 35)
    found = object_in_box(pixels, box)
    np.testing.assert_array_equal(found, grabcut_box(pixels, box))
    expected = np.zeros((48, 60), dtype=bool)
    expected[12:32, 20:36] = True
    assert (found & expected).sum() > 0.95 * (found | expected).sum()
    full = np.zeros((48, 60), dtype=bool)
    full[9:35, 16:40] = True
    np.testing.assert_array_equal(object_in_box(pixels, box, least=0.9), full)
    np.testing.assert_array_equal(object_in_box(np.full_like(pixels, 90), box), full)  # no colour to go by
    assert object_in_box(pixels, (0, 0, 60, 48)).all()  # no background to learn from


def test_boxes_are_brought_to_the_size_of_the_photo_and_hidden_ones_are_unknown():
    photo = Photo("a", painted(), (1,))
    boxes = np.array([[32, 18, 80, 70], [0, 0, 20, 20], [90, 60, 91, 61]], dtype=np.int32)
    drawn = Boxes(boxes, np.ones(3, dtype=np.float32), (1, 255, 1), (96, 120))
    labels = cut_out(drawn, photo, iterations=5, least=0.5).labels
    expected = object_in_box(photo.pixels, (16, 9, 40, 35)).astype(np.uint8)
    expected[:10, :10] = 255
    np.testing.assert_array_equal(labels, expected)


def test_what_may_be_learned_from(toy, boxed_folder):
    data = load_data(boxed_folder)
    assert [s.name for s in taught_by(toy, boxes=False)] == [s.name for s in toy.train]
    assert [s.name for s in taught_by(data, boxes=True)] == [s.name for s in data.train if s.tags]
    novel = with_novel(data, data.classes[2])
    assert len(taught_by(novel, boxes=True)) < len(taught_by(data, boxes=True))
    assert [s.name for s in taught_by(novel, boxes=True)] == [s.name for s in data.train if s.tags and 2 not in s.tags]
    assert all(s.hidden == (2,) for s in taught_by(novel, boxes=True))


def test_without_anything_to_learn_from_it_says_what_to_do(toy, boxed_folder, tmp_path):
    bare = replace(toy, samples=tuple(replace(s, mask=None) for s in toy.samples))
    with pytest.raises(
        DataError, match=r"none of the 12 photos .* has masks; give masks/NAME.png \(docs/data.md\), or"
    ):
        fit_saliency(bare, tmp_path / "sal", **QUICK)
    with pytest.raises(DataError, match=r"has boxes; give boxes.csv.*, leave out --boxes \(there are masks\), or take"):
        fit_saliency(toy, tmp_path / "sal", boxes=True, **QUICK)
    with pytest.raises(DataError, match=r"has masks; give .*, add --boxes \(there are boxes\), or take --saliency mbd"):
        fit_saliency(load_data(boxed_folder), tmp_path / "sal", **QUICK)
    with pytest.raises(DataError, match="has masks that may be learned from"):
        fit_saliency(with_novel(bare, bare.classes[1]), tmp_path / "sal", **QUICK)
    assert not (tmp_path / "sal").exists()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"epochs": 0.0}, "must be positive"),
        ({"crop": 0}, "crop is 0"),
        ({"box_cuts": 0}, "box_cuts is 0"),
        ({"box_least": 1.5}, "a share up to 1"),
        ({"segmenter": "deeplab-v4"}, "did you mean"),
        ({"epoch": 1.0}, "did you mean 'epochs'"),
    ],
)
def test_nonsense_is_refused_before_any_training(boxed_folder, tmp_path, wrong, words):
    with pytest.raises(OptionError, match=words):
        fit_saliency(load_data(boxed_folder), tmp_path / "sal", boxes=True, **{**QUICK, **wrong})
    assert not list(tmp_path.rglob("*.safetensors")) + list(tmp_path.rglob("*.png"))


def test_from_masks_to_a_source_of_saliency(toy, tmp_path):
    assert tagmask.fit_saliency is fit_saliency
    made = fit_saliency(toy, tmp_path / "sal", **QUICK)
    network = load_network(tmp_path / "sal")
    assert isinstance(network, Segmenter)
    assert network.classes == 2
    assert made.facts["supervision"] == f"masks of {', '.join(taught(toy))} ({toy.root.name})"
    assert made.facts["val"]["images"] == len(toy.val)
    assert f"--saliency {tmp_path / 'sal'}" in made.verdict()
    assert "precision" in made.verdict()
    before = (tmp_path / "sal" / "model.safetensors").read_bytes()
    stages = sorted(path.name for path in (tmp_path / "sal" / ".store" / "objects").iterdir())
    fit_saliency(toy, tmp_path / "sal", **QUICK)
    assert sorted(path.name for path in (tmp_path / "sal" / ".store" / "objects").iterdir()) == stages
    fit_saliency(toy, tmp_path / "again", **QUICK)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == before
    with pytest.raises(RunError, match="holds a run of fit-saliency"):
        tagmask.run("cam", toy, tmp_path / "sal", backbone=TINY, device="cpu", quiet=True)


def test_novel_objects_teach_nothing(toy, tmp_path):
    data = with_novel(toy, toy.classes[2])
    made = fit_saliency(data, tmp_path / "sal", **QUICK)
    assert toy.classes[2] not in made.facts["supervision"]
    learned = {path.stem for path in (tmp_path / "sal" / "objects").glob("*.png")}
    assert learned == {sample.name for sample in toy.train if 2 not in sample.tags}
    assert made.facts["photos"] == len(learned) < len(toy.train)


def test_the_command_and_a_run_with_what_it_made(boxed_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit-saliency", str(boxed_folder), "--out", "sal", *FLAGS]) == 2
    assert "add --boxes (there are boxes)" in capsys.readouterr().err
    assert main(["fit-saliency", str(boxed_folder), "--boxes", "--out", "sal", *FLAGS, "--box-least", "0.4"]) == 0
    said = capsys.readouterr().out
    data = load_data(boxed_folder)
    assert f"from boxes of {', '.join(taught(data))} (photos)" in said
    assert "on val" in said
    for name in ("model.safetensors", "model.json", "options.json", "log.txt"):
        assert (tmp_path / "sal" / name).is_file()
    settings = json.loads((tmp_path / "sal" / "options.json").read_text())
    assert settings["boxes"] is True
    assert settings["options"]["box_least"] == 0.4
    photos, drawn = Photos(data.train), DrawnBoxes(data.train)
    for name in [sample.name for sample in data.train if sample.boxes]:
        labels = np.asarray(Image.open(tmp_path / "sal" / "objects" / f"{name}.png"))
        np.testing.assert_array_equal(labels, cut_out(drawn[name], photos[name], iterations=5, least=0.4).labels)
    assert supervision_of("sal") == f"saliency learned from {read_extra(tmp_path / 'sal')['supervision']}"
    words = ["--tag-epochs", "1", "--tag-crop", "32", "--tag-width", "8", "--tag-convs", "1", "--tag-stride", "16"]
    run = ["run", "guided_labelling", str(boxed_folder), "--saliency", "sal", "--out", "run", *FLAGS, *words]
    assert main(run) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["extra_supervision"] == supervision_of("sal")
    assert main(["predict", "sal", str(boxed_folder / "images"), "--out", "new", "--device", "cpu"]) == 0
    seen = {int(label) for path in (tmp_path / "new").glob("*.png") for label in np.unique(Image.open(path))}
    assert seen <= {0, 1}
    assert main(["fit-saliency", str(boxed_folder), "--boxes", "--out", "run", *FLAGS]) == 2
    assert "holds a run of guided_labelling" in capsys.readouterr().err


def test_every_option_is_a_flag_that_explains_itself(capsys):
    with pytest.raises(SystemExit):
        main(["fit-saliency", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    for words in ("--box-least float", "--epochs float epochs of the network; ours (20.0)", "--novel", "--freeze"):
        assert words in told
