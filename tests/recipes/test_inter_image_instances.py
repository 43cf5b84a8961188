"""What only `inter_image_instances` promises."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tests.recipes.test_contract import bare, few, go, quick

from tagmask.errors import OptionError
from tagmask.recipes import inter_image_instances
from tagmask.runs import LONGEST

NAME = "inter_image_instances"


@pytest.fixture(scope="module")
def folder(toy, tmp_path_factory):
    """A run with the quick options; what it left in ``store`` is shared."""
    folder = tmp_path_factory.mktemp(NAME)
    go(NAME, toy, folder / "run", store=folder / "store")
    return folder


def labels(folder, stage, name):
    return np.asarray(Image.open(folder / stage / f"{name}.png"))


def until_the_segmenter(data, work, monkeypatch, **options):
    """Run the recipe up to its last network; return the folder of the run."""

    def stop(*given, **options):
        raise StopIteration

    monkeypatch.setattr(inter_image_instances, "retrain", stop)
    work.longest = LONGEST  # as `go` has it
    with pytest.raises(StopIteration):
        inter_image_instances.run(data, work, inter_image_instances.Options(**{**quick(NAME), **options}))
    return work.out


def value(folder, stage, name=None):
    return json.loads((folder / stage / (f"{name}.json" if name else "value.json")).read_text())


def masks_of(folder, name):
    with np.load(folder / "salient-instances" / f"{name}.npz") as held:
        size = held["size"].tolist()
        return [np.unpackbits(row, count=size[0] * size[1]).reshape(size).astype(bool) for row in held["masks"]]


def test_the_steps_are_attention_alone_the_assignment_and_the_segmenter(toy, folder, tmp_path):
    done = go(NAME, toy, tmp_path / "run", store=folder / "store")
    assert list(done.metrics["steps"]) == ["thresholded activation", "attention only", "assigned", "after segmenter 1"]
    assert done.metrics["extra_supervision"] == "none"
    assert "saliency" in done.metrics
    found, alone = (value(done.folder, stage) for stage in ("assigned", "by-attention"))
    assert alone["noise"] == 0
    assert found["instances"] - found["noise"] == int(0.8 * found["instances"] + 1e-9)
    assert found["gap"] == 0
    for sample in toy.train:
        told, masks = value(done.folder, "attention", sample.name), masks_of(done.folder, sample.name)
        assert tuple(told["tags"]) == sample.tags
        assert len(masks) == len(told["boxes"]) == len(told["scores"])
        best = [sample.tags[int(np.argmax(row))] for row in told["scores"]]
        assert alone["tags"][sample.name] == best
        for tags, stage in ((best, "attention-only"), (found["tags"][sample.name], "painted")):
            assert set(tags) <= {0, *sample.tags}
            painted = labels(done.folder, stage, sample.name)
            order = sorted(range(len(masks)), key=lambda index: -masks[index].sum())
            ground = 255 if set(sample.tags) - set(tags) else 0
            expected = np.full(painted.shape, ground)
            for index in order:
                expected[masks[index]] = tags[index] or 255
            np.testing.assert_array_equal(painted, expected if any(tags) else np.full(painted.shape, 255))


def test_instances_are_left_with_their_tags(toy, folder):
    told = json.loads((folder / "run" / "instances.json").read_text())
    found = value(folder / "run", "assigned")
    assert 0 < len(told["annotations"]) <= found["instances"] - found["noise"]
    assert {each["category_id"] for each in told["annotations"]} <= {tag for sample in toy.train for tag in sample.tags}


def test_without_the_graph_no_features_are_learned(toy, work, folder, monkeypatch):
    work.store = folder / "store"
    out = until_the_segmenter(toy, work, monkeypatch, graph=False, keep=1.0)
    assert not {"features", "features-single", "embedded"} & {cost.name for cost in work.costs}
    assert value(out, "assigned")["tags"] == value(out, "by-attention")["tags"]


def test_instances_of_the_users_own(toy, tmp_path, folder):
    own = tmp_path / "own"
    own.mkdir()
    for sample in toy.train:  # true objects, one instance a class
        Image.fromarray(np.asarray(Image.open(sample.mask)) % 255).save(own / f"{sample.name}.png")
    done = go(NAME, toy, tmp_path / "run", store=folder / "store", instances=str(own), keep=1.0)
    assert done.metrics["extra_supervision"] == "instances of the user's"
    assert "saliency" not in done.metrics
    for sample in toy.train:
        mask = np.asarray(Image.open(sample.mask))
        painted = labels(done.folder, "painted", sample.name)
        np.testing.assert_array_equal((painted > 0) & (painted < 255), (mask > 0) & (mask < 255))


@pytest.mark.parametrize(
    ("option", "stage"),
    [
        ({"saliency": "rbd"}, "saliency"),
        ({"salient": 0.3}, "salient-instances"),
        ({"smallest": 0.05}, "salient-instances"),
        ({"split": 0.2}, "salient-instances"),
        ({"attend": "mask"}, "attention"),
        ({"feature_width": 4}, "features-single"),
        ({"feature_crop": 40}, "features-single"),
        ({"feature_rate": 0.01}, "features-single"),
        ({"feature_batch": 3}, "features-single"),
        ({"pull": 0.5}, "features-single"),
        ({"move": 0.2}, "features-single"),
        ({"cosine": False}, "features-single"),
        ({"single_epochs": 2.0}, "features-single"),
        ({"single_epochs": 0.0}, "features"),
        ({"feature_epochs": 2.0}, "features"),
        ({"graph": False}, "assigned"),
        ({"lam": 1.0}, "assigned"),
        ({"rescale": True}, "assigned"),
        ({"neighbours": 2}, "assigned"),
        ({"mutual": True}, "assigned"),
        ({"keep": 0.5}, "assigned"),
        ({"solver": "icm"}, "assigned"),
        ({"seconds": 5.0}, "assigned"),
        ({"group": 7}, "assigned"),
        ({"grouping": "shuffled"}, "assigned"),
        ({"missed": False}, "attention-only"),
    ],
)
def test_each_option_reaches_its_stage(toy, work, folder, monkeypatch, option, stage):
    work.store = folder / "store"
    until_the_segmenter(toy, work, monkeypatch, **option)
    assert next(cost.name for cost in work.costs if cost.computed) == stage


@pytest.mark.parametrize(
    ("shape", "rule"),
    [(bare, {"grouping": "shuffled", "group": 2, "solver": "icm"}), (few, {"mutual": True, "split": 0.0})],
)
def test_every_rule_on_any_data(toy, work, tmp_path, monkeypatch, shape, rule):
    data = shape(toy, tmp_path / "data")
    out = until_the_segmenter(data, work, monkeypatch, **rule)
    for sample in data.train:
        painted = labels(out, "painted", sample.name)
        assert set(np.unique(painted)) <= {0, 255, *sample.tags}
        if not sample.tags:
            assert not painted.any()


def test_a_photo_in_which_nothing_stands_out_teaches_nothing(toy, work, tmp_path, monkeypatch):
    flat = tmp_path / "flat.png"
    Image.new("RGB", (48, 48), (90, 90, 90)).save(flat)
    data = replace(toy, samples=(replace(toy.train[0], name="flat", image=flat, mask=None), *toy.train[:5]), splits={})
    out = until_the_segmenter(data, work, monkeypatch)
    assert value(out, "assigned")["tags"]["flat"] == []
    assert (labels(out, "painted", "flat") == 255).all()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"saliency": "none"}, "expected mbd, rbd"),
        ({"instances": "salency"}, "did you mean 'saliency'"),
        ({"attend": "masks"}, "did you mean 'mask'"),
        ({"solver": "cplex"}, "expected milp or icm"),
        ({"grouping": "lots"}, "expected alike or shuffled"),
        ({"keep": 0.0}, "keep is 0.0"),
        ({"keep": 1.2}, "keep is 1.2"),
        ({"neighbours": 0}, "neighbours is 0"),
        ({"group": 0}, "group is 0"),
        ({"seconds": 0.0}, "seconds is 0.0"),
        ({"salient": 0.0}, "salient is 0;"),
        ({"split": 1.5}, "split is 1.5"),
        ({"move": 2.0}, "move is 2.0"),
        ({"feature_epochs": 0.0}, "feature_epochs is 0"),
        ({"feature_crop": 0}, "feature_crop is 0"),
        ({"lam": -1.0}, "lam is -1.0"),
    ],
)
def test_nonsense_is_refused_before_any_training(toy, tmp_path, wrong, words):
    with pytest.raises(OptionError, match=words):
        go(NAME, toy, tmp_path / "run", **wrong)
    assert not list((tmp_path / "run").rglob("*.safetensors"))
