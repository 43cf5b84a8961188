"""The network that follows an object from the template of its first frame: RANet's matching with Si's three modules.

Wang et al. (RANet). ICCV 2019. https://arxiv.org/abs/1908.06647; Si (post-doc report): isometric correlation, local
correlation, centre offset. Each module is an option, so that every row of the ablation is one network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from tagmask.errors import OptionError
from tagmask.nets.backbones import Trunk
from tagmask.nets.dilated import use_fast_dilation
from tagmask.nets.heads import scoring
from tagmask.nets.tracker_parts import Context, Ranking, block
from tagmask.video.matching import (
    correlate,
    isometric,
    local_maps,
    local_scores,
    ranked,
    row_weights,
    soft_centres,
    votes,
)

FINE = 4  # pixels a cell of the masks that it gives; source
TEMPLATE = 16  # pixels a row of the template; source: 405 rows at 240x432
DEEPEST = 3  # maps of the trunk that the embedding is made from; source
RANK_WEIGHT = 0.2  # of the learned part of a row's rank; author code (RANet)
SHARPNESS = 20.0  # of the softmax over the window at the start of training; source
SKIP = 16  # channels that the decoder takes of the trunk's map at stride 4; source
SELECTS = ("none", "rank")


class Seen(NamedTuple):
    """What the network saw in B frames: all that templates, matching and decoding need of them."""

    features: Tensor  # (B, width, h, w)
    embedding: Tensor  # (B, C, h, w), of unit length
    fine: Tensor  # (B, channels, H/4, W/4) of the trunk, of 0 channels where it has no such map


class Template(NamedTuple):
    """Rows (K, N, C) of K objects, and how far each is the object's (K, N) and the background's (K, N)."""

    rows: Tensor
    inside: Tensor
    outside: Tensor


class Past(NamedTuple):
    """The frame before: its embedding (B, C, h, w), masks (K, H/4, W/4) in [0, 1] and centres (K, 3), in cells of those."""

    embedding: Tensor
    masks: Tensor
    centres: Tensor


class TrackerNet(nn.Module):
    """Templates, correlations, and a decoder of ``width`` channels that gives one logit a cell of 4 pixels.

    Frames are matched on cells of ``stride`` pixels, by embeddings of ``embed`` channels, with a template of N rows, one
    for each 16x16 pixels of ``size``. The modules: ``isometric`` bounds the template's singular values (``eps``; ``gain``
    is how far a weak direction is amplified at most); ``local`` is the radius of the window on the frame before, in cells
    (0: none); ``centre`` lets pixels point to their object's centre; ``select`` "rank" hands on only the ``keep`` best maps
    of object and background; ``previous`` is whether the decoder sees the mask before.
    """

    def __init__(
        self,
        trunk: Trunk,
        size: Sequence[int] = (240, 432),
        stride: int = 8,
        embed: int = 64,
        width: int = 32,
        isometric: bool = True,
        eps: float = 0.0,
        gain: float = 20.0,
        local: int = 4,
        centre: bool = True,
        select: str = "none",
        keep: int = 256,
        previous: bool = True,
    ) -> None:
        super().__init__()
        _check(trunk, size, stride, width, select)
        self.trunk = trunk
        self.size = (int(size[0]), int(size[1]))
        self.grid = (self.size[0] // TEMPLATE, self.size[1] // TEMPLATE)
        self.stride, self.isometric, self.eps, self.gain, self.local = stride, isometric, eps, gain, local
        self.centre, self.select, self.previous = centre, select, previous
        self.rows = self.grid[0] * self.grid[1]
        self.keep = min(keep, self.rows)
        self.options = {
            "size": list(self.size), "stride": stride, "embed": embed, "width": width, "isometric": isometric, "eps": eps,
            "gain": gain, "local": local, "centre": centre, "select": select, "keep": keep, "previous": previous,
        }  # fmt: skip
        strides = _strides(trunk)
        self.taps = nn.ModuleList(block(count, width, kernel=1) for count in trunk.channels[-DEEPEST:])
        self.squeeze = block(width * len(self.taps), width, kernel=1)
        self.embed = nn.Conv2d(width * len(self.taps), embed, kernel_size=1)
        self.at_fine = max((n for n, s in enumerate(strides) if s == FINE), default=-1)
        self.skip = block(trunk.channels[self.at_fine], SKIP, kernel=1) if self.at_fine >= 0 else None
        self.mix = nn.Conv2d(self.keep if select == "rank" else self.rows, width, kernel_size=1)
        if select == "rank":
            self.rank = Ranking(self.rows, width)
            self.whole = nn.Conv2d(self.rows, width, kernel_size=1) if isometric else None  # source: what ranking hides
        if local:
            self.sharpness = nn.Parameter(torch.tensor(SHARPNESS).log())
        if centre:
            self.point = nn.Sequential(block(width, width), scoring(width, 3))
        whole = width if select == "rank" and isometric else 0
        inputs = 3 * width + 2 + whole + (3 if local else 0) + (2 if centre else 0) + int(previous)
        self.coarse = nn.Sequential(block(inputs, width), Context(width), block(width, width))
        self.finer = block(width + (SKIP if self.skip is not None else 0) + int(previous), width)
        self.last = nn.Sequential(block(width, width, groups=width), scoring(width, 1))
        use_fast_dilation(self.coarse)

    def forward(self, frames: Tensor) -> Seen:
        """Look at RGB frames (B, 3, H, W) in [0, 1], whose sides are multiples of the trunk's stride."""
        maps = self.trunk(frames)
        grid = (frames.shape[2] // self.stride, frames.shape[3] // self.stride)
        deep = torch.cat([_at(tap(m), grid) for tap, m in zip(self.taps, maps[-DEEPEST:], strict=True)], dim=1)
        fine = maps[self.at_fine] if self.at_fine >= 0 else frames.new_zeros(len(frames), 0, 1, 1)
        return Seen(self.squeeze(deep), functional.normalize(self.embed(deep).float(), dim=1), fine)

    def template(self, embedding: Tensor, objects: Tensor, ground: Tensor) -> Template:
        """Return the templates of K views of one object each, of embeddings (K, C, h, w).

        ``objects`` and ``ground`` (K, H, W) in {0, 1} are what is surely the one and the other.
        """
        cells = functional.adaptive_avg_pool2d(embedding, self.grid)
        rows = functional.normalize(cells.flatten(start_dim=2).mT, dim=2)  # (K, N, C)
        if self.isometric:
            rows = isometric(rows, eps=self.eps, most=self.gain)
        return Template(rows, *row_weights(objects, ground, self.grid))

    def pointing(self, seen: Seen) -> Tensor:
        """Return (B, 3, h, w): how much each cell looks like a centre, and rows and columns of cells to its object's."""
        return self.point(seen.features)

    def decode(
        self, seen: Seen, template: Template, past: Past, owner: Tensor, pointing: Tensor | None = None
    ) -> Tensor:
        """Return logits (K, H/4, W/4) of K objects; object k lies in frame ``owner[k]`` of B. ``pointing`` if it is known."""
        features = seen.features[owner]
        coarse = self.stride // FINE
        before = functional.avg_pool2d(past.masks[:, None], kernel_size=coarse)  # (K, 1, h, w)
        parts = [features, *self._matched(template, seen.embedding[owner])]
        if self.local:
            scores = local_scores(seen.embedding, past.embedding, self.local)  # (B, D, h, w)
            parts.append(local_maps(scores[owner], before[:, 0], self.sharpness.exp()).to(features.dtype))
        if self.centre:
            known = self.pointing(seen) if pointing is None else pointing
            parts.append(votes(known[:, 1:], at_grid(past.centres, coarse), owner).to(features.dtype))
        if self.previous:
            parts.append(before)
        x = self.coarse(torch.cat(parts, dim=1))  # (K, width, h, w)
        finer = [functional.interpolate(x, scale_factor=float(coarse), mode="bilinear", align_corners=False)]
        if self.skip is not None:
            finer.append(self.skip(seen.fine)[owner])
        if self.previous:
            finer.append(past.masks[:, None])
        return self.last(self.finer(torch.cat(finer, dim=1)))[:, 0]

    def _matched(self, template: Template, embedding: Tensor) -> list[Tensor]:
        """Return what the correlations say: maps of the object and of its background, and the best of each."""
        maps = correlate(template.rows, embedding)  # (K, N, h, w)
        # Mean and deviation are those of all maps together: one for each would undo what the isometry is for.
        normal = functional.relu(functional.group_norm(maps, num_groups=1)).to(embedding.dtype)
        sides = (template.inside, template.outside)
        best = [(maps * side[:, :, None, None]).amax(dim=1, keepdim=True) for side in sides]
        if self.select == "none":
            # A row's weight for its side goes into the convolution: the maps are read once, for both sides.
            weights = torch.cat([self.mix.weight[None, :, :, 0, 0] * side[:, None, :] for side in sides], dim=1)
            mixed = (weights @ normal.flatten(start_dim=2)).unflatten(2, maps.shape[2:])  # (K, 2 width, h, w)
            bias = self.mix.bias
            assert bias is not None
            return [mixed + torch.cat([bias, bias])[:, None, None], *best]
        learned = self.rank(maps)  # (K, N)
        chosen = []
        for side in sides:
            score = RANK_WEIGHT * learned + (maps * side[:, :, None, None]).amax(dim=(2, 3))
            # The factor is ours: without it nothing would teach the learned part.
            weighted = normal * (side * (1 + RANK_WEIGHT * learned))[:, :, None, None]
            chosen.append(self.mix(ranked(weighted, score.masked_fill(side == 0, -torch.inf), self.keep)))
        return [*chosen, *best, *([self.whole(maps)] if self.whole is not None else [])]

    def answers(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return all that the network can be asked of frames ``x``, as if each were its own template and past."""
        x = functional.interpolate(x, size=self.size, mode="bilinear", align_corners=False)
        seen = self(x)
        inside = x[:, 0].round()
        template = self.template(seen.embedding, inside, 1 - inside)
        masks = functional.avg_pool2d(inside[:, None], kernel_size=FINE)[:, 0]
        past = Past(seen.embedding, masks, soft_centres(masks))
        owner = torch.arange(len(x), device=x.device)
        return (*seen, *template, self.decode(seen, template, past, owner))


def _at(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return a map at another grid: means where it is finer, bilinear where it is coarser."""
    if x.shape[2] > grid[0]:
        return functional.adaptive_avg_pool2d(x, grid)
    return x if x.shape[2] == grid[0] else functional.interpolate(x, size=grid, mode="bilinear", align_corners=False)


def at_grid(centres: Tensor, factor: int) -> Tensor:
    """Return rows, columns and areas (K, 3) in cells that are ``factor`` times as large; a cell's middle has its number."""
    return torch.cat([(centres[:, :2] + 0.5) / factor - 0.5, centres[:, 2:] / factor**2], dim=1)


@torch.no_grad()
def _strides(trunk: Trunk) -> list[int]:
    """Return the strides of the trunk's maps, by looking."""
    training, side = trunk.training, 64
    device = next(trunk.parameters()).device
    maps = trunk.eval()(torch.zeros(1, 3, side, side, device=device))
    trunk.train(training)
    return [round(side / m.shape[2]) for m in maps]


def _check(trunk: Trunk, size: Sequence[int], stride: int, width: int, select: str) -> None:
    if select not in SELECTS:
        raise OptionError(f"select is {select!r}; expected one of {', '.join(SELECTS)}.")
    if stride not in (FINE, 2 * FINE, 4 * FINE):
        raise OptionError(
            f"the stride of matching is {stride}; expected {FINE}, {2 * FINE} or {4 * FINE} pixels a cell."
        )
    unit = max(TEMPLATE, trunk.output_stride)
    if len(size) != 2 or any(side < 2 * unit or side % unit for side in size):
        raise OptionError(
            f"size is {tuple(size)}; expected height and width in multiples of {unit}, {2 * unit} or more."
        )
    if width < 8 or width % 8:
        raise OptionError(f"the width of the tracker's decoder is {width}; expected a positive multiple of 8.")
