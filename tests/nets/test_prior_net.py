"""The network of the built-in prior: which maps it reads, that it never learns, and that it can be kept."""

import pytest
import torch
from torch.nn import functional

from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.folded import folded
from tagmask.nets.prior import PriorNet
from tagmask.nets.storage import load_network, save_network


@pytest.mark.parametrize(
    ("name", "stride", "wanted"),
    [("vgg16", 8, (3, 4)), ("vgg16", 16, (3, 4)), ("test_resnet", 16, (3, 4)), ("test_resnet", 32, (3, 4)),
     ("mobilenetv2_035", 8, (3, 4))],
)  # fmt: skip
def test_the_mean_positive_reaction_of_the_two_deepest_stages(name, stride, wanted, tmp_path):
    torch.manual_seed(0)
    trunk = build_backbone(Backbone(name, "none", stride))
    network = PriorNet(trunk).eval()
    images = torch.rand(1, 3, 64, 90)
    maps = trunk(images)
    fine, deep = (maps[index].clamp(min=0).mean(dim=1)[:, None] for index in wanted)
    found = network(images)
    assert found.shape == (1, 2, *fine.shape[2:])
    torch.testing.assert_close(found[:, :1], fine)
    torch.testing.assert_close(found[:, 1:], functional.interpolate(deep, size=fine.shape[2:], mode="bilinear"))
    torch.testing.assert_close(folded(network)(images), found, rtol=1e-3, atol=1e-4)
    save_network(network, tmp_path)
    assert torch.equal(load_network(tmp_path)(images), found)


def test_it_never_learns():
    assert not any(p.requires_grad for p in PriorNet(build_backbone(Backbone("test_resnet", "none", 16))).parameters())
