"""VGG16 as the early weakly supervised papers use it: convolutions only, dense enough to read maps from.

Simonyan and Zisserman, ICLR 2015; the strides and dilations are DeepLab's (Chen et al., ICLR 2015,
https://arxiv.org/abs/1412.7062). Keys are those of timm's ``vgg16`` (``features.N.weight``).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # paper: channels and number of 3x3 convolutions
CHANNELS = (*(channels for channels, _ in STAGES), STAGES[-1][0])
STRIDES = (8, 16, 32)


class VGG16(nn.Module):
    """The convolutions of VGG16, with 3x3 pools that lose no border.

    A pool that would go beyond the output stride moves by one pixel only. At stride 8 the convolutions of the fifth
    stage then have dilation 2; what the fifth pool no longer skips is left to the dilation of the head.
    """

    def __init__(self, output_stride: int = 8) -> None:
        super().__init__()
        if output_stride not in STRIDES:
            raise ValueError(f"output_stride must be one of {STRIDES}, got {output_stride}")
        layers: list[nn.Module] = []
        taken, inputs, stride = [], 3, 1
        for number, (channels, convolutions) in enumerate(STAGES, start=1):
            dilation = 2 ** (number - 1) // stride  # 1 until a pool has been held back
            for _ in range(convolutions):
                layers += [nn.Conv2d(inputs, channels, kernel_size=3, padding=dilation, dilation=dilation)]
                layers += [nn.ReLU(inplace=True)]
                inputs = channels
            taken.append(len(layers) - 1)
            step = 2 if stride < output_stride else 1
            layers.append(nn.MaxPool2d(kernel_size=3, stride=step, padding=1))
            stride *= step
        self.features = nn.Sequential(*layers)
        self.taken = (*taken, len(layers) - 1)
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")  # ours
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return six maps: conv1_2, conv2_2, conv3_3, conv4_3 and conv5_3 after their ReLU, then the fifth pool."""
        maps = []
        for index, layer in enumerate(self.features):
            x = layer(x)  # (B, channels, h, w)
            if index in self.taken:
                maps.append(x)
        return maps


def subsample_fully_connected(state: Mapping[str, Tensor], width: int) -> dict[str, Tensor]:
    """Turn the 4096-wide FCs of an ImageNet VGG16 into LargeFOV's ``fc6`` (3x3) and ``fc7`` (1x1) of ``width``.

    ``state`` has timm's ``pre_logits.fc1`` (4096, 512, 7, 7) and ``pre_logits.fc2`` (4096, 4096, 1, 1). The kernel
    keeps rows and columns 0, 3 and 6. The paper draws 1024 of the 4096 units at random; ours are evenly spaced, so
    that the result needs no seed.
    """
    first, second = state["pre_logits.fc1.weight"], state["pre_logits.fc2.weight"]
    units = torch.linspace(0, len(first) - 1, steps=width).round().long()
    return {
        "fc6.weight": first[units][:, :, ::3, ::3].clone(),  # (width, 512, 3, 3)
        "fc6.bias": state["pre_logits.fc1.bias"][units].clone(),
        "fc7.weight": second[units][:, units].clone(),  # (width, width, 1, 1)
        "fc7.bias": state["pre_logits.fc2.bias"][units].clone(),
    }
