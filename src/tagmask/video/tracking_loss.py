"""What the tracker learns from a batch of triplets: where the objects are, and where their centres lie.

Cross entropy (RANet, Wang et al. ICCV 2019), one minus the soft overlap (ours), and the losses of centres and offsets of
Panoptic-DeepLab (Cheng et al. CVPR 2020). Tensors in, named scalars out.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from tagmask.nets.tracker import FINE, Past, Seen, TrackerNet, at_grid
from tagmask.types import UNKNOWN
from tagmask.video.matching import soft_centres

SIGMA = 8.0  # pixels: the spread of a centre's target; paper (Panoptic-DeepLab)
HEAT_WEIGHT = 200.0  # paper (Panoptic-DeepLab)
OFFSET_WEIGHT = 0.01  # of offsets in pixels; paper (Panoptic-DeepLab)


def tracking_loss(network: nn.Module, *batch: Tensor) -> Mapping[str, Tensor]:
    """Return the terms of the loss of a batch of triplets: "pixels", "overlap" and, with centres, "heat" and "offset"."""
    assert isinstance(network, TrackerNet)
    views, view_labels, before, masks, centres, frames, labels, there = batch
    count, chosen = len(frames), there.flatten().bool()
    owner = torch.arange(count, device=frames.device).repeat_interleave(there.shape[1])[chosen]  # (K,)
    view_labels, masks, labels = (part.flatten(end_dim=1)[chosen] for part in (view_labels, masks, labels))  # (K, H, W)
    images = torch.cat([views.flatten(end_dim=1)[chosen], before, frames]).float().div(255)
    seen = network(images.contiguous(memory_format=torch.channels_last))
    first, last, now = (
        Seen(*parts) for parts in zip(*(part.split([len(owner), count, count]) for part in seen), strict=True)
    )
    template = network.template(first.embedding, (view_labels == 1).float(), (view_labels == 0).float())
    small = functional.avg_pool2d(masks.float()[:, None], kernel_size=FINE)[:, 0]
    past = Past(last.embedding, small, at_grid(centres.flatten(end_dim=1)[chosen], FINE))
    pointing = network.pointing(now) if network.centre else None
    logits = network.decode(now, template, past, owner, pointing).float()
    whole = functional.interpolate(logits[:, None], size=labels.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    terms = mask_losses(whole, labels)
    return terms if pointing is None else {**terms, **centre_losses(pointing.float(), labels, owner, network.stride)}


def mask_losses(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return cross entropy and one minus the soft overlap of K objects (K, H, W), means over objects; 255 does not count."""
    known = (labels != UNKNOWN).to(logits)
    target = (labels == 1).to(logits)
    surprise = functional.binary_cross_entropy_with_logits(input=logits, target=target, reduction="none") * known
    pixels = known.sum(dim=(1, 2)).clamp(min=1)
    p = logits.sigmoid() * known
    both = (p * target).sum(dim=(1, 2))
    union = (p + target).sum(dim=(1, 2)) - both
    return {
        "pixels": (surprise.sum(dim=(1, 2)) / pixels).mean(),
        "overlap": (1 - (both + 1) / (union + 1)).mean(),  # + 1: of nothing the best answer is nothing
    }


def centre_losses(pointing: Tensor, labels: Tensor, owner: Tensor, stride: int) -> dict[str, Tensor]:
    """Return the loss of centres and of offsets: (B, 3, h, w), labels (K, H, W) of objects that lie in frame ``owner`` (K,).

    A centre's target is a Gaussian around an object's mass; offsets are learned on the cells that an object mostly fills.
    """
    share = functional.avg_pool2d((labels == 1).to(pointing)[:, None], kernel_size=stride)[:, 0]  # (K, h, w)
    row, column, area = (value[:, None, None] for value in soft_centres(share).unbind(dim=1))
    y = torch.arange(share.shape[1], device=share.device, dtype=share.dtype)[:, None]
    x = torch.arange(share.shape[2], device=share.device, dtype=share.dtype)
    dy, dx = (row - y).expand_as(share), (column - x).expand_as(share)
    bell = (-(dy.square() + dx.square()) / (2 * (SIGMA / stride) ** 2)).exp() * (area > 0)
    heat = torch.stack([(bell * (owner == frame)[:, None, None]).amax(dim=0) for frame in range(len(pointing))])
    inside = (share >= 0.5).to(share)
    wrong = (pointing[owner, 1:] - torch.stack([dy, dx], dim=1)).abs().sum(dim=1) * inside
    return {
        "heat": HEAT_WEIGHT * functional.mse_loss(input=pointing[:, 0], target=heat),
        "offset": OFFSET_WEIGHT * stride * wrong.sum() / inside.sum().clamp(min=1),
    }
