"""The trunk of every network: any timm model cut down to its feature maps, or the early papers' VGG16.

Images come in as RGB in [0, 1]; the trunk normalises them, so that no caller knows how it was pretrained.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from tagmask.data.pixels import fingerprint
from tagmask.errors import OptionError, did_you_mean
from tagmask.keys import digest
from tagmask.nets.dilated import use_fast_dilation
from tagmask.nets.vgg import CHANNELS as VGG_CHANNELS
from tagmask.nets.vgg import STRIDES as VGG_STRIDES
from tagmask.nets.vgg import VGG16
from tagmask.nets.weights import WAYS_OUT, load_into, numbers, read_weights

Triple = tuple[float, float, float]
NORMS = ("auto", "frozen", "trained")
PAD_TYPES = (None, "", "same", "valid")  # what timm's ``pad_type`` accepts; it takes any other word for ""
DILATED_STRIDES = (8, 16, 32)  # what timm's ``output_stride`` accepts
SMALLEST = 32  # pixels; smaller inputs are padded, for a stem may be larger than they are  # ours
PROBE = (65, 97)  # an odd size no stride divides: networks of a fixed size fail on it at the door  # ours


@dataclass(frozen=True)
class Backbone:
    """The description of a trunk.

    ``name`` is any timm model with ``features_only``. ``weights`` is ``"default"`` (timm's own download), ``"none"``
    (random) or a local .safetensors or .pth file with timm's names. ``output_stride`` is input over feature resolution.
    ``norm`` is ``"frozen"`` (BatchNorm keeps its statistics, its scales still learn), ``"trained"``, or ``"auto"``:
    frozen when weights are given, trained from scratch. ``mean``, ``std`` (RGB, of values in [0, 1]) and ``pad_type``
    left at None come from the metadata of the weights file where it has them, else from timm. What the first ``freeze``
    feature maps are made from does not learn (irn's author code: 2), which also saves most of the time of training.
    """

    name: str = "resnet50"
    weights: str = "default"
    output_stride: int = 16
    norm: str = "auto"
    mean: Triple | None = None
    std: Triple | None = None
    pad_type: str | None = None
    freeze: int = 0

    @property
    def key(self) -> str:
        """What a result depends on: of a file of weights its content, not its place."""
        local = self.weights not in ("default", "none")
        return digest(
            [*asdict(replace(self, weights=fingerprint(Path(self.weights)) if local else self.weights)).values()]
        )


class Trunk(nn.Module):
    """A feature extractor that normalises its input; frozen BatchNorms stay frozen whatever ``train`` says.

    ``description`` is the resolved Backbone (norm, mean, std are never None or "auto"), ``channels`` are those of the
    maps that ``forward`` returns, ``output_stride`` that of the last map, ``mean`` and ``std`` buffers (1, 3, 1, 1).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, description: Backbone, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.body = body
        self.description = description
        self.channels = channels
        self.output_stride = description.output_stride
        for name in ("mean", "std"):
            values = torch.tensor(getattr(description, name), dtype=torch.float32)
            self.register_buffer(name, values.view(1, 3, 1, 1), persistent=False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Trunk:
        """Switch to training, but for the BatchNorms of a frozen trunk."""
        super().train(mode)
        if self.description.norm == "frozen":
            for module in self.body.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the feature maps, from shallow to deep, of RGB images (B, 3, H, W), float32 in [0, 1], of any size.

        The last map has ceil(H / output_stride) rows (a few networks round down). Inputs below 32 pixels are padded
        with the mean colour, and the maps cut back.
        """
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"images must be (B, 3, H, W), got {tuple(x.shape)}")
        x = (x - self.mean) / self.std
        height, width = x.shape[2:]
        if min(height, width) >= SMALLEST:
            return list(self.body(x))
        tall, wide = max(height, SMALLEST), max(width, SMALLEST)
        maps = self.body(functional.pad(x, pad=(0, wide - width, 0, tall - height)))  # 0 is the mean colour now
        return [m[..., : -(-height * m.shape[2] // tall), : -(-width * m.shape[3] // wide)] for m in maps]


def build_backbone(description: Backbone) -> Trunk:
    """Build the trunk of a description.

    Raises OptionError for an unknown name, a stride the network does not have, a network that takes one image size
    only, weights that are damaged or of another network, and a download that fails.
    """
    config = _check(description)
    state: dict[str, Tensor] = {}
    if description.weights not in ("default", "none"):
        state, metadata = read_weights(Path(description.weights))
        description = _with_metadata(description, metadata)
    resolved = replace(
        description,
        norm=_norm(description),
        mean=_triple(description.mean or config.mean),
        std=_triple(description.std or config.std),
    )
    body = _body(description)
    if description.weights not in ("default", "none"):
        with torch.device("meta"):  # only the names of the full network are wanted
            names = timm.create_model(description.name).state_dict().keys()
        load_into(body, state, also=names, path=Path(description.weights))
    channels = VGG_CHANNELS if isinstance(body, VGG16) else tuple(body.feature_info.channels())  # type: ignore
    use_fast_dilation(body)
    trunk = Trunk(body, resolved, channels)
    _probe(trunk)
    _freeze(trunk, description.freeze)
    return trunk


def _check(description: Backbone) -> Any:
    """Refuse an unknown name or norm; return timm's own configuration of the model."""
    if not timm.is_model(description.name):
        hint = did_you_mean(description.name, timm.list_models())
        raise OptionError(f"backbone {description.name!r} is no timm model{hint}; timm.list_models() lists them.")
    if description.norm not in NORMS:
        hint = did_you_mean(description.norm, NORMS)
        raise OptionError(f"norm is {description.norm!r}, expected one of {', '.join(NORMS)}{hint}.")
    if description.pad_type not in PAD_TYPES:
        raise OptionError(f"pad_type is {description.pad_type!r}, expected 'same', 'valid' or none at all.")
    try:
        return timm.get_pretrained_cfg(description.name, allow_unregistered=False)
    except RuntimeError as error:
        raise OptionError(
            f"backbone {description.name!r}: timm has no such tag of this model; leave it out."
        ) from error


def _norm(description: Backbone) -> str:
    if description.norm != "auto":
        return description.norm
    return "trained" if description.weights == "none" else "frozen"


def _with_metadata(description: Backbone, metadata: dict[str, str]) -> Backbone:
    """Fill what the description leaves open from the metadata of the weights file."""
    found: dict[str, Any] = {}
    for key in ("mean", "std"):
        if getattr(description, key) is None and key in metadata:
            found[key] = numbers(metadata[key], key=key, path=Path(description.weights))
    if description.pad_type is None and "pad_type" in metadata:
        found["pad_type"] = metadata["pad_type"]
    return replace(description, **found)


def _triple(values: Any) -> Triple:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _body(description: Backbone) -> nn.Module:
    """Return the network behind a description, with timm's weights where they are asked for."""
    name, stride = description.name, description.output_stride
    if name.partition(".")[0] == "vgg16":
        if stride not in VGG_STRIDES:
            raise _no_stride(name, VGG_STRIDES, stride)
        body: nn.Module = VGG16(stride)
        if description.weights == "default":
            load_into(body, full := download(name).state_dict(), also=full, path=Path(name))
        return body
    body, arguments = _features(description)
    strides = body.feature_info.reduction()  # type: ignore[operator, union-attr]
    if strides[-1] != stride:
        raise _no_stride(name, DILATED_STRIDES if "output_stride" in arguments else strides[-1:], stride)
    return download(name, features_only=True, **arguments) if description.weights == "default" else body


def _features(description: Backbone) -> tuple[nn.Module, dict[str, Any]]:
    """Build the timm model with random weights; return it with the arguments that it accepts."""
    padding = {} if description.pad_type is None else {"pad_type": description.pad_type}
    stride = description.output_stride if description.output_stride in DILATED_STRIDES else DILATED_STRIDES[-1]
    convolutional, transformer = {"output_stride": stride}, {"dynamic_img_size": True, "dynamic_img_pad": True}
    attempts: tuple[dict[str, Any], ...] = (convolutional, transformer, {})
    reason = ""
    for attempt in attempts:
        arguments = {**attempt, **padding}
        try:
            return timm.create_model(description.name, features_only=True, **arguments), arguments
        except (TypeError, AssertionError) as error:  # an argument that this network does not know, or not this value
            reason = str(error)
        except RuntimeError as error:
            raise OptionError(f"backbone {description.name!r} gives no maps ({error}); take another.") from error
    if "pad_type" in reason:
        asked = f"pad_type {description.pad_type!r} is asked for (by an option, or by the metadata of the weights)"
        raise OptionError(f"{asked}, but backbone {description.name!r} has none; drop it, or name another backbone.")
    raise OptionError(f"backbone {description.name!r} cannot be built ({reason}); take another.")


def download(name: str, **arguments: Any) -> nn.Module:
    """Return timm's network with its own weights; raises OptionError with both ways out when that fails."""
    try:
        return timm.create_model(name, pretrained=True, **arguments)
    except Exception as error:  # timm, the hub, the network and the disk each raise their own
        reason = " ".join(str(error).split())[:160]
        raise OptionError(f"the weights of {name!r} could not be downloaded ({reason}); {WAYS_OUT}") from error


def _no_stride(name: str, strides: tuple[int, ...] | list[int], asked: int) -> OptionError:
    known = ", ".join(str(stride) for stride in strides)
    return OptionError(f"backbone {name!r} has no output stride {asked}, only {known}; ask for that or take another.")


@torch.no_grad()
def _probe(trunk: Trunk) -> None:
    """Refuse, before an hour of training, a network that takes one image size only."""
    training = trunk.training
    try:
        maps = trunk.eval()(torch.zeros(1, 3, *PROBE))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise OptionError(f"backbone {trunk.description.name!r} refuses some image sizes ({reason}).") from error
    if tuple(m.shape[1] for m in maps) != trunk.channels:
        raise OptionError(f"backbone {trunk.description.name!r} gives maps of an unexpected layout; take another.")
    trunk.train(training)


def _freeze(trunk: Trunk, stages: int) -> None:
    """Stop the learning of all that the first ``stages`` maps depend on; autograd knows what that is."""
    if not 0 <= stages <= len(trunk.channels):
        raise OptionError(f"freeze is {stages}; backbone {trunk.description.name!r} has {len(trunk.channels)} stages.")
    if stages:
        training = trunk.training
        parameters = list(trunk.parameters())
        with torch.enable_grad():
            top = trunk.eval()(torch.zeros(1, 3, *PROBE))[stages - 1].sum()
            gradients = torch.autograd.grad(top, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is None)
        trunk.train(training)
