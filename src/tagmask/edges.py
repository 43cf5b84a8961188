"""What the edges of the photo make of a network's scores, while it learns: SEC's and DSRG's CRF on the network's grid.

Kolesnikov, Lampert. ECCV 2016; Huang et al. CVPR 2018.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from tagmask.losses import clamped_softmax
from tagmask.refine.crf import SEC_TRAIN_CRF, CrfOptions
from tagmask.refine.exact import mean_field_exact

UNARIES = ("logprob", "prob")


def at_edges(scores: Tensor, images: Tensor, unary: str = "logprob") -> tuple[Tensor, Tensor]:
    """Return the probabilities p of ``scores`` (B, C, h, w), and q, the CRF's marginals for them, without a gradient.

    ``images`` are float RGB (B, 3, H, W) in 0..255. With ``unary`` "logprob" the CRF starts from -log p (SEC); with "prob"
    from -p (DSRG's author code), where the colours count for far more and q is smooth and sure of itself.
    """
    p, grid = clamped_softmax(scores), (scores.shape[2], scores.shape[3])
    small = nn.functional.interpolate(images, size=grid, mode="area")  # (B, 3, h, w)
    energy = -(p if unary == "prob" else scores).detach()
    return p, mean_field_exact(energy, small.permute(0, 2, 3, 1), crf_on(max(grid)))


def crf_on(side: int) -> CrfOptions:
    """Return SEC's CRF for a grid of ``side`` cells: the author code's is for 41, others reach over the same share."""
    scale = side / 41
    crf = SEC_TRAIN_CRF
    return replace(crf, spatial_xy=crf.spatial_xy * scale, bilateral_xy=crf.bilateral_xy * scale)
