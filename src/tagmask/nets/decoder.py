"""The network that sees how far an object reaches, whatever it is, from where a classifier attends to it.

Hong, Yeo, Kwak, Lee, Han. CVPR 2017. https://arxiv.org/abs/1701.00352
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tagmask.nets.backbones import Trunk
from tagmask.nets.heads import normalised, scoring

PROBE = (1, 3, 97, 129)  # an image whose maps show which are finer than others
NARROWEST = 8  # channels  # ours


class Decoder(nn.Module):
    """A frozen trunk and a stack of layers from its deepest map up to finer ones, which end in scores of ground and object.

    Each stage sees the map below it, made larger, the trunk's own map and the attention to one class; it has half the
    channels of the one below, the first ``width``. There are up to ``stages`` steps up. The class itself is not told, so that
    what is learned of one holds for all. (Paper: VGG16 mirrored, with the switches of its pools; a map of the trunk as input
    of each stage serves any trunk.  # ours) BatchNorms learn, but for the trunk's.
    """

    def __init__(self, trunk: Trunk, width: int = 256, stages: int = 2) -> None:
        super().__init__()
        self.trunk = trunk.requires_grad_(False)
        self.options: dict[str, Any] = {"width": width, "stages": stages}
        self.places = _finer(trunk)[: stages + 1]  # of the trunk's maps, the deepest first
        self.skips, self.joins = nn.ModuleList(), nn.ModuleList()
        below = 0
        for step, place in enumerate(self.places):
            channels = max(width >> step, NARROWEST)
            self.skips.append(normalised(trunk.channels[place], channels))
            self.joins.append(normalised(below + channels + 1, channels, kernel=3))
            below = channels
        self.head = scoring(below, 2)
        self.train(self.training)

    def train(self, mode: bool = True) -> Decoder:
        """Switch to training, but for the trunk, which does not learn."""
        super().train(mode)
        self.trunk.eval()
        return self

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the trunk's maps of RGB images (B, 3, H, W) in [0, 1]; no gradient flows into them."""
        with torch.no_grad():
            return self.trunk(x)

    def decode(self, features: list[Tensor], attention: Tensor) -> Tensor:
        """Return logits (B, 2, h, w) of ground and object: of ``features``, and of attention (B, 1, H, W) in [0, 1]."""
        x: Tensor | None = None
        for place, skip, join in zip(self.places, self.skips, self.joins, strict=True):
            grid = features[place].shape[2:]
            parts = [skip(features[place]), _resized(attention, grid)]
            x = join(torch.cat(parts if x is None else [_resized(x, grid), *parts], dim=1))
        return self.head(x)

    def forward(self, x: Tensor, attention: Tensor) -> Tensor:
        """Return logits (B, 2, h, w) of images (B, 3, H, W) in [0, 1] and attention (B, 1, H, W)."""
        return self.decode(self.features(x), attention)

    def answers(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return what the network says of images (B, 3, H, W) whose brightness is the attention (for ``folded``)."""
        return (self(x, x.mean(dim=1, keepdim=True)),)


@torch.no_grad()
def _finer(trunk: Trunk) -> list[int]:
    """Return which maps of a trunk are each finer than the one before, from the deepest to the shallowest."""
    training = trunk.training
    device = next(trunk.parameters()).device
    sizes = [m.shape[2] * m.shape[3] for m in trunk.eval()(torch.zeros(PROBE, device=device))]
    trunk.train(training)
    places = [len(sizes) - 1]
    for place in reversed(range(len(sizes) - 1)):
        if sizes[place] > sizes[places[-1]]:
            places.append(place)
    return places


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    if x.shape[2:] == size:
        return x
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
