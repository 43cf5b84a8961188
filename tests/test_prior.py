"""The stages of the built-in prior: reactions, masks of objects, the choice among them, and the training they steer."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tagmask.data.photos import PerImage, Photos
from tagmask.errors import DataError, OptionError
from tagmask.fit import Schedule
from tagmask.losses import clamped_softmax, classes_first_loss, pooled_tags_loss, prior_loss, resize_labels
from tagmask.nets.backbones import build_backbone
from tagmask.nets.classifier import Classifier
from tagmask.prior import (
    ObjectLabels,
    belief,
    chosen_prior_mask,
    fit_with_prior,
    prior_labels,
    prior_mask,
    prior_network,
    prior_terms,
    reaction,
)
from tagmask.progress import Narrator
from tagmask.refine.crf import SEC_TEST_CRF
from tagmask.refine.prior import fused, object_masks
from tagmask.types import Photo, Saliency
from tagmask.work import Job
from tests.conftest import TINY

AREA = (0.005, 0.95)


def photo_of(tags, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Photo("a", pixels.repeat(6, axis=0).repeat(6, axis=1), tags)


def rising():
    return Saliency.of(np.linspace(0, 1, 30).reshape(5, 6))


def test_reactions_lie_on_the_grid_of_the_trunk_and_repeat_themselves():
    network, photo = prior_network(TINY, seed=4), photo_of((1,))
    assert reaction(network, photo).values.shape == (3, 3)
    np.testing.assert_array_equal(reaction(prior_network(TINY, seed=4), photo).values, reaction(network, photo).values)
    with torch.no_grad():
        means = network(torch.from_numpy(photo.pixels).permute(2, 0, 1)[None] / 255)[0].numpy()
    for options, wanted in (({}, means), ({"fuse": False}, means[1:])):
        found = reaction(network, photo, **options).unit
        np.testing.assert_allclose(found, fused(wanted), atol=1 / 255)
    assert (found.min(), found.max()) == (0, 1)


def test_the_mask_is_that_of_the_crf_and_a_negative_has_none():
    photo = photo_of((1, 2))
    mask = prior_mask(rising(), photo, crf=SEC_TEST_CRF, area=AREA).values
    np.testing.assert_array_equal(mask, 255 * object_masks(rising().unit, photo.pixels, crf=SEC_TEST_CRF)[0])
    assert 0 < (mask == 255).mean() < 1
    negative = replace(photo, tags=())
    assert not prior_mask(rising(), negative, crf=SEC_TEST_CRF, area=AREA).values.any()


def classifier():
    torch.manual_seed(1)
    network = Classifier(build_backbone(TINY), classes=3).eval()
    torch.nn.init.normal_(network.head.weight)  # opinions
    return network


def test_the_candidate_in_which_the_classifier_believes_most():
    network, photo = classifier(), photo_of((1, 3))
    masks = object_masks(rising().unit, photo.pixels, crf=SEC_TEST_CRF, count=4, diversity=2.0)
    beliefs = []
    for mask in masks:
        shown = photo.pixels.copy()
        shown[~mask] = (network.trunk.mean.flatten() * 255).round().numpy().astype(np.uint8)
        with torch.no_grad():
            p = network(torch.from_numpy(shown).permute(2, 0, 1)[None] / 255)[0].sigmoid()
        beliefs.append(float((p[0].log() + p[2].log()) / 2))
        assert belief(network, photo, mask) == pytest.approx(beliefs[-1], abs=1e-3)
    assert len({mask.tobytes() for mask in masks}) > 1
    options = {"crf": SEC_TEST_CRF, "area": AREA, "count": 4, "diversity": 2.0}
    chosen = chosen_prior_mask(rising(), network, photo, **options)
    np.testing.assert_array_equal(chosen.values > 0, masks[int(np.argmax(beliefs))])
    assert not chosen_prior_mask(rising(), network, replace(photo, tags=()), **options).values.any()


def test_labels_say_only_what_the_tags_leave_no_doubt_of():
    prior = Saliency(np.array([[0, 255]], dtype=np.uint8))
    photo = Photo("a", np.zeros((1, 2, 3), dtype=np.uint8), (4,))
    assert prior_labels(prior, photo).labels.tolist() == [[0, 4]]
    assert prior_labels(prior, replace(photo, tags=(2, 4))).labels.tolist() == [[0, 255]]
    assert prior_labels(Saliency(np.zeros((1, 2), dtype=np.uint8)), replace(photo, tags=())).labels.tolist() == [[0, 0]]


class Boxes(PerImage[Saliency]):
    """The left half of every toy photo."""

    def key_of(self, name):
        return name

    def __getitem__(self, name):
        return Saliency(np.tile(np.repeat(np.array([255, 0], dtype=np.uint8), 24), (48, 1)))


def test_priors_as_labels_keep_their_keys():
    labels = ObjectLabels(Boxes(["a", "b"]))
    assert (labels.names, labels.key_of("b")) == (["a", "b"], "b")
    np.testing.assert_array_equal(labels["a"].labels, np.repeat([[1] * 24 + [0] * 24], 48, axis=0))


def test_terms_are_those_of_the_named_loss_without_the_padding():
    generator = torch.Generator().manual_seed(0)
    p = clamped_softmax(torch.randn(2, 4, 3, 3, generator=generator))
    tags = torch.tensor([[True, False, True], [False, False, False]])
    labels = torch.tensor([0, 1, 255], dtype=torch.uint8)[torch.randint(0, 3, (2, 9, 9), generator=generator)]
    grid = resize_labels(labels, (3, 3))
    assert (grid == 255).any()
    objects, ground, more = grid == 1, grid == 0, {"sharpness": 3.0}
    expected = {
        "mask": prior_loss(p, tags, objects, ground, **more),
        "joint": prior_loss(p, tags, objects, ground, **more, joint=True),
        "classes-first": classes_first_loss(p, tags, objects, ground, **more),
        "weak": pooled_tags_loss(p, tags, grid != 255, **more),
    }
    for kind, terms in expected.items():
        found = prior_terms(p, tags, labels, loss=kind.replace("joint", "mask"), joint=kind == "joint", **more)
        assert found == dict(zip(("objects", "ground", "absent"), terms, strict=True))
    assert len({tuple(term.item() for term in terms) for terms in expected.values()}) == 4


def fitted(photos, folder, **options):
    folder.mkdir()
    return fit_with_prior(
        photos, Boxes(photos.names), TINY,
        **{
            "segmenter": "deeplab-v1", "classes": 6, "width": 8, "crop": 48, "scales": (1.0, 1.0), "loss": "mask",
            "sharpness": 5.0, "joint": False, "schedule": Schedule(epochs=4, batch=6, rate=0.02), "seed": 0, **options,
        },
        job=Job(folder, "cpu", "32-true", Narrator(quiet=True), "segmenter"),
    )  # fmt: skip


@pytest.mark.parametrize("loss", ["mask", "classes-first", "weak"])
def test_training_lowers_the_loss(toy, tmp_path, loss):
    fitted(Photos(toy.train), tmp_path / "a", loss=loss, schedule=Schedule(epochs=15, batch=6, rate=0.02))
    curve = [json.loads(line) for line in (tmp_path / "a" / "curve.jsonl").read_text().splitlines()]
    assert {"objects", "ground", "absent"} <= set(curve[0])
    assert sum(p["loss"] for p in curve[-3:]) < sum(p["loss"] for p in curve[:3])


def test_the_trained_network_says_ground_where_the_prior_does(toy, tmp_path):
    network = fitted(Photos(toy.train), tmp_path / "a", schedule=Schedule(epochs=40, batch=12, rate=0.02))
    photos = Photos(toy.train)
    images = torch.stack([torch.from_numpy(photos[name].pixels).permute(2, 0, 1) / 255 for name in photos.names])
    with torch.no_grad():
        p = network(images).softmax(dim=1)[:, 0].mean(dim=(0, 1))  # (w,)
    assert p[-1] > p[0]


def test_what_cannot_be_learned_is_refused(toy, tmp_path):
    photos = Photos([replace(sample, tags=()) for sample in toy.train])
    with pytest.raises(DataError, match="no image has a tag"):
        fitted(photos, tmp_path / "a")
    with pytest.raises(OptionError, match="did you mean 'mask'"):
        fitted(photos, tmp_path / "b", loss="msk")
