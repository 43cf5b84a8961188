"""Heads: the atrous convolution from its equation, shapes, and parameter counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tagmask.errors import OptionError
from tagmask.nets.heads import LargeFOV, PooledASPP, SummedASPP, scoring
from tagmask.nets.vgg import VGG16


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("rate", [1, 2, 3])
def test_atrous_convolution_is_the_equation(rate):
    """y[i] = sum over k of x[i + rate k] w[k], with zeros outside."""
    layer = scoring(2, 3, kernel=3, rate=rate).double()
    x = torch.rand(1, 2, 5, 6, dtype=torch.float64)
    expected = torch.zeros(1, 3, 5, 6, dtype=torch.float64)
    for row in range(5):
        for column in range(6):
            for i in (-1, 0, 1):
                for j in (-1, 0, 1):
                    if 0 <= row + rate * i < 5 and 0 <= column + rate * j < 6:
                        value = x[0, :, row + rate * i, column + rate * j]
                        expected[0, :, row, column] += layer.weight[:, :, i + 1, j + 1] @ value
    torch.testing.assert_close(layer(x), expected)


def test_large_fov_on_vgg_has_the_paper_s_20_5_million_parameters():
    with torch.device("meta"):
        network = nn.Sequential(VGG16(8), LargeFOV(512, 21, average=True))
    hand = 9 * 512 * 1024 + 1024 + 1024 * 1024 + 1024 + 1024 * 21 + 21
    assert count(network[1]) == hand
    assert round(count(network) / 1e6, 1) == 20.5
    assert network[1].fc6.dilation == (12, 12)


@pytest.mark.parametrize("width", [0, 5])
def test_the_pyramid_of_v2_is_the_sum_of_its_branches(width):
    head = SummedASPP(4, 3, rates=(1, 2, 4), width=width).eval()
    x = torch.rand(2, 4, 7, 6)
    torch.testing.assert_close(head(x), head.branches[0](x) + head.branches[1](x) + head.branches[2](x))
    branch = 9 * 4 * 5 + 5 + 5 * 5 + 5 + 5 * 3 + 3 if width else 9 * 4 * 3 + 3
    assert count(head) == 3 * branch
    assert head(x).shape == (2, 3, 7, 6)


def test_the_pyramid_of_v3_counts_its_parameters():
    head = PooledASPP(10, 3, rates=(6, 12), width=4)
    norm = 2 * 4
    assert count(head) == (10 * 4 + norm) * 2 + (9 * 10 * 4 + norm) * 2 + (4 * 4 * 4 + norm) + (4 * 3 + 3)
    assert head(torch.rand(2, 10, 5, 6)).shape == (2, 3, 5, 6)
    assert head.eval()(torch.rand(1, 10, 1, 1)).shape == (1, 3, 1, 1)


def test_the_pooled_image_reaches_every_cell():
    head = PooledASPP(3, 2, rates=(1,), width=32).eval()
    x = torch.rand(1, 3, 9, 9, requires_grad=True)
    head(x)[0, 0, 0, 0].backward()
    assert (x.grad[0, :, 8, 8].abs() > 0).any()  # out of reach of a 3x3 convolution of rate 1


def test_one_image_cannot_train_v3():
    head = PooledASPP(3, 2, rates=(1,), width=4).train()
    with pytest.raises(OptionError, match="2 images or more"):
        head(torch.rand(1, 3, 9, 9))
