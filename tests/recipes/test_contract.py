"""One contract for all recipes, found by listing: each runs on drawn photos, resumes, repeats itself, and keeps to the tags."""

import ast
import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import TINY

from tagmask.cli import _parser
from tagmask.data import load_data, make_toy
from tagmask.registry import find_method, methods
from tagmask.runs import run
from tagmask.work import Work

NAMES = [method.name for method in methods()]
# Options that make any recipe quick; a recipe takes those that it has.
QUICK = {
    "tag_epochs": 1.0, "tag_crop": 32, "cue_epochs": 1.0, "epochs": 1.0, "crop": 33, "size": 33, "width": 8, "batch": 4,
    "online_epochs": 1.0, "branch_width": 8, "cue_hidden": 8, "cue_convs": 1, "scales": (1.0,), "rounds": 1,
    "output_stride": 16, "tag_batch": 4, "affinity_epochs": 1.0, "affinity_crop": 40, "affinity_batch": 4,
    "walk_steps": 16, "boundary_epochs": 1.0,
    "relation_epochs": 1.0, "relation_crop": 32, "relation_batch": 4, "relation_width": 8, "relation_radius": 4,
    "tag_convs": 1, "tag_width": 8, "integral_epochs": 1.0,
    "region_epochs": 1.0, "region_crop": 33, "region_batch": 4, "region_width": 8,
    "nodes": 4, "dilation": 6,
    "grow_epochs": 2.0, "grow_batch": 4, "grow_stride": 16, "kernel": 3, "looks": 5,
    "most": 20, "box_size": 40, "box_width": 8, "box_cells": 3, "box_samples": 8, "box_epochs": 1.0, "box_batch": 4,
    "single_epochs": 1.0, "feature_epochs": 1.0, "feature_crop": 32, "feature_side": 32, "feature_batch": 4, "feature_width": 8,
    "candidates": 20, "kept": 10, "paced_rounds": 2, "negatives": 20, "box_side": 48, "cuts": 1,
    "clips": "made", "made_frames": 3, "frame_stride": 1, "frame_score": 0.0, "frame_others": 1.0, "frame_run": 1,
    "frame_regions": 30, "cut_rounds": 1, "flow": "ultrafast", "mask_least": 0.0, "mask_most": 1.0, "mask_inside": 0.0,
    "attention_scales": (1.0,), "decoder_epochs": 1.0, "decoder_crop": 32, "decoder_width": 8, "decoder_batch": 4,
}  # fmt: skip


def quick(name):
    options, _ = find_method(name).load()
    known = {field.name for field in fields(options)}
    return {key: value for key, value in QUICK.items() if key in known}


def go(name, data, out, **more):
    return run(name, data, out, backbone=TINY, device="cpu", quiet=True, **{**quick(name), **more})


def first_computed(method, data, folder, store, monkeypatch, **options):
    """Return the first stage that ``options`` let compute anew, on top of what lies in ``store``, without computing it."""

    class Reached(Exception):
        pass

    def stop(self, name, *_):
        raise Reached(name)

    with monkeypatch.context() as patch:
        patch.setattr(Work, "_compute_once", stop)
        patch.setattr(Work, "_compute_each", stop)
        try:
            go(method, data, folder, store=store, **options)
        except Reached as reached:
            return str(reached)
    return ""


def content(folder):
    kept = [*(folder / "masks").rglob("*.png"), folder / "model.safetensors"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}


@pytest.mark.parametrize("name", NAMES)
def test_runs_repeats_itself_and_keeps_to_the_tags(name, toy, tmp_path):
    first = go(name, toy, tmp_path / "first")
    metrics = first.metrics
    assert {"train_masks", "val", "stages", "minutes", "peak_mb", "extra_supervision"} <= set(metrics)
    assert 0 <= metrics["val"]["miou"] <= 1
    assert metrics["peak_mb"] > 0
    for sample in toy.samples:
        labels = np.asarray(Image.open(first.folder / "masks" / f"{sample.name}.png"))
        assert labels.shape == (48, 48)
        assert set(np.unique(labels)) <= {0, *sample.tags}
    assert (first.folder / "report.html").stat().st_size > 10_000
    assert json.loads((first.folder / "options.json").read_text())["options"]
    again = go(name, toy, tmp_path / "again")
    assert content(again.folder) == content(first.folder)
    resumed = go(name, toy, tmp_path / "first")
    assert sum(stage["computed"] for stage in resumed.metrics["stages"]) == 0
    assert resumed.metrics["minutes"] == pytest.approx(metrics["minutes"], abs=0.02)
    assert content(resumed.folder) == content(again.folder)
    new = first.predict(toy.val[0].image)
    assert new.labels.shape == (48, 48)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "shape", ["one class, negatives, 3 images", "40 classes", "no masks, no val, odd sizes, unknown tags"]
)
def test_other_shapes_of_data(name, shape, toy, tmp_path):
    masked = find_method(name).extra_supervision != "none"
    data = {"one": few, "40 ": many_classes, "no ": bare}[shape[:3]](toy, tmp_path / "data")
    if masked and shape.startswith("no"):
        pytest.skip("needs masks")
    done = go(name, data, tmp_path / "run")
    assert len(list((done.folder / "masks").rglob("*.png"))) == len(data.samples)
    assert ("train_masks" in done.metrics) == any(sample.mask for sample in data.train)


def few(toy, folder):
    data = load_data(make_toy(folder, images=24, size=40, classes=2, seed=1, val=0))
    chosen = [sample for sample in data.samples if sample.tags == (1,)][:2]
    negative = replace(next(sample for sample in data.samples if sample.tags == (2,)), tags=(), mask=None)
    return replace(data, samples=(negative, *chosen), classes=data.classes[:2], splits={})


def many_classes(toy, folder):
    return replace(toy, classes=(*toy.classes, *(f"rare {n}" for n in range(35))))


def bare(toy, folder):
    folder.mkdir()
    samples = []
    for number, sample in enumerate(toy.train):
        picture = (
            Image.open(sample.image).resize((31 + 7 * number, 64 - 3 * number)).convert("L" if number == 1 else "RGB")
        )
        picture.save(folder / f"{number}.png")
        samples.append(
            replace(sample, image=folder / f"{number}.png", mask=None, tags=None if number == 2 else sample.tags)
        )
    return replace(toy, samples=tuple(samples), splits={})


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_a_flag_of_its_own(name):
    flags = [f"--{option.replace('_', '-')}" for option, _, _ in find_method(name).options]
    assert len(flags) > 5
    assert _parser(["run", name]).parse_args(["run", name, "photos/"]).method == name


@pytest.mark.parametrize("name", NAMES)
def test_the_head_of_a_recipe_says_what_one_must_know(name):
    method = find_method(name)
    assert " - " in method.title
    assert "http" in method.paper
    assert method.extra_supervision
    source = method.path.read_text()
    assert f"tagmask run {name} photos/" in source
    assert f"the row `{name}` of docs/results.md" in source
    for option, default, what in method.options:
        ast.literal_eval(default)
        assert ";" in what, f"the comment of {option} must say what it is; and where its value comes from"
    tree = ast.parse(source)
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not [module for module in imported if module.startswith("tagmask.recipes")], "share a stage instead"


def test_every_method_has_its_row_in_the_docs():
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    for method in methods():
        idea = method.title.partition(" - ")[2]
        row = f"| [`{method.name}`](../src/tagmask/recipes/{method.name}.py) | {idea} | {method.extra_supervision} |"
        assert row in page, f"docs/methods.md should have the row: {row}"
