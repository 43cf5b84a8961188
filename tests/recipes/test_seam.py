"""What only `seam` promises."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.recipes.test_contract import go

from tagmask.errors import DataError, OptionError
from tagmask.fit import Schedule
from tagmask.progress import Narrator
from tagmask.seam import fit_seam
from tagmask.work import Job


def curve(folder):
    return [json.loads(line) for line in (folder / "classifier" / "curve.jsonl").read_text().splitlines()]


def test_the_steps_are_those_of_the_paper(toy, tmp_path):
    done = go("seam", toy, tmp_path / "run", rounds=2, tag_crop=64)
    assert list(done.metrics["steps"]) == [
        "thresholded activation", "random walk", "after segmenter 1", "after segmenter 2",
    ]  # fmt: skip
    assert all(point["tags"] > 0 < point["ecr"] and point["er"] > 0 for point in curve(tmp_path / "run"))
    for sample in toy.train:
        sure = np.asarray(Image.open(tmp_path / "run" / "sure" / f"{sample.name}.png"))
        assert set(np.unique(sure)) <= {0, 255, *sample.tags}


def test_without_the_walk_the_crf_sharpens(toy, tmp_path):
    done = go("seam", toy, tmp_path / "run", walk=False, threshold=0.26)
    assert list(done.metrics["steps"]) == ["thresholded activation", "after the CRF", "after segmenter 1"]
    assert done.metrics["activation"]["threshold"] == 0.26
    assert not (tmp_path / "run" / "affinity").exists()


def test_options_reach_the_classifier(toy, tmp_path):
    changes = {"pcm": False, "rescale": 0.5, "hardest": 1.0, "er_weight": 2.0, "tag_rate": 0.001, "tag_momentum": 0.9}
    go("seam", toy, tmp_path / "run", walk=False, **changes)
    assert json.loads((tmp_path / "run" / "classifier" / "model.json").read_text())["options"] == {"pcm": False}
    assert all(set(point) == {"step", "loss", "lr", "tags", "er"} for point in curve(tmp_path / "run"))
    assert curve(tmp_path / "run")[0]["lr"] == 0.001


def first_losses(toy, work, folder, **options):
    """Train a step of four photos and return its terms."""
    folder.mkdir()
    fit_seam(
        work.photos(toy.train), work.backbone, classes=5, crop=64, schedule=Schedule(epochs=0, steps=1, batch=4, rate=0.01),
        seed=0, job=Job(folder, "cpu", "32-true", Narrator(quiet=True), "c"), **options,
    )  # fmt: skip
    return json.loads((folder / "curve.jsonl").read_text().splitlines()[0])


def test_each_loss_can_be_switched_off_and_its_options_count(toy, work, tmp_path):
    plain = first_losses(toy, work, tmp_path / "plain")
    off = first_losses(toy, work, tmp_path / "off", er_weight=0.0, ecr_weight=0.0)
    assert off["er"] == off["ecr"] == 0 < min(plain["er"], plain["ecr"])
    assert (off["tags"], off["quiet"]) == (plain["tags"], plain["quiet"])
    easy = first_losses(toy, work, tmp_path / "easy", hardest=1.0)
    assert easy["ecr"] < plain["ecr"]  # a mean over easy differences too
    larger = first_losses(toy, work, tmp_path / "larger", rescale=0.6)
    assert larger["er"] != plain["er"] == easy["er"]


@pytest.mark.parametrize("options", [{"rescale": 0.0}, {"rescale": 1.5}, {"hardest": 0.0}, {"hardest": 2.0}])
def test_impossible_shares_are_refused_before_anything_is_trained(options, toy, work, tmp_path):
    job = Job(tmp_path, "cpu", "32-true", Narrator(quiet=True), "c")
    common = {"classes": 5, "crop": 32, "schedule": Schedule(epochs=1, batch=2, rate=0.1), "seed": 0, "job": job}
    with pytest.raises(OptionError, match="above 0 and up to 1"):
        fit_seam(work.photos(toy.train), work.backbone, **common, **options)
    assert not list(tmp_path.glob("*.jsonl"))
    negatives = [type(s)(s.name, s.image, tags=()) for s in toy.train]
    with pytest.raises(DataError, match="no image has a tag"):
        fit_seam(work.photos(negatives), work.backbone, **common)


def test_powers_of_the_walk_are_checked_at_the_door(toy, tmp_path):
    with pytest.raises(OptionError, match="0 < low_power <= high_power"):
        go("seam", toy, tmp_path / "run", low_power=30.0)
    assert not (tmp_path / "run").exists()
