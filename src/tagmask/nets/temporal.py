"""A network that labels the frames of a video, each with a look at the frames before it.

PSPNet or BiSeNet, with the sparse temporal transformer (STT, Li et al. ACM MM 2021) between its two parts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tagmask.errors import OptionError, did_you_mean
from tagmask.nets.backbones import Trunk
from tagmask.nets.scene import Bilateral, Decoder, PyramidPooling, auxiliary_head
from tagmask.nets.sparse import CHOICES, SCALES
from tagmask.nets.transformer import TemporalTransformer

NETWORKS = ("pspnet", "bisenet")
LAYER_NORMS = ("pre", "post")
FINE = 4  # pixels a cell of the map from which the decoder takes outlines  # source: video_data


class Encoded(NamedTuple):
    """What the first part makes of frames: their ``map`` (B, D, h, w), the ``fine`` map, and the ``auxiliary`` maps."""

    map: Tensor
    fine: Tensor
    auxiliary: list[Tensor]


class TemporalSegmenter(nn.Module):
    """PSPNet or BiSeNet with the sparse temporal transformer between its parts; with 0 ``frames`` the image network.

    ``classes`` counts all classes of the labels. ``slow`` names the parts that learn at the plain rate; what is
    ``settled`` learns no more and keeps the statistics of its BatchNorms.
    """

    def __init__(
        self,
        trunk: Trunk,
        classes: int,
        *,
        network: str = "pspnet",
        channels: int = 128,
        hidden: int = 64,
        skip: int = 16,
        detail: int = 64,
        frames: int = 7,
        start: int = 1,
        end: int = 5,
        growth: int = 1,
        radius: int = 5,
        share: float = 0.5,
        choice: str = "top",
        scale: str = "unit",
        heads: int = 4,
        reduction: int = 4,
        layer_norm: str = "pre",
        position: bool = False,
    ) -> None:
        super().__init__()
        self.options = {name: value for name, value in locals().items() if name in _NAMES}
        _check(self.options)
        self.trunk = trunk
        self.classes = classes
        self.slow: tuple[str, ...] = ("trunk",)
        self.settled: tuple[str, ...] = ()
        self.finest, fine = _finest(trunk)
        if network == "pspnet":
            self.context: PyramidPooling | Bilateral = PyramidPooling(trunk.channels, channels)
        else:
            self.context = Bilateral(trunk.channels, channels, detail)
        channels = self.context.channels
        self.transformer = TemporalTransformer(
            channels, reduced=_reduced(channels, reduction, heads), heads=heads, frames=frames, start=start, end=end,
            growth=growth, radius=radius, share=share, choice=choice, scale=scale, layer_norm=layer_norm, position=position,
        ) if frames else None  # fmt: skip
        self.decoder = Decoder(channels, hidden, classes, fine=fine, skip=skip)
        self.auxiliary = nn.ModuleList(auxiliary_head(c, classes) for c in self.context.auxiliary)

    def train(self, mode: bool = True) -> TemporalSegmenter:
        """Switch to training, but for what is settled."""
        super().train(mode)
        for name in self.settled:
            getattr(self, name).eval()
        return self

    def encode(self, images: Tensor) -> Encoded:
        """Return the maps of RGB frames (B, 3, H, W), float32 in [0, 1]."""
        maps = self.trunk(images)
        found, auxiliary = self.context((images - self.trunk.mean) / self.trunk.std, maps)
        return Encoded(found, maps[self.finest], auxiliary)

    def remember(self, x: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return keys and values (B, h, w, reduced) of frames' maps (B, D, h, w) for later frames; None with 0 frames."""
        return None if self.transformer is None else self.transformer.memory(x)

    def look_back(self, x: Tensor, keys: Tensor | None, values: Tensor | None, **how: Any) -> Tensor:
        """Return maps (B, D, h, w) after a look at those before, as `TemporalTransformer` does."""
        return x if self.transformer is None else self.transformer(x, keys, values, **how)

    def decode(self, x: Tensor, fine: Tensor) -> Tensor:
        """Return logits (B, C, h', w') of maps (B, D, h, w)."""
        return self.decoder(x, fine)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, C, h', w') of RGB images (B, 3, H, W) in [0, 1], each alone."""
        return self.clip(x[:, None])

    def clip(self, frames: Tensor, present: Tensor | None = None, draw: int | None = None) -> Tensor:
        """Return logits (B, C, h', w') of the last of frames (B, T+1, 3, H, W), the oldest first; T may be less.

        ``present``, bool (B, T), says which of the frames before there are.
        """
        count, length = frames.shape[:2]
        encoded = self.encode(frames.flatten(end_dim=1))
        maps, fine = (part.unflatten(0, (count, length)) for part in (encoded.map, encoded.fine))
        return self.last_of(maps, fine[:, -1], present, draw)

    def last_of(self, maps: Tensor, fine: Tensor, present: Tensor | None = None, draw: int | None = None) -> Tensor:
        """Return logits (B, C, h', w') of the last frames of clips, from maps (B, T+1, D, h, w) and the last ``fine`` ones."""
        count, length = maps.shape[:2]
        past, last = self.remember(maps[:, :-1].flatten(end_dim=1)), maps[:, -1]
        if past is not None:
            keys, values = (part.unflatten(0, (count, length - 1)) for part in past)
            last = self.look_back(last, keys, values, present=present, draw=draw)
        return self.decode(last, fine)

    def training_maps(self, x: Tensor) -> list[Tensor]:
        """Return logits of images, each alone: the network's own, then those of the auxiliary heads."""
        encoded = self.encode(x)
        heads = zip(self.auxiliary, encoded.auxiliary, strict=True)
        return [self.decode(encoded.map, encoded.fine), *(head(part) for head, part in heads)]

    def answers(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return all that can be asked of the network; the past of the images is the images."""
        encoded = self.encode(x)
        past = self.remember(encoded.map)
        last = encoded.map if past is None else self.look_back(encoded.map, *(part[:, None] for part in past), draw=0)
        return encoded.map, self.decode(last, encoded.fine)


_NAMES = (
    "network", "channels", "hidden", "skip", "detail", "frames", "start", "end", "growth", "radius", "share", "choice",
    "scale", "heads", "reduction", "layer_norm", "position",
)  # fmt: skip


def _check(options: dict[str, Any]) -> None:
    for name, known in (("network", NETWORKS), ("choice", CHOICES), ("scale", SCALES), ("layer_norm", LAYER_NORMS)):
        given = options[name]
        if given not in known:
            raise OptionError(f"{name} is {given!r}{did_you_mean(given, known)}; expected one of {', '.join(known)}.")
    for name in ("radius", "heads", "reduction", "hidden"):
        if options[name] < 1:
            raise OptionError(f"{name} is {options[name]}; expected 1 or more.")
    if not 0 <= options["share"] <= 1:
        raise OptionError(f"share is {options['share']}; expected the share of the cells that ask, 0 to 1.")
    negative = min(options[name] for name in ("frames", "start", "growth", "skip", "channels")) < 0
    if negative or options["end"] < options["start"]:
        raise OptionError(
            f"frames {options['frames']}, start {options['start']}, end {options['end']}, growth {options['growth']}: "
            "expected no negative number, and an end that is not below the start."
        )


def _reduced(channels: int, reduction: int, heads: int) -> int:
    """Return the channels of keys and values, which the heads must be able to share."""
    reduced = channels // reduction
    if reduced < heads or reduced % heads:
        raise OptionError(
            f"{channels} channels over a reduction of {reduction} are {reduced}, which {heads} heads cannot share; "
            "change one of them."
        )
    return reduced


@torch.no_grad()
def _finest(trunk: Trunk) -> tuple[int, int]:
    """Return which of the trunk's maps has the stride `FINE`, or is the first that is coarser, and its channels."""
    training = trunk.training
    side = 64
    sides = [m.shape[3] for m in trunk.eval()(torch.zeros(1, 3, side, side))]
    trunk.train(training)
    index = next(index for index, size in enumerate(sides) if size <= side // FINE)
    return index, trunk.channels[index]
