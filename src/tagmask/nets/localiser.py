"""A network that says of every box in a photo which class it holds: Fast R-CNN without its refinement of boxes.

Girshick. Fast R-CNN. ICCV 2015. https://arxiv.org/abs/1504.08083; module b of Augmented Feedback (Qi et al., ECCV 2016).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tagmask.errors import OptionError
from tagmask.nets.backbones import Trunk
from tagmask.nets.heads import scoring
from tagmask.nets.roi import BoxLayers, cut_out


class Localiser(nn.Module):
    """A trunk, its last map cut out at each box into ``cells`` x ``cells``, two hidden layers of ``width``, C scores.

    See ``cut_out`` and ``BoxLayers``. Training it on a GPU is not repeatable to the last bit, for RoIAlign sums there in no
    order. Raises OptionError for less than one cell or unit.
    """

    def __init__(self, trunk: Trunk, classes: int, width: int = 4096, cells: int = 7) -> None:
        super().__init__()
        if width < 1 or cells < 1:
            raise OptionError(
                f"a localiser has {cells} cells a side and a width of {width}; expected 1 or more of both."
            )
        self.trunk = trunk
        self.classes = classes
        self.options = {"width": width, "cells": cells}
        self.cells = cells
        self.layers = BoxLayers(trunk, cells, width)
        self.score = scoring(width, classes)

    def features(self, x: Tensor) -> Tensor:
        """Return the trunk's last map (B, D, h, w) of images (B, 3, H, W)."""
        return self.trunk(x)[-1]

    def scores_of(self, features: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Return logits (B, R, C) of boxes (B, R, 4) from the ``features`` of images of ``size`` (H, W).

        Boxes are x0, y0, x1, y1 in pixels, the ends excluded. An empty one (such as fills up a row) has logits of 0.
        """
        there = (boxes[..., :2] < boxes[..., 2:]).all(dim=2)  # (B, R)
        cut = cut_out(features, boxes[there], there.nonzero()[:, 0], size, self.cells)  # (N, D, cells, cells)
        scores = self.score(self.layers(cut))[..., 0, 0]  # (N, C)
        logits = scores.new_zeros(*there.shape, scores.shape[1])
        logits[there] = scores
        return logits

    def forward(self, x: Tensor, boxes: Tensor) -> Tensor:
        """Return logits (B, R, C) of boxes (B, R, 4) in pixels of RGB images (B, 3, H, W) in [0, 1]."""
        return self.scores_of(self.features(x), boxes, (x.shape[2], x.shape[3]))

    def answers(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return what can be asked of the network, for the whole image and its left half."""
        height, width = x.shape[2:]
        boxes = torch.tensor([[0, 0, width, height], [0, 0, width // 2, height]], device=x.device)
        return (self(x, boxes.expand(len(x), -1, -1)),)
