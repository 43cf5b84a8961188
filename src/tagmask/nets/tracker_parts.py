"""What the tracker's network is made of: RANet's ranking, a block that looks far, and a normalised convolution.

Wang et al. (RANet). ICCV 2019. https://arxiv.org/abs/1908.06647
"""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor, nn
from torch.nn import functional

RATES = (1, 3, 6)  # dilations; author code (RANet)


class Ranking(nn.Module):
    """The learned part of a row's rank, (K, N, h, w) -> (K, N), 0 or more: what a row sees, looked at as channels.

    RANet swaps the frame's and the template's cells; here what a row sees is averaged to as many cells as a template has.
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.cells = rows
        last = nn.Conv1d(width, 1, kernel_size=1)
        nn.init.ones_(last.bias)  # type: ignore[arg-type]  # ours: where all scores are 0, nothing learns
        self.score = nn.Sequential(nn.Conv1d(rows, width, kernel_size=1), nn.GroupNorm(1, width), nn.ReLU(), last)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the scores of maps (K, N, h, w)."""
        seen = functional.adaptive_avg_pool1d(maps.flatten(start_dim=2), self.cells)  # (K, N, cells)
        return functional.relu(self.score(seen.mT))[:, 0]


class Context(nn.Module):
    """A residual block that sums depthwise convolutions of growing rates. Source: RANet, the depthwise: ours."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(width, width, kernel_size=3, padding=rate, dilation=rate, groups=width, bias=False)
            for rate in RATES
        )
        self.join = block(width, width, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """(K, width, h, w) -> (K, width, h, w)."""
        return x + self.join(torch.stack([branch(x) for branch in self.branches]).sum(dim=0))


def block(inputs: int, outputs: int, *, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    """Return a convolution, normalised in groups of 8 channels or so, and a ReLU; RANet's instance norms are ours in groups."""
    convolution = nn.Conv2d(inputs, outputs, kernel_size=kernel, padding=kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")  # ours
    return nn.Sequential(convolution, nn.GroupNorm(gcd(max(1, outputs // 8), outputs), outputs), nn.ReLU(inplace=True))
