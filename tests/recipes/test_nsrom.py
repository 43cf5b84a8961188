"""What only `nsrom` promises."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tests.recipes.test_contract import bare, content, few, go, many_classes

from tagmask.errors import OptionError
from tagmask.label import salient_labels
from tagmask.refine.mining import masked_labels, mined_labels
from tagmask.types import Activation, LabelMap, Saliency
from tagmask.work import Work

LOOSE = {"round_crf": False, "rounds": 2, "tag_epochs": 3.0}  # two rounds, and maps that were gathered


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("nsrom") / "store"


@pytest.fixture(scope="module")
def done(toy, store):
    """A run with the quick options of this file."""
    return go("nsrom", toy, store.parent / "run", store=store, **LOOSE)


def labels_of(run, stage, sample):
    return np.asarray(Image.open(run / stage / f"{sample.name}.png"))


def activation_of(run, stage, sample):
    with np.load(run / stage / f"{sample.name}.npz") as held:
        return Activation(held["maps"].astype(np.float32), tuple(held["classes"].tolist()))


def test_steps_are_those_of_the_paper_and_follow_from_each_other(toy, done):
    run = done.folder
    assert list(done.metrics["steps"]) == [
        "CAM", "accumulated", "OA-CAM", "background extraction", "object mining", "after segmenter 1",
        "non-salient masked", "after segmenter 2",
    ]  # fmt: skip
    for sample in toy.train:
        saliency = Saliency(labels_of(run, "saliency", sample))
        extracted = salient_labels(activation_of(run, "integral-activation", sample), saliency)
        np.testing.assert_array_equal(labels_of(run, "extracted", sample), extracted.labels)
        mined = mined_labels(extracted, activation_of(run, "plain-activation", sample))
        np.testing.assert_array_equal(labels_of(run, "mined", sample), mined.labels)
        predicted = LabelMap(labels_of(run, "predicted-1", sample))
        masked = masked_labels(predicted, mined, tags=len(sample.tags), dilation=6)
        np.testing.assert_array_equal(labels_of(run, "masked-1", sample), masked.labels)


def test_the_numbers_that_tell_what_mining_and_masking_are_good_for(done):
    steps = done.metrics["steps"]
    before, after = (steps[name]["seeds"]["missed"] for name in ("background extraction", "object mining"))
    assert 0 <= after <= before <= 1
    assert all({"one_tag", "several_tags"} <= set(step) for step in steps.values())


@pytest.mark.parametrize(
    ("option", "stage"),
    [
        ({"graph": "paper"}, "attention"),
        ({"graph": "none"}, "attention"),
        ({"nodes": 2}, "attention"),
        ({"jitter": (0.0, 0.0, 0.0, 0.0)}, "attention"),
        ({"least_score": 0.9, "policy": "poly"}, "attention"),
        ({"relu_first": True}, "integral"),
        ({"integral_rate": 0.003}, "integral"),
        ({"saliency": "rbd"}, "saliency"),
        ({"mined": "class"}, "mined"),
        ({"mining_threshold": 0.4}, "mined"),
        ({"mined": "none"}, "segmenter-1"),
        ({"only_tags": False}, "predicted-1"),
        ({"round_crf": True}, "predicted-1"),
        ({"mask_saliency": True}, "masked-1"),
        ({"dilation": 0}, "masked-1"),
        ({"masking": False}, "masked-1"),
    ],
)
def test_each_option_reaches_its_stage(toy, tmp_path, done, store, monkeypatch, option, stage):
    class Reached(Exception):
        """The first stage that is not in the store."""

    def stop(self, name, *rest):
        raise Reached(name)

    for kind in ("_compute_once", "_compute_each"):
        monkeypatch.setattr(Work, kind, stop)
    with pytest.raises(Reached, match=f"^{stage}$"):
        go("nsrom", toy, tmp_path / "run", store=store, **{**LOOSE, **option})


def test_the_rates_fall_twice(toy, done):
    for stage, epochs in (("attention", 3), ("integral", 1)):
        options = json.loads((done.folder / stage / "model.json").read_text())["options"]
        assert (options["nodes"], options["graph"], options["relu_first"]) == (4, "code", False)
        curve = [json.loads(line) for line in (done.folder / stage / "curve.jsonl").read_text().splitlines()]
        steps = -(-epochs * len(toy.train) // 4)
        for point in curve:
            drops = (point["step"] >= steps / 3) + (point["step"] >= 2 * steps / 3)
            assert point["lr"] == pytest.approx(1e-3 * 0.1**drops)


def test_a_third_round_masks_again_and_all_of_it_resumes(toy, tmp_path, done, store):
    longer = go("nsrom", toy, tmp_path / "run", store=store, **{**LOOSE, "rounds": 3})
    assert list(longer.metrics["steps"])[-3:] == ["after segmenter 2", "non-salient masked 2", "after segmenter 3"]
    computed = {stage["name"] for stage in longer.metrics["stages"] if stage["computed"]}
    assert computed == {"predicted-2", "masked-2", "segmenter-3", "relabelled-3", "masks", "others", "predictions"}
    again = go("nsrom", toy, tmp_path / "run", store=store, **LOOSE)
    assert not sum(stage["computed"] for stage in again.metrics["stages"])
    assert content(again.folder) == content(done.folder)


OTHER = {"only_tags": False, "mined": "class", "mask_saliency": True, "round_crf": False}


@pytest.mark.parametrize(("shape", "options"), [(few, {}), (few, OTHER), (bare, {}), (many_classes, OTHER)])
def test_both_rounds_survive_other_shapes_of_data(toy, tmp_path, shape, options):
    data = shape(toy, tmp_path / "data")
    data = replace(data, samples=(replace(data.samples[0], tags=(), mask=None), *data.samples[1:]))
    go("nsrom", data, tmp_path / "run", rounds=2, **options)
    for sample in data.train:
        masked = labels_of(tmp_path / "run", "masked-1", sample)
        if not options or not sample.tags:
            assert set(np.unique(masked)) <= ({0, 255, *sample.tags} if sample.tags else {0})


@pytest.mark.parametrize(
    "wrong",
    [
        {"saliency": "none"}, {"policy": "cosine"}, {"graph": "glore"}, {"mined": "all"}, {"threshold": 1.5},
        {"least_score": 1.1}, {"mining_threshold": 2.0}, {"jitter": (0.3,)}, {"jitter": (0.1, 0.1, 0.1, 0.6)},
        {"nodes": 0}, {"rounds": 0}, {"tag_width": 0}, {"dilation": -1}, {"tag_batch": 0}, {"tag_stride": 5},
    ],
)  # fmt: skip
def test_nonsense_is_refused_before_any_training(toy, tmp_path, wrong):
    with pytest.raises(OptionError, match=r"expected|must be|has no output stride"):
        go("nsrom", toy, tmp_path / "run", **wrong)
    assert not list((tmp_path / "run").rglob("*.safetensors"))
