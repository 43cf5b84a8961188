"""The affinity network's grid, and the affinity of pairs against pairs taken one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from tagmask.errors import OptionError
from tagmask.nets.affinity import AffinityNet, pair_affinity
from tagmask.nets.backbones import Backbone, Trunk, build_backbone
from tagmask.nets.storage import load_network, save_network
from tagmask.refine.walk import half_disc

TINY = Backbone("test_resnet", "none", 16, mean=(0.1, 0.5, 0.7))


def by_hand(features, offsets):
    """Return exp(-mean |f - f'|) pair by pair, differentiable: (B, P, h, w)."""
    batch, _, height, width = features.shape
    rows = []
    for dy, dx in offsets.tolist():
        for y in range(height):
            for x in range(width):
                inside = 0 <= y + dy < height and 0 <= x + dx < width
                apart = (features[:, :, y, x] - features[:, :, y + dy, x + dx]).abs().mean(dim=1) if inside else None
                rows.append(torch.exp(-apart) if inside else features.new_zeros(batch))
    return torch.stack(rows, dim=1).reshape(batch, len(offsets), height, width)


@settings(deadline=None, max_examples=40)
@given(
    batch=st.integers(1, 2),
    depth=st.integers(1, 5),
    height=st.sampled_from([1, 2, 5, 7]),
    width=st.sampled_from([1, 3, 6]),
    radius=st.integers(2, 5),
    seed=st.integers(0, 99),
)
def test_affinity_and_its_gradient_are_those_of_pairs_one_by_one(batch, depth, height, width, radius, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, depth, height, width, generator=generator, dtype=torch.float64)
    features.view(-1)[::3] = 0.25  # equal features: no distance, and no gradient
    weights = torch.randn(batch, len(half_disc(radius)), height, width, generator=generator, dtype=torch.float64)
    found, expected = features.clone().requires_grad_(), features.clone().requires_grad_()
    affinity, slow = pair_affinity(found, half_disc(radius)), by_hand(expected, half_disc(radius))
    torch.testing.assert_close(affinity, slow)
    (affinity * weights).sum().backward()
    ((slow * weights).sum() + 0 * expected.sum()).backward()  # a lone cell has no pair
    torch.testing.assert_close(found.grad, expected.grad)


def test_published_pairs_and_half_precision_computed_in_single():
    features = torch.randn(1, 448, 6, 9, generator=torch.Generator().manual_seed(0))
    affinity = pair_affinity(features.bfloat16(), half_disc(5))
    assert affinity.shape == (1, 34, 6, 9)
    assert affinity.dtype == torch.float32
    torch.testing.assert_close(affinity, pair_affinity(features.bfloat16().float(), half_disc(5)))


@pytest.mark.parametrize("stride", [4, 8, 16])
@pytest.mark.parametrize(
    ("name", "output_stride"), [("test_resnet", 16), ("test_resnet", 8), ("vit_tiny_patch16_224", 16)]
)
def test_cells_are_of_the_stride_asked_for(name, output_stride, stride):
    network = AffinityNet(build_backbone(Backbone(name, "none", output_stride)), stride=stride).eval()
    for height, width in ((48, 64), (50, 71), (17, 40)):
        features = network(torch.rand(2, 3, height, width))
        assert features.shape == (2, 64 + 128 + 256, -(-height // stride), -(-width // stride))


def test_features_are_those_of_the_three_deepest_maps_on_one_grid():
    network = AffinityNet(build_backbone(TINY), stride=8).eval()
    images = torch.rand(1, 3, 48, 64)
    maps = network.trunk(images)
    assert [m.shape[2] for m in maps] == [24, 12, 6, 3, 3]
    seen = []
    for tap, m in zip(network.gathered.taps, maps[2:], strict=True):
        grouped = functional.conv2d(m, tap[0].weight)
        grouped = grouped.reshape(1, -1, 8, *grouped.shape[2:])  # 8 channels a group
        deviation = (grouped.var(dim=(2, 3, 4), unbiased=False, keepdim=True) + 1e-5).sqrt()
        x = ((grouped - grouped.mean(dim=(2, 3, 4), keepdim=True)) / deviation).flatten(1, 2)
        seen.append(functional.elu(functional.interpolate(x, size=(6, 8), mode="bilinear", align_corners=False)))
    expected = functional.elu(functional.conv2d(torch.cat(seen, dim=1), network.join.weight))
    torch.testing.assert_close(network(images), expected)


def test_images_are_padded_with_the_mean_colour():
    network = AffinityNet(build_backbone(TINY), stride=8).eval()
    images = torch.rand(1, 3, 41, 60)
    whole = torch.tensor(TINY.mean).view(1, 3, 1, 1).repeat(1, 1, 48, 64)
    whole[:, :, :41, :60] = images
    torch.testing.assert_close(network(images), network(whole)[:, :, :6, :8])


def test_a_trunk_of_two_maps_is_enough():
    body = nn.ModuleList([nn.Conv2d(3, 5, 3, stride=8, padding=1), nn.Conv2d(5, 7, 3, stride=2, padding=1)])

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = body

        def forward(self, x):
            first = self.parts[0](x)
            return [first, self.parts[1](first)]

    trunk = Trunk(Two(), Backbone("two", "none", 16, norm="frozen", mean=(0, 0, 0), std=(1, 1, 1)), channels=(5, 7))
    assert AffinityNet(trunk)(torch.rand(1, 3, 40, 40)).shape == (1, 128 + 256, 5, 5)


@pytest.mark.parametrize("learns", [True, False])
def test_the_trunk_learns_only_where_it_should(learns):
    description = Backbone("test_resnet", "none", 16, norm="trained", freeze=1)
    network = AffinityNet(build_backbone(description), learn_trunk=learns).train()
    before = {name: value.clone() for name, value in network.trunk.named_buffers()}
    network(torch.rand(2, 3, 48, 48)).square().sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in network.trunk.parameters()) == learns
    assert any((value != before[name]).any() for name, value in network.trunk.named_buffers()) == learns
    assert not all(p.requires_grad for p in network.trunk.parameters()), "what is frozen stays so"
    assert all(p.grad is not None and p.grad.any() for p in (network.join.weight, network.gathered.taps[0][0].weight))


def test_what_is_loaded_answers_as_what_was_saved(tmp_path):
    saved = AffinityNet(build_backbone(TINY), stride=4, learn_trunk=False).eval()
    save_network(saved, tmp_path)
    loaded = load_network(tmp_path)
    images = torch.rand(1, 3, 33, 47)
    assert torch.equal(loaded(images), saved(images))
    assert loaded.options == {"stride": 4, "learn_trunk": False}


def test_no_stride_is_refused():
    with pytest.raises(OptionError, match="stride of the affinity network is 0"):
        AffinityNet(build_backbone(TINY), stride=0)
    assert np.abs(half_disc(5)).max() == 4
