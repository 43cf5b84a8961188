"""What only `irn` promises."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.recipes.test_contract import go

from tagmask.errors import OptionError


def steps_of(done):
    return list(done.metrics["steps"])


def test_the_steps_are_told_and_the_walk_s_threshold_may_be_chosen(toy, tmp_path):
    done = go("irn", toy, tmp_path / "run")
    assert steps_of(done) == ["thresholded activation", "random walk", "after segmenter 1"]
    assert done.metrics["activation"]["threshold"] == 0.25
    again = go("irn", toy, tmp_path / "run", walk_threshold=0.0, walk_crf=True)
    assert steps_of(again) == ["thresholded activation", "random walk", "after the CRF", "after segmenter 1"]
    assert again.metrics["threshold_choice"]["photos"] > 0
    computed = {stage["name"]: stage["computed"] for stage in again.metrics["stages"]}
    assert computed["relation"] == computed["walked"] == 0
    assert computed["walk-threshold"] == 1


def test_maps_are_bent_so_that_the_published_thresholds_fit(toy, tmp_path):
    go("irn", toy, tmp_path / "run", threshold=0.6)
    name = next(sample.name for sample in toy.train if sample.tags)
    plain, bent = (np.load(tmp_path / "run" / part / f"{name}.npz")["maps"] for part in ("activation", "calibrated"))
    np.testing.assert_array_equal(plain > 0.6, bent > 0.15)
    untouched = go("irn", toy, tmp_path / "other", threshold=0.6, calibrate=0.0)
    assert "calibrated" not in {stage["name"] for stage in untouched.metrics["stages"]}
    sure = np.asarray(Image.open(tmp_path / "other" / "sure" / f"{name}.png"))
    assert sure.shape == (48, 48)


def test_masks_can_be_cut_in_place_of_the_walked_labels(toy, tmp_path):
    run = tmp_path / "run"
    go("irn", toy, run, cut_masks=True, least_instance=0.0)
    for sample in toy.train:
        mask = np.asarray(Image.open(run / "masks" / f"{sample.name}.png"))
        np.testing.assert_array_equal(np.asarray(Image.open(run / "instances" / f"{sample.name}.png")) > 0, mask > 0)
    go("irn", toy, run, cut_masks=False, least_instance=0.0)
    for sample in toy.train:
        mask = np.asarray(Image.open(run / "labels" / f"{sample.name}.png"))
        np.testing.assert_array_equal(np.asarray(Image.open(run / "instances" / f"{sample.name}.png")) > 0, mask > 0)


def test_the_momentum_is_an_option(toy, tmp_path):
    losses = []
    for momentum in (1e-4, 0.9):
        folder = tmp_path / str(momentum)
        go("irn", toy, folder, relation_epochs=2.0, relation_momentum=momentum)
        losses.append([json.loads(line)["loss"] for line in (folder / "relation/curve.jsonl").read_text().splitlines()])
    assert losses[0][0] == losses[1][0]
    assert losses[0][-1] != losses[1][-1]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sure_object": 0.2, "sure_background": 0.3}, "sure_background is 0.3 and sure_object 0.2"),
        ({"walk_radius": 1}, "walk_radius is 1; expected 2"),
        ({"relation_radius": 1}, "relation_radius is 1; expected 2"),
        ({"relation_width": 12}, "multiple of 8"),
        ({"relation_crop": 0}, "relation_crop is 0"),
        ({"relation_momentum": 9.0}, "relation_momentum is 9.0; expected a number below 1"),
        ({"calibrate": 1.0}, "calibrate is 1.0"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_computed(toy, tmp_path, wrong, words):
    with pytest.raises(OptionError, match=words):
        go("irn", toy, tmp_path / "run", **wrong)
    assert not (tmp_path / "run").exists()
