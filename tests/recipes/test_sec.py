"""What only `sec` promises."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image
from tests.recipes.test_contract import go

from tagmask.recipes.sec import decays_on


def test_each_loss_can_be_switched_off(toy, tmp_path):
    go("sec", toy, tmp_path / "run", expand_weight=0.0)
    curve = [json.loads(line) for line in (tmp_path / "run" / "segmenter" / "curve.jsonl").read_text().splitlines()]
    assert all(point["expand"] == 0 < point["seed"] for point in curve)
    assert all(point["loss"] == pytest.approx(point["seed"] + point["constrain"], abs=1e-4) for point in curve)


def test_cues_are_sure_labels_of_the_tags_on_the_grid(toy, tmp_path):
    done = go("sec", toy, tmp_path / "run", size=65)
    for sample in toy.train:
        cues = np.asarray(Image.open(tmp_path / "run" / "cues" / f"{sample.name}.png"))
        assert set(np.unique(cues)) <= {0, 255, *sample.tags}
        assert cues.shape == (5, 5)
    assert 0 < done.metrics["seeds"]["coverage"] < 1


def test_one_or_two_cue_networks(toy, tmp_path):
    for one, names in ((True, {"foreground-network"}), (False, {"foreground-network", "background-network"})):
        done = go("sec", toy, tmp_path / str(one), one_cue_network=one)
        assert {s["name"] for s in done.metrics["stages"]} & {"foreground-network", "background-network"} == names


def test_the_expand_loss_looks_at_the_same_share_of_any_grid():
    coarse, fine = (decays_on(side * side)["decay_present"] for side in (17, 41))
    assert fine == pytest.approx(0.996, abs=1e-12)
    half = [np.log(0.5) / np.log(decay) / cells for decay, cells in ((coarse, 17**2), (fine, 41**2))]
    assert half[0] == pytest.approx(half[1], rel=1e-9)


def test_the_policy_is_that_of_the_segmenter(toy, tmp_path):
    go("sec", toy, tmp_path / "run", policy="poly", rate=0.01)
    curve = [json.loads(line) for line in (tmp_path / "run" / "segmenter" / "curve.jsonl").read_text().splitlines()]
    rates = [point["lr"] for point in curve]
    assert rates[0] == 0.01
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))
