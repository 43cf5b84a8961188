"""RegionNet: a network that says of every region of a photo which class it shows.

Wang, You, Li, Ma (MCOF). CVPR 2018. https://arxiv.org/abs/1806.04659
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tagmask.errors import OptionError, did_you_mean
from tagmask.nets.backbones import Trunk
from tagmask.nets.heads import hidden, scoring
from tagmask.nets.roi import POINTS, BoxLayers, cut_out

HEADS = ("pool", "mask")
SIDE = 7  # cells of a region's box  # recalled (Fast R-CNN)
UNIT = 4096  # a weight of 1 as an integer: sums of integers come out the same on a GPU, whatever their order


class RegionNet(nn.Module):
    """A trunk and a head that gives C scores, background included, for each region of an image.

    ``head`` is "pool" (the means of the last ``maps`` feature maps over a region, one hidden layer; ours, far cheaper) or
    "mask" (the last map cut out at the region's box, 0 outside of the region, two hidden layers: the mask-based Fast R-CNN
    of the paper; see ``BoxLayers``). ``width`` is that of hidden layers. Raises OptionError for an unknown head.
    """

    def __init__(self, trunk: Trunk, classes: int, head: str = "pool", width: int = 512, maps: int = 3) -> None:
        super().__init__()
        if head not in HEADS:
            raise OptionError(f"the region head is {head!r}{did_you_mean(head, HEADS)}; expected {' or '.join(HEADS)}.")
        if maps < 1 or width < 1:
            raise OptionError(
                f"a region head takes {maps} maps and has a width of {width}; expected 1 or more of both."
            )
        self.trunk = trunk
        self.classes = classes
        self.options = {"head": head, "width": width, "maps": maps}
        self.maps = maps
        self.head = (
            PooledHead(trunk.channels[-maps:], classes, width) if head == "pool" else MaskedHead(trunk, classes, width)
        )

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the trunk's maps, from shallow to deep, of images (B, 3, H, W)."""
        return self.trunk(x)

    def scores_of(self, features: Sequence[Tensor], ids: Tensor, regions: int) -> Tensor:
        """Return logits (B, R, C) of what ``features`` gave, for the regions 0..R-1 of ``ids`` (B, H, W).

        Other ids belong to no region. What is said of a region without a pixel has no meaning.
        """
        return self.head(features[-self.maps :], ids.long(), regions)

    def forward(self, x: Tensor, ids: Tensor, regions: int) -> Tensor:
        """Return logits (B, R, C) for the regions 0..R-1 of ``ids`` (B, H, W), of RGB images (B, 3, H, W) in [0, 1]."""
        return self.scores_of(self.features(x), ids, regions)

    def answers(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return what can be asked of the network, for four rows of four rectangles as regions."""
        row, column = (torch.arange(side, device=x.device) * 4 // side for side in x.shape[2:])
        return (self(x, (4 * row[:, None] + column).expand(len(x), -1, -1), 16),)


class PooledHead(nn.Module):
    """The means of maps over a region, a hidden layer with dropout, scores."""

    def __init__(self, channels: Sequence[int], classes: int, width: int) -> None:
        super().__init__()
        self.fc = hidden(sum(channels), width)
        self.dropout = nn.Dropout(p=0.5)
        self.score = scoring(width, classes)

    def forward(self, maps: Sequence[Tensor], ids: Tensor, regions: int) -> Tensor:
        """Map features (B, D, h, w) to logits (B, R, C)."""
        pooled = torch.cat([region_pool(features, ids, regions) for features in maps], dim=1)  # (B, D, R)
        return self.score(self.dropout(functional.relu(self.fc(pooled[..., None]))))[..., 0].transpose(1, 2)


class MaskedHead(nn.Module):
    """The last map at the box of a region, without what lies outside of the region, two hidden layers, scores.

    Training it on a GPU is not repeatable to the last bit, for RoIAlign sums there in no order.
    """

    def __init__(self, trunk: Trunk, classes: int, width: int) -> None:
        super().__init__()
        self.layers = BoxLayers(trunk, SIDE, width)
        self.score = scoring(width, classes)

    def forward(self, maps: Sequence[Tensor], ids: Tensor, regions: int) -> Tensor:
        """Map features (B, D, h, w) to logits (B, R, C), 0 for a region without a pixel."""
        boxes, there = region_boxes(ids, regions)  # (B, R, 4), (B, R)
        image, region = there.nonzero(as_tuple=True)  # (N,)
        cut = cut_out(maps[-1], boxes[there], image, (ids.shape[1], ids.shape[2]), SIDE)  # (N, D, 7, 7)
        own = region_masks(ids, boxes[there], image, region)  # (N, 7, 7)
        scores = self.score(self.layers(cut * own[:, None]))[..., 0, 0]  # (N, C)
        logits = scores.new_zeros(*there.shape, scores.shape[1])
        logits[there] = scores
        return logits


def region_pool(features: Tensor, ids: Tensor, regions: int) -> Tensor:
    """Return the means over regions of features (B, D, h, w), upsampled bilinearly to ``ids`` (B, H, W): (B, D, R).

    A region without a pixel gets 0.
    """
    weights = pool_weights(ids, regions, (features.shape[2], features.shape[3])).to(features.dtype)
    return torch.einsum("bdn,brn->bdr", features.flatten(start_dim=2), weights)


def pool_weights(ids: Tensor, regions: int, grid: tuple[int, int]) -> Tensor:
    """Return how much each cell of the grid (h, w) counts in the mean of a region: float32 (B, R, h w), of sum 1 or 0.

    ``ids`` int64 (B, H, W); those outside of 0..R-1 belong to no region.
    """
    (batch, height, width), (h, w) = ids.shape, grid
    start = torch.where((ids >= 0) & (ids < regions), ids, regions) * (h * w)  # (B, H, W); the last for no region
    total = torch.zeros(batch, (regions + 1) * h * w, dtype=torch.int64, device=ids.device)
    for row, down in _corners(height, h, ids.device):
        for column, across in _corners(width, w, ids.device):
            cells = start + (row[:, None] * w + column)
            weights = (down[:, None] * across).expand(batch, -1, -1)
            total.scatter_add_(dim=1, index=cells.flatten(start_dim=1), src=weights.flatten(start_dim=1))
    weights = total.view(batch, regions + 1, h * w)[:, :regions].float()
    return weights / weights.sum(dim=2, keepdim=True).clamp(min=1)


def region_boxes(ids: Tensor, regions: int) -> tuple[Tensor, Tensor]:
    """Return the box of each region, float32 (B, R, 4) as x0, y0, x1, y1, the last two exclusive, and which have a pixel.

    ``ids`` int64 (B, H, W); those outside of 0..R-1 belong to no region.
    """
    batch, height, width = ids.shape
    where = torch.where((ids >= 0) & (ids < regions), ids, regions).flatten(start_dim=1)  # (B, N)
    sides = []
    for side, last in (
        (torch.arange(width, device=ids.device), width),
        (torch.arange(height, device=ids.device)[:, None], height),
    ):
        place = side.expand(batch, height, width).flatten(start_dim=1)
        low = torch.full((batch, regions + 1), last, device=ids.device).scatter_reduce(1, where, place, reduce="amin")
        high = torch.full((batch, regions + 1), -1, device=ids.device).scatter_reduce(1, where, place, reduce="amax")
        sides.append((low[:, :regions], high[:, :regions] + 1))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], dim=2).float(), right > 0


def region_masks(ids: Tensor, boxes: Tensor, image: Tensor, region: Tensor) -> Tensor:
    """Return which share of each cell of a box belongs to the region: float32 (N, 7, 7) in [0, 1].

    Box n, (N, 4) in pixels, is of ``region[n]`` of ``ids[image[n]]``, with ``ids`` int64 (B, H, W). Each cell is looked at
    in as many points as RoIAlign takes.
    """
    share = (torch.arange(SIDE * POINTS, device=ids.device) + 0.5) / (SIDE * POINTS)  # (P,)
    x = (boxes[:, :1] + share * (boxes[:, 2:3] - boxes[:, :1])).long()  # (N, P)
    y = (boxes[:, 1:2] + share * (boxes[:, 3:] - boxes[:, 1:2])).long()
    found = ids[image[:, None, None], y[:, :, None], x[:, None]] == region[:, None, None]  # (N, P, P)
    return functional.avg_pool2d(found.float()[:, None], kernel_size=POINTS)[:, 0]


def _corners(pixels: int, cells: int, device: torch.device) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return along one side the two cells between which each pixel lies, and how much each counts, in ``UNIT``."""
    place = ((torch.arange(pixels, device=device) + 0.5) * (cells / pixels) - 0.5).clamp(min=0)
    low = place.floor().long()
    part = ((place - low) * UNIT).round().long()
    return (low, UNIT - part), ((low + 1).clamp(max=cells - 1), part)
