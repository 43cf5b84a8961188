"""Features of the three deepest maps of a trunk on one grid: what psa's affinities and RETAB's boundaries are read from.

Ahn, Kwak (psa). CVPR 2018. https://arxiv.org/abs/1803.10464
"""

from __future__ import annotations

from math import lcm

import torch
from torch import Tensor, nn
from torch.nn import functional

from tagmask.errors import OptionError
from tagmask.nets.backbones import Trunk

WIDTHS = (64, 128, 256)  # channels taken of the three deepest maps of the trunk; paper


class Gathered(nn.Module):
    """Features (B, D, h, w) from the three deepest maps of a trunk, brought together on cells of ``stride`` pixels.

    The published networks have all three maps at stride 8, for their trunks are dilated. Here each map is resized to the
    cells behind its 1x1 convolution: the shallowest of the three is at stride 8 in most networks, whatever the
    ``output_stride`` of the trunk, so that a trunk of stride 16 still sees borders at 8, in less time. ``learn_trunk``
    says whether the trunk learns too (psa) or only feeds the layers behind it. A trunk with fewer maps uses the last of
    ``WIDTHS``. ``width`` is D. The trunk stays with the network that gathers. Raises ``OptionError`` for a ``stride``
    below 1.
    """

    def __init__(self, trunk: Trunk, stride: int, learn_trunk: bool) -> None:
        super().__init__()
        if stride < 1:
            raise OptionError(f"the stride of the affinity network is {stride}; expected 1 or more pixels a cell.")
        self.stride, self.learn_trunk = stride, learn_trunk
        channels = trunk.channels[-len(WIDTHS) :]
        widths = WIDTHS[-len(channels) :]
        self.taps = nn.ModuleList(_tap(inputs, width) for inputs, width in zip(channels, widths, strict=True))
        self.width = sum(widths)

    def forward(self, x: Tensor, trunk: Trunk) -> Tensor:
        """Return (B, D, h, w) for RGB images (B, 3, H, W) in [0, 1]; h, w are H, W over the stride, rounded up.

        Cell i covers the pixels from ``stride * i`` on. Images are padded at the bottom and the right with the mean
        colour until they are whole cells of every map, so that all maps cover the same ground.
        """
        height, width = (-(-side // self.stride) for side in x.shape[2:])
        x = _padded(x, lcm(self.stride, trunk.output_stride), trunk.mean)
        grid = (x.shape[2] // self.stride, x.shape[3] // self.stride)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.learn_trunk):
            maps = trunk(x)[-len(self.taps) :]
        seen = [_grown(tap(_shrunk(m, grid)), grid) for tap, m in zip(self.taps, maps, strict=True)]
        return torch.cat([functional.elu(s) for s in seen], dim=1)[:, :, :height, :width]


def _tap(inputs: int, width: int) -> nn.Sequential:
    """Return a 1x1 convolution, normalised in groups of 8 channels.

    Groups as in psa's VGG16; its ResNet-38 has none, for the maps of that are normalised. Other trunks' are of any scale.
    """
    convolution = nn.Conv2d(inputs, width, kernel_size=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight)  # author code
    return nn.Sequential(convolution, nn.GroupNorm(num_groups=width // 8, num_channels=width))  # author code


def _padded(x: Tensor, unit: int, colour: Tensor) -> Tensor:
    """Pad images at the bottom and the right with a ``colour`` (1, 3, 1, 1) to multiples of ``unit``."""
    down, across = (-side % unit for side in x.shape[2:])
    return functional.pad(x - colour, pad=(0, across, 0, down)) + colour if down or across else x


def _shrunk(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return a map that is finer than ``grid`` at it, by its means."""
    return functional.adaptive_avg_pool2d(x, grid) if x.shape[2] > grid[0] or x.shape[3] > grid[1] else x


def _grown(x: Tensor, grid: tuple[int, int]) -> Tensor:
    same = tuple(x.shape[2:]) == grid
    return x if same else functional.interpolate(x, size=grid, mode="bilinear", align_corners=False)
