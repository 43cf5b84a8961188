"""The localiser: what it says of a box against the box alone, fillers, VGG's layers, and its way to disk and back."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.nn import functional
from torchvision.ops import roi_align

from tagmask.errors import OptionError
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.folded import folded
from tagmask.nets.localiser import Localiser
from tagmask.nets.storage import load_network, save_network


def network(name="test_resnet", stride=16, **options):
    torch.manual_seed(0)
    return Localiser(build_backbone(Backbone(name, "none", stride)), classes=4, **{"width": 8, "cells": 3, **options})


BOXES = torch.tensor(
    [[[0, 0, 61, 45], [10, 8, 40, 20], [3, 3, 4, 4]], [[50.5, 2, 61, 45], [0, 0, 0, 0], [7, 9, 7, 30]]]
)


def test_each_box_is_judged_as_if_alone():
    net = network().eval()
    images = torch.rand(2, 3, 45, 61)
    with torch.no_grad():
        features, got = net.features(images), net(images, BOXES)
    assert got.shape == (2, 3, 4)
    height, width = features.shape[2:]
    for b, r in ((0, 0), (0, 1), (0, 2), (1, 0)):
        x0, y0, x1, y1 = BOXES[b, r].tolist()
        roi = torch.tensor([[0.0, x0 * width / 61, y0 * height / 45, x1 * width / 61, y1 * height / 45]])
        cut = roi_align(features[b : b + 1], roi, output_size=3, sampling_ratio=2, aligned=True)
        x = cut.flatten(start_dim=1)
        for layer, norm, _ in (net.layers.fc6, net.layers.fc7):
            x = functional.linear(x, layer.weight[..., 0, 0])
            x = functional.relu(functional.layer_norm(x, x.shape[1:], norm.weight, norm.bias))
        expected = functional.linear(x, net.score.weight[..., 0, 0], net.score.bias)
        torch.testing.assert_close(got[b, r], expected[0])
    assert not torch.allclose(got[0, 0], got[0, 1])


def test_empty_boxes_are_nothing_and_may_be_all_there_is():
    net, images = network(), torch.rand(2, 3, 45, 61)
    assert (net.eval()(images, BOXES)[1, 1:] == 0).all()
    scores = net.train()(images, torch.zeros(2, 5, 4))
    assert (scores == 0).all()
    scores.sum().backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in net.parameters())


@pytest.mark.parametrize(("name", "stride"), [("test_resnet", 16), ("mobilenetv2_035", 16), ("test_convnext", 32)])
def test_any_trunk_learns(name, stride):
    net = network(name, stride).train()
    scores = net(torch.rand(2, 3, 45, 61), BOXES)
    scores[:, :1].square().sum().backward()
    for layer in (net.layers.fc6[0], net.layers.fc7[0], net.score):
        assert layer.weight.grad is not None
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in net.trunk.parameters())


def test_disk_and_folding_change_nothing(tmp_path):
    net = network(cells=2).eval()
    images = torch.rand(2, 3, 45, 61)
    save_network(net, tmp_path)
    loaded = load_network(tmp_path)
    assert torch.equal(loaded(images, BOXES), net(images, BOXES))
    torch.testing.assert_close(folded(net)(images, BOXES), net(images, BOXES), rtol=1e-3, atol=1e-3)


def test_a_pretrained_vgg_gives_its_fully_connected_layers(tmp_path):
    with torch.device("meta"):
        names = {k: t.shape for k, t in timm.create_model("vgg16").state_dict().items() if k.startswith("features")}
    state = {name: torch.randn(shape) * 0.01 for name, shape in names.items()}
    for name, shape in {"fc1": (8, 512, 7, 7), "fc2": (8, 8, 1, 1)}.items():  # 8 units where ImageNet's has 4096
        state |= {f"pre_logits.{name}.weight": torch.randn(shape), f"pre_logits.{name}.bias": torch.randn(shape[0])}
    torch.save(state, tmp_path / "vgg.pth")
    trunk = build_backbone(Backbone("vgg16", str(tmp_path / "vgg.pth"), 8))
    net = Localiser(trunk, 4, width=8, cells=7)
    cell = torch.rand(1, 512, 7, 7)
    expected = functional.conv2d(cell, state["pre_logits.fc1.weight"], state["pre_logits.fc1.bias"])
    torch.testing.assert_close(
        net.layers.fc6(cell.flatten(start_dim=1)[..., None, None]), expected, rtol=1e-4, atol=1e-3
    )
    assert torch.equal(net.layers.fc7.weight, state["pre_logits.fc2.weight"])
    assert Localiser(trunk, 4, width=8, cells=3).layers.fc6.weight.shape == (8, 512 * 9, 1, 1)


@pytest.mark.parametrize("wrong", [{"width": 0}, {"cells": 0}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(OptionError, match="1 or more of both"):
        network(**wrong)
