"""The relation network on trunks of any kind: what it gives, what learns, and how fast."""

from __future__ import annotations

import pytest
import torch

from tagmask.errors import OptionError
from tagmask.fit import Schedule, _groups
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.folded import folded
from tagmask.nets.relation import Displacement, RelationNet
from tagmask.nets.storage import load_network, save_network


def network(name="test_resnet", stride=16, width=32):
    return RelationNet(build_backbone(Backbone(name, "none", stride)), width=width)


@pytest.mark.parametrize(
    ("name", "stride"),
    [("test_resnet", 16), ("mobilenetv2_035", 16), ("vgg16", 8), ("test_convnext", 32), ("test_vit", 16)],
)
@pytest.mark.parametrize("size", [(64, 64), (33, 47), (5, 61)])
def test_any_trunk_gives_three_numbers_a_cell(name, stride, size):
    found = network(name, stride)(torch.rand(2, 3, *size))
    assert found.shape == (2, 3, -(-size[0] // 4), -(-size[1] // 4))
    assert found.isfinite().all()


def test_the_published_channels():
    branch = Displacement((64, 256, 512, 1024, 2048), width=256)
    assert [tap[0].out_channels for tap in branch.taps] == [64, 128, 256, 256, 256]
    assert (branch.fuse[0].in_channels, branch.join[0].in_channels, branch.score.out_channels) == (768, 448, 2)
    assert [tap[0].out_channels for tap in Displacement((96, 192), width=256).taps] == [256, 256]
    with pytest.raises(OptionError, match="multiple of 8"):
        network(width=12)


def test_nothing_of_the_trunk_learns_or_counts():
    net = network().train()
    before = {name: value.clone() for name, value in net.trunk.state_dict().items()}
    found = net(torch.rand(2, 3, 64, 64))
    found.square().sum().backward()
    assert all(parameter.grad is None for parameter in net.trunk.parameters())
    assert all(p.grad is not None for part in (net.boundary, net.displacement) for p in part.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.trunk.state_dict().items())


def test_displacements_learn_ten_times_as_fast_as_boundaries():
    net = network()
    multiple = {id(p): group["multiple"] for group in _groups(net, Schedule(1, 1, 0.1)) for p in group["params"]}
    assert {multiple[id(p)] for p in net.boundary.parameters()} == {1.0}
    assert {multiple[id(p)] for p in net.displacement.parameters()} == {10.0}
    assert len(multiple) == len([*net.boundary.parameters(), *net.displacement.parameters()])


def test_the_mean_displacement_is_taken_away_after_training_and_kept_on_disk(tmp_path):
    net = network().eval()
    images = torch.rand(1, 3, 40, 56)
    raw = net(images)
    net.mean_displacement.copy_(torch.tensor([2.0, -3.0]))
    expected = raw - torch.tensor([0.0, 2.0, -3.0])[:, None, None]
    torch.testing.assert_close(net(images), expected)
    torch.testing.assert_close(folded(net)(images), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(net.train()(images), raw)
    save_network(net, tmp_path)
    torch.testing.assert_close(load_network(tmp_path)(images), expected)
