"""What a network sees of boxes: the cells that RoIAlign cuts out of its map, and two hidden layers, as Fast R-CNN has them.

Girshick. Fast R-CNN. ICCV 2015. https://arxiv.org/abs/1504.08083
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import roi_align

from tagmask.nets.backbones import Trunk
from tagmask.nets.heads import grouped, hidden
from tagmask.nets.segmenter import fully_connected, start_from_fully_connected
from tagmask.nets.vgg import VGG16

POINTS = 2  # samples of a cell along each side  # ours


def cut_out(features: Tensor, boxes: Tensor, image: Tensor, size: tuple[int, int], cells: int) -> Tensor:
    """Return ``cells`` x ``cells`` of the features (B, D, h, w) at each of N boxes: (N, D, cells, cells).

    Boxes (N, 4) are x0, y0, x1, y1, the ends excluded, in pixels of images of ``size`` (H, W); ``image`` (N,) tells of which.
    RoIAlign takes the place of RoI pooling, which rounds boxes to the grid (ours).
    """
    features = features.float()
    (height, width), (h, w) = size, features.shape[2:]
    to_grid = torch.tensor([w / width, h / height] * 2, device=features.device)
    rois = torch.cat([image[:, None].float(), boxes.float() * to_grid], dim=1)
    return roi_align(features, rois, output_size=cells, spatial_scale=1.0, sampling_ratio=POINTS, aligned=True)


class BoxLayers(nn.Module):
    """Two hidden layers of ``width`` over the ``cells`` x ``cells`` of a box.

    On VGG16 they are its own fully connected ones, with dropout (paper), and start from their ImageNet weights where they
    are as many (cells 7, width 4096). No other trunk brings such layers, and thousands of inputs with weights drawn at random
    make steps that are too long or too short; there each is normalised over its units, without dropout (ours).
    """

    def __init__(self, trunk: Trunk, cells: int, width: int) -> None:
        super().__init__()
        self.of_vgg = isinstance(trunk.body, VGG16)
        make = hidden if self.of_vgg else _normalised
        self.fc6 = make(trunk.channels[-1] * cells * cells, width)
        self.fc7 = make(width, width)
        self.dropout = nn.Dropout(p=0.5)  # recalled (Fast R-CNN)
        if isinstance(self.fc6, nn.Conv2d) and isinstance(self.fc7, nn.Conv2d):
            start_from_fully_connected(self.fc6, self.fc7, fully_connected(trunk))

    def forward(self, cut: Tensor) -> Tensor:
        """Map the cells (N, D, cells, cells) of boxes to (N, width, 1, 1)."""
        x = cut.flatten(start_dim=1)[..., None, None]
        for layer in (self.fc6, self.fc7):
            x = self.dropout(functional.relu(layer(x))) if self.of_vgg else layer(x)
        return x


def _normalised(inputs: int, outputs: int) -> nn.Sequential:
    """Return a layer whose answers are normalised for each box alone, and a ReLU."""
    layers = grouped(inputs, outputs, groups=1)
    nn.init.kaiming_normal_(next(layers.parameters()), nonlinearity="relu")
    return layers
