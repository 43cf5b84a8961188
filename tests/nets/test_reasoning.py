"""The reasoning unit against explicit matrices, and the classifiers that have one."""

from __future__ import annotations

import pytest
import torch
from tests.nets.test_folded import lively, norms
from torch.nn import functional

from tagmask.errors import OptionError
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.classifier import Classifier
from tagmask.nets.folded import folded
from tagmask.nets.reasoning import GlobalReasoning
from tagmask.nets.storage import describe, load_network, save_network

TINY = Backbone("test_resnet", "none", 16)


def by_hand(unit, x):
    """One photo (channels, h, w): the equations of the paper with loops over nodes, cells and states."""
    cells = x.flatten(start_dim=1).T  # X (L, channels)
    nodes, states, length = unit.project.out_channels, unit.state.out_channels, len(cells)
    b = torch.stack([unit.project.weight[:, :, 0, 0] @ cell + unit.project.bias for cell in cells], dim=1)  # (N, L)
    s = torch.stack([unit.state.weight[:, :, 0, 0] @ cell + unit.state.bias for cell in cells])  # (L, S)
    v = torch.zeros(nodes, states, dtype=x.dtype)
    for i in range(nodes):
        for j in range(length):
            v[i] += b[i, j] * s[j]
    a, w = unit.adjacency.weight[:, :, 0], unit.weight.weight[:, :, 0].T
    if unit.form == "paper":
        z = (torch.eye(nodes, dtype=x.dtype) - a) @ v @ w
    else:
        told = torch.zeros_like(v)
        for i in range(nodes):
            for k in range(states):
                whole = v[i, k] + unit.adjacency.bias[i] + sum(a[i, j] * v[j, k] for j in range(nodes))
                told[i, k] = max(whole, torch.zeros_like(whole))
        z = told @ w
    y = torch.stack([sum(b[i, j] * z[i] for i in range(nodes)) for j in range(length)])  # (L, S)
    return (y @ unit.extend.weight[:, :, 0, 0].T).T.view(x.shape)


@pytest.mark.parametrize("form", ["code", "paper"])
@pytest.mark.parametrize("shape", [(3, 5), (1, 1), (4, 2)])
@torch.no_grad()
def test_reasoning_is_its_equations(form, shape):
    torch.manual_seed(0)
    unit = GlobalReasoning(5, nodes=3, form=form).double().eval()
    torch.nn.init.normal_(unit.project.bias)
    torch.nn.init.normal_(unit.state.bias)
    unit.norm.running_mean.normal_()
    unit.norm.running_var.uniform_(0.5, 2)
    unit.norm.weight.normal_()
    x = torch.randn(2, 5, *shape, dtype=torch.float64)
    for found, photo in zip(unit(x), x, strict=True):
        y = by_hand(unit, photo)
        norm = unit.norm
        mean, var, scale = norm.running_mean, norm.running_var + 1e-4, norm.weight
        normal = (y - mean.view(-1, 1, 1)) / var.sqrt().view(-1, 1, 1) * scale.view(-1, 1, 1)
        torch.testing.assert_close(found, photo + normal + norm.bias.view(-1, 1, 1))


def test_sizes_and_biases_are_those_of_the_author_code():
    unit = GlobalReasoning(512)
    assert (unit.project.out_channels, unit.state.out_channels) == (64, 128)
    assert (unit.adjacency.bias is not None, unit.weight.bias, unit.extend.bias) == (True, None, None)
    assert GlobalReasoning(8, 2, "paper").adjacency.bias is None
    for wrong in ({"form": "other"}, {"nodes": 0}):
        with pytest.raises(OptionError, match="expected 1 or more, code or paper"):
            GlobalReasoning(8, **wrong)


@pytest.mark.parametrize("convs", [0, 2])
@pytest.mark.parametrize("relu_first", [False, True])
@torch.no_grad()
def test_the_last_relu_follows_the_unit_or_goes_before_it(convs, relu_first):
    options = {"convs": convs, "width": 6, "nodes": 2, "graph": "paper", "relu_first": relu_first}
    net, x = Classifier(build_backbone(TINY), 3, **options).eval(), torch.rand(2, 3, 40, 33)
    before = net.features(x)[-1].clone()
    unit = next(part for part in net.neck if isinstance(part, GlobalReasoning))
    layers = [part for part in net.neck if isinstance(part, torch.nn.Conv2d)]
    y = before
    for number, layer in enumerate(layers):
        y = layer(y)
        y = y.relu() if number + 1 < convs or relu_first else y
    y = unit(y) if relu_first else unit(y).relu()
    torch.testing.assert_close(net.maps(x), functional.conv2d(y, net.head.weight))
    features = net.features(x)
    net.maps_of(features)
    torch.testing.assert_close(features[-1], before)  # no layer writes into the trunk's maps


def test_a_classifier_with_a_unit_is_kept_and_one_without_is_described_as_ever(tmp_path):
    plain = Classifier(build_backbone(TINY), 3, convs=1, width=8)
    assert describe(plain)["options"] == {"convs": 1, "width": 8, "hidden": 0, "dropout": 0.5}
    saved = lively(Classifier(build_backbone(TINY), 3, convs=1, width=8, nodes=4, graph="paper", relu_first=True))
    save_network(saved, tmp_path)
    loaded, x = load_network(tmp_path), torch.rand(1, 3, 45, 61)
    assert torch.equal(loaded.maps(x), saved.maps(x))
    assert describe(loaded)["options"] == {
        **describe(plain)["options"],
        "nodes": 4,
        "graph": "paper",
        "relu_first": True,
    }
    with pytest.raises(ValueError, match="convs, nodes or hidden"):
        Classifier(build_backbone(TINY), 3, hidden=1, nodes=4)


@torch.no_grad()
def test_a_folded_copy_has_no_norm_and_the_same_maps():
    backbone = Backbone("mobilenetv2_050", weights="none", output_stride=16)
    net = lively(Classifier(build_backbone(backbone), 2, convs=1, width=8, nodes=4))
    image = torch.rand(1, 3, 65, 49)
    assert norms(net) > 0 == norms(folded(net))
    expected = net.maps(image)  # statistics that are not the unit's own make it a sum of large numbers
    torch.testing.assert_close(folded(net).maps(image), expected, rtol=0, atol=1e-3 * float(expected.abs().max()))
