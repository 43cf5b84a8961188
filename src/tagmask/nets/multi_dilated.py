"""A classifier with several dilations side by side (RDC): each sees from further away what the plain one recognises.

Wei, Xiao, Shi, Jie, Feng, Huang. Revisiting Dilated Convolution. CVPR 2018. https://arxiv.org/abs/1805.04574
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tagmask.errors import OptionError
from tagmask.nets.backbones import Trunk
from tagmask.nets.heads import hidden
from tagmask.nets.segmenter import at_stride


class MultiDilated(nn.Module):
    """A trunk and R branches: a 3x3 convolution of one dilation, ReLU, a 1x1 convolution to class maps, each its own.

    ``classes`` is C-1. ``rates`` are the dilations at output stride 8; at another they scale with it, so that a branch
    looks as many pixels away, but never below 1. Raises OptionError without a rate or for one below 1.
    """

    def __init__(self, trunk: Trunk, classes: int, rates: Sequence[int] = (1, 3, 6, 9), width: int = 1024) -> None:
        super().__init__()
        if not rates or min(rates) < 1:
            raise OptionError(f"the rates are {tuple(rates)}; expected one or more dilations of 1 or more.")
        self.trunk = trunk
        self.classes = classes
        self.rates = tuple(rates)
        self.options = {"rates": list(rates), "width": width}
        inputs = trunk.channels[-1]
        self.convs = nn.ModuleList(hidden(inputs, width, kernel=3, rate=at_stride(rate, 8, trunk)) for rate in rates)
        heads = [nn.Conv2d(width, classes, kernel_size=1, bias=False) for _ in rates]
        for head in heads:
            nn.init.normal_(head.weight, std=0.01)  # as in Classifier
        self.heads = nn.ModuleList(heads)

    def maps(self, x: Tensor) -> Tensor:
        """Return the raw class maps (B, R (C-1), h, w) of RGB images (B, 3, H, W) in [0, 1], rate after rate."""
        features = self.trunk(x)[-1]
        branches = zip(self.convs, self.heads, strict=True)
        return torch.cat([head(functional.relu(conv(features))) for conv, head in branches], dim=1)

    def rate_logits(self, x: Tensor) -> Tensor:
        """Return the logits (B, R, C-1) of each branch: the means of its maps."""
        return self.maps(x).mean(dim=(2, 3)).unflatten(dim=1, sizes=(len(self.rates), self.classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return one logit a tag, (B, C-1): the mean over the branches.  # ours"""
        return self.rate_logits(x).mean(dim=1)

    def answers(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return all that can be asked of the network."""
        return (self.maps(x),)
