"""Matching a frame with the template of an object: correlations, and what conditions, splits, ranks and merges them.

Si's isometric correlation (post-doc report), on RANet's matching (Wang et al. ICCV 2019, https://arxiv.org/abs/1908.06647),
with FEELVOS's local window (Voigtlaender et al. CVPR 2019), centres and offsets as in Panoptic-DeepLab (Cheng et al. CVPR
2020) and STM's soft aggregation (Oh et al. ICCV 2019). Tensors in, tensors out. ``N`` rows of a template, ``C`` channels of
an embedding, ``D`` neighbours in a window, ``K`` objects; ``owner`` (K,) says in which of B frames each object lies.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

SURE_GROUND = 0.9  # share of a cell that must be background; author code (RANet)
LEAST = 1e-6  # of the mean singular value, below which one counts as this  # source
NEVER_CERTAIN = 1e-7  # probabilities keep this distance from 0 and 1  # author code (STM)


def isometric(rows: Tensor, *, eps: float = 0.0, most: float = math.inf, reference: Tensor | None = None) -> Tensor:
    """Bound the singular values of a template, float (..., N, C): those of all directions become (nearly) alike.

    Singular values over ``reference`` (their root mean square, (..., 1), unless it is given) are clipped to
    [1 / (1 + eps), 1 + eps]. With ``eps`` 0 and N at least C, Y'Y is then a multiple of the unit matrix, so that the cosine
    of two pixels is that of their correlations Yx with the template; else the angles' tan(angle / 2) changes by the factor
    (1 + eps)^2 at most (Wielandt). ``most`` caps how far a weak direction is amplified. The C x C matrix that does it is
    found in float64, under AMP too; the result is float32 at least. The gradient is that of the whole: taken for a constant,
    the matrix would hide from a network that what it stretches is shrunk again.
    Source: singular value bounding (Jia et al. CVPR 2017), its use on templates: Si; the gradient: ours.
    """
    if eps < 0 or most < 1:
        raise ValueError(f"expected eps of 0 or more and most of 1 or more, got {eps} and {most}")
    with torch.autocast(device_type=rows.device.type, enabled=False):
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        exact = rows if rows.device.type == "mps" else rows.double()  # which has no such numbers
        gram = exact.mT @ exact  # (..., C, C)
        if not gram.isfinite().all():
            return rows * torch.nan  # a training that has failed says so by its loss
        if reference is None:
            scale = gram.diagonal(dim1=-2, dim2=-1).mean(dim=-1, keepdim=True)
        else:
            scale = reference.to(exact).square()
        gram = gram / scale.clamp(min=torch.finfo(exact.dtype).tiny).unsqueeze(-1)
        return rows @ _Gains.apply(gram, eps, most).to(rows.dtype)


class _Gains(torch.autograd.Function):
    """The matrix V diag(g) V' of gains that bring the roots of a Gram matrix's eigenvalues, V diag(l) V', within bounds.

    For a change dG it changes by V (K * V' dG V) V' with K_ij = (g_i - g_j) / (l_i - l_j), the derivative of g where the
    two are alike (Daleckii and Krein 1965). This stays finite where eigenvectors, and so the gradient of ``eigh``, do not.
    """

    @staticmethod
    def forward(ctx: Any, gram: Tensor, eps: float, most: float) -> Tensor:
        squares, directions = torch.linalg.eigh(gram)  # (..., C), (..., C, C)
        share = squares.clamp(min=LEAST**2).sqrt()
        bounded = share.clamp(min=1 / (1 + eps), max=1 + eps)
        gain = (bounded / share).clamp(max=most)
        moved = (bounded != share) | (eps == 0)
        slope = torch.where(moved & (gain < most) & (squares > LEAST**2), -gain / (2 * share**2), 0)
        ctx.save_for_backward(squares, directions, gain, slope)
        return (directions * gain.unsqueeze(-2)) @ directions.mT

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        squares, directions, gain, slope = ctx.saved_tensors
        apart = squares.unsqueeze(-1) - squares.unsqueeze(-2)
        alike = apart.abs() <= torch.finfo(squares.dtype).eps ** 0.5 * squares.amax(dim=-1)[..., None, None]
        quotients = (gain.unsqueeze(-1) - gain.unsqueeze(-2)) / apart.masked_fill(alike, 1)
        quotients = torch.where(alike, (slope.unsqueeze(-1) + slope.unsqueeze(-2)) / 2, quotients)
        pull = directions.mT @ gradients[0] @ directions
        return directions @ (quotients * (pull + pull.mT) / 2) @ directions.mT, None, None


def correlate(rows: Tensor, embedding: Tensor) -> Tensor:
    """Return the products of each row (K, N, C) with each cell of its frame's embedding (K or 1, C, h, w): (K, N, h, w)."""
    return (rows @ embedding.flatten(start_dim=2)).unflatten(2, embedding.shape[2:])


def row_weights(objects: Tensor, ground: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Say which rows of a template are the object's and which the background's: twice float (K, N).

    ``objects`` and ``ground`` float (K, H, W) in {0, 1} are what is surely the one and the other. The first are shares of
    cells divided by the largest, for a thin object fills no cell (ours); the second is 1 where a cell is at least nine
    tenths background (author code).
    """
    inside = functional.adaptive_avg_pool2d(objects, grid).flatten(start_dim=1)  # (K, N)
    outside = functional.adaptive_avg_pool2d(ground, grid).flatten(start_dim=1)
    return inside / inside.amax(dim=1, keepdim=True).clamp(min=LEAST), (outside >= SURE_GROUND).to(objects)


def ranked(maps: Tensor, scores: Tensor, keep: int) -> Tensor:
    """Return the ``keep`` maps of the highest scores, the best first: (K, N, h, w), (K, N) -> (K, keep, h, w).

    What there is less of is filled up with maps of zeros.
    """
    order = scores.topk(min(keep, scores.shape[1]), dim=1).indices  # (K, keep), sorted
    chosen = maps.take_along_dim(order[:, :, None, None], dim=1)
    return functional.pad(chosen, pad=(0, 0, 0, 0, 0, keep - chosen.shape[1]))


def local_scores(now: Tensor, before: Tensor, radius: int) -> Tensor:
    """Return the products of each cell with those of the frame before in the window around it: -> (B, D, h, w).

    ``now`` and ``before`` are (B, C, h, w); D is (2 radius + 1)^2, row by row; -inf where the window leaves the frame. Time
    and memory are linear in the number of cells.
    """
    scores = _Window.apply(now, before, radius)
    outside = ~neighbours(torch.ones_like(now[:1, 0]), radius).bool()  # (1, D, h, w)
    return scores.masked_fill(outside, -torch.inf)


class _Window(torch.autograd.Function):
    """Products with every shift of the padded other map, shift after shift: never all cells against all.

    Left to autograd, the way back takes five times as long on a CPU, for each shift makes a whole gradient of its own. There
    frames are taken one by one, so that both maps stay in the cache.
    """

    @staticmethod
    def forward(ctx: Any, now: Tensor, before: Tensor, radius: int) -> Tensor:
        padded = functional.pad(before, pad=(radius, radius, radius, radius))
        ctx.save_for_backward(now, padded)
        ctx.radius = radius
        scores = [
            torch.stack([(here * shifted).sum(dim=1) for shifted in _shifts(there, now.shape[2:])], dim=1)
            for here, there in zip(_parts(now), _parts(padded), strict=True)
        ]
        return torch.cat(scores)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        now, padded = ctx.saved_tensors
        to_now, to_padded = torch.zeros_like(now), torch.zeros_like(padded)
        size, radius = now.shape[2:], ctx.radius
        every = (now, padded, to_now, to_padded, gradients[0])
        for here, there, to_here, to_there, pull in zip(*map(_parts, every), strict=True):
            pairs = zip(_shifts(there, size), _shifts(to_there, size), pull.unbind(dim=1), strict=True)
            for shifted, to_shifted, by in pairs:
                to_here.addcmul_(by[:, None], shifted)
                to_shifted.addcmul_(by[:, None], here)
        height, width = size
        return to_now, to_padded[:, :, radius : radius + height, radius : radius + width], None


def _parts(maps: Tensor) -> tuple[Tensor, ...]:
    """Return the frames one by one on a CPU, elsewhere all at once."""
    return maps.split(1 if maps.is_cpu else len(maps))


def _shifts(padded: Tensor, size: torch.Size) -> list[Tensor]:
    """Return the D views (B, C, h, w) of a map that is padded on all sides, row by row."""
    down, across = (range(large - small + 1) for large, small in zip(padded.shape[2:], size, strict=True))
    return [padded[:, :, dy : dy + size[0], dx : dx + size[1]] for dy in down for dx in across]


def neighbours(maps: Tensor, radius: int) -> Tensor:
    """Return the values of the window around each cell, (K, h, w) -> (K, D, h, w); 0 outside of the frame."""
    side = 2 * radius + 1
    around = functional.unfold(maps[:, None], kernel_size=side, padding=radius)  # (K, D, h w)
    return around.unflatten(2, maps.shape[1:])


def local_maps(scores: Tensor, mask: Tensor, sharpness: Tensor | float) -> Tensor:
    """Read the mask before through the window: (K, D, h, w), (K, h, w) in [0, 1] -> (K, 3, h, w).

    The best score of the object, that of its background, and the mask as it is carried along by the softmax of ``sharpness``
    times the scores. Source: FEELVOS, and Si's local correlation (its details are ours).
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    around = neighbours(mask.to(scores.dtype), radius=(math.isqrt(scores.shape[1]) - 1) // 2)
    inside = scores > -torch.inf
    finite = scores.masked_fill(~inside, 0.0)
    best = [(finite * share).masked_fill(~inside, -torch.inf).amax(dim=1) for share in (around, 1 - around)]
    weights = (finite * sharpness).masked_fill(~inside, -torch.inf).softmax(dim=1)
    carried = (weights * around).sum(dim=1)
    return torch.stack([*best, carried], dim=1)


def soft_centres(masks: Tensor) -> Tensor:
    """Return row, column and area of each mask (K, h, w) in [0, 1], in cells: (K, 3); an empty one has the frame's centre.

    >>> soft_centres(torch.tensor([[[0.0, 0, 0], [0, 0.5, 0.5]]])).tolist()
    [[1.0, 1.5, 1.0]]
    """
    masks = masks.to(torch.promote_types(masks.dtype, torch.float32))
    area = masks.sum(dim=(1, 2))
    sides = [torch.arange(side, dtype=masks.dtype, device=masks.device) for side in masks.shape[1:]]
    sums = [(masks.sum(dim=3 - axis) * sides[axis - 1]).sum(dim=1) for axis in (1, 2)]
    middle = [total / area.clamp(min=LEAST) for total in sums]
    centre = [torch.where(area > LEAST, at, (len(side) - 1) / 2) for at, side in zip(middle, sides, strict=True)]
    return torch.stack([*centre, area], dim=1)


def votes(offsets: Tensor, centres: Tensor, owner: Tensor) -> Tensor:
    """Say how near each cell points to the centre that an object had: (B, 2, h, w), (K, 3) -> (K, 2, h, w) in [0, 1].

    ``offsets`` are rows and columns from each cell to the centre of whatever it shows; ``centres`` as ``soft_centres`` gives
    them. Channel 0 is exp(-D^2 / 2 s^2) of the distance D between where the cell points and the centre, where s is half the
    radius of a disc of the object's area; channel 1 is 1 where no other object of the frame is nearer. Source: Si's centre
    offset, its details are ours.
    """
    offsets = offsets.to(torch.promote_types(offsets.dtype, torch.float32))
    height, width = offsets.shape[2:]
    y = torch.arange(height, device=offsets.device, dtype=offsets.dtype)[:, None]
    x = torch.arange(width, device=offsets.device, dtype=offsets.dtype)
    row, column, area = (value[:, None, None] for value in centres.to(offsets.dtype).unbind(dim=1))  # (K, 1, 1)
    pointing = offsets[owner]
    distance = (y + pointing[:, 0] - row).square() + (x + pointing[:, 1] - column).square()  # (K, h, w), squared
    spread = (area / math.pi / 4).clamp(min=0.25)  # squared; of no object less than half a cell  # ours
    with torch.no_grad():
        others = (owner[:, None] != owner[None, :])[:, :, None, None]  # (K, K, 1, 1)
        least = distance.detach()[None].masked_fill(others, torch.inf).amin(dim=1)  # (K, h, w)
    return torch.stack([(-distance / (2 * spread)).exp(), (distance <= least).to(distance)], dim=1)


def aggregate(p: Tensor) -> Tensor:
    """Merge the probabilities of K objects of one frame, each on its own, (K, H, W) -> (K + 1, H, W) that sum to 1.

    The background's probability is the product of 1 - p; then odds p / (1 - p) are divided by their sum. Source: STM.
    """
    p = p.to(torch.promote_types(p.dtype, torch.float32))
    ground = (1 - p).prod(dim=0, keepdim=True)
    every = torch.cat([ground, p]).clamp(min=NEVER_CERTAIN, max=1 - NEVER_CERTAIN)
    odds = every / (1 - every)
    return odds / odds.sum(dim=0, keepdim=True)
