"""The network that learns relations of cells: where objects end, and where the centre of a cell's object lies.

Ahn, Cho, Kwak (irn). CVPR 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tagmask.errors import OptionError
from tagmask.nets.backbones import Trunk
from tagmask.nets.heads import grouped

STRIDE = 4  # pixels a cell of its output; paper
GROUPS = 16  # of the branch that finds displacements; recalled (author code)
Grid = tuple[int, int]


class RelationNet(nn.Module):
    """Boundaries and displacements at stride 4 from the maps of a trunk that does not learn.

    The published network has five maps of a ResNet-50 and a ``width`` of 256; each branch takes as many maps as the trunk
    gives. While it is trained the displacements are raw; afterwards ``mean_displacement`` (2,), which whoever trains the
    network fills in, is taken from them. ``slow`` names the parts that learn at the plain rate: the displacements learn
    ten times as fast (author code).
    """

    slow = ("trunk", "boundary")
    mean_displacement: Tensor

    def __init__(self, trunk: Trunk, width: int = 256) -> None:
        super().__init__()
        if width < 8 or width % 8:
            raise OptionError(f"the width of the relation network is {width}; expected a positive multiple of 8.")
        self.trunk = trunk.requires_grad_(False)
        self.options = {"width": width}
        self.boundary = Boundary(trunk.channels, width // 8)
        self.displacement = Displacement(trunk.channels, width)
        self.register_buffer("mean_displacement", torch.zeros(2))
        self.train(self.training)

    def train(self, mode: bool = True) -> RelationNet:
        """Switch to training, but for the trunk: it neither learns nor counts statistics."""
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 3, h, w) for RGB images (B, 3, H, W) in [0, 1]; h, w are a fourth of H, W, rounded up.

        Channel 0 is the logit of a boundary, channels 1 and 2 are dy and dx to the centre, in cells.
        """
        grid = (-(-x.shape[2] // STRIDE), -(-x.shape[3] // STRIDE))
        with torch.no_grad():
            maps = self.trunk(x)
        displacement = self.displacement(maps, grid)
        if not self.training:
            displacement = displacement - self.mean_displacement[:, None, None]
        return torch.cat([self.boundary(maps, grid), displacement], dim=1)


class Boundary(nn.Module):
    """One logit a cell from all maps, ``width`` channels of each."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.taps = nn.ModuleList(grouped(count, width, groups=4) for count in channels)  # paper: 4 groups
        self.score = nn.Conv2d(len(channels) * width, 1, kernel_size=1)

    def forward(self, maps: list[Tensor], grid: Grid) -> Tensor:
        """Return (B, 1, h, w) from the trunk's maps."""
        seen = [_grown(tap(_shrunk(m, grid)), grid) for tap, m in zip(self.taps, maps, strict=True)]
        return self.score(torch.cat(seen, dim=1))


class Displacement(nn.Module):
    """Two numbers a cell: the three deepest maps are fused at twice the stride, then joined by the shallower ones.

    Of five maps 64, 128, 256, 256 and 256 channels are taken at a ``width`` of 256 (author code); of fewer maps the last
    of these numbers.
    """

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        widths = (*(width // 4 for _ in channels[5:]), width // 4, width // 2, width, width, width)[-len(channels) :]
        self.deep = min(3, len(channels))
        self.taps = nn.ModuleList(grouped(*pair, GROUPS) for pair in zip(channels, widths, strict=True))
        self.fuse = grouped(self.deep * width, width, GROUPS)
        self.join = grouped(sum(widths[: -self.deep]) + width, width, GROUPS)
        self.score = nn.Conv2d(width, 2, kernel_size=1, bias=False)  # no bias: the mean is taken from it in any case

    def forward(self, maps: list[Tensor], grid: Grid) -> Tensor:
        """Return (B, 2, h, w) from the trunk's maps."""
        coarse = (-(-grid[0] // 2), -(-grid[1] // 2))
        grids = [grid] * (len(maps) - self.deep) + [coarse] * self.deep
        seen = [_grown(tap(_shrunk(m, g)), g) for tap, m, g in zip(self.taps, maps, grids, strict=True)]
        deep = _grown(self.fuse(torch.cat(seen[-self.deep :], dim=1)), grid)
        return self.score(self.join(torch.cat([*seen[: -self.deep], deep], dim=1)))


def _shrunk(x: Tensor, grid: Grid) -> Tensor:
    """Return a map of the trunk that is finer than ``grid`` at it, by its maxima, like the pool of a ResNet's stem."""
    return functional.adaptive_max_pool2d(x, grid) if x.shape[2] > grid[0] or x.shape[3] > grid[1] else x


def _grown(x: Tensor, grid: Grid) -> Tensor:
    return functional.interpolate(x, size=grid, mode="bilinear", align_corners=False)
