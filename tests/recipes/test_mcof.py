"""What only `mcof` promises."""

import numpy as np
import pytest
from PIL import Image
from tests.recipes.test_contract import few, go, quick

from tagmask.errors import OptionError
from tagmask.recipes import mcof
from tagmask.runs import LONGEST


@pytest.fixture(scope="module")
def store(toy, tmp_path_factory):
    """What a run with the quick options left."""
    folder = tmp_path_factory.mktemp("mcof")
    go("mcof", toy, folder / "run", store=folder / "store", region_least=10)
    return folder / "store"


def labels(folder, stage, name):
    return np.asarray(Image.open(folder / stage / f"{name}.png"))


def superpixels(folder, name):
    with np.load(folder / "superpixels" / f"{name}.npz") as held:
        return held["ids"]


def test_the_steps_are_those_of_the_paper(toy, tmp_path, store):
    done = go("mcof", toy, tmp_path / "run", store=store, region_least=10, rounds=2)
    assert list(done.metrics["steps"]) == [
        "thresholded activation", "seeds of round 1", "regions of round 1", "with saliency", "after segmenter 1",
        "seeds of round 2", "regions of round 2", "after segmenter 2",
    ]  # fmt: skip
    assert "miou_unknown_as_background" in done.metrics["steps"]["seeds of round 1"]["seeds"]
    for sample in toy.train:
        ids = superpixels(tmp_path / "run", sample.name)
        for stage in ("seeds-1", "regions-1", "refined", "seeds-2", "regions-2"):
            painted = labels(tmp_path / "run", stage, sample.name)
            assert set(np.unique(painted)) <= {0, *sample.tags, *([255] if stage == "seeds-1" else [])}
            for region in range(ids.max() + 1):
                assert len(np.unique(painted[ids == region])) == 1
        before, after = (labels(tmp_path / "run", stage, sample.name) for stage in ("regions-1", "refined"))
        assert (after[before > 0] == before[before > 0]).all()
        if len(sample.tags) != 1:
            np.testing.assert_array_equal(before, after)
        mask, seeds = (labels(tmp_path / "run", stage, sample.name) for stage in ("relabelled-1", "seeds-2"))
        for region in range(ids.max() + 1):
            votes = np.bincount(mask[ids == region])
            assert votes[seeds[ids == region][0]] == votes.max()


def test_later_rounds_are_not_computed_again_for_more_rounds(toy, tmp_path, store):
    done = go("mcof", toy, tmp_path / "run", store=store, region_least=10, rounds=2)
    computed = {stage["name"] for stage in done.metrics["stages"] if stage["computed"]}
    assert not computed & {"classifier", "superpixels", "region-net-1", "segmenter-1"}


def test_without_saliency_the_regions_teach_as_they_are(toy, tmp_path, store):
    done = go("mcof", toy, tmp_path / "run", store=store, region_least=10, saliency="none")
    assert list(done.metrics["steps"]) == [
        "thresholded activation", "seeds of round 1", "regions of round 1", "after segmenter 1",
    ]  # fmt: skip
    assert "saliency" not in done.metrics
    assert not (tmp_path / "run" / "refined").exists()


@pytest.mark.parametrize(
    ("option", "stage"),
    [
        ({"region_scale": 20.0}, "superpixels"),
        ({"region_sigma": 0.5}, "superpixels"),
        ({"calibrate": 0.4}, "calibrated"),
        ({"calibrate": 0.0}, "seeds-1"),
        ({"seed_floor": 0.5}, "seeds-1"),
        ({"seed_above": 0.9}, "seeds-1"),
        ({"seed_ground": 0.3}, "seeds-1"),
        ({"seed_dark": 0.3}, "seeds-1"),
        ({"region_head": "mask"}, "region-net-1"),
        ({"region_maps": 1}, "region-net-1"),
        ({"region_samples": 5, "region_balance": True}, "region-net-1"),
        ({"region_zoom": (1.0, 1.0), "region_rate": 0.01}, "region-net-1"),
        ({"wrong": "unknown"}, "regions-1"),
        ({"wrong": "tags"}, "regions-1"),
        ({"join": 0.7, "unsure": 0.3}, "refined"),
        ({"averaged": True}, "refined"),
    ],
)
def test_each_option_reaches_its_stage(toy, work, store, monkeypatch, option, stage):
    def stop(*given, **options):
        raise StopIteration

    monkeypatch.setattr(mcof, "retrain", stop)
    work.store, work.longest = store, LONGEST  # as `go` has it
    with pytest.raises(StopIteration):
        mcof.run(toy, work, mcof.Options(**{**quick("mcof"), "region_least": 10, **option}))
    assert next(cost.name for cost in work.costs if cost.computed) == stage


def test_a_class_of_two_photos_beside_a_negative(toy, tmp_path):
    data = few(toy, tmp_path / "data")
    go("mcof", data, tmp_path / "run", rounds=2, region_head="mask", wrong="unknown", unsure=0.3)
    for sample in data.train:
        if not sample.tags:
            assert not labels(tmp_path / "run", "seeds-1", sample.name).any()
            assert not labels(tmp_path / "run", "refined", sample.name).any()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"saliency": "drfi"}, "expected mbd"),
        ({"region_head": "pooled"}, "did you mean 'pool'"),
        ({"wrong": "ignore"}, "expected background, unknown, tags"),
        ({"seed_floor": 1.2}, "seed_floor is 1.2; expected a number in"),
        ({"join": 50.0}, "join is 50.0"),
        ({"calibrate": 1.0}, "calibrate is 1.0; expected less than 1"),
        ({"region_samples": 255}, "at most 254"),
        ({"region_samples": 0}, "region_samples is 0"),
        ({"region_epochs": 0.0}, "region_epochs is 0"),
        ({"region_scale": 0.0}, "region_scale is 0"),
        ({"rounds": 0}, "rounds is 0"),
    ],
)
def test_nonsense_is_refused_before_any_training(toy, tmp_path, wrong, words):
    with pytest.raises(OptionError, match=words):
        go("mcof", toy, tmp_path / "run", **wrong)
    assert not list((tmp_path / "run").rglob("*.safetensors"))
