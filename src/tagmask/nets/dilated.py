"""Dilated depthwise convolution that trains fast on a CPU.

A convolution of dilation d sees d x d interleaved images that never meet. Taken apart and laid beside each other in the
batch, they need no dilation. The CPU kernels' backward pass is some ten times slower with dilation than without; the
rearranging costs a small part of that.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DilatedDepthwise(nn.Conv2d):
    """A depthwise convolution of stride 1 that keeps the size; its law: equal to ``nn.Conv2d`` up to rounding.

    Takes over the weight and bias of ``conv``, so that the names in a state dict stay.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(
            in_channels=conv.in_channels, out_channels=conv.out_channels, kernel_size=conv.kernel_size,  # type: ignore[arg-type]
            dilation=conv.dilation, groups=conv.groups, bias=conv.bias is not None, device="meta",  # type: ignore[arg-type]
        )  # fmt: skip
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W) -> (B, D, H, W)."""
        (rate, _), reach = self.dilation, self.dilation[0] * (self.kernel_size[0] - 1)
        before = reach // 2
        if not (x.is_cpu and torch.is_grad_enabled()):
            return F.conv2d(
                F.pad(x, pad=(before, reach - before) * 2), self.weight, self.bias, dilation=self.dilation, groups=self.groups
            )  # fmt: skip
        batch, depth, height, width = x.shape
        tall, wide = (-(-(side + reach) // rate) for side in (height, width))  # rows and columns of one part
        margins = (0, 0, before, wide * rate - width - before, before, tall * rate - height - before)
        # Channels last throughout: each rearrangement then copies whole rows of channels, once.
        rows = F.pad(x.permute(0, 2, 3, 1), pad=margins).view(batch, tall, rate, wide, rate, depth)
        parts = rows.permute(0, 2, 4, 1, 3, 5).reshape(batch * rate * rate, tall, wide, depth)  # (B d d, h, w, D)
        done = F.conv2d(parts.permute(0, 3, 1, 2), self.weight, self.bias, groups=self.groups).permute(0, 2, 3, 1)
        tall, wide = done.shape[1:3]
        rows = done.reshape(batch, rate, rate, tall, wide, depth).permute(0, 3, 1, 4, 2, 5)  # (B, h, d, w, d, D)
        whole = rows.reshape(batch, tall * rate, wide * rate, depth)[:, :height, :width]
        return whole.permute(0, 3, 1, 2)  # (B, D, H, W)


def use_fast_dilation(body: nn.Module) -> None:
    """Replace, in place, every dilated depthwise convolution of stride 1 that keeps the size of its input."""
    for parent in list(body.modules()):
        for name, conv in list(parent.named_children()):
            if isinstance(conv, nn.Conv2d) and _fits(conv):
                setattr(parent, name, DilatedDepthwise(conv))


def _fits(conv: nn.Conv2d) -> bool:
    square = conv.kernel_size[0] == conv.kernel_size[1] and conv.dilation[0] == conv.dilation[1] > 1
    depthwise = conv.groups == conv.in_channels == conv.out_channels and conv.stride == (1, 1)
    # timm's Conv2dSame pads by itself and says 0; the others must say what keeps the size.
    keeps = (
        type(conv).__name__ == "Conv2dSame" or conv.padding == (conv.dilation[0] * (conv.kernel_size[0] - 1) // 2,) * 2
    )
    return square and depthwise and keeps and conv.padding_mode == "zeros"
