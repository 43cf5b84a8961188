"""What only `full` promises."""

from dataclasses import replace

import numpy as np
import pytest
from tests.recipes.test_contract import go

from tagmask.data.novel import with_novel
from tagmask.errors import DataError


def test_without_any_mask_it_says_so_at_once(toy, tmp_path):
    bare = replace(toy, samples=tuple(replace(sample, mask=None) for sample in toy.samples))
    with pytest.raises(DataError, match="have no mask"):
        go("full", bare, tmp_path / "run")


def test_photos_without_a_mask_are_predicted_but_not_learned_from(toy, tmp_path):
    some = tuple(replace(s, mask=None) if number % 2 else s for number, s in enumerate(toy.samples))
    done = go("full", replace(toy, samples=some), tmp_path / "run")
    assert len(list((done.folder / "masks").glob("*.png"))) == len(toy.samples)
    assert done.metrics["train_masks"]["images"] == sum(
        sample.mask is not None for sample in replace(toy, samples=some).train
    )


def test_looks_at_test_time_are_off_and_on_explicitly(toy, tmp_path):
    plain = go("full", toy, tmp_path / "plain")
    every = go("full", toy, tmp_path / "every", test_scales=(0.5, 1.0), test_flip=True, test_crf=True)
    assert (plain.folder / "model.safetensors").read_bytes() == (every.folder / "model.safetensors").read_bytes()
    loaded = every.predictor().options
    assert loaded["scales"] == [0.5, 1.0]
    assert loaded["flip"] is True
    assert loaded["crf"].bilateral_xy == 80.0
    assert "crf" not in plain.predictor().options


def test_scores_of_base_and_novel_classes(toy, tmp_path):
    done = go("full", with_novel(toy, toy.classes[1]), tmp_path / "run")
    val = done.metrics["val"]
    assert done.metrics["novel"] == [toy.classes[1]]
    assert val["groups"]["novel"] == val["iou"][1]
    rest = [iou for c, iou in enumerate(val["iou"]) if c != 1 and iou is not None]
    assert val["groups"]["base"] == pytest.approx(np.mean(rest))
    assert f"{toy.classes[1]} <small>novel</small>" in (done.folder / "report.html").read_text()
    assert "mean of the novel classes" in (done.folder / "report.html").read_text().lower()
    assert "novel" in done.verdict()
