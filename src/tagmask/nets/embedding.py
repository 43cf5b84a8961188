"""The network that says how alike two objects are: features of crops, drawn together around a centre for each tag (AISI).

Fan, Hou, Cheng, Yu, Martin, Hu. ECCV 2018. https://doi.org/10.1007/978-3-030-01240-3_23
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tagmask.errors import OptionError
from tagmask.nets.backbones import Trunk


class EmbeddingNet(nn.Module):
    """A trunk, the mean of its last map, and a linear layer to ``width`` features; from these a linear layer scores the tags.

    ``classes`` is C-1: the tags, without background. ``centres`` (C-1, width), which whoever trains the network moves, are
    those of the tags; one of zeros is not known yet. They are kept with the network, and so with every checkpoint.
    """

    centres: Tensor

    def __init__(self, trunk: Trunk, classes: int, width: int = 128) -> None:
        super().__init__()
        if width < 1:
            raise OptionError(f"the width of features is {width}; expected 1 or more.")
        self.trunk = trunk
        self.classes = classes
        self.options = {"width": width}
        self.embed = nn.Linear(trunk.channels[-1], width)
        self.score = nn.Linear(width, classes)
        nn.init.normal_(self.score.weight, std=0.01)  # ours, as all heads here that score
        self.register_buffer("centres", torch.zeros(classes, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, width) of RGB images (B, 3, H, W) in [0, 1]."""
        return self.embed(self.trunk(x)[-1].mean(dim=(2, 3)))
