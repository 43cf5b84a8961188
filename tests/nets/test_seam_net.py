"""SEAM's classifier: its correlation module against the equations, where gradients go, and its folded copy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.nets.test_folded import lively, norms
from torch.nn import functional

from tagmask.nets.backbones import Backbone, Trunk, build_backbone
from tagmask.nets.folded import folded
from tagmask.nets.seam import SeamClassifier, certain, correlated
from tagmask.nets.storage import load_network, save_network

TINY = Backbone("test_resnet", "none", 16)
E = 1e-5


def correlated_by_hand(scores, embedded):
    """y_j = sum_i K_ij y_i for K = relu(cosine), each column over its sum; (C, N) and (D, N)."""
    cells = embedded.shape[1]
    unit = [embedded[:, i] / (np.linalg.norm(embedded[:, i]) + E) for i in range(cells)]
    out = np.zeros_like(scores)
    for j in range(cells):
        column = np.array([max(0.0, float(unit[i] @ unit[j])) for i in range(cells)])
        for i in range(cells):
            out[:, j] += column[i] / (column.sum() + E) * scores[:, i]
    return out


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 2), st.integers(1, 4), st.integers(1, 5), st.integers(1, 7), st.integers(0, 9), st.integers(1, 999)
)
def test_correlation_is_the_paper_s_in_pieces_of_any_size(batch, classes, height, width, seed, most):
    random = np.random.default_rng(seed)
    scores, embedded = (random.normal(size=(batch, k, height, width)) for k in (classes, 6))
    got = correlated(torch.from_numpy(scores).float(), torch.from_numpy(embedded).float(), most=most)
    for b in range(batch):
        expected = correlated_by_hand(scores[b].reshape(classes, -1), embedded[b].reshape(6, -1))
        np.testing.assert_allclose(got[b].flatten(1).numpy(), expected, atol=1e-4)


def test_no_more_pairs_are_held_than_allowed(monkeypatch):
    held = []
    relu = torch.Tensor.relu
    monkeypatch.setattr(torch.Tensor, "relu", lambda x: held.append(x.numel()) or relu(x))
    correlated(torch.rand(1, 2, 30, 30), torch.rand(1, 4, 30, 30), most=9000)
    assert held == [9000] * 90


def test_certain_is_the_paper_s_input():
    random = np.random.default_rng(0)
    maps = random.normal(size=(2, 3, 4, 5)).astype(np.float32)
    maps[0, 1] = -1  # a class that is nowhere
    got = certain(torch.from_numpy(maps)).numpy()
    for image, found in zip(maps, got, strict=True):
        r = np.stack([np.maximum(np.maximum(m, 0) - E, 0) / (max(m.max(), 0) + E) for m in image])
        for place in np.ndindex(4, 5):
            here = r[(slice(None), *place)]
            expected = [1 - here.max(), *(value if value == here.max() else 0 for value in here)]
            np.testing.assert_allclose(found[(slice(None), *place)], expected, atol=1e-6)


def network(**options):
    return SeamClassifier(build_backbone(TINY), classes=3, **options)


def test_answers_maps_and_logits_belong_together():
    seam = network().eval()
    images = torch.rand(2, 3, 50, 70)
    maps, refined = seam.answers(images)
    assert maps.shape == (2, 3, 4, 5)
    assert refined.shape == (2, 4, 4, 5)
    assert torch.equal(seam.maps(images), refined[:, 1:])
    torch.testing.assert_close(seam(images), maps.mean(dim=(2, 3)))
    assert 0 <= refined.min() <= refined.max() <= 1
    plain = network(pcm=False).eval()
    assert torch.equal(plain.maps(images), plain.answers(images)[0])
    assert len(plain.answers(images)) == 1


def test_the_module_sees_the_photo_and_the_two_deepest_maps():
    seam = network().eval()
    images = torch.rand(1, 3, 50, 70)
    with torch.no_grad():
        features = seam.trunk(images)
        grid = features[-1].shape[2:]
        photo = functional.interpolate(
            (images - seam.trunk.mean) / seam.trunk.std, size=grid, mode="bilinear", align_corners=True
        )
        parts = [photo[0].flatten(1)]
        for tap, m in zip(seam.pcm.taps, features[-2:], strict=True):
            weighed = torch.einsum("od,dhw->ohw", tap.weight[:, :, 0, 0], m[0]).relu()
            grown = functional.interpolate(weighed[None], size=grid, mode="bilinear", align_corners=True)
            parts.append(grown[0].flatten(1))
        embedded = seam.pcm.theta.weight[:, :, 0, 0] @ torch.cat(parts)
        expected = correlated_by_hand(certain(seam.answers(images)[0])[0].flatten(1).numpy(), embedded.numpy())
    np.testing.assert_allclose(seam.answers(images)[1][0].detach().flatten(1).numpy(), expected, atol=1e-4)
    assert [tuple(tap.weight.shape[:2]) for tap in seam.pcm.taps] == [
        (64, seam.trunk.channels[-2]),
        (128, seam.trunk.channels[-1]),
    ]
    assert seam.pcm.theta.weight.shape[:2] == (192, 195)


def test_no_gradient_of_the_refined_maps_reaches_trunk_or_head():
    seam = network().train()
    _, refined = seam.answers(torch.rand(2, 3, 64, 64))
    refined.square().sum().backward()
    for name, parameter in seam.named_parameters():
        inside = name.startswith("pcm.")
        assert (parameter.grad is not None and bool((parameter.grad != 0).any())) == inside, name


class Deepest(torch.nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(x)[-1:]


def test_a_trunk_of_one_map_is_enough():
    trunk = build_backbone(TINY)
    single = SeamClassifier(Trunk(Deepest(trunk.body), trunk.description, trunk.channels[-1:]), classes=2)
    assert single.eval().maps(torch.rand(1, 3, 40, 40)).shape == (1, 2, 3, 3)


@pytest.mark.parametrize("name", ["mobilenetv2_050", "resnet18"])
@torch.no_grad()
def test_a_folded_copy_has_no_norm_and_the_same_answers(name):
    seam = lively(SeamClassifier(build_backbone(Backbone(name, weights="none", output_stride=16)), classes=3))
    quick, image = folded(seam), torch.rand(1, 3, 65, 49)
    assert norms(seam) > 0 == norms(quick)
    for found, expected in zip(quick.answers(image), seam.answers(image), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


class Tapped(torch.nn.Module):
    """A network whose norm comes after what it answers with: folding it would change that answer, not ``forward``."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)

    def answers(self, x):
        tap = self.conv(x)
        return self.norm(tap).mean(), tap

    def forward(self, x):
        return self.answers(x)[0]


@torch.no_grad()
def test_folding_looks_at_all_answers():
    tapped = lively(Tapped())
    assert norms(folded(tapped)) == 1
    image = torch.rand(1, 3, 9, 9)
    torch.testing.assert_close(folded(tapped).answers(image)[1], tapped.answers(image)[1])


@pytest.mark.parametrize("pcm", [True, False])
def test_what_is_loaded_answers_as_what_was_saved(tmp_path, pcm):
    seam = network(pcm=pcm).eval()
    save_network(seam, tmp_path)
    images = torch.rand(1, 3, 45, 61)
    assert torch.equal(load_network(tmp_path).maps(images), seam.maps(images))
