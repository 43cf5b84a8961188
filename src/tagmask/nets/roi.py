"""What a network makes of the cells that RoIAlign cuts out of its map: two hidden layers, as Fast R-CNN has them.

Girshick. Fast R-CNN. ICCV 2015. https://arxiv.org/abs/1504.08083
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from tagmask.nets.backbones import Trunk
from tagmask.nets.heads import hidden
from tagmask.nets.segmenter import fully_connected, start_from_fully_connected
from tagmask.nets.vgg import VGG16


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
    layer = nn.Conv2d(inputs, outputs, kernel_size=1, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return nn.Sequential(layer, nn.GroupNorm(num_groups=1, num_channels=outputs), nn.ReLU(inplace=True))
