"""The segmentation networks by name: DeepLab v1, v2 and v3 on any trunk.

Chen et al.: v1 https://arxiv.org/abs/1412.7062, v2 https://arxiv.org/abs/1606.00915, v3
https://arxiv.org/abs/1706.05587. The papers give atrous rates for one output stride; at another they scale with it, so
that the field of view in pixels stays.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tagmask.errors import OptionError, did_you_mean
from tagmask.nets.backbones import Backbone, Trunk, build_backbone, download
from tagmask.nets.heads import LargeFOV, PooledASPP, SummedASPP
from tagmask.nets.vgg import VGG16, subsample_fully_connected
from tagmask.nets.weights import read_weights


class Segmenter(nn.Module):
    """A trunk and a head that gives C scores, background included, a grid cell.

    ``scales`` beside 1 are those whose scores are fused by their maximum (v2); ``upsampled`` says that training
    compares with labels at the size of the image (v3) and not at the grid. ``name``, ``classes`` and the resolved
    ``options`` rebuild the network.
    """

    def __init__(
        self,
        name: str,
        trunk: Trunk,
        head: nn.Module,
        *,
        classes: int,
        options: dict[str, Any],
        scales: tuple[float, ...] = (),
        upsampled: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self.trunk = trunk
        self.head = head
        self.classes = classes
        self.options = options
        self.scales = scales
        self.upsampled = upsampled

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C, h, w) at the grid of RGB images (B, 3, H, W), float32 in [0, 1]."""
        return self._all_maps(x)[-1]

    def training_maps(self, x: Tensor) -> list[Tensor]:
        """Return the logits that training compares with labels, each (B, C, h', w').

        v1: the grid's. v2: those of scales 1, 0.75 and 0.5 on their own grids, then their maximum. v3: the grid's,
        upsampled to (H, W).
        """
        maps = self._all_maps(x)
        return [_resize(maps[-1], x.shape[-2:])] if self.upsampled else maps

    def _all_maps(self, x: Tensor) -> list[Tensor]:
        maps = [self._single(x)]
        for scale in self.scales:
            height, width = (max(1, round(side * scale)) for side in x.shape[-2:])
            maps.append(self._single(_resize(x, (height, width))))
        if self.scales:
            grid = maps[0].shape[-2:]
            together = torch.stack([maps[0], *(_resize(m, grid) for m in maps[1:])])  # (scales, B, C, h, w)
            maps.append(together.amax(dim=0))
        return maps

    def _single(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x)[-1])


def build_segmenter(name: str, backbone: Backbone, classes: int, **options: Any) -> Segmenter:
    """Build the segmenter ``name`` for ``classes`` classes, background included.

    ``options`` are the keywords of ``deeplab_v1``, ``deeplab_v2`` or ``deeplab_v3``. Raises OptionError for an unknown
    name or option, and what ``build_backbone`` raises.
    """
    if name not in SEGMENTERS:
        hint = did_you_mean(name, SEGMENTERS)
        raise OptionError(f"segmenter {name!r} is unknown{hint}; expected one of {', '.join(SEGMENTERS)}.")
    if classes < 2:
        raise ValueError(f"classes counts the background and must be at least 2, got {classes}")
    known = [p.name for p in inspect.signature(SEGMENTERS[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            hint = did_you_mean(option, known)
            raise OptionError(f"segmenter {name!r} has no option {option!r}{hint}; expected {', '.join(known)}.")
    return SEGMENTERS[name](build_backbone(backbone), classes, **options)


def deeplab_v1(trunk: Trunk, classes: int, *, width: int = 1024, rate: int = 12) -> Segmenter:
    """Build LargeFOV; ``rate`` is meant at output stride 8."""
    on_vgg = isinstance(trunk.body, VGG16)
    head = LargeFOV(trunk.channels[-1], classes, width=width, rate=at_stride(rate, 8, trunk), average=on_vgg)
    _start_from_imagenet(trunk, [head], width)
    options = {"width": width, "rate": rate}
    return Segmenter("deeplab-v1", trunk, head, classes=classes, options=options)


def deeplab_v2(
    trunk: Trunk,
    classes: int,
    *,
    width: int | None = None,
    rates: Sequence[int] = (6, 12, 18, 24),  # paper: ASPP-L
    multi_scale: bool = True,
) -> Segmenter:
    """Build the summed pyramid; ``rates`` are meant at output stride 8.

    ``width`` is that of the hidden layers of every branch; None takes the papers' 1024 on VGG16 and none elsewhere.
    ``multi_scale`` fuses the scores of scales 1, 0.75 and 0.5 by their maximum, in training and evaluation alike.
    """
    width = (1024 if isinstance(trunk.body, VGG16) else 0) if width is None else width
    head = SummedASPP(trunk.channels[-1], classes, rates=[at_stride(r, 8, trunk) for r in rates], width=width)
    _start_from_imagenet(trunk, [branch for branch in head.branches if isinstance(branch, LargeFOV)], width)
    options = {"width": width, "rates": list(rates), "multi_scale": multi_scale}
    scales = (0.75, 0.5) if multi_scale else ()  # paper
    return Segmenter("deeplab-v2", trunk, head, classes=classes, options=options, scales=scales)


def deeplab_v3(
    trunk: Trunk,
    classes: int,
    *,
    width: int = 256,
    rates: Sequence[int] = (6, 12, 18),  # paper
    multi_grid: bool | str = "auto",
) -> Segmenter:
    """Build the pyramid with image pooling; ``rates`` are meant at output stride 16 (the paper doubles them at 8).

    ``multi_grid`` gives the three units of a ResNet's last block the rates 1, 2, 4 times their base; "auto" does so
    where the trunk has such a block, True raises OptionError where it has not.
    """
    if multi_grid not in (True, False, "auto"):
        raise OptionError(f"multi_grid is {multi_grid!r}; expected True, False or 'auto'.")
    units = _last_block(trunk) if multi_grid else []
    if multi_grid is True and not units:
        raise OptionError(f"backbone {trunk.description.name!r} has no block of three units for multi_grid; drop it.")
    for unit, factor in zip(units, (1, 2, 4), strict=False):  # paper
        rate = factor * 32 // trunk.output_stride
        unit.dilation, unit.padding = (rate, rate), (rate, rate)
    head = PooledASPP(trunk.channels[-1], classes, rates=[at_stride(r, 16, trunk) for r in rates], width=width)
    options = {"width": width, "rates": list(rates), "multi_grid": bool(units)}
    return Segmenter("deeplab-v3", trunk, head, classes=classes, options=options, upsampled=True)


SEGMENTERS: dict[str, Callable[..., Segmenter]] = {
    "deeplab-v1": deeplab_v1,
    "deeplab-v2": deeplab_v2,
    "deeplab-v3": deeplab_v3,
}


def _last_block(trunk: Trunk) -> list[nn.Conv2d]:
    """Return the 3x3 convolutions of ``layer4`` if it has three units with one each (ResNet-50, -101), else []."""
    units = [
        [m for m in unit.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        for unit in getattr(trunk.body, "layer4", ())
    ]
    return [unit[0] for unit in units] if [len(unit) for unit in units] == [1, 1, 1] else []


def at_stride(rate: int, stride: int, trunk: Trunk) -> int:
    """Return the rate, meant at output ``stride``, that reaches as many pixels on ``trunk``; 1 or more."""
    return max(1, round(rate * stride / trunk.output_stride))


def _start_from_imagenet(trunk: Trunk, heads: Sequence[LargeFOV], width: int) -> None:
    """On a pretrained VGG16, let the heads start from its fully connected layers, where the weights have them."""
    state = fully_connected(trunk) if 1 <= width <= 4096 else {}
    for head in heads if state else ():
        head.load_state_dict(subsample_fully_connected(state, width), strict=False)


def fully_connected(trunk: Trunk) -> Mapping[str, Tensor]:
    """Return the weights of a pretrained VGG16 if they hold its fully connected layers; {} otherwise."""
    weights, name = trunk.description.weights, trunk.description.name
    if not isinstance(trunk.body, VGG16) or weights == "none":
        return {}
    state = download(name).state_dict() if weights == "default" else read_weights(Path(weights))[0]
    return state if {"pre_logits.fc1.weight", "pre_logits.fc2.weight"} <= state.keys() else {}


def start_from_fully_connected(fc6: nn.Conv2d, fc7: nn.Conv2d, state: Mapping[str, Tensor]) -> None:
    """Copy VGG16's two fully connected layers into 1x1 convolutions, where ``state`` has them and they are as large."""
    for layer, name in ((fc6, "fc1"), (fc7, "fc2")):
        weight, bias = (state.get(f"pre_logits.{name}.{part}") for part in ("weight", "bias"))
        if weight is not None and bias is not None and weight.numel() == layer.weight.numel():
            layer.load_state_dict({"weight": weight.reshape(layer.weight.shape), "bias": bias})


def _resize(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
