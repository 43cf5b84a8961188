"""What only `affinitynet` promises."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.recipes.test_contract import go

from tagmask.errors import OptionError
from tagmask.recipes.affinitynet import Options


def test_sure_labels_are_those_of_the_tags_and_each_step_is_scored(toy, tmp_path):
    done = go("affinitynet", toy, tmp_path / "run")
    assert list(done.metrics["steps"]) == ["thresholded activation", "random walk", "after segmenter 1"]
    for sample in toy.train:
        sure = np.asarray(Image.open(tmp_path / "run" / "sure" / f"{sample.name}.png"))
        assert sure.shape == (48, 48)
        assert set(np.unique(sure)) <= {0, 255, *sample.tags}
    assert 0 < done.metrics["seeds"]["coverage"] <= 1


def test_the_crf_is_one_more_step(toy, tmp_path):
    done = go("affinitynet", toy, tmp_path / "run", walk_crf=True, fast_crf=True)
    steps = done.metrics["steps"]
    assert list(steps) == ["thresholded activation", "random walk", "after the CRF", "after segmenter 1"]
    walked, sharp = (
        np.stack([np.asarray(Image.open(tmp_path / "run" / stage / f"{s.name}.png")) for s in toy.train])
        for stage in ("walked", "sharpened")
    )
    assert (walked != sharp).any()


def test_maps_are_calibrated_unless_told_otherwise(toy, tmp_path):
    go("affinitynet", toy, tmp_path / "raw", calibrate=0.0)
    assert not (tmp_path / "raw" / "calibrated").exists()
    go("affinitynet", toy, tmp_path / "run", threshold=0.4, learn_trunk=False)
    tagged = next(sample.name for sample in toy.train if sample.tags)
    before, after = (np.load(tmp_path / "run" / s / f"{tagged}.npz")["maps"] for s in ("activation", "calibrated"))
    np.testing.assert_allclose(after, before.astype(np.float32) ** (np.log(0.2) / np.log(0.4)), atol=2e-3)


def test_the_affinity_network_has_a_schedule_of_its_own(toy, tmp_path):
    done = go(
        "affinitynet",
        toy,
        tmp_path / "run",
        affinity_epochs=2.0,
        affinity_batch=3,
        affinity_rate=0.05,
        affinity_momentum=0.9,
    )
    curve = [json.loads(line) for line in (tmp_path / "run" / "affinity" / "curve.jsonl").read_text().splitlines()]
    assert len(curve) == -(-2 * done.metrics["train_images"] // 3)
    assert curve[0]["lr"] == 0.05


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"radius": 1}, "radius is 1; expected 2 or more"),
        ({"affinity_stride": 0}, "affinity_stride is 0"),
        ({"affinity_crop": 0}, "affinity_crop is 0"),
        ({"affinity_batch": 0}, "affinity_batch is 0"),
        ({"low_power": 40.0}, "low_power is 40.0, high_power 32.0"),
        ({"low_power": 0.0}, "low_power is 0.0"),
        ({"walk_power": 0.0}, "walk_power 0.0"),
        ({"calibrate": 1.0}, "calibrate 1.0"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_computed(wrong, words):
    with pytest.raises(OptionError, match=words):
        Options(**wrong)
