"""Branches of several dilations: their maps from the definition, and rates that follow the stride."""

from __future__ import annotations

import pytest
import torch
from tests.nets.test_folded import lively, norms
from torch.nn import functional

from tagmask.errors import OptionError
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.folded import folded
from tagmask.nets.multi_dilated import MultiDilated
from tagmask.nets.storage import load_network, save_network

TINY = Backbone("test_resnet", "none", 16)


def network(**options):
    return MultiDilated(build_backbone(TINY), classes=3, **{"width": 8, **options}).eval()


def dilated(x, weight, bias, rate):
    """A 3x3 convolution whose taps lie ``rate`` cells apart, as a sum of nine shifted products."""
    height, width = x.shape[2:]
    padded = functional.pad(x, (rate,) * 4)
    out = bias.view(1, -1, 1, 1).expand(len(x), -1, height, width).clone()
    for row in range(3):
        for column in range(3):
            shifted = padded[:, :, row * rate : row * rate + height, column * rate : column * rate + width]
            out += torch.einsum("od,bdhw->bohw", weight[:, :, row, column], shifted)
    return out


@torch.no_grad()
def test_maps_are_those_of_every_rate_in_turn():
    net, images = network(rates=(1, 4, 10)), torch.rand(2, 3, 50, 70)
    assert [conv.dilation[0] for conv in net.convs] == [1, 2, 5]
    features, expected = net.trunk(images)[-1], []
    for conv, head, rate in zip(net.convs, net.heads, (1, 2, 5), strict=True):
        branch = dilated(features, conv.weight, conv.bias, rate).relu()
        expected.append(torch.einsum("od,bdhw->bohw", head.weight[:, :, 0, 0], branch))
    torch.testing.assert_close(net.maps(images), torch.cat(expected, dim=1), rtol=1e-3, atol=1e-4)
    logits = torch.stack([m.mean(dim=(2, 3)) for m in expected], dim=1)  # (B, R, C-1)
    torch.testing.assert_close(net.rate_logits(images), logits, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(net(images), logits.mean(dim=1), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("stride", "rates"), [(8, [1, 3, 6, 9]), (16, [1, 2, 3, 4]), (32, [1, 1, 2, 2])])
def test_rates_follow_the_output_stride(stride, rates):
    net = MultiDilated(build_backbone(Backbone("test_resnet", "none", stride)), classes=1, width=4)
    assert [conv.dilation[0] for conv in net.convs] == rates
    assert net.maps(torch.rand(1, 3, 33, 40)).shape == (1, 4, -(-33 // stride), -(-40 // stride))


def test_branches_share_the_trunk_and_nothing_else():
    net = network(rates=(2, 2)).train()
    net.rate_logits(torch.rand(2, 3, 64, 64))[:, 0].sum().backward()
    moved = {name for name, p in net.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}
    assert {name for name in moved if not name.startswith("trunk.")} == {
        "convs.0.weight", "convs.0.bias", "heads.0.weight",
    }  # fmt: skip
    assert any(name.startswith("trunk.") for name in moved)


@pytest.mark.parametrize("rates", [(), (0, 1)])
def test_impossible_rates_are_refused(rates):
    with pytest.raises(OptionError, match="one or more dilations"):
        network(rates=rates)


@torch.no_grad()
def test_a_folded_copy_has_no_norm_and_the_same_maps():
    backbone = Backbone("mobilenetv2_050", weights="none", output_stride=16)
    net, image = lively(MultiDilated(build_backbone(backbone), classes=2, width=8)), torch.rand(1, 3, 65, 49)
    assert norms(net) > 0 == norms(folded(net))
    torch.testing.assert_close(folded(net).maps(image), net.maps(image), rtol=1e-3, atol=1e-4)


def test_what_is_loaded_answers_as_what_was_saved(tmp_path):
    saved, images = network(rates=(1, 6)), torch.rand(1, 3, 45, 61)
    save_network(saved, tmp_path)
    loaded = load_network(tmp_path)
    assert torch.equal(loaded.maps(images), saved.maps(images))
    assert loaded.rates == (1, 6)
