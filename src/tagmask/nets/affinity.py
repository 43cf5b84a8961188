"""The network that learns which cells belong together: features whose distance is small inside an object.

Ahn, Kwak (psa). CVPR 2018. https://arxiv.org/abs/1803.10464
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tagmask.nets.backbones import Trunk
from tagmask.nets.gathered import Gathered
from tagmask.refine.walk import overlap


class AffinityNet(nn.Module):
    """Features (B, D, h, w), on cells of ``stride`` pixels, whose mean distance says how far two cells belong together.

    They are the ``Gathered`` ones of the trunk, mixed by a 1x1 convolution.
    """

    def __init__(self, trunk: Trunk, stride: int = 8, learn_trunk: bool = True) -> None:
        super().__init__()
        self.gathered = Gathered(trunk, stride, learn_trunk)
        self.trunk = trunk if learn_trunk else trunk.requires_grad_(False)
        self.stride, self.learn_trunk = stride, learn_trunk
        self.options = {"stride": stride, "learn_trunk": learn_trunk}
        width = self.gathered.width
        self.join = nn.Conv2d(width, width, kernel_size=1, bias=False)
        nn.init.xavier_uniform_(self.join.weight, gain=4)  # author code
        self.train(self.training)

    def train(self, mode: bool = True) -> AffinityNet:
        """Switch to training, but for a trunk that does not learn: it counts no statistics either."""
        super().train(mode)
        if not self.learn_trunk:
            self.trunk.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, D, h, w) for RGB images (B, 3, H, W) in [0, 1]; h, w are H, W over the stride, rounded up."""
        return functional.elu(self.join(self.gathered(x, self.trunk)))


def pair_affinity(features: Tensor, offsets: NDArray[np.integer]) -> Tensor:
    """Return exp(-mean |f - f'|) of each cell and the cell at each offset: (B, D, h, w), (P, 2) -> float32 (B, P, h, w).

    0 where the other cell lies outside of the grid. Memory: that of the features and of the result. Source: psa.
    """
    rows = features.permute(0, 2, 3, 1).to(torch.promote_types(features.dtype, torch.float32)).contiguous()
    return (-_MeanDistance.apply(rows, offsets)).exp()


class _MeanDistance(torch.autograd.Function):
    """Mean |f - f'| over the channels, pair by pair: (B, h, w, D) -> (B, P, h, w), infinite outside of the grid.

    Left to autograd, each of the P differences (B, h, w, D) would be kept for the way back; here it is taken again. With
    the channels last, and in place, that is also ten times as fast on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, offsets: NDArray[np.integer]) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.offsets = offsets
        distance = rows.new_full((len(rows), len(offsets), *rows.shape[1:3]), torch.inf)
        for pair, offset in enumerate(offsets):
            here, there = overlap(offset, rows.shape[1:3])
            distance[:, pair][:, *here] = (rows[:, *here] - rows[:, *there]).abs_().mean(dim=-1)
        return distance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        total = torch.zeros_like(rows)
        for pair, offset in enumerate(ctx.offsets):
            here, there = overlap(offset, rows.shape[1:3])
            pull = gradients[0][:, pair][:, *here].unsqueeze(-1) / rows.shape[-1]
            push = (rows[:, *here] - rows[:, *there]).sign_().mul_(pull)
            total[:, *here] += push
            total[:, *there] -= push
        return total, None
