"""The dense CRF of a batch of images of one size as tensor products: for graphics cards.

The filter, its conventions and its result are those of `tagmask.refine.crf` (to about 1e-5; sums run in another order).
The lattices are laid out by the same code on the CPU, those of all images side by side as one. On a graphics card the order of
the sums, and with it the last digit, changes from run to run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tagmask.refine.crf import PSA_CRF, CrfOptions, bilateral_lattice, spatial_lattice
from tagmask.refine.lattice import Lattice


@torch.no_grad()
def mean_field_batch(unary: Tensor, pixels: Tensor, options: CrfOptions = PSA_CRF) -> Tensor:
    """Return the marginals Q, float32 (B, K, H, W) summing to one over K, on the device of ``unary``, without a gradient.

    ``unary`` are finite energies (B, K, H, W), ``pixels`` RGB uint8 (B, H, W, 3) on any device. Memory is linear in
    B * H * W * K. Raises ``OptionError`` where the deviations are too small for the size of the image, ``ValueError`` for
    tensors that do not fit.
    """
    batch, classes, height, width = unary.shape
    if pixels.dtype != torch.uint8 or pixels.shape != (batch, height, width, 3) or not unary.numel():
        raise ValueError(
            f"pixels must be uint8 ({batch}, {height}, {width}, 3), got {pixels.dtype} {tuple(pixels.shape)}"
        )
    if options.shrink != 1:
        raise ValueError(f"a batch is worked on at its own resolution, got shrink {options.shrink}; use mean_field")
    images = pixels.cpu().numpy()
    near = [spatial_lattice(height, width, options.spatial_xy)] * batch
    alike = [bilateral_lattice(image, options.bilateral_xy, options.bilateral_rgb) for image in images]
    kernels = [
        (_Filter(near, unary.device), options.spatial_weight),
        (_Filter(alike, unary.device), options.bilateral_weight),
    ]
    with torch.autocast(device_type=unary.device.type, enabled=False):
        logits = -unary.float().permute(0, 2, 3, 1).reshape(-1, classes)  # (B * N, K)
        q = logits.softmax(dim=1)
        before: list[Tensor] = []
        for _ in range(options.iterations):
            heard = [weight * kernel.blur(kernel.splat(q)) for kernel, weight in kernels]  # two of (M, K)
            messages = (kernel.slice(table) for (kernel, _), table in zip(kernels, heard, strict=True))
            q = sum(messages, start=logits).softmax(dim=1)
            if options.settled and before:
                change = max((new - old).abs().max() for new, old in zip(heard, before, strict=True))
                if change <= options.settled:
                    break
            before = heard
    return q.reshape(batch, height, width, classes).permute(0, 3, 1, 2)


class _Filter:
    """The Gaussian filter of the points of several lattices, one after the other: ``slice(blur(splat(values)))``."""

    def __init__(self, lattices: Sequence[Lattice], device: torch.device) -> None:
        starts = np.cumsum([0, *(lattice.size for lattice in lattices)])
        self._size = int(starts[-1])
        placed = list(zip(lattices, starts[:-1], strict=True))
        vertices = np.concatenate([lattice.vertices + start for lattice, start in placed])  # (P, d+1)
        shares = np.concatenate([lattice.shares for lattice, _ in placed])  # (P, d+1)
        # A missing neighbour is the first row of its own lattice, which nobody speaks to.
        sides = np.concatenate([lattice.neighbours + start for lattice, start in placed], axis=1)  # (d+1, M, 2)
        self._vertices = torch.from_numpy(vertices).to(device).unbind(dim=1)
        self._shares = torch.from_numpy(shares).to(device)[:, :, None].unbind(dim=1)  # each (P, 1)
        self._sides = torch.from_numpy(sides).to(device).unbind(dim=2)  # two of (d+1, M)

    def splat(self, values: Tensor) -> Tensor:
        """Add the values of the points (P, K) to the vertices around them: (M, K)."""
        table = values.new_zeros(self._size, values.shape[1])
        for vertices, shares in zip(self._vertices, self._shares, strict=True):
            table.index_add_(0, vertices, shares * values)
        return table

    def blur(self, table: Tensor) -> Tensor:
        """Blur vertex values (M, K) along each axis in turn."""
        for left, right in zip(*self._sides, strict=True):
            table = table + 0.5 * (table[left] + table[right])
        return table

    def slice(self, table: Tensor) -> Tensor:
        """Read the values of the points back from the vertices (M, K): (P, K)."""
        values = self._shares[0] * table[self._vertices[0]]
        for vertices, shares in zip(self._vertices[1:], self._shares[1:], strict=True):
            values += shares * table[vertices]
        return values
