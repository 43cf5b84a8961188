"""What only `cam` promises."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.recipes.test_contract import go


def test_a_given_threshold_is_used_and_no_round_is_a_plain_step(toy, tmp_path):
    done = go("cam", toy, tmp_path / "run", threshold=0.4, rounds=2)
    assert done.metrics["activation"]["threshold"] == 0.4
    assert list(done.metrics["steps"]) == [
        "thresholded activation", "after the CRF", "after segmenter 1", "after segmenter 2",
    ]  # fmt: skip
    name = next(sample.name for sample in toy.train if sample.tags)
    with np.load(tmp_path / "run" / "activation" / f"{name}.npz") as held:
        maps, classes = held["maps"].astype(np.float32), held["classes"]
    seeds = np.asarray(Image.open(tmp_path / "run" / "seeds" / f"{name}.png"))
    np.testing.assert_array_equal(seeds, np.where(maps.max(0) > np.float32(0.4), classes[maps.argmax(0)], 0))


def test_the_price_of_choosing_without_masks_is_told(toy, tmp_path):
    price = go("cam", toy, tmp_path / "run").metrics["activation"]
    assert price["miou_oracle"] == pytest.approx(max(price["curve"]["miou"]))
    assert price["price"] == pytest.approx(price["miou_oracle"] - price["miou_chosen"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert "oracle" in page.lower()


def test_changing_the_crf_does_not_train_the_classifier_again(toy, tmp_path):
    go("cam", toy, tmp_path / "run")
    again = go("cam", toy, tmp_path / "run", confidence=0.9)
    computed = {stage["name"]: stage["computed"] for stage in again.metrics["stages"]}
    assert computed["classifier"] == computed["activation"] == computed["seeds"] == 0
    assert computed["segmenter-1"] == 1
    assert json.loads((tmp_path / "run" / "options.json").read_text())["options"]["confidence"] == 0.9


def test_looking_in_bfloat16_trains_nothing_again_and_predicts_alike(toy, tmp_path):
    go("cam", toy, tmp_path / "exact", store=tmp_path / "store")
    done = go("cam", toy, tmp_path / "rounded", store=tmp_path / "store", looking="bfloat16")
    computed = {stage["name"]: stage["computed"] for stage in done.metrics["stages"]}
    assert computed["classifier"] == 0 < computed["activation"]
    assert done.metrics["looking"] == "bfloat16"
    mask = np.asarray(Image.open(tmp_path / "rounded" / "predictions" / f"{toy.val[0].name}.png"))
    np.testing.assert_array_equal(done.predict(toy.val[0].image).labels, mask)
