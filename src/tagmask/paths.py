"""Affinity along paths: two cells belong together unless a boundary lies between them; and displacements to a centre.

Ahn, Cho, Kwak (irn). CVPR 2019. Pairs are those of ``half_disc``, a cell and the one at ``offsets[p]`` from it.
Tensors in, tensors out.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tagmask.pairs import PairKinds, mean_where, partners


@cache
def path_cells(dy: int, dx: int) -> NDArray[np.int64]:
    """Return the cells int64 (L, 2), as dy, dx, that lie less than 1 from the segment from 0, 0 to dy, dx.

    Both ends are among them, and all lie in the box that the ends span. Source: irn, author code.

    >>> path_cells(2, 2).tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2], [2, 1], [2, 2]]
    """
    y, x = np.mgrid[min(0, dy) : max(0, dy) + 1, min(0, dx) : max(0, dx) + 1]
    length = max(1, dy * dy + dx * dx)  # squared; the distance to the line is the cross product over the length
    near = (y * dx - x * dy) ** 2 < length
    return np.stack([y[near], x[near]], axis=1)


def path_affinity(boundary: Tensor, offsets: NDArray[np.integer]) -> Tensor:
    """Return 1 - the highest boundary on the path of each pair: (B, h, w) in [0, 1] -> (B, P, h, w).

    Cells outside of the grid count as boundary, so that a pair which leaves it has the affinity 0. The gradient of a pair
    goes to the one cell that decides it. Memory: some twenty bytes a pair, however long the paths.
    """
    reach = int(np.abs(offsets).max(initial=0))
    padded = functional.pad(boundary, pad=(reach, reach, reach, reach), value=1.0)  # (B, h + 2 reach, w + 2 reach)
    place = _highest_on_paths(padded.detach(), offsets, reach).flatten(start_dim=1)  # (B, P h w)
    image = torch.arange(len(boundary), device=boundary.device)[:, None]
    # Indexing and not gather: its gradient is added up in the same order every time, on a GPU too.
    highest = padded.flatten(start_dim=1)[image, place]
    return 1 - highest.reshape(len(boundary), len(offsets), *boundary.shape[1:])


def _highest_on_paths(padded: Tensor, offsets: NDArray[np.integer], reach: int) -> Tensor:
    """Return where in the flattened ``padded`` each path is highest, int64 (B, P, h, w)."""
    count, height, width = len(padded), padded.shape[1] - 2 * reach, padded.shape[2] - 2 * reach
    # The bits of floats that are not negative are in order as integers too: with the place in the lower half, one
    # maximum finds both the value and where it is.
    bits = padded.float().contiguous().view(torch.int32).long() << 32
    packed = bits | torch.arange(padded[0].numel(), device=padded.device).view_as(padded[0])
    place = torch.empty(count, len(offsets), height, width, dtype=torch.int64, device=padded.device)
    for pair, offset in enumerate(offsets.tolist()):
        first, *others = (
            packed[:, reach + dy : reach + dy + height, reach + dx : reach + dx + width]
            for dy, dx in path_cells(*offset).tolist()
        )
        highest = first.clone()  # (B, h, w)
        for seen in others:
            torch.maximum(highest, seen, out=highest)
        place[:, pair] = highest & 0xFFFFFFFF
    return place


def displacement_loss(displacement: Tensor, kinds: PairKinds, offsets: NDArray[np.integer]) -> Tensor:
    """Teach that both cells of a pair of one object point to the same place: a scalar, 0 where they do.

    ``displacement`` float (B, 2, h, w), dy, dx in cells, from each cell to the centre of its object. Of two cells of one
    object the displacements differ by the offset between them, of two cells of the background not at all; what is wrong
    with that is averaged over the pairs of each kind and both directions. Source: irn, author code.
    """
    displacement = displacement.to(torch.promote_types(displacement.dtype, torch.float32))
    there = partners(displacement.flatten(end_dim=1), offsets, outside=0.0).unflatten(0, (-1, 2))  # (B, 2, P, h, w)
    apart = displacement[:, :, None] - there
    offset = torch.from_numpy(np.asarray(offsets)).to(apart).T[None, :, :, None, None]  # (1, 2, P, 1, 1)
    of_object = mean_where((apart - offset).abs().mean(dim=1), kinds.foreground)
    of_ground = mean_where(apart.abs().mean(dim=1), kinds.background)
    return (of_object + of_ground) / 2
