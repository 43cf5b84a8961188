"""A network that learns nothing here, asked what it reacts to: the objects that ImageNet taught it stand out by themselves.

Saleh, Aliakbarian, Salzmann, Petersson, Gould, Alvarez. ECCV 2016. https://arxiv.org/abs/1609.00446
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tagmask.nets.backbones import Trunk
from tagmask.nets.vgg import VGG16


class PriorNet(nn.Module):
    """The mean positive reaction of the two deepest stages of a frozen trunk, on the grid of the finer one.

    On VGG16 these are conv4_3 and conv5_3 (paper); elsewhere the trunk's last two maps. Negative values, which the last
    maps of networks with linear bottlenecks have (MobileNetV2), count as 0, as if a ReLU followed.  # ours
    """

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk.requires_grad_(False)
        self.options: dict[str, Any] = {}
        self.last = -1 if isinstance(trunk.body, VGG16) else None  # VGG16's sixth map is only the fifth one pooled

    def forward(self, x: Tensor) -> Tensor:
        """Return the reactions float (B, S, h, w), 0 or more, deepest last, to RGB images (B, 3, H, W) in [0, 1].

        S is 2, or 1 for a trunk of one map.
        """
        means = [m.relu().mean(dim=1, keepdim=True) for m in self.trunk(x)[: self.last][-2:]]  # each (B, 1, h', w')
        grid = means[0].shape[2:]
        return torch.cat([_grown(mean, grid) for mean in means], dim=1)


def _grown(mean: Tensor, grid: torch.Size) -> Tensor:
    if mean.shape[2:] == grid:
        return mean
    return functional.interpolate(mean, size=tuple(grid), mode="bilinear", align_corners=False)
