"""What turns the deepest feature map into class scores: LargeFOV and the two kinds of atrous pyramid.

Chen et al.: DeepLab v1 https://arxiv.org/abs/1412.7062, v2 https://arxiv.org/abs/1606.00915, v3
https://arxiv.org/abs/1706.05587. Rates are in cells of the feature grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import torch
from torch import Tensor, nn
from torch.nn import functional

from tagmask.errors import OptionError


def scoring(inputs: int, classes: int, *, kernel: int = 1, rate: int = 1) -> nn.Conv2d:
    """Return the convolution that gives scores, drawn from N(0, 0.01) with zero bias."""
    layer = nn.Conv2d(inputs, classes, kernel_size=kernel, padding=rate * (kernel // 2), dilation=rate)
    nn.init.normal_(layer.weight, std=0.01)  # paper
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def hidden(inputs: int, outputs: int, *, kernel: int = 1, rate: int = 1) -> nn.Conv2d:
    """Return a convolution with bias that a ReLU follows, drawn so that the ReLU keeps the variance."""
    layer = nn.Conv2d(inputs, outputs, kernel_size=kernel, padding=rate * (kernel // 2), dilation=rate)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # ours: the papers start from ImageNet's FCs
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class LargeFOV(nn.Module):
    """DeepLab v1: a 3x3 convolution of a large rate, two hidden layers with dropout, then scores.

    ``average`` puts VGG16's 3x3 average pool in front (caffe prototxt).
    """

    def __init__(self, inputs: int, classes: int, *, width: int = 1024, rate: int = 12, average: bool = False) -> None:
        super().__init__()
        self.average = nn.AvgPool2d(kernel_size=3, stride=1, padding=1) if average else nn.Identity()
        self.fc6 = hidden(inputs, width, kernel=3, rate=rate)
        self.fc7 = hidden(width, width)
        self.fc8 = scoring(width, classes)
        self.dropout = nn.Dropout(p=0.5)  # paper

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, inputs, h, w) to logits (B, classes, h, w)."""
        x = self.average(x)
        x = self.dropout(functional.relu(self.fc6(x)))  # (B, width, h, w)
        x = self.dropout(functional.relu(self.fc7(x)))  # (B, width, h, w)
        return self.fc8(x)


class SummedASPP(nn.Module):
    """DeepLab v2: parallel branches of growing rates, their scores summed.

    With a ``width`` every branch is a LargeFOV of its own (the paper's VGG16); with 0 it is one 3x3 convolution
    straight to scores (the paper's ResNet-101).
    """

    def __init__(self, inputs: int, classes: int, *, rates: Sequence[int], width: int = 0) -> None:
        super().__init__()
        branches = (
            LargeFOV(inputs, classes, width=width, rate=r) if width else scoring(inputs, classes, kernel=3, rate=r)
            for r in rates
        )
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, inputs, h, w) to logits (B, classes, h, w)."""
        return torch.stack([branch(x) for branch in self.branches]).sum(dim=0)


def normalised(inputs: int, outputs: int, *, kernel: int = 1, rate: int = 1, stride: int = 1) -> nn.Sequential:
    """Return a convolution, a BatchNorm that learns, and a ReLU."""
    convolution = nn.Conv2d(
        inputs, outputs, kernel_size=kernel, stride=stride, padding=rate * (kernel // 2), dilation=rate, bias=False
    )
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")  # ours
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def grouped(inputs: int, outputs: int, groups: int) -> nn.Sequential:
    """Return a 1x1 convolution, normalised in ``groups`` of channels (or as many as divide them), and a ReLU."""
    convolution = nn.Conv2d(inputs, outputs, kernel_size=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(gcd(groups, outputs), outputs), nn.ReLU(inplace=True))


class PooledASPP(nn.Module):
    """DeepLab v3: a 1x1 branch, 3x3 branches of growing rates and the pooled image, normalised and concatenated.

    Its BatchNorms always learn, also where those of the trunk are frozen.
    """

    def __init__(self, inputs: int, classes: int, *, rates: Sequence[int], width: int = 256) -> None:
        super().__init__()
        self.point = normalised(inputs, width)
        self.branches = nn.ModuleList(normalised(inputs, width, kernel=3, rate=rate) for rate in rates)
        self.image = normalised(inputs, width)
        self.project = normalised(width * (len(rates) + 2), width)
        self.score = scoring(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, inputs, h, w) to logits (B, classes, h, w); while training, B must be at least 2."""
        if self.training and len(x) < 2:
            raise OptionError(
                "deeplab-v3 normalises over the batch, and the batch is 1; give a batch of 2 images or more."
            )
        pooled = self.image(x.mean(dim=(2, 3), keepdim=True))  # (B, width, 1, 1)
        parts = [self.point(x), *(branch(x) for branch in self.branches), pooled.expand(-1, -1, *x.shape[2:])]
        return self.score(self.project(torch.cat(parts, dim=1)))
