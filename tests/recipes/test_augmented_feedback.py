"""What only `augmented_feedback` promises."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tests.recipes.test_contract import bare, few, go, quick

from tagmask.errors import OptionError
from tagmask.recipes import augmented_feedback
from tagmask.runs import LONGEST

METHOD = "augmented_feedback"


@pytest.fixture(scope="module")
def folder(toy, tmp_path_factory):
    """A run of two rounds; what it left in ``store`` is shared."""
    folder = tmp_path_factory.mktemp("feedback")
    go(METHOD, toy, folder / "run", store=folder / "store", rounds=2)
    return folder


def labels(folder, stage, name):
    return np.asarray(Image.open(folder / stage / f"{name}.png"))


def scores(folder, stage, name):
    with np.load(folder / stage / f"{name}.npz") as held:
        return held["values"], held["classes"].tolist()


def test_the_steps_are_those_of_the_paper(toy, folder):
    run = folder / "run"
    metrics = json.loads((run / "metrics.json").read_text())
    assert list(metrics["steps"]) == [
        "thresholded activation", "aggregated 1", "aggregated 1, with the CRF", "after segmenter 1",
        "aggregated 2", "after segmenter 2",
    ]  # fmt: skip
    assert metrics["extra_supervision"] == "none"
    for sample in toy.train:
        for stage in ("aggregated-1", "sharpened", "aggregated-2"):
            assert set(np.unique(labels(run, stage, sample.name))) <= {0, 255, *sample.tags}
        first, sharp = (labels(run, stage, sample.name) for stage in ("aggregated-1", "sharpened"))
        np.testing.assert_array_equal(first == 255, sharp == 255)
        np.testing.assert_array_equal(labels(run, "masks", sample.name), labels(run, "relabelled-2", sample.name))
        with np.load(run / "proposals" / f"{sample.name}.npz") as held:
            count = len(held["boxes"])
            boxes = {tuple(box) for box in held["boxes"].tolist()}
        assert 1 <= count <= 20
        for stage in ("scores-1", "scores-2"):
            values, classes = scores(run, stage, sample.name)
            assert (values.shape, tuple(classes)) == ((count, len(sample.tags)), sample.tags)
        with np.load(run / "taught-1" / f"{sample.name}.npz") as held:
            assert set(held["classes"].tolist()) <= {0, *sample.tags}
            assert {tuple(box) for box in held["boxes"].tolist()} <= boxes


def test_more_rounds_go_on_from_what_there_is(toy, folder, tmp_path):
    done = go(METHOD, toy, tmp_path / "run", store=folder / "store", rounds=3)
    computed = [stage["name"] for stage in done.metrics["stages"] if stage["computed"]]
    assert computed[:6] == ["taught-2", "localiser-2", "scores-3", "aggregated-3", "segmenter-3", "relabelled-3"]


def test_without_the_localiser_the_segmenter_teaches_itself(toy, folder, tmp_path):
    done = go(METHOD, toy, tmp_path / "run", store=folder / "store", rounds=2, localise=False)
    assert list(done.metrics["steps"]) == [
        "thresholded activation", "aggregated 1", "aggregated 1, with the CRF", "after segmenter 1", "after segmenter 2",
    ]  # fmt: skip
    assert not (tmp_path / "run" / "localiser-1").exists()


def test_segments_vote_or_boxes(toy, folder, tmp_path):
    done = go(METHOD, toy, tmp_path / "run", store=folder / "store", rounds=2, proposals="selective-search")
    assert done.metrics["extra_supervision"] == "none"
    for run, segments in ((folder / "run", True), (tmp_path / "run", False)):
        with np.load(run / "proposals" / f"{toy.train[0].name}.npz") as held:
            assert len(held["boxes"]) > 0
            assert len(held["masks"]) == segments * len(held["boxes"])


@pytest.mark.parametrize(
    ("option", "stage"),
    [
        ({"most": 5}, "proposals"),
        ({"ring": 0.5}, "scores-1"),
        ({"stretch": False}, "scores-1"),
        ({"above": 0.7}, "aggregated-1"),
        ({"fewest": 0}, "aggregated-1"),
        ({"votes": "max"}, "aggregated-1"),
        ({"pinned": False}, "aggregated-1"),
        ({"middle": "none"}, "aggregated-1"),
        ({"widest": 0.2}, "aggregated-1"),
        ({"confidence": 0.9}, "sharpened"),
        ({"first_crf": False}, "segmenter-1"),
        ({"overlap": 0.6}, "taught-1"),
        ({"likely": 0.3}, "taught-1"),
        ({"apart": 0.2}, "taught-1"),
        ({"unlikely": 0.1}, "taught-1"),
        ({"hard": 0.4}, "taught-1"),
        ({"box_stride": 8}, "localiser-1"),
        ({"box_size": 48}, "localiser-1"),
        ({"box_cells": 2}, "localiser-1"),
        ({"box_samples": 4, "box_batch": 2}, "localiser-1"),
        ({"box_rate": 0.01}, "localiser-1"),
    ],
)
def test_each_option_reaches_its_stage(toy, work, folder, monkeypatch, option, stage):
    class Reached(Exception):
        pass

    def stop(self, name, *given):
        raise Reached(name)

    for way in ("_compute_once", "_compute_each"):
        monkeypatch.setattr(type(work), way, stop)
    work.store, work.longest = folder / "store", LONGEST  # as `go` has it
    options = augmented_feedback.Options(**{**quick(METHOD), "rounds": 2, **option})
    with pytest.raises(Reached, match=f"^{stage}$"):
        augmented_feedback.run(toy, work, options)


def test_proposals_of_the_users_own(toy, tmp_path):
    data = replace(toy, samples=toy.train[:4], splits={})
    for sample in data.train:
        ids = np.zeros((48, 48), dtype=np.uint8)
        ids[4:30, 6:28], ids[10:20, 30:44], ids[34:46, 2:40] = 1, 2, 9
        (tmp_path / "regions").mkdir(exist_ok=True)
        Image.fromarray(ids).save(tmp_path / "regions" / f"{sample.name}.png")
    done = go(METHOD, data, tmp_path / "run", rounds=2, proposals=str(tmp_path / "regions"))
    assert done.metrics["extra_supervision"] == "proposals of the user's"
    name = toy.train[0].name
    assert len(scores(tmp_path / "run", "scores-2", name)[0]) == 3


@pytest.mark.parametrize("shape", [few, bare])
def test_two_rounds_on_any_data(toy, tmp_path, shape):
    data = shape(toy, tmp_path / "data")
    go(METHOD, data, tmp_path / "run", rounds=2, middle="nearest", votes="mean", fewest=0)
    for sample in data.train:
        assert set(np.unique(labels(tmp_path / "run", "aggregated-2", sample.name))) <= {0, 255, *sample.tags}
        if not sample.tags:
            assert not labels(tmp_path / "run", "aggregated-1", sample.name).any()


def test_photos_without_a_proposal_and_a_class_never_seen(toy, tmp_path):
    data = replace(toy, classes=(*toy.classes, "never seen"), samples=toy.train[:4], splits={})
    content = {"images": [], "annotations": []}
    for number, sample in enumerate(data.train):
        content["images"].append({"id": number, "file_name": f"{sample.name}.png", "width": 48, "height": 48})
    (tmp_path / "none.json").write_text(json.dumps(content))
    done = go(METHOD, data, tmp_path / "run", rounds=2, proposals=str(tmp_path / "none.json"))
    for sample in data.train:  # nothing can be told of a photo
        assert (labels(tmp_path / "run", "aggregated-1", sample.name) == (255 if sample.tags else 0)).all()
    assert len(done.classes) == len(data.classes)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"proposals": "mcg"}, "expected selective-search"),
        ({"votes": "median"}, "expected sum, mean, max"),
        ({"middle": "foreground"}, "expected background, nearest, none"),
        ({"above": 50.0}, "above is 50.0; expected a number in"),
        ({"widest": 60.0}, "widest is 60.0"),
        ({"hard": 1.5}, "hard is 1.5"),
        ({"apart": 0.6}, "apart is 0.6, over the overlap of 0.5"),
        ({"most": 0}, "most is 0"),
        ({"ring": 0.0}, "ring is 0"),
        ({"box_samples": 0}, "box_samples is 0"),
        ({"box_epochs": 0.0}, "box_epochs is 0"),
        ({"box_size": 0}, "box_size is 0"),
        ({"rounds": 0}, "rounds is 0"),
    ],
)
def test_nonsense_is_refused_before_any_training(toy, tmp_path, wrong, words):
    with pytest.raises(OptionError, match=words):
        go(METHOD, toy, tmp_path / "run", **wrong)
    assert not list((tmp_path / "run").rglob("*.safetensors"))
