"""Learning extents from the frames of clips, and labelling photos one class at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tagmask import decode
from tagmask.decode import CutViews, decoded_labels, extents, fit_decoder
from tagmask.errors import DataError
from tagmask.fit import Schedule
from tagmask.nets.backbones import build_backbone
from tagmask.nets.classifier import Classifier
from tagmask.nets.decoder import Decoder
from tagmask.progress import Narrator
from tagmask.refine.crf import PSA_CRF
from tagmask.types import Activation, Photo
from tagmask.work import Job
from tests.conftest import TINY
from tests.test_watching import Each, footage

SQUARE = np.zeros((20, 20))
SQUARE[5:15, 5:15] = 1


def held(kept):
    """A footage whose attention is the mask, with masks beside it."""
    made = footage([SQUARE] * 3, masks=[SQUARE] * 3)
    made.facts["kept"] = kept
    return made


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return Classifier(build_backbone(TINY), classes=2).eval()


def job(folder):
    folder.mkdir(exist_ok=True)
    return Job(folder, "cpu", "32-true", Narrator(quiet=True), "decoder")


SMALL = {"width": 8, "stages": 2, "crop": 24, "scales": (0.8, 1.6), "seed": 0}


def test_views_show_frame_attention_and_mask_in_one_place():
    clips = Each({"a": held([0, 2])})
    views = CutViews(clips, clips, [("a", 0), ("a", 2)], 32, (0.6, 2.0), np.array([9, 9, 9], dtype=np.uint8))
    assert len(views) == 2
    for seed in range(20):
        image, attention, labels = views.example(seed % 2, np.random.default_rng(seed))
        again = views.example(seed % 2, np.random.default_rng(seed))
        assert all((a == b).all() for a, b in zip((image, attention, labels), again, strict=True))
        assert (image.shape, attention.shape, labels.shape) == ((3, 32, 32), (1, 32, 32), (32, 32))
        assert set(np.unique(labels)) <= {0, 1, 255}
        known = labels != 255
        assert ((attention[0] > 127) != (labels == 1))[known].mean() < 0.12
        assert ((image[0] > 125) != (labels == 1))[known].mean() < 0.12
        assert (attention[0][~known] == 0).all()
        assert (image[0][~known] == 9).all()


def test_it_learns_the_extent_and_leaves_the_classifier_alone(classifier, tmp_path):
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    clips = Each({"a": held([0, 1, 2]), "b": held([])})
    schedule = Schedule(0, 4, 0.05, steps=30, head_rate=1.0)
    network = fit_decoder(classifier, clips, clips, schedule=schedule, job=job(tmp_path / "a"), **SMALL)
    again = fit_decoder(classifier, clips, clips, schedule=schedule, job=job(tmp_path / "b"), **SMALL)
    for (name, a), b in zip(network.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
        if name.startswith("trunk."):
            assert torch.equal(a, before[name])
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    photo = Photo("p", clips["a"].picture("frame", 0), (2,))
    found = decoded_labels(network, Activation(SQUARE[None].astype(np.float32), (2,)), photo).labels
    truth = SQUARE > 0
    assert set(np.unique(found)) <= {0, 2}
    assert ((found == 2) & truth).sum() / ((found == 2) | truth).sum() > 0.5


def test_without_a_mask_there_is_nothing_to_learn(classifier, tmp_path):
    clips = Each({"a": held([])})
    with pytest.raises(DataError, match="no frame of 1 clips gives a mask to learn from; give more clips"):
        fit_decoder(classifier, clips, clips, schedule=Schedule(1, 4, 0.1), job=job(tmp_path), **SMALL)


def test_the_surest_class_over_one_half_wins(classifier, monkeypatch):
    probabilities = np.array([[[0.6, 0.4, 0.5, 0.9]], [[0.7, 0.3, 0.2, 0.9]]], dtype=np.float32)
    monkeypatch.setattr(decode, "extents", lambda *_: probabilities.copy())
    photo = Photo("p", np.zeros((1, 4, 3), dtype=np.uint8), (2, 5))
    attention = Activation(probabilities, (2, 5))
    assert decoded_labels(None, attention, photo).labels.tolist() == [[5, 0, 0, 2]]
    assert set(np.unique(decoded_labels(None, attention, photo, crf=PSA_CRF).labels)) <= {0, 2, 5}


def test_each_class_is_decoded_as_if_alone(classifier):
    decoder = Decoder(classifier.trunk, width=8).eval()
    random = np.random.default_rng(0)
    photo = Photo("p", random.integers(0, 256, (33, 47, 3), dtype=np.uint8), (1, 2))
    maps = random.random((2, 33, 47)).astype(np.float32)
    both = extents(decoder, Activation(maps, (1, 2)), photo)
    assert both.shape == (2, 33, 47)
    for place in (0, 1):
        alone = extents(decoder, Activation(maps[place : place + 1], (place + 1,)), photo)
        np.testing.assert_allclose(alone[0], both[place], atol=1e-6)
    nothing = Activation(maps[:0], ())
    assert not decoded_labels(decoder, nothing, photo).labels.any()
    assert not decoded_labels(decoder, nothing, photo, crf=PSA_CRF).labels.any()
