"""Cues on the grid, and how they grow by a network."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tagmask.data.photos import PerImage, Photos, Truth
from tagmask.edges import at_edges, crf_on
from tagmask.fit import Schedule
from tagmask.growing import Growth, fit_growing, grid_cues, grown_cues, grown_labels, on_grid
from tagmask.losses import clamped_softmax
from tagmask.nets.backbones import Backbone
from tagmask.nets.segmenter import build_segmenter
from tagmask.progress import Narrator
from tagmask.refine.crf import SEC_TRAIN_CRF, mean_field
from tagmask.refine.grow import grow
from tagmask.types import LabelMap, Photo
from tagmask.work import Job

SURE = Growth(background=0.99, foreground=0.85, override_cues=False, unary="prob")


def test_maps_are_averaged_over_the_cells_of_the_grid():
    values = np.random.default_rng(0).random((2, 12, 8), dtype=np.float32)
    small = on_grid(values, 4)
    np.testing.assert_allclose(small, values.reshape(2, 4, 3, 4, 2).mean(axis=(2, 4)), atol=1e-6)
    np.testing.assert_array_equal(on_grid(small, 4), small)
    assert on_grid(small, 9).shape == (2, 9, 9)
    assert on_grid(np.zeros((0, 5, 6), np.float32), 3).shape == (0, 3, 3)


def test_cues_of_the_grid_by_hand():
    foreground = np.array([[[1, 1, 0], [0, 0, 0]], [[1, 0, 0], [0, 0, 0]]], dtype=bool)
    maps, saliency = foreground.astype(np.float32), np.array([[0.01, 0.5, 0.059], [0.0, 0.06, 1.0]], dtype=np.float32)
    cues = grid_cues(foreground, maps, (2, 6), saliency, background=0.06)
    np.testing.assert_array_equal(cues.labels, [[6, 2, 0], [0, 255, 255]])
    without = grid_cues(foreground[:0], maps[:0], (), saliency, background=0.06)
    assert not without.labels.any()


@pytest.mark.parametrize("unary", ["prob", "logprob"])
def test_the_crf_starts_from_what_it_is_told(unary):
    torch.manual_seed(0)
    scores, images = 2 * torch.randn(2, 3, 6, 5), 255 * torch.rand(2, 3, 12, 10)
    p, q = at_edges(scores, images, unary)
    torch.testing.assert_close(p, clamped_softmax(scores))
    assert not q.requires_grad
    small = images.unflatten(3, (5, 2)).unflatten(2, (6, 2)).mean(dim=(3, 5))
    for b in range(2):
        energy = -(p if unary == "prob" else p.log())[b].numpy()
        pixels = small[b].permute(1, 2, 0).round().to(torch.uint8).numpy()
        np.testing.assert_allclose(q[b].numpy(), mean_field(energy, pixels, crf_on(6)), atol=0.05)


def test_the_crf_reaches_over_the_same_share_of_any_grid():
    assert crf_on(41) == SEC_TRAIN_CRF
    assert crf_on(82).bilateral_xy == 2 * SEC_TRAIN_CRF.bilateral_xy
    assert crf_on(82).bilateral_rgb == SEC_TRAIN_CRF.bilateral_rgb


def test_a_batch_grows_photo_by_photo_among_its_own_tags():
    random = np.random.default_rng(0)
    labels = np.where(random.random((3, 8, 8)) < 0.2, random.integers(0, 4, (3, 8, 8)), 255).astype(np.uint8)
    q = random.dirichlet(np.full(4, 0.05), size=(3, 8, 8)).transpose(0, 3, 1, 2).astype(np.float32)
    tags = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]], dtype=np.float32)
    grown = grown_labels(torch.from_numpy(labels), torch.from_numpy(q), torch.from_numpy(tags), SURE).numpy()
    for b, its in enumerate([(1, 3), (), (1, 2, 3)]):
        np.testing.assert_array_equal(grown[b], grow(labels[b], q[b], its, background=0.99, foreground=0.85))
    assert (grown != labels).any()
    known = labels != 255
    np.testing.assert_array_equal(grown[known], labels[known])


class Sparse(PerImage):
    """The user's masks, of which one pixel in three is left, as cues on a grid."""

    def __init__(self, samples):
        super().__init__([sample.name for sample in samples])
        self.truth = Truth(samples, classes=6)

    def __getitem__(self, name):
        labels = self.truth[name].labels[8::10, 8::10].copy()
        labels.ravel()[np.arange(labels.size) % 3 > 0] = 255
        return LabelMap(labels)

    def key_of(self, name):
        return name


@pytest.fixture
def train(toy, tmp_path):
    """Train a tiny network for a few steps with some options, and return its curve."""

    def trained(name, **options):
        job = Job(tmp_path / name, "cpu", "32-true", Narrator(quiet=True), name)
        job.folder.mkdir()
        chosen = {
            "segmenter": "deeplab-v2", "classes": 6, "size": 65, "width": 8, "mirror": True, "balanced": True,
            "growing": True, "growth": replace(SURE, foreground=0.0), "seed": 0, **options,
        }  # fmt: skip
        schedule = Schedule(epochs=2, batch=4, rate=0.01)
        backbone = Backbone("test_resnet", "none", 16)
        network = fit_growing(Photos(toy.train), Sparse(toy.train), backbone, schedule=schedule, job=job, **chosen)
        assert network.options.get("multi_scale", False) is False
        return [json.loads(line) for line in (job.folder / "curve.jsonl").read_text().splitlines()]

    return trained


def test_the_chain_of_the_ablation_is_made_of_options(train):
    plain = train("plain", balanced=False, growing=False)
    balanced = train("balanced", growing=False)
    grown = train("grown")
    assert plain[0]["boundary"] == balanced[0]["boundary"] == grown[0]["boundary"]
    assert len({curve[-1]["seed"] for curve in (plain, balanced, grown)}) == 3
    for still, fixed, growing in zip(plain, balanced, grown, strict=True):
        assert 0.3 < still["labelled"] == fixed["labelled"] < growing["labelled"]
        assert growing["loss"] == pytest.approx(growing["seed"] + growing["boundary"], abs=1e-4)


@pytest.mark.parametrize("other", [{"mirror": False}, {"growth": replace(SURE, foreground=0.0, unary="logprob")}])
def test_what_the_network_sees_and_from_what_its_crf_starts_matter(train, other):
    assert train("one")[-1] != train("other", **other)[-1]


def test_the_cues_of_a_photo_grow_as_in_training():
    torch.manual_seed(0)
    network = build_segmenter("deeplab-v1", Backbone("test_resnet", "none", 16), 3, width=8).eval()
    with torch.no_grad():
        network.head.fc8.bias.copy_(torch.tensor([0.0, 0.0, 9.0]))  # sure of class 2, everywhere
    photo = Photo("p", np.random.default_rng(0).integers(0, 256, size=(40, 60, 3), dtype=np.uint8), tags=(2,))
    cues = np.full((5, 5), 255, dtype=np.uint8)
    cues[0, 0], cues[4, 4] = 2, 0
    grown = grown_cues(network, LabelMap(cues), photo, size=65, growth=SURE).labels
    expected = np.full((5, 5), 2, dtype=np.uint8)
    expected[4, 4] = 0
    np.testing.assert_array_equal(grown, expected)
    untagged = Photo("p", photo.pixels, tags=(1,))
    np.testing.assert_array_equal(grown_cues(network, LabelMap(cues), untagged, size=65, growth=SURE).labels, cues)
