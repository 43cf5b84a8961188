"""What only `builtin_prior` promises."""

import json
from dataclasses import fields

import numpy as np
import pytest
from PIL import Image
from tests.conftest import TINY
from tests.recipes.test_contract import bare, few, go

from tagmask.errors import OptionError
from tagmask.nets.backbones import Backbone
from tagmask.progress import Narrator
from tagmask.recipes.builtin_prior import Options, run


class Noted:
    """What stands in for a Work: it computes nothing, and notes what each stage is asked."""

    def __init__(self):
        self.backbone, self.seed, self.narrator, self.stages = TINY, 0, Narrator(quiet=True), {}

    def once(self, name, function, *inputs, **options):
        self.stages[name] = function.__name__, [part for part in inputs if isinstance(part, str | Backbone)], options
        return name

    each = once


def asked(toy, **options):
    work = Noted()
    run(toy, work, Options(**options))
    return work.stages


def test_the_prior_is_scored_as_saliency_and_by_the_tags(toy, tmp_path):
    done = go("builtin_prior", toy, tmp_path / "run")
    assert list(done.metrics["steps"]) == ["prior", "after the segmenter"]
    assert done.metrics["saliency"]["precision"] > 0
    assert done.metrics["extra_supervision"] == "none"
    assert json.loads((tmp_path / "run" / "model.json").read_text())["extra"]["predict"]["crf"]["bilateral_xy"] == 80
    for sample in toy.train:
        prior, labels = (
            np.asarray(Image.open(tmp_path / "run" / folder / f"{sample.name}.png"))
            for folder in ("prior", "prior-labels")
        )
        assert set(np.unique(prior)) <= {0, 255}
        sure = sample.tags[0] if len(sample.tags) == 1 else 255
        np.testing.assert_array_equal(labels, np.where(prior > 0, sure, 0))
    assert "its prior is worth nothing; give --weights" in (tmp_path / "run" / "log.txt").read_text()


STAGES = {
    "prior-network": [{"prior_stride": 16}],
    "reaction": [{"fuse": False}, {"norm_each": True}],
    "prior": [{"prior_crf": "none"}, {"prior_crf": "irn"}, {"smallest": 0.3}, {"largest": 0.6}],
    "classifier": [{"candidates": 3}],
    "segmenter": [
        {"loss": "weak"}, {"sharpness": 1.0}, {"joint": True}, {"output_stride": 16}, {"segmenter": "deeplab-v2"},
        {"epochs": 2.0}, {"rate": 0.1}, {"head_rate": 1.0}, {"crop": 33}, {"zoom": (0.5, 1.0)}, {"width": 8}, {"batch": 2},
    ],
    "relabelled": [{"test_scales": (1.0, 0.5)}, {"test_flip": True}, {"test_crf": False}],
}  # fmt: skip
AMONG_CANDIDATES = {
    "classifier": [{"tag_epochs": 2.0}, {"tag_rate": 0.02}, {"tag_crop": 40}, {"batch": 2}, {"output_stride": 16}],
    "prior": [{"diversity": 5.0}, {"candidates": 4}, {"smallest": 0.3}],
}


@pytest.mark.parametrize(("known", "table"), [({}, STAGES), ({"candidates": 2}, AMONG_CANDIDATES)])
def test_each_option_reaches_its_stage(toy, known, table):
    before = asked(toy, **known)
    for stage, options in table.items():
        for option in options:
            after = asked(toy, **{**known, **option})
            changed = [name for name in after if name not in before or before[name] != after[name]]
            assert changed[0] == stage, option
    tested = {
        name for options in [*STAGES.values(), *AMONG_CANDIDATES.values()] for option in options for name in option
    }
    assert tested == {field.name for field in fields(Options)}


@pytest.mark.parametrize(("loss", "shape"), [("weak", few), ("classes-first", bare)])
def test_other_losses_and_candidates_on_any_data(toy, tmp_path, loss, shape):
    data = shape(toy, tmp_path / "data")
    go("builtin_prior", data, tmp_path / "run", loss=loss, candidates=2)
    for sample in data.train:
        prior = np.asarray(Image.open(tmp_path / "run" / "prior" / f"{sample.name}.png"))
        assert prior.any() == bool(sample.tags)


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": "seed"}, {"prior_crf": "dsrg"}, {"sharpness": 0.0}, {"candidates": 0},
        {"candidates": 2, "prior_crf": "none"}, {"smallest": 0.5, "largest": 0.5}, {"largest": 1.5},
        {"prior_stride": 5}, {"crop": 0}, {"segmenter": "deeplab-v9"}, {"epochs": 0.0}, {"diversity": -1.0},
    ],
)  # fmt: skip
def test_nonsense_is_refused_before_any_training(toy, tmp_path, wrong):
    with pytest.raises(OptionError, match=r"expected|must be|has no output stride"):
        go("builtin_prior", toy, tmp_path / "run", **wrong)
    assert not (tmp_path / "run" / "segmenter").exists()
