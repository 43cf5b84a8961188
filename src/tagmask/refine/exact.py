"""The dense CRF with exact Gaussian kernels, for small grids: every pair of pixels is visited, on any device.

It serves losses inside a training loop (SEC and DSRG refine scores on a 41 x 41 grid); memory grows with N^2, so use
`tagmask.refine.crf` for whole images. Equations and conventions are those of that module, the filter is not
approximated.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tagmask.refine.crf import PSA_CRF, CrfOptions


@torch.no_grad()
def mean_field_exact(unary: Tensor, pixels: Tensor, options: CrfOptions = PSA_CRF) -> Tensor:
    """Return the marginals Q, float32 (B, K, h, w) summing to one over K, without a gradient.

    ``unary`` are finite energies (B, K, h, w), ``pixels`` RGB in 0..255 (B, h, w, 3) on the same device; scale the
    deviations of ``options`` to the grid (`SEC_TRAIN_CRF`). Takes B * (h * w)^2 * 4 bytes. Raises ``ValueError`` for
    tensors that do not fit.
    """
    batch, classes, height, width = unary.shape
    if pixels.shape != (batch, height, width, 3):
        raise ValueError(f"pixels must be ({batch}, {height}, {width}, 3), got {tuple(pixels.shape)}")
    logits = -unary.float().flatten(start_dim=2).transpose(1, 2)  # (B, N, K)
    with torch.autocast(
        device_type=unary.device.type, enabled=False
    ):  # weights reach 1e1: half precision is too coarse
        messages = _messages(pixels.float(), options)  # (B, N, N)
        q = logits.softmax(dim=2)  # (B, N, K)
        for _ in range(options.iterations):
            q = torch.baddbmm(logits, messages, q).softmax(dim=2)  # (B, N, K)
    return q.transpose(1, 2).reshape(batch, classes, height, width)


def _messages(pixels: Tensor, options: CrfOptions) -> Tensor:
    """Return the sum of both weighted normalised kernels of pixels (B, h, w, 3), so an iteration is one product."""
    batch, height, width, _ = pixels.shape
    y = torch.arange(height, dtype=torch.float32, device=pixels.device)
    x = torch.arange(width, dtype=torch.float32, device=pixels.device)
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=2).reshape(-1, 2)  # (N, 2)
    spatial = options.spatial_weight * _normalised_kernel(grid / options.spatial_xy)  # (N, N)
    messages = spatial.repeat(batch, 1, 1)  # (B, N, N)
    for image, message in zip(pixels, messages, strict=True):  # one by one: a batch of temporaries would be large
        colours = image.reshape(-1, 3) / options.bilateral_rgb  # (N, 3)
        features = torch.cat([grid / options.bilateral_xy, colours], dim=1)  # (N, 5)
        message += options.bilateral_weight * _normalised_kernel(features)  # (N, N)
    return messages


def _normalised_kernel(features: Tensor) -> Tensor:
    """Return diag(n) K diag(n) (N, N) with K = exp(-|f_i - f_j|^2 / 2) and n = 1 / sqrt(K 1), of features (N, d)."""
    distance = torch.cdist(
        features, features, compute_mode="donot_use_mm_for_euclid_dist"
    )  # exact where f_i is near f_j
    kernel = distance.square_().mul_(-0.5).exp_()  # (N, N)
    n = kernel.sum(dim=1).add(1e-20).rsqrt()  # (N,) source: pydensecrf, 1e-20
    return kernel.mul_(n[:, None]).mul_(n[None, :])
