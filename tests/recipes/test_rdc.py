"""What only `rdc` promises."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.recipes.test_contract import go

from tagmask.errors import OptionError
from tagmask.label import dense_labels
from tagmask.types import Activation


def read_activation(folder, name):
    with np.load(folder / "activation" / f"{name}.npz") as held:
        return Activation(held["maps"].astype(np.float32), tuple(held["classes"].tolist()))


def test_the_steps_are_those_of_the_paper(toy, tmp_path):
    done = go("rdc", toy, tmp_path / "run")
    assert list(done.metrics["steps"]) == [
        "thresholded activation", "after segmenter 1", "after the online training",
    ]  # fmt: skip
    points = [json.loads(line) for line in (tmp_path / "run/classifier/curve.jsonl").read_text().splitlines()]
    assert all({f"branch {n}" for n in (1, 2, 3, 4)} < set(point) for point in points)
    for sample in toy.train:
        seeds = np.asarray(Image.open(tmp_path / "run" / "seeds" / f"{sample.name}.png"))
        saliency = np.asarray(Image.open(tmp_path / "run" / "saliency" / f"{sample.name}.png"))
        activation = read_activation(tmp_path / "run", sample.name)
        expected = dense_labels(activation, saliency / np.float32(255), share=0.3, background=0.06)
        np.testing.assert_array_equal(seeds, expected.labels)


def test_without_saliency_all_the_rest_is_background(toy, tmp_path):
    done = go("rdc", toy, tmp_path / "run", saliency="none", online_epochs=0.0, threshold=0.4, test_crf=False)
    assert list(done.metrics["steps"]) == ["thresholded activation", "after segmenter 1"]
    assert "saliency" not in done.metrics
    assert done.metrics["seeds"]["coverage"] == 1
    assert done.metrics["seeds"]["miou_labelled"] == done.metrics["steps"]["thresholded activation"]["miou"]


def test_changing_the_fusion_does_not_train_the_classifier_again(toy, tmp_path):
    go("rdc", toy, tmp_path / "run", rates=(1, 12), online_epochs=0.0)
    before = read_activation(tmp_path / "run", toy.train[0].name).maps
    again = go("rdc", toy, tmp_path / "run", rates=(1, 12), online_epochs=0.0, plain_average=True, saliency="rbd")
    assert {stage["name"]: stage["computed"] for stage in again.metrics["stages"]}["classifier"] == 0
    assert (read_activation(tmp_path / "run", toy.train[0].name).maps != before).any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"saliency": "mdb"}, "did you mean 'mbd'"),
        ({"background": 1.5}, "background is 1.5"),
        ({"branch_width": 0}, "branch_width 0"),
        ({"tag_policy": "cosine"}, "poly or step"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_trained(change, words, toy, tmp_path):
    with pytest.raises(OptionError, match=words):
        go("rdc", toy, tmp_path / "run", **change)
    assert not list((tmp_path / "run").rglob("*.safetensors"))
