"""What only `oaa` promises."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.recipes.test_contract import bare, few, go

from tagmask.errors import OptionError


@pytest.fixture(scope="module")
def store(toy, tmp_path_factory):
    """What a run with the quick options left."""
    folder = tmp_path_factory.mktemp("oaa")
    go("oaa", toy, folder / "run", store=folder / "store", tag_epochs=3.0)
    return folder / "store"


def test_steps_compare_what_is_plain_gathered_and_learned(toy, tmp_path, store):
    done = go("oaa", toy, tmp_path / "run", store=store, tag_epochs=3.0)
    assert list(done.metrics["steps"]) == [
        "plain activation", "accumulated", "integral", "after the CRF", "after segmenter 1",
    ]  # fmt: skip
    chosen = [
        json.loads((tmp_path / "run" / f"{step}-threshold" / "value.json").read_text())
        for step in ("plain", "integral")
    ]
    assert done.metrics["threshold_choice"] == chosen[1]
    for threshold, step in zip(chosen, ("plain", "integral"), strict=True):
        name = next(sample.name for sample in toy.train if sample.tags)
        with np.load(tmp_path / "run" / f"{step}-activation" / f"{name}.npz") as held:
            maps, classes = held["maps"].astype(np.float32), held["classes"]
        labels = np.asarray(Image.open(tmp_path / "run" / f"{step}-labels" / f"{name}.png"))
        cut = np.float32(threshold["threshold"])
        np.testing.assert_array_equal(labels, np.where(maps.max(0) > cut, classes[maps.argmax(0)], 0))


def test_without_the_integral_network_the_gathered_maps_are_the_activation(toy, tmp_path):
    done = go("oaa", toy, tmp_path / "run", integral=False, tag_epochs=3.0, tag_batch=4, threshold=0.4)
    assert list(done.metrics["steps"]) == ["plain activation", "accumulated", "after the CRF", "after segmenter 1"]
    assert done.metrics["activation"]["threshold"] == 0.4
    rows = np.load(tmp_path / "run" / "attention" / "maps.npy")
    assert len(rows) == sum(len(sample.tags) for sample in toy.train)
    assert set(rows["seen"]) == {3}


@pytest.mark.parametrize(
    ("option", "stage"),
    [
        ({"update": "ave", "mirror": True, "ranked": False}, "attention"),
        ({"scale": "min-max", "policy": "poly"}, "attention"),
        ({"drop_rate": 0.9, "drop_threshold": 0.2}, "attention"),
        ({"loss": "ce"}, "integral"),
        ({"integral": False}, "sharpened"),
        ({"scales": (0.5, 1.0), "flip": True}, "integral-activation"),
    ],
)
def test_each_option_reaches_its_stage(toy, tmp_path, store, option, stage):
    changed = go("oaa", toy, tmp_path / "run", store=store, tag_epochs=3.0, **option)
    computed = [s["name"] for s in changed.metrics["stages"] if s["computed"]]
    assert computed[0] == stage


@pytest.mark.parametrize("integral_rate", [0.0, 0.003])
def test_the_rates_of_the_attention_networks_fall_once(toy, tmp_path, integral_rate):
    go("oaa", toy, tmp_path / "run", tag_epochs=3.0, tag_batch=5, tag_rate=0.01, integral_rate=integral_rate)
    for stage, epochs, rate in (("attention", 3, 0.01), ("integral", 1, integral_rate or 0.01)):
        curve = [json.loads(line) for line in (tmp_path / "run" / stage / "curve.jsonl").read_text().splitlines()]
        steps = -(-epochs * len(toy.train) // 5)
        assert len(curve) == steps
        for point in curve:
            assert point["lr"] == pytest.approx(rate / 10 if point["step"] >= 2 / 3 * steps else rate)


@pytest.mark.parametrize("saliency", ["mbd", "rbd"])
@pytest.mark.parametrize("shape", [few, bare])
def test_labels_against_classical_saliency_on_any_data(toy, tmp_path, saliency, shape):
    data = shape(toy, tmp_path / "data")
    go("oaa", data, tmp_path / "run", saliency=saliency, integral=False)
    for sample in data.train:
        labels = np.asarray(Image.open(tmp_path / "run" / "against-saliency" / f"{sample.name}.png"))
        assert set(np.unique(labels)) <= ({0, 255, *sample.tags} if sample.tags else {0})


@pytest.mark.parametrize(
    "wrong",
    [
        {"saliency": "dss"}, {"loss": "mse"}, {"policy": "cosine"}, {"threshold": 1.5}, {"confidence": 2.0},
        {"update": "sum"}, {"scale": "none"}, {"drop_rate": 1.1}, {"drop_threshold": 7.0}, {"tag_width": 0},
        {"tag_batch": 0}, {"integral_epochs": 0.0}, {"tag_stride": 5},
    ],
)  # fmt: skip
def test_nonsense_is_refused_before_any_training(toy, tmp_path, wrong):
    with pytest.raises(OptionError, match=r"expected|must be|has no output stride"):
        go("oaa", toy, tmp_path / "run", **wrong)
    assert not list((tmp_path / "run").rglob("*.safetensors"))
