"""SEAM's classifier: class maps, refined by how much the pixels of a photo correlate.

Wang, Zhang, Kan, Shan, Chen (SEAM). CVPR 2020. https://arxiv.org/abs/2004.04581
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tagmask.equivariance import EPSILON, grown, winners, with_background
from tagmask.nets.backbones import Trunk

TAPS = (64, 128)  # channels taken of the trunk's two deepest maps; author code (of ResNet-38's conv4 and conv5)
EMBEDDING = 192  # channels in which pixels are compared; author code
MOST_PAIRS = 2**24  # pairs of cells held at a time (64 MiB): the photos of a phone would need gigabytes  # ours


class SeamClassifier(nn.Module):
    """A trunk with a 1x1 convolution to class maps, and the pixel correlation module (PCM) that refines them.

    ``classes`` is C-1. Without ``pcm`` there are the class maps alone. No gradient of the refined maps reaches the trunk
    or the class maps. The author code's head has one more map, for the background, which nothing reads and no loss
    teaches; it is left out.
    """

    def __init__(self, trunk: Trunk, classes: int, pcm: bool = True) -> None:
        super().__init__()
        self.trunk = trunk
        self.classes = classes
        self.options = {"pcm": pcm}
        self.dropout = nn.Dropout2d(p=0.5)  # author code
        self.head = _pointwise(trunk.channels[-1], classes)
        self.pcm = Correlation(trunk.channels) if pcm else None

    def answers(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the class maps (B, C-1, h, w) of RGB images (B, 3, H, W) in [0, 1] and, with PCM, these refined.

        The class maps are raw; the refined ones are (B, C, h, w) in [0, 1] with the background first.
        """
        features = self.trunk(x)
        maps = self.head(self.dropout(features[-1]))
        if self.pcm is None:
            return (maps,)
        image = (x - self.trunk.mean) / self.trunk.std
        return maps, self.pcm(maps, image, features)

    def maps(self, x: Tensor) -> Tensor:
        """Return what activations are made of, (B, C-1, h, w): the refined maps, or without PCM the raw ones."""
        maps, *refined = self.answers(x)
        return refined[0][:, 1:] if refined else maps

    def forward(self, x: Tensor) -> Tensor:
        """Return one logit a tag, (B, C-1): the mean of the raw class maps."""
        return self.answers(x)[0].mean(dim=(2, 3))


class Correlation(nn.Module):
    """The pixel correlation module: three 1x1 convolutions without bias, over detached maps of the trunk."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        deepest = channels[-len(TAPS) :]
        widths = TAPS[-len(deepest) :]
        self.taps = nn.ModuleList(_pointwise(*pair) for pair in zip(deepest, widths, strict=True))
        self.theta = _pointwise(3 + sum(widths), EMBEDDING)

    def forward(self, maps: Tensor, image: Tensor, features: list[Tensor]) -> Tensor:
        """Return refined scores (B, C, h, w) of class maps (B, C-1, h, w), an image and the trunk's maps."""
        grid = (maps.shape[2], maps.shape[3])
        deepest = zip(self.taps, features[-len(self.taps) :], strict=True)
        seen = [grown(tap(m.detach()).relu(), grid) for tap, m in deepest]
        embedded = self.theta(torch.cat([grown(image, grid), *seen], dim=1))  # (B, 192, h, w)
        return correlated(certain(maps), embedded)


def certain(maps: Tensor) -> Tensor:
    """Return what class maps (B, C-1, h, w) say with certainty, (B, C, h, w) in [0, 1] with the background first.

    Each map is divided by its maximum, the background is what they leave, and of the objects only the strongest stays.
    """
    maps = maps.detach().float().relu()
    return winners(with_background((maps - EPSILON).relu() / (maps.amax(dim=(2, 3), keepdim=True) + EPSILON)))


def correlated(scores: Tensor, embedded: Tensor, most: int = MOST_PAIRS) -> Tensor:
    """Return at each cell the mean of all cells' scores (B, C, h, w), weighted by how alike they are.

    Likeness is the cosine of ``embedded`` (B, D, h, w), where it is positive. No more than ``most`` pairs of cells are
    held at a time, unless one cell has more.
    """
    sources, unit = scores.flatten(start_dim=2), embedded.float().flatten(start_dim=2)  # (B, C, N), (B, D, N)
    unit = unit / (unit.norm(dim=1, keepdim=True) + EPSILON)
    parts = []
    for targets in unit.split(max(1, most // (unit.shape[0] * unit.shape[2])), dim=2):  # (B, D, n)
        alike = (unit.transpose(1, 2) @ targets).relu()  # (B, N, n)
        parts.append((sources @ alike) / (alike.sum(dim=1, keepdim=True) + EPSILON))
    return torch.cat(parts, dim=2).unflatten(dim=2, sizes=scores.shape[2:])


def _pointwise(inputs: int, outputs: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel_size=1, bias=False)
    nn.init.xavier_uniform_(layer.weight)  # recalled; author code, but for the gains of the module's layers
    return layer
