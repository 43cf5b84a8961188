"""Networks for looking only: every BatchNorm folded into the convolution before it, and weights laid out channels last.

A BatchNorm that no longer learns multiplies each channel and adds to it, which the convolution can do itself. What
follows what is seen by running the network once; the copy is taken only if it then gives what the network gave. (Where
``forward`` does not return all that can be asked of a network, its ``answers`` does.)
On request the trunk of the copy computes in bfloat16, which processors and GPUs that know it do in half the time or less;
and threads that work ``together`` run it with one batch.
"""

from __future__ import annotations

import copy
from threading import Lock
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from tagmask.errors import OptionError
from tagmask.together import Together

Network = TypeVar("Network", bound=nn.Module)
PROBE = (1, 3, 64, 96)
TOLERANCE = 1e-3  # of the largest output; folding rounds at 1e-6  # ours

PRECISIONS = ("float32", "bfloat16")

_precision: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
_known: WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], nn.Module]] = WeakKeyDictionary()
_lock = Lock()


def folded(network: Network) -> Network:
    """Return a network that gives what ``network`` gives in evaluation mode, in less time; it shares no weights with it.

    The copy is kept for as long as ``network`` lives and its weights do not change. Where folding would change the
    result, the copy is not folded. After ``look_in(network, "bfloat16")`` its results are rounded as those numbers are.
    """
    precision = _precision.get(network, "float32")
    weights = tuple((value.data_ptr(), value._version) for value in (*network.parameters(), *network.buffers()))
    state = (precision, *weights)
    with _lock:
        if network not in _known or _known[network][0] != state:
            quick: Any = _fold(network, precision)
            if hasattr(quick, "trunk"):
                body = quick.trunk.body
                quick.trunk.body = Together(_InBfloat16(body) if precision == "bfloat16" else body)
            _known[network] = state, quick.to(memory_format=torch.channels_last)
        return cast(Network, _known[network][1])


def as_image(pixels: NDArray[np.uint8], network: nn.Module) -> Tensor:
    """Return uint8 RGB (H, W, 3) as float32 (1, 3, H, W) in [0, 1], channels last, on the network's device."""
    device = next(network.parameters()).device
    image = torch.from_numpy(np.array(pixels.transpose(2, 0, 1)[None])).to(device=device)
    return image.float().div(255).contiguous(memory_format=torch.channels_last)


def look_in(network: nn.Module, precision: str) -> None:
    """Let the trunk of what ``folded`` returns compute in ``precision``; raises OptionError for an unknown one."""
    if precision not in PRECISIONS:
        raise OptionError(f"the precision of looking is {precision!r}; expected one of {', '.join(PRECISIONS)}.")
    _precision[network] = precision


class _InBfloat16(nn.Module):
    """The body of a trunk, computed in bfloat16 between float32 images and float32 maps."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body.to(torch.bfloat16)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [m.float() for m in self.body(x.to(torch.bfloat16))]


@torch.no_grad()
def _fold(network: nn.Module, precision: str) -> nn.Module:
    plain = copy.deepcopy(network).eval()
    device = next(plain.parameters()).device
    probe = torch.rand(PROBE, generator=torch.Generator().manual_seed(0)).to(device)
    expected, pairs = _watch(plain, probe)
    quick = copy.deepcopy(plain)
    for convolution, norm in pairs:
        _merge(quick, convolution, norm)
    if device.type == "cpu" and precision == "float32" and torch.backends.mkldnn.is_available():
        _ask_onednn(quick)
    found = _answers(quick, probe)
    same = [(f - e).abs().max() <= TOLERANCE * e.abs().max() for f, e in zip(found, expected, strict=True)]
    return quick if all(same) else plain


def _answers(network: Any, x: Tensor) -> tuple[Tensor, ...]:
    """Return all that the network can be asked of images ``x``."""
    return tuple(network.answers(x)) if hasattr(network, "answers") else (network(x),)


def _watch(network: nn.Module, probe: Tensor) -> tuple[tuple[Tensor, ...], list[tuple[str, str]]]:
    """Run the network; return what it gives and the names of each BatchNorm and the convolution whose map it takes."""
    maker: dict[int, str] = {}
    maps: list[Tensor] = []  # kept alive, so that no address is used twice
    uses: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []

    def made(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            maker[id(output)] = name
            maps.append(output)
            uses[name] = uses.get(name, 0) + 1

        return hook

    def taken(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            if id(inputs[0]) in maker:
                pairs.append((maker[id(inputs[0])], name))

        return hook

    hooks = []
    for name, module in network.named_modules():
        if type(module) is nn.BatchNorm2d or type(module) is BatchNormAct2d:
            hooks.append(module.register_forward_pre_hook(taken(name)))
        elif isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(made(name)))
    result = _answers(network, probe)
    for hook in hooks:
        hook.remove()
    return result, [(convolution, norm) for convolution, norm in pairs if uses[convolution] == 1]


class _Pointwise(nn.Conv2d):
    """A 1x1 convolution by oneDNN. On one thread torch does not ask it, though it takes two thirds of the time."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.mkldnn_convolution(x, self.weight, self.bias, (0, 0), (1, 1), (1, 1), 1)


def _ask_onednn(network: nn.Module) -> None:
    """Let oneDNN compute the plain 1x1 convolutions, which have the same parameters as before."""
    for module in network.modules():
        if type(module) is nn.Conv2d:
            shape = (module.kernel_size, module.stride, module.padding, module.groups)
            if shape == ((1, 1), (1, 1), (0, 0), 1):
                module.__class__ = _Pointwise


def _merge(network: nn.Module, convolution: str, norm: str) -> None:
    """Fold a BatchNorm into a convolution, and leave in its place what it did besides normalising."""
    conv: Any = network.get_submodule(convolution)
    bn: Any = network.get_submodule(norm)
    if bn.running_mean is None or not bn.track_running_stats:
        return
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    )
    conv.weight, conv.bias = nn.Parameter(weight, requires_grad=False), bias
    rest = nn.Sequential(bn.drop, bn.act) if isinstance(bn, BatchNormAct2d) else nn.Identity()
    parent, _, name = norm.rpartition(".")
    setattr(network.get_submodule(parent), name, rest)
