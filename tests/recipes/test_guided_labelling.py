"""What only `guided_labelling` promises."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tests.recipes.test_contract import bare, few, go

from tagmask.data.photos import Photos
from tagmask.errors import OptionError
from tagmask.guides import drawn_guide, region_scores
from tagmask.nets.storage import load_network
from tagmask.refine.guides import propagated_guide, regions, salient_mask, scored_guide
from tagmask.types import LabelMap, Saliency

LESS = {"tag_stride": 16, "tag_rate": 0.05, "tag_epochs": 4.0, "test_crf": False}


@pytest.fixture(scope="module")
def folder(toy, tmp_path_factory):
    """A run with the quick options; what it left in ``store`` is shared."""
    folder = tmp_path_factory.mktemp("guided")
    go("guided_labelling", toy, folder / "run", store=folder / "store", **LESS)
    return folder


@pytest.fixture(scope="module")
def store(folder):
    return folder / "store"


def picture(folder, stage, name):
    return np.asarray(Image.open(folder / stage / f"{name}.png"))


@pytest.mark.parametrize("guide", ["G2", "G1", "G0", "seeds"])
def test_the_steps_are_the_seeds_the_guide_and_the_segmenter(toy, tmp_path, store, guide):
    done = go("guided_labelling", toy, tmp_path / "run", store=store, guide=guide, **LESS)
    middle = [] if guide == "seeds" else [f"guide {guide}"]
    assert list(done.metrics["steps"]) == ["seeds", *middle, "after segmenter 1"]
    assert list(done.metrics["val_steps"]) == ["seeds"]
    assert ("saliency" in done.metrics) == (guide != "seeds")
    assert done.metrics["extra_supervision"] == "none"
    assert 0 <= done.metrics["seed_precision"]["mean"] <= 1
    for sample in toy.train if middle else ():
        assert set(np.unique(picture(done.folder, "guide", sample.name))) <= {0, *sample.tags}


def test_the_guide_is_what_the_rule_makes_of_seeds_and_saliency(toy, tmp_path, store):
    done = go("guided_labelling", toy, tmp_path / "run", store=store, salient=0.4, smallest=0.02, **LESS)
    for sample in toy.train:
        seeds = LabelMap(picture(done.folder, "seeds", sample.name))
        salient = salient_mask(picture(done.folder, "saliency", sample.name) / np.float32(255), 0.4)
        expected = propagated_guide(seeds, salient, Photos([sample])[sample.name].pixels, smallest=0.02).labels
        np.testing.assert_array_equal(picture(done.folder, "guide", sample.name), expected)


def test_the_classifier_is_asked_about_each_region_alone(toy, tmp_path, store):
    done = go("guided_labelling", toy, tmp_path / "run", store=store, guide="G1", smallest=0.002, **LESS)
    classifier = load_network(done.folder / "classifier")
    photos, several = Photos(toy.train), 0
    for sample in toy.train:
        salient = salient_mask(picture(done.folder, "saliency", sample.name) / np.float32(255), 0.5)
        guide = picture(done.folder, "guide", sample.name)
        if len(sample.tags) < 2:
            np.testing.assert_array_equal(guide, np.where(salient, (*sample.tags, 0)[0], 0))
            continue
        numbered = regions(salient, 0.002)
        scores = region_scores(classifier, photos[sample.name], numbered)
        for number, row in enumerate(scores, start=1):
            alone = photos[sample.name].pixels / np.float32(255)
            alone[numbered != number] = classifier.trunk.mean.flatten().numpy()
            logits = classifier(classifier.trunk.mean.new_tensor(alone.transpose(2, 0, 1)[None]))
            np.testing.assert_allclose(row, logits[0, [t - 1 for t in sample.tags]].detach(), atol=1e-4)
        np.testing.assert_array_equal(guide, scored_guide(numbered, scores, sample.tags).labels)
        several += numbered.max() > 1
    assert several


def test_many_regions_are_looked_at_in_batches(toy, folder):
    classifier = load_network(folder / "run" / "classifier")
    photo = Photos(toy.train)[next(sample.name for sample in toy.train if len(sample.tags) > 1)]
    numbered = (np.arange(48 * 48).reshape(48, 48) // 120).astype(np.int32)
    scores = region_scores(classifier, photo, numbered)
    assert scores.shape == (numbered.max(), len(photo.tags))
    for number in (1, 9, int(numbered.max())):
        one = region_scores(classifier, photo, (numbered == number).astype(np.int32))
        np.testing.assert_allclose(scores[number - 1], one[0], atol=1e-4)
    assert len(region_scores(classifier, photo, numbered * 0)) == 0


@pytest.mark.parametrize(
    ("option", "stage"),
    [
        ({"tag_convs": 2, "policy": "poly"}, "classifier"),
        ({"scales": (0.5, 1.0), "flip": True}, "activation"),
        ({"threshold": 0.0}, "threshold"),
        ({"saliency": "rbd"}, "saliency"),
        ({"salient": 0.3}, "guide"),
        ({"keep_unknown": True}, "guide"),
    ],
)
def test_each_option_reaches_its_stage(toy, tmp_path, store, option, stage):
    changed = go("guided_labelling", toy, tmp_path / "run", store=store, **{**LESS, **option})
    assert next(s["name"] for s in changed.metrics["stages"] if s["computed"]) == stage


@pytest.mark.parametrize(("guide", "shape"), [("G1", bare), ("G0", few)])
def test_every_rule_on_any_data(toy, tmp_path, guide, shape):
    data = shape(toy, tmp_path / "data")
    done = go("guided_labelling", data, tmp_path / "run", guide=guide, **LESS)
    for sample in data.train:
        assert set(np.unique(picture(done.folder, "guide", sample.name))) <= {0, *sample.tags}


def test_lots_follow_from_the_seed_and_the_name(toy):
    dots = Saliency((np.kron(np.eye(24), [[1, 0], [0, 0]]) * 255).astype(np.uint8))
    photo = replace(Photos(toy.train)[toy.train[0].name], tags=(1, 4))
    draws = [
        drawn_guide(given, dots, salient=0.5, seed=seed).labels.tobytes()
        for given, seed in ((photo, 0), (photo, 0), (photo, 1), (replace(photo, name="other"), 0))
    ]
    assert draws[0] == draws[1]
    assert len(set(draws)) == 3


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"guide": "G3"}, "expected one of G2, G1, G0, seeds"),
        ({"saliency": "none"}, "expected mbd, rbd"),
        ({"salient": 0.0}, "salient above 0"),
        ({"smallest": 1.5}, "shares up to 1"),
        ({"threshold": 2.0}, "shares up to 1"),
        ({"policy": "cosine"}, "step or poly"),
    ],
)
def test_nonsense_is_refused_before_any_training(toy, tmp_path, wrong, words):
    with pytest.raises(OptionError, match=words):
        go("guided_labelling", toy, tmp_path / "run", **wrong)
    assert not list((tmp_path / "run").rglob("*.safetensors"))
