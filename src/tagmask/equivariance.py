"""What SEAM asks of two views of a photo: that a classifier shows the same in the photo and in the smaller photo.

Wang, Zhang, Kan, Shan, Chen (SEAM). CVPR 2020. https://arxiv.org/abs/2004.04581 Tensors in, tensors out. Of the two
views the first is the photo, the second the smaller one; they are compared on the pixels of the second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from tagmask.losses import multi_label_soft_margin

EPSILON = 1e-5  # author code
QUIET = 0.25  # share of a view that shall show nothing; author code
Size = tuple[int, int]
Two = Sequence[Tensor]


def equivariance_terms(
    maps: Two,
    refined: Two,
    tags: Tensor,
    sizes: Sequence[Size],
    *,
    er_weight: float = 1.0,
    ecr_weight: float = 1.0,
    hardest: float = 0.2,
) -> Mapping[str, Tensor]:
    """Return the terms of SEAM's loss by name: ``tags``, ``er``, and where there are ``refined`` maps ``quiet``, ``ecr``.

    Of either view of ``sizes`` (H, W), ``maps`` are raw class maps (B, C-1, h, w) and ``refined`` the scores (B, C, h, w)
    of ``correlated``, in [0, 1] with the background first, or none. ``tags`` are 0/1, (B, C-1). ``hardest`` is the share
    of all differences between refined maps that counts. Classes that no photo of the batch has are zero throughout: they
    are left out of the work, but not of the means.
    """
    classes = tags.shape[1] + 1
    terms = {"tags": _sum(multi_label_soft_margin(m.mean(dim=(2, 3)), tags) for m in maps) / 2}
    held = tags.bool().any(dim=0)
    held[0] |= ~held.any()  # one class at least, so that there is a maximum over classes
    present = tags[:, held].to(maps[0].dtype)[:, :, None, None]  # (B, K, 1, 1)
    seen = [
        compared(grown(m[:, held], size), sizes[1]) * present for m, size in zip(maps, sizes, strict=True)
    ]  # (B, K, H, W)
    terms["er"] = er_weight * (seen[0] - seen[1]).abs().mean() * present.shape[1] / (classes - 1)
    if refined:
        held, present = (functional.pad(held, pad=(1, 0), value=True), with_background(present, value=1.0))
        full = [grown(m[:, held], size) * present for m, size in zip(refined, sizes, strict=True)]  # (B, K+1, H, W)
        terms["quiet"] = _sum(quiet_loss(m[:, 1:]) for m in full) / 2
        shown = [compared(m, sizes[1]) for m in full]
        aims = [winners(with_background(m)).detach() for m in seen]
        count = max(1, int(hardest * classes * sizes[1][0] * sizes[1][1]))
        crossed = ((aims[1], shown[0]), (aims[0], shown[1]))  # what is refined of one view aims at what the other shows
        terms["ecr"] = ecr_weight * _sum(hardest_difference(aim, m, count) for aim, m in crossed)
    return terms


def compared(maps: Tensor, size: Size) -> Tensor:
    """Return maps (B, K, H, W) of a view as they are compared: first normalised, then brought to ``size``.

    In this order, and the maps of the smaller view are never resized: so the author code.
    """
    return grown(normalised(maps), size)


def grown(maps: Tensor, size: Size) -> Tensor:
    """Resize (B, K, h, w) to ``size``, bilinear, corner on corner as the author code has it."""
    if maps.shape[2:] == size:
        return maps
    return functional.interpolate(maps.float(), size=size, mode="bilinear", align_corners=True)


def normalised(maps: Tensor) -> Tensor:
    """Bring each map of (B, K, H, W) to [0, 1), its least positive value to 0; a map without contrast vanishes."""
    maps = maps.relu()
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    return (maps - low - EPSILON).relu() / (high - low + EPSILON)


def with_background(scores: Tensor, value: float | None = None) -> Tensor:
    """Put the background, 1 - the largest score (or ``value``), before scores (B, K, H, W) in [0, 1]: (B, K+1, H, W)."""
    largest = scores.amax(dim=1, keepdim=True)
    background = 1 - largest if value is None else torch.full_like(largest, value)
    return torch.cat([background, scores], dim=1)


def winners(scores: Tensor) -> Tensor:
    """Keep of the objects' scores in (B, C, H, W), behind the background, only the largest at each pixel; others are 0.

    A new tensor: the author code writes into the one it was given.
    """
    background, objects = scores[:, :1], scores[:, 1:]
    kept = torch.where(objects == objects.amax(dim=1, keepdim=True), objects, torch.zeros_like(objects))
    return torch.cat([background, kept], dim=1)


def quiet_loss(maps: Tensor) -> Tensor:
    """Return the mean positive value of the quarter of a view that shows the least: (B, K, H, W) -> scalar.

    The author code's "adaptive min pooling". It moves the best background threshold more than anything else.
    """
    loudest = maps.amax(dim=1).flatten(start_dim=1)  # (B, N)
    count = max(1, int(QUIET * loudest.shape[1]))
    return loudest.topk(count, dim=1, largest=False).values.relu().mean()


def hardest_difference(aim: Tensor, maps: Tensor, count: int) -> Tensor:
    """Return the mean of the ``count`` largest absolute differences of an image, (B, K, H, W) twice -> scalar.

    Elements that were left out because they are equal (0 in both) count where ``count`` reaches them.
    """
    apart = (aim - maps).abs().flatten(start_dim=1)  # (B, K H W)
    return apart.topk(min(count, apart.shape[1]), dim=1).values.sum() / (count * len(apart))


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()
