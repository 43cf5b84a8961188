"""Networks that label whole scenes, in two parts between which a video network can look back: PSPNet and BiSeNet.

Zhao, Shi, Qi, Wang, Jia. PSPNet. CVPR 2017. https://arxiv.org/abs/1612.01105
Yu, Wang, Peng, Gao, Yu, Sang. BiSeNet. ECCV 2018. https://arxiv.org/abs/1808.00897
The first part ends with one map of the frame, the second makes scores of it (as TDNet and STT cut them).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tagmask.errors import OptionError
from tagmask.nets.heads import normalised, scoring

BINS = (1, 2, 3, 6)  # paper (PSPNet)
DROPOUT = 0.1  # author code (PSPNet)


class PyramidPooling(nn.Module):
    """PSPNet: the deepest map and its means over 1x1, 2x2, 3x3 and 6x6 parts of the frame, beside each other.

    A ``width`` brings these to so many ``channels``; 0 leaves them as they are, twice those of the trunk (paper).
    ``auxiliary`` are the channels of the maps that learn from the labels too: here the trunk's last but one.
    """

    def __init__(self, inputs: Sequence[int], width: int) -> None:
        super().__init__()
        each = max(1, inputs[-1] // len(BINS))  # paper
        self.branches = nn.ModuleList(normalised(inputs[-1], each) for _ in BINS)
        together = inputs[-1] + len(BINS) * each
        self.project = normalised(together, width) if width else nn.Identity()
        self.channels = width or together
        self.auxiliary = (inputs[-2],)

    def forward(self, images: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the frame's map (B, channels, h, w) and the auxiliary ones, from the trunk's ``maps``."""
        _refuse_single(self, images)
        deep = maps[-1]
        parts = [deep]
        for bins, branch in zip(BINS, self.branches, strict=True):
            parts.append(resized(branch(functional.adaptive_avg_pool2d(deep, bins)), deep))
        return self.project(torch.cat(parts, dim=1)), [maps[-2]]


class Bilateral(nn.Module):
    """BiSeNet: a shallow path for detail (stride 8) and the trunk for context, weighed by what the whole frame shows.

    ``channels`` of the result are ``width``; the detail path has ``detail``. Both refined maps are ``auxiliary``.
    """

    def __init__(self, inputs: Sequence[int], width: int, detail: int) -> None:
        super().__init__()
        if width < 1 or detail < 4:
            raise OptionError(f"channels is {width} and detail {detail}; bisenet needs 1 and 4 or more.")
        first, second = detail // 4, detail // 2  # ours: the paper does not tell
        self.spatial = nn.Sequential(
            normalised(3, first, kernel=3, stride=2),
            normalised(first, second, kernel=3, stride=2),
            normalised(second, detail, kernel=3, stride=2),
        )
        self.refine_deep = AttentionRefinement(inputs[-1], width)
        self.refine_middle = AttentionRefinement(inputs[-2], width)
        self.image = normalised(inputs[-1], width)
        self.fuse = FeatureFusion(width + detail, width)
        self.channels = width
        self.auxiliary = (width, width)

    def forward(self, images: Tensor, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return the frame's map (B, channels, H/8, W/8) and the auxiliary ones, from normalised ``images`` and ``maps``."""
        _refuse_single(self, images)
        detail = self.spatial(images)
        deep = self.refine_deep(maps[-1]) + self.image(maps[-1].mean(dim=(2, 3), keepdim=True))
        middle = self.refine_middle(maps[-2]) + resized(deep, maps[-2])
        return self.fuse(torch.cat([detail, resized(middle, detail)], dim=1)), [middle, deep]


class AttentionRefinement(nn.Module):
    """A 3x3 convolution whose channels are weighed by the mean of the map."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.convolve = normalised(inputs, width, kernel=3)  # author code of others; the paper shows none
        self.weigh = nn.Sequential(nn.Conv2d(width, width, kernel_size=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, width, h, w)."""
        x = self.convolve(x)
        return x * self.weigh(x.mean(dim=(2, 3), keepdim=True)).sigmoid()


class FeatureFusion(nn.Module):
    """Two paths, concatenated, become one map to which its own weighed channels are added."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        less = max(1, width // 4)  # author code of others
        self.join = normalised(inputs, width)
        self.weigh = nn.Sequential(
            nn.Conv2d(width, less, kernel_size=1), nn.ReLU(inplace=True), nn.Conv2d(less, width, kernel_size=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, width, h, w)."""
        x = self.join(x)
        return x + x * self.weigh(x.mean(dim=(2, 3), keepdim=True)).sigmoid()


class Decoder(nn.Module):
    """From the frame's map to logits: a 3x3 convolution, dropout, a 1x1 convolution.

    With ``skip`` channels of a finer map, of ``fine`` channels, the scores have its grid: small objects keep their
    outlines where the frame's map is coarse  # source: video_data. With 0 they have the grid of the frame's map (papers).
    """

    def __init__(self, inputs: int, hidden: int, classes: int, *, fine: int = 0, skip: int = 0) -> None:
        super().__init__()
        self.convolve = normalised(inputs, hidden, kernel=3)
        self.dropout = nn.Dropout2d(p=DROPOUT)
        self.skip = normalised(fine, skip) if skip else None
        self.join = normalised(hidden + skip, max(1, hidden // 2)) if skip else None
        self.score = scoring(max(1, hidden // 2) if skip else hidden, classes)

    def forward(self, x: Tensor, fine: Tensor) -> Tensor:
        """Map (B, inputs, h, w), and where there is a skip (B, fine, h', w'), to logits (B, classes, h' or h, w' or w)."""
        x = self.dropout(self.convolve(x))
        if self.skip is not None and self.join is not None:
            x = self.join(torch.cat([resized(x, fine), self.skip(fine)], dim=1))
        return self.score(x)


def auxiliary_head(inputs: int, classes: int) -> nn.Sequential:
    """Return the head that scores an inner map while the network learns: 3x3 convolution, dropout, 1x1 convolution."""
    hidden = max(16, inputs // 4)  # author code (PSPNet): a quarter
    return nn.Sequential(normalised(inputs, hidden, kernel=3), nn.Dropout2d(p=DROPOUT), scoring(hidden, classes))


def resized(x: Tensor, like: Tensor) -> Tensor:
    """Resize (B, D, h, w) bilinearly to the grid of ``like``."""
    if x.shape[2:] == like.shape[2:]:
        return x
    return functional.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def _refuse_single(module: Any, images: Tensor) -> None:
    if module.training and len(images) < 2:
        raise OptionError(
            "the network normalises over the batch, and the batch is 1; give a batch of 2 images or more."
        )
