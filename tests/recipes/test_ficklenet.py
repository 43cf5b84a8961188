"""What only `ficklenet` promises."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.recipes.test_contract import first_computed, go

from tagmask.errors import OptionError
from tagmask.growing import on_grid
from tagmask.seed import claimed_cues


@pytest.fixture(scope="module")
def store(toy, tmp_path_factory):
    """What a run with the quick options left."""
    folder = tmp_path_factory.mktemp("ficklenet")
    go("ficklenet", toy, folder / "run", store=folder / "store", size=65, tag_stride=16)
    return folder / "store"


def read_maps(folder, name):
    with np.load(folder / f"{name}.npz") as held:
        return held["maps"].astype(np.float32), tuple(held["classes"].tolist())


def test_steps_compare_plain_and_localisation_maps_at_one_rule(toy, tmp_path, store):
    done = go("ficklenet", toy, tmp_path / "run", store=store, size=65, tag_stride=16)
    assert list(done.metrics["steps"]) == [
        "plain CAM", "localisation map", "cues", "grown after an epoch", "grown", "after the growing network",
        "after segmenter 1",
    ]  # fmt: skip
    for folder, maps in (("plain", "plain"), ("localisation", "mean")):
        cut = json.loads((tmp_path / "run" / f"{folder}-threshold" / "value.json").read_text())
        assert "mutual information" in cut["criterion"]
        its, classes = read_maps(tmp_path / "run" / f"{maps}-activation", toy.train[0].name)
        labels = np.asarray(Image.open(tmp_path / "run" / f"{folder}-labels" / f"{toy.train[0].name}.png"))
        best = np.array(classes, dtype=np.uint8)[its.argmax(axis=0)]
        np.testing.assert_array_equal(labels, np.where(its.max(axis=0) > np.float32(cut["threshold"]), best, 0))
    assert done.metrics["threshold_choice"] == cut


def test_cues_are_what_the_looks_claim(toy, tmp_path, store):
    go("ficklenet", toy, tmp_path / "run", store=store, size=65, tag_stride=16, theta=0.6, background=0.2)
    for sample in (s for s in toy.train if s.tags):
        cues = np.asarray(Image.open(tmp_path / "run" / "cues" / f"{sample.name}.png"))
        saliency = np.asarray(Image.open(tmp_path / "run" / "saliency" / f"{sample.name}.png")) / np.float32(255)
        mean, classes = read_maps(tmp_path / "run" / "mean-activation", sample.name)
        highest, _ = read_maps(tmp_path / "run" / "highest-activation", sample.name)
        expected = np.where(on_grid(saliency[None], 5)[0] < 0.2, 0, 255)
        for mark, tag in zip(claimed_cues(highest, mean, 0.6), classes, strict=True):
            expected[mark] = tag
        assert (cues != expected).sum() <= len(classes), "a class without a cell may have been given one"
        assert set(sample.tags) <= set(np.unique(cues))


@pytest.mark.parametrize(
    ("option", "first"),
    [
        ({"kernel": 5}, "classifier"),
        ({"dropout": 0.5}, "classifier"),
        ({"keep_centre": False}, "classifier"),
        ({"looks": 7}, "mean-activation"),
        ({"gather": "highest"}, "localisation-threshold"),
        ({"threshold": 0.3}, "plain-threshold"),
        ({"theta": 0.7}, "cues"),
        ({"top": 0.1}, "cues"),
        ({"background": 0.5}, "cues"),
        ({"growing": False}, "growing-network"),
        ({"unary": "logprob", "override_cues": True}, "first-epoch"),
    ],
)
def test_each_option_reaches_its_stage(toy, tmp_path, store, monkeypatch, option, first):
    options = {"size": 65, "tag_stride": 16, **option}
    assert first_computed("ficklenet", toy, tmp_path / "run", store, monkeypatch, **options) == first


def test_the_rate_is_halved_twice(toy, tmp_path):
    go("ficklenet", toy, tmp_path / "run", tag_epochs=3.0, tag_rate=0.01, tag_stride=16, first_epoch=False, looks=1)
    curve = [json.loads(line) for line in (tmp_path / "run" / "classifier" / "curve.jsonl").read_text().splitlines()]
    assert sorted({point["lr"] for point in curve}, reverse=True) == [0.01, 0.005, 0.0025]


@pytest.mark.parametrize(
    "wrong",
    [
        {"kernel": 4}, {"kernel": 0}, {"looks": 0}, {"dropout": 1.0}, {"theta": 1.0}, {"top": 1.5}, {"threshold": 1.5},
        {"gather": "max"},
        {"saliency": "drfi"}, {"unary": "logits"}, {"segmenter": "v2"}, {"background": 1.1}, {"grow_batch": 0},
    ],
)  # fmt: skip
def test_nonsense_is_refused_before_any_training(toy, tmp_path, wrong):
    with pytest.raises(OptionError, match="expected"):
        go("ficklenet", toy, tmp_path / "run", **wrong)
    assert not (tmp_path / "run").exists()
