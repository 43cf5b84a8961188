"""Which classes masks know, which frames follow on each other, and the views that are learned from."""

import numpy as np
import pytest
from PIL import Image

from tagmask.data import load_data
from tagmask.data.photos import Photos, Truth
from tagmask.errors import DataError
from tagmask.video.scenes import LabelledFrames, class_names, count_labels, jittered, labelled, sequences


@pytest.fixture
def drive(tmp_path, draw, draw_mask):
    """Frames of a drive, with masks in which 0 is a class, as CamVid has them; no tags."""

    def make(classes="sky\nroad\ncar\n", ids=(0, 1, 2, 255), names=("a_02", "a_04", "a_06", "b_10")):
        for name in names:
            draw(tmp_path / "images" / f"{name}.png")
            draw_mask(tmp_path / "masks" / f"{name}.png", list(ids))
        (tmp_path / "classes.txt").write_text(classes)
        (tmp_path / "splits").mkdir(exist_ok=True)
        (tmp_path / "splits/train.txt").write_text("a_02\na_04\n")
        (tmp_path / "splits/val.txt").write_text("a_06\n")
        return load_data(tmp_path)

    return make


def test_without_a_background_all_classes_are_classes(drive):
    data = drive()
    assert class_names(data) == ("sky", "road", "car")
    truth = Truth(labelled(data, "train"), classes=3)
    assert np.unique(truth["a_02"].labels).tolist() == [0, 1, 2, 255]
    assert sum(count_labels(truth, classes=3)["shares"]) == pytest.approx(1, abs=1e-4)


def test_with_a_background_it_is_a_class_too(drive):
    assert class_names(drive("background\nroad\ncar\n")) == ("background", "road", "car")


def test_other_layouts_have_a_background(toy):
    assert class_names(toy)[0] == "background"
    assert class_names(toy) == toy.classes


def test_ids_that_no_class_has_are_named_before_anything_is_learned(drive):
    data = drive("road\ncar\n")
    with pytest.raises(DataError, match=r"a_02.png: holds the ids 2; expected 0..1 or 255.*its first line must say so"):
        count_labels(Truth(labelled(data, "train"), classes=2), classes=2)


def test_frames_are_labelled_by_masks_and_not_by_tags(drive):
    data = drive()
    assert [sample.name for sample in labelled(data, "train")] == ["a_02", "a_04"]
    assert [sample.name for sample in labelled(data, "val")] == ["a_06"]
    assert labelled(data, "test") == ()


def test_without_splits_all_are_learned_from(tmp_path, draw, draw_mask):
    for name in ("one", "two"):
        draw(tmp_path / "images" / f"{name}.png")
        draw_mask(tmp_path / "masks" / f"{name}.png", [0, 1])
    draw(tmp_path / "images/bare.png")
    (tmp_path / "classes.txt").write_text("background\ncat\n")
    data = load_data(tmp_path)
    assert [sample.name for sample in labelled(data, "train")] == ["one", "two"]
    assert labelled(data, "val") == ()


def test_sequences_end_where_the_gap_changes():
    camvid = [f"0016E5_{number:05d}" for number in (*range(7959, 7999, 2), *range(8010, 8020, 2))]
    runs = sequences(camvid[::-1])
    assert [len(run) for run in runs] == [20, 5]
    assert runs[0] == camvid[:20]
    assert sequences(["x", "y"]) == [["x"], ["y"]]
    assert sequences(["f10", "f9"]) == [["f9", "f10"]]
    assert sequences([]) == []


def test_views_have_the_size_asked_for_and_their_labels(toy):
    photos = Photos(toy.train)
    views = LabelledFrames(photos, Truth(toy.train, 6), (40, 72), (0.5, 2.0), 0.3, np.zeros(3, np.uint8))
    assert len(views) == len(toy.train)
    view, labels = views.example(1, np.random.default_rng(0))
    assert view.shape == (3, 40, 72)
    assert labels.shape == (40, 72)
    again, _ = views.example(1, np.random.default_rng(0))
    assert np.array_equal(view, again)


def test_jitter_changes_brightness_contrast_and_saturation():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    assert np.abs(jittered(pixels, np.random.default_rng(0), 0.0).astype(int) - pixels).max() <= 1
    grey = np.full((4, 4, 3), 77, np.uint8)
    changed = [jittered(grey, np.random.default_rng(seed), 0.4) for seed in range(40)]
    assert all(np.ptp(one) <= 1 for one in changed)  # grey stays grey
    assert len({int(one[0, 0, 0]) for one in changed}) > 20
    assert jittered(pixels, np.random.default_rng(1), 0.4).dtype == np.uint8


def test_pictures_are_not_needed_to_be_of_one_size(tmp_path, toy):
    Image.new("RGB", (33, 20)).save(tmp_path / "a.png")
    photos = Photos(toy.train[:1])
    views = LabelledFrames(photos, Truth(toy.train[:1], 6), (128, 96), (0.3, 0.4), 0.0, np.full(3, 9, np.uint8))
    view, labels = views.example(0, np.random.default_rng(0))
    assert (labels == 255).mean() > 0.5
    assert (view[:, labels == 255] == 9).all()
