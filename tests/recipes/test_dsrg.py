"""What only `dsrg` promises."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file as load
from tests.recipes.test_contract import bare, few, first_computed, go

from tagmask.errors import OptionError


def curve_of(folder):
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def labels_of(folder, name):
    return np.asarray(Image.open(folder / f"{name}.png"))


@pytest.fixture(scope="module")
def store(toy, tmp_path_factory):
    """What a run with the quick options left."""
    folder = tmp_path_factory.mktemp("dsrg")
    go("dsrg", toy, folder / "run", store=folder / "store", size=65)
    return folder / "store"


def test_cues_lie_on_the_grid_and_grow_without_changing(toy, tmp_path, store):
    easy = {"grow_background": 0.0, "grow_object": 0.0}  # whatever is likeliest counts as sure
    done = go("dsrg", toy, tmp_path / "run", store=store, size=65, **easy)
    assert list(done.metrics["steps"]) == [
        "thresholded activation", "cues", "grown after an epoch", "grown", "after the growing network",
        "after segmenter 1",
    ]  # fmt: skip
    assert list(done.metrics["val_steps"]) == ["after the growing network"]
    assert done.metrics["saliency"]
    grew = 0
    for sample in toy.train:
        cues = labels_of(tmp_path / "run" / "cues", sample.name)
        assert cues.shape == (5, 5)
        assert set(sample.tags) <= set(np.unique(cues)) <= {0, 255, *sample.tags}
        for stage in ("grown-early", "grown"):
            grown = labels_of(tmp_path / "run" / stage, sample.name)
            np.testing.assert_array_equal(grown[cues != 255], cues[cues != 255])
            grew += int((grown != cues).sum())
    assert grew
    covered = [point["labelled"] for point in curve_of(tmp_path / "run" / "growing-network")]
    assert max(covered) > done.metrics["seeds"]["coverage"]


def test_the_first_epoch_is_the_beginning_of_the_training(toy, tmp_path, store):
    go("dsrg", toy, tmp_path / "run", store=store, size=65)
    early, whole = (curve_of(tmp_path / "run" / stage) for stage in ("first-epoch", "growing-network"))
    steps = -(-len(toy.train) // 4)
    assert len(early) == steps < len(whole)
    assert early == whole[:steps]


@pytest.mark.parametrize(
    ("option", "first"),
    [
        ({"tag_rate": 0.02}, "classifier"),
        ({"scales": (0.5, 1.0)}, "activation"),
        ({"threshold": 0.5}, "threshold"),
        ({"saliency": "mbd"}, "saliency"),
        ({"top": 0.2}, "cues"),
        ({"background": 0.5}, "cues"),
        ({"growing": False}, "growing-network"),
        ({"balanced": False}, "first-epoch"),
        ({"mirror": False}, "first-epoch"),
        ({"unary": "logprob"}, "first-epoch"),
        ({"override_cues": True, "grow_object": 0.5}, "first-epoch"),
        ({"grow_policy": "poly", "grow_rate": 0.01}, "first-epoch"),
        ({"first_epoch": False, "rate": 0.01}, "segmenter-1"),
        ({"test_crf": False}, "relabelled-1"),
    ],
)
def test_each_option_reaches_its_stage(toy, tmp_path, store, monkeypatch, option, first):
    options = {"size": 65, **option}
    assert first_computed("dsrg", toy, tmp_path / "run", store, monkeypatch, **options) == first


@pytest.mark.parametrize(("shape", "segmenter"), [(few, "deeplab-v1"), (bare, "deeplab-v3")])
def test_any_segmenter_grows_on_any_data(toy, tmp_path, shape, segmenter):
    data = shape(toy, tmp_path / "data")
    done = go(
        "dsrg", data, tmp_path / "run", segmenter=segmenter, grow_object=0.1, grow_background=0.1, saliency="mbd",
        grow_epochs=1.0,
    )  # fmt: skip
    assert "grown after an epoch" not in done.metrics.get("steps", {}), "there is no earlier epoch to show"
    for sample in data.train:
        grown = labels_of(tmp_path / "run" / "grown", sample.name)
        assert set(np.unique(grown)) <= ({0, 255, *sample.tags} if sample.tags else {0})


@pytest.mark.parametrize(
    "wrong",
    [
        {"saliency": "drfi"}, {"segmenter": "deeplab"}, {"unary": "logits"}, {"grow_policy": "cosine"}, {"threshold": 1.0},
        {"top": 1.5}, {"background": 2.0}, {"grow_background": 1.1}, {"grow_object": 85.0}, {"grow_batch": 0},
        {"grow_epochs": 0.0}, {"size": 0}, {"rounds": 0}, {"grow_object": -0.1},
    ],
)  # fmt: skip
def test_nonsense_is_refused_before_any_training(toy, tmp_path, wrong):
    with pytest.raises(OptionError, match="expected"):
        go("dsrg", toy, tmp_path / "run", **wrong)
    assert not (tmp_path / "run").exists()


def test_the_first_segmenter_goes_on_from_the_growing_network_or_starts_anew(toy, tmp_path, store):
    """With a rate of nothing a segmenter stays what it starts from."""
    heads = {}
    for go_on in (True, False):
        folder = tmp_path / f"run-{go_on}"
        go("dsrg", toy, folder, store=store, go_on=go_on, rate=1e-30, size=65)
        states = [load(folder / stage / "model.safetensors") for stage in ("growing-network", "segmenter-1")]
        heads[go_on] = [state[next(name for name in state if name.startswith("head"))] for state in states]
    assert torch.equal(*heads[True])
    assert not torch.equal(*heads[False])
    assert torch.equal(heads[True][0], heads[False][0])
