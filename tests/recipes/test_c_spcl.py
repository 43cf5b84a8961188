"""What only `c_spcl` promises."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tests.recipes.test_contract import few, first_computed, go

from tagmask.boxes import FILE, boxes_of_run
from tagmask.errors import OptionError
from tagmask.files import KINDS
from tagmask.predict import evaluate_folder
from tagmask.recipes import c_spcl
from tagmask.types import Boxes


@pytest.fixture(scope="module")
def folder(toy, tmp_path_factory):
    """A run with the quick options; what it left in ``store`` is shared."""
    folder = tmp_path_factory.mktemp("c_spcl")
    go("c_spcl", toy, folder / "run", store=folder / "store")
    return folder


def test_the_steps_are_scored_and_the_boxes_laid(toy, folder):
    run, metrics = folder / "run", json.loads((folder / "run" / "metrics.json").read_text())
    assert list(metrics["steps"]) == ["thresholded activation", "cut from boxes", "after segmenter 1"]
    assert list(metrics["box_steps"]) == ["thresholded activation", "mask-out prior", "self-paced"]
    for scores in (metrics["boxes"], metrics["val_boxes"], *metrics["box_steps"].values()):
        assert 0 <= scores["corloc"] <= 1
        assert 0 <= scores["ap50"] <= 1
        assert scores["truth"] == "masks"
    kept = boxes_of_run(run / FILE, toy)
    assert set(kept) == {sample.name for sample in toy.samples}
    for sample in toy.train:
        assert set(kept[sample.name].classes) == set(sample.tags)
        assert kept[sample.name].size == (48, 48)
    page = (run / "report.html").read_text()
    assert "CorLoc" in page
    assert "mask-out prior" in page
    scores = evaluate_folder(run, toy)
    assert scores["boxes"]["images"] == len(toy.samples)
    assert (run / "learned" / "curve.jsonl").exists()


def test_boxes_that_people_drew_are_hidden_but_scored(toy, folder, tmp_path):
    drawn = toy.only(tuple(
        replace(sample, boxes=((sample.tags[0], 1, 1, 30, 30),)) if sample.tags else sample for sample in toy.samples
    ))  # fmt: skip
    done = go("c_spcl", drawn, tmp_path / "run", store=folder / "store")
    assert sum(stage["computed"] for stage in done.metrics["stages"]) == 0
    assert done.metrics["boxes"]["truth"] == "boxes"
    assert "CorLoc" in done.verdict()


@pytest.fixture
def no_segmenter(monkeypatch):
    """Stop the recipe where the segmenter would be trained."""

    def stop(*given, **options):
        raise StopIteration

    monkeypatch.setattr(c_spcl, "retrain", stop)


@pytest.mark.parametrize(
    "options", [{"detector": "faster-rcnn", "pacing": "image", "exact": True}, {"pacing": "none", "prior": False}]
)
def test_other_detectors_and_paces(toy, folder, tmp_path, no_segmenter, options):
    with pytest.raises(StopIteration):
        go("c_spcl", toy, tmp_path / "run", store=folder / "store", **options)
    for sample in toy.train:
        labels = np.asarray(Image.open(tmp_path / "run" / "cut" / f"{sample.name}.png"))
        assert set(np.unique(labels)) <= {0, *sample.tags}


def test_faster_rcnn_on_three_photos_of_one_class(toy, tmp_path, no_segmenter):
    data = few(toy, tmp_path / "data")
    with pytest.raises(StopIteration):
        go("c_spcl", data, tmp_path / "run", detector="faster-rcnn")
    for sample in data.train:
        found = KINDS[Boxes][2](tmp_path / "run" / "boxes" / f"{sample.name}.npz")
        assert set(found.classes) == set(sample.tags)


@pytest.mark.parametrize(
    ("option", "stage"),
    [
        ({"most_proposals": 5}, "proposals"),
        ({"thin": 0.5}, "prior"),
        ({"candidates": 2}, "prior"),
        ({"kept": 1}, "prior"),
        ({"mask_side": 32}, "prior"),
        ({"size_power": 0.5}, "prior"),
        ({"feature_side": 24}, "features"),
        ({"feature_cells": 2}, "features"),
        ({"pacing": "image"}, "learned"),
        ({"prior": False}, "learned"),
        ({"easy_overlap": 0.9}, "learned"),
        ({"paced_rounds": 3}, "learned"),
        ({"pace": (0.3, 0.8)}, "learned"),
        ({"svm_cost": 0.5}, "learned"),
        ({"negatives": 3}, "learned"),
        ({"instance_prior": 0.1}, "learned"),
        ({"image_prior": 0.1}, "learned"),
        ({"prior_fade": 1.0}, "learned"),
        ({"diversity": 0.1}, "learned"),
        ({"exact": True}, "learned"),
        ({"hysteresis": 0.0}, "learned"),
        ({"pseudo_boxes": 1}, "learned"),
        ({"box_epochs": 2.0}, "detector"),
        ({"box_rate": 0.01}, "detector"),
        ({"box_side": 40}, "detector"),
        ({"box_batch": 2}, "detector"),
        ({"box_samples": 4}, "detector"),
        ({"box_width": 4}, "detector"),
        ({"box_cells": 2}, "detector"),
        ({"box_overlap": 0.6}, "boxes"),
        ({"box_least": 0.2}, "boxes"),
        ({"cuts": 2}, "cut"),
        ({"cut_least": 0.1}, "cut"),
        ({"cut_sure": 0.1}, "cut"),
    ],
)
def test_each_option_reaches_its_stage(toy, folder, tmp_path, monkeypatch, option, stage):
    assert first_computed("c_spcl", toy, tmp_path / "run", folder / "store", monkeypatch, **option) == stage


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"detector": "rcn"}, "did you mean 'rcnn'"),
        ({"pacing": "instances"}, "did you mean 'instance'"),
        ({"proposals": "edge-boxes"}, "expected selective-search"),
        ({"pace": (0.9, 0.5)}, "the first not above the second"),
        ({"easy_overlap": 1.5}, "a number in 0..1"),
        ({"cuts": 0}, "cuts is 0; expected a positive number"),
        ({"kept": 0}, "kept is 0"),
    ],
)
def test_nonsense_is_refused_before_any_training(toy, tmp_path, wrong, words):
    with pytest.raises(OptionError, match=words):
        go("c_spcl", toy, tmp_path / "run", **wrong)
    assert not list((tmp_path / "run").rglob("*.safetensors"))
