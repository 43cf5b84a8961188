"""Pairs of cells that lie near each other: what labels say of them, and the loss that teaches their affinity.

Ahn, Kwak (psa). CVPR 2018. Pair p of a cell is the cell itself and the one at ``offsets[p]`` from it, as ``half_disc``
gives them, so that every pair is there once. Tensors in, tensors out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tagmask.types import BACKGROUND, UNKNOWN

EPSILON = 1e-5  # author code (psa, irn)


@dataclass(frozen=True)
class PairKinds:
    """Which pairs are of which kind, each bool (B, P, h, w); a pair that leaves the grid or holds a 255 is of none."""

    background: Tensor  # both are background
    foreground: Tensor  # both are the same object class
    different: Tensor  # their labels differ


def partners(values: Tensor, offsets: NDArray[np.integer], outside: float) -> Tensor:
    """Return what lies at each offset from each cell: (B, h, w) and offsets (P, 2) as dy, dx -> (B, P, h, w).

    Cells outside of the grid have the value ``outside``.
    """
    reach = int(np.abs(offsets).max(initial=0))
    height, width = values.shape[-2:]
    padded = torch.nn.functional.pad(values, pad=(reach, reach, reach, reach), value=outside)
    shifted = [
        padded[:, None, reach + dy : reach + dy + height, reach + dx : reach + dx + width]
        for dy, dx in offsets.tolist()
    ]
    return torch.cat([values[:, None][:, :0], *shifted], dim=1)  # radius 1 has no offset


def pair_kinds(labels: Tensor, offsets: NDArray[np.integer]) -> PairKinds:
    """Sort the pairs of label maps (B, h, w), any integer type, 0 background and 255 unknown."""
    labels = labels.to(torch.int16)  # torch pads no bytes with 255
    here, there = labels[:, None], partners(labels, offsets, outside=UNKNOWN)  # (B, 1, h, w), (B, P, h, w)
    known = (here != UNKNOWN) & (there != UNKNOWN)
    same = known & (here == there)
    return PairKinds(same & (here == BACKGROUND), same & (here != BACKGROUND), known & (here != there))


def affinity_loss(affinity: Tensor, kinds: PairKinds, *, different: float = 0.5) -> Tensor:
    """Teach 1 to pairs of one kind and 0 to pairs that differ: a scalar.

    ``affinity`` float (B, P, h, w) in [0, 1]. Each kind is averaged over its own pairs in the batch, so that the many do
    not drown the few; the different ones weigh ``different``, the two others share the rest (psa, irn and RETAB: a
    quarter, a quarter, a half). A kind without a pair counts as 0.
    """
    affinity = affinity.to(torch.promote_types(affinity.dtype, torch.float32))
    alike = -(affinity + EPSILON).log()
    apart = -(1 + EPSILON - affinity).log()
    same = mean_where(alike, kinds.background) + mean_where(alike, kinds.foreground)
    return (1 - different) / 2 * same + different * mean_where(apart, kinds.different)


def mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of the chosen values, 0 where none is: a scalar."""
    return torch.where(chosen, values, 0.0).sum() / chosen.sum().clamp(min=1)
