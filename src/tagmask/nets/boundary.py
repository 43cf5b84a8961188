"""The network that learns where objects end, whatever their class.

Zhou et al. (RETAB). BMVC 2022. https://arxiv.org/abs/2110.01519
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from tagmask.nets.backbones import Trunk
from tagmask.nets.gathered import Gathered


class BoundaryNet(nn.Module):
    """One logit a pixel, (B, 1, H, W): the ``Gathered`` features of the trunk, a 1x1 convolution, bilinear upsampling."""

    def __init__(self, trunk: Trunk, stride: int = 8) -> None:
        super().__init__()
        self.gathered = Gathered(trunk, stride, learn_trunk=True)
        self.trunk = trunk
        self.options = {"stride": stride}
        self.score = nn.Conv2d(self.gathered.width, 1, kernel_size=1, bias=False)  # author code

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of RGB images (B, 3, H, W) in [0, 1]."""
        logits = self.score(self.gathered(x, self.trunk))  # (B, 1, h, w)
        # Author code aligns corners, which a photo that is not of whole cells would shift by up to half a cell.
        whole = functional.interpolate(logits, scale_factor=self.gathered.stride, mode="bilinear", align_corners=False)
        return whole[:, :, : x.shape[2], : x.shape[3]]
