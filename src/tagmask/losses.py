"""The losses that teach from tags, seeds and label maps: tensors in, one scalar out.

Every loss is finite on an empty set (no tag, no seed, only unknown pixels, no image): the empty term is 0 and still
carries a gradient path. Half-precision inputs are computed in float32, and nothing here uses an operation that is
non-deterministic on a GPU. ``p`` means probabilities that never reach 0 or 1, as ``clamped_softmax`` makes them, unless a
loss says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from tagmask.types import BACKGROUND, UNKNOWN

PROBABILITY_FLOOR = 1e-4  # author code (SEC)
POOLED_FLOOR = 1e-30  # of what log-sum-exp pooled: a tag under any floor is no longer learned, so it lies deep  # ours
COMPLEMENT_FLOOR = 1e-7  # of 1 - p, which float32 does not tell from 0 below that  # ours


def multi_label_soft_margin(logits: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy of tags: one sigmoid a class, averaged over classes and images (and cells, if there are any).

    ``logits`` float (B, C-1) or (B, C-1, h, w), ``targets`` in [0, 1] of any dtype and the same shape, ``class_weights``
    float (C-1,) multiply the terms of their class without renormalisation. Raises ``ValueError`` when the shapes differ.
    """
    if logits.shape != targets.shape:
        raise ValueError(f"targets must be {tuple(logits.shape)} as the logits, got {tuple(targets.shape)}")
    logits = _at_least_float32(logits)
    total = functional.binary_cross_entropy_with_logits(
        input=logits, target=targets.to(logits.dtype), weight=class_weights, reduction="sum"
    )
    return total / max(logits.numel(), 1)


def clamped_softmax(scores: Tensor, floor: float = PROBABILITY_FLOOR) -> Tensor:
    """Softmax over the classes, plus ``floor``, renormalised; (B, C, h, w) in and out, at least float32.

    The floor keeps ``log p`` and ``log(1 - p)`` finite in the losses below. Source: SEC, author code.
    """
    p = scores.softmax(dim=1, dtype=torch.promote_types(scores.dtype, torch.float32))
    return (p + floor) / (1 + floor * scores.shape[1])


def global_weighted_rank_pool(p: Tensor, decay: float) -> Tensor:
    """Average with weights ``decay^rank``, the largest value first: (B, C, N) -> (B, C).

    ``decay`` in [0, 1]: 0 is the maximum, 1 is the mean. Raises ``ValueError`` outside of it or when N is 0.
    Source: SEC (Kolesnikov and Lampert, ECCV 2016).
    """
    if not 0 <= decay <= 1 or p.shape[-1] == 0:
        raise ValueError(f"decay must lie in [0, 1] and N above 0, got decay {decay} and shape {tuple(p.shape)}")
    p = _at_least_float32(p)
    if decay == 0:
        return p.max(dim=-1).values  # as the formula says, without the sort
    ranked = p.sort(dim=-1, descending=True).values  # (B, C, N)
    weights = torch.pow(decay, torch.arange(p.shape[-1], dtype=p.dtype, device=p.device))  # (N,)
    return (ranked * weights).sum(dim=-1) / weights.sum()


def log_sum_exp_pool(p: Tensor, chosen: Tensor, sharpness: float = 5.0) -> Tensor:
    """Pool (1/r) log(mean of exp(r p)) over the chosen pixels: (B, C, N), bool (B, N) -> (B, C).

    ``sharpness`` r above 0 leads from the mean (0) to the maximum (infinity). Where nothing is chosen it pools over all N,
    so that it stays finite; such a term is the caller's to drop. Raises ``ValueError`` for another r or when N is 0.
    Source: Pinheiro and Collobert, CVPR 2015, with its r  # ours, for the built-in prior's is not published
    """
    if not sharpness > 0 or p.shape[-1] == 0:
        raise ValueError(f"sharpness and N must be above 0, got sharpness {sharpness} and shape {tuple(p.shape)}")
    p = _at_least_float32(p)
    chosen = (chosen | ~chosen.any(dim=-1, keepdim=True))[:, None]  # (B, 1, N)
    top = torch.where(chosen, p, -torch.inf).amax(dim=-1, keepdim=True).detach()  # (B, C, 1)
    below = torch.where(chosen, p - top, 0)  # 0 adds nothing to the sum, and sends nothing infinite backwards
    # From the top down and by expm1: no overflow, and no rounding of small p against the 1 of exp(0).
    mean = torch.expm1(sharpness * below).sum(dim=-1) / chosen.sum(dim=-1)
    return top[..., 0] + torch.log1p(mean) / sharpness


def seed_loss(p: Tensor, labels: Tensor) -> Tensor:
    """Negative log-probability of the seeds, averaged over an image's seeds, then over all images.

    ``p`` float (B, C, h, w), ``labels`` integer (B, h, w) with 255 = no seed. Background and foreground seeds share one
    count; they are not balanced. An image without seeds counts as 0. Raises ``ValueError`` when the grids differ.
    Source: SEC, author code.
    """
    if labels.shape != (p.shape[0], *p.shape[2:]):
        raise ValueError(f"labels must be {(p.shape[0], *p.shape[2:])}, got {tuple(labels.shape)}")
    surprise = _pixel_surprise(_at_least_float32(p).log(), labels)  # (B, h, w)
    seeds = (labels != UNKNOWN).sum(dim=(1, 2)).clamp(min=1)  # (B,)
    return _mean(surprise.sum(dim=(1, 2)) / seeds)


def balanced_seed_loss(p: Tensor, labels: Tensor) -> Tensor:
    """Negative log-probability of the seeds: the mean over an image's background plus that over its objects.

    So few object seeds weigh as much as the many of the background. ``p`` float (B, C, h, w), ``labels`` integer (B, h, w)
    with 255 = no seed; averaged over images, and an image without one kind counts 0 for it. Raises ``ValueError`` when the
    grids differ. Source: DSRG (Huang et al., CVPR 2018), author code.
    """
    if labels.shape != (p.shape[0], *p.shape[2:]):
        raise ValueError(f"labels must be {(p.shape[0], *p.shape[2:])}, got {tuple(labels.shape)}")
    surprise = _pixel_surprise(_at_least_float32(p).log(), labels)  # (B, h, w)
    ground = labels == BACKGROUND
    total = torch.zeros_like(surprise[:, 0, 0])  # (B,)
    for kind in (ground, ~ground & (labels != UNKNOWN)):
        total = total + torch.where(kind, surprise, 0).sum(dim=(1, 2)) / kind.sum(dim=(1, 2)).clamp(min=1)
    return _mean(total)


def expand_loss(
    p: Tensor,
    tags: Tensor,
    decay_present: float = 0.996,  # author code (SEC)
    decay_absent: float = 0.0,  # author code (SEC): the maximum
    decay_background: float = 0.999,  # author code (SEC)
) -> Tensor:
    """Push present classes and the background to fill an area, absent classes to vanish; averaged over images.

    ``p`` float (B, C, h, w) with the background at 0, ``tags`` bool (B, C-1). Each of the three terms is a mean of its
    own; an image without tags (or with all of them) has no present (absent) term. Raises ``ValueError`` when ``tags``
    does not fit. Source: SEC, author code.
    """
    if tags.shape != (p.shape[0], p.shape[1] - 1):
        raise ValueError(f"tags must be {(p.shape[0], p.shape[1] - 1)}, got {tuple(tags.shape)}")
    tags = tags.bool()
    flat = p.flatten(start_dim=2)  # (B, C, N)
    background, foreground = flat[:, :1], flat[:, 1:]
    present = global_weighted_rank_pool(foreground, decay=decay_present)  # (B, C-1)
    absent = 1 - global_weighted_rank_pool(foreground, decay=decay_absent)  # (B, C-1)
    filled = global_weighted_rank_pool(background, decay=decay_background)  # (B, 1)
    everywhere = torch.ones_like(tags[:, :1])
    return -_mean(_mean_log(present, tags) + _mean_log(absent, ~tags) + _mean_log(filled, everywhere))


def constrain_loss(p: Tensor, q: Tensor, clip: tuple[float, float] | None = None) -> Tensor:
    """KL(q || p) averaged over pixels and images: the network should agree with its own CRF.

    ``p`` float (B, C, h, w); ``q`` the same shape, the CRF's marginals, taken as constant and floored at 1e-4 before
    renormalisation. ``clip`` bounds the ratio q / p, beyond which there is no gradient (DSRG's author code: 0.05, 20).
    Raises ``ValueError`` when the shapes differ. Source: SEC, author code.
    """
    if p.shape != q.shape:
        raise ValueError(f"q must be {tuple(p.shape)} as p, got {tuple(q.shape)}")
    q = _at_least_float32(q.detach()).clamp(min=PROBABILITY_FLOOR)
    q = q / q.sum(dim=1, keepdim=True)
    ratio = q.log() - _at_least_float32(p).log()
    if clip is not None:
        ratio = ratio.clamp(min=math.log(clip[0]), max=math.log(clip[1]))
    return _mean((q * ratio).sum(dim=1))  # of (B, h, w)


def prior_loss(
    p: Tensor, tags: Tensor, objects: Tensor, ground: Tensor, *, sharpness: float = 5.0, joint: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Ask for every tag somewhere among the objects, for background on the ground, for absent classes nowhere.

    The three terms, each averaged over images: the mean over tags of -log S(objects), -log S(ground) of the background,
    and the mean over absent classes of -log(1 - S(both)), with S the ``log_sum_exp_pool`` of a class over a set of pixels.
    ``joint`` divides the first two together by the number of tags and the background. ``p`` float (B, C, h, w), which may
    reach 0 and 1 here, ``tags`` bool (B, C-1), ``objects`` and ``ground`` bool (B, h, w); pixels of neither count nowhere. A
    term without a class or without a pixel is 0. Raises ``ValueError`` for shapes that do not fit. Source: built-in prior
    (Saleh et al., ECCV 2016).
    """
    p, objects, ground = _with_pixels(p, tags, objects, ground)
    seen = objects | ground  # (B, N)
    present, background, absent = (
        log_sum_exp_pool(part, pixels, sharpness)
        for part, pixels in ((p[:, 1:], objects), (p[:, :1], ground), (p[:, 1:], seen))
    )
    on = _mean_log(present.clamp(min=POOLED_FLOOR), tags & objects.any(dim=1, keepdim=True))  # (B,)
    off = _mean_log(background.clamp(min=POOLED_FLOOR), ground.any(dim=1, keepdim=True))
    none = _mean_log((1 - absent).clamp(min=COMPLEMENT_FLOOR), ~tags & seen.any(dim=1, keepdim=True))
    if joint:
        count = tags.sum(dim=1)
        on, off = on * count / (count + 1), off / (count + 1)
    return -_mean(on), -_mean(off), -_mean(none)


def pooled_tags_loss(p: Tensor, tags: Tensor, seen: Tensor, *, sharpness: float = 5.0) -> tuple[Tensor, Tensor, Tensor]:
    """Ask for every tag and the background somewhere among the pixels ``seen``, bool (B, h, w), for the rest nowhere.

    The weak loss that the prior is compared with; else as ``prior_loss``, joint. Source: built-in prior.
    """
    return prior_loss(p, tags, seen, seen, sharpness=sharpness, joint=True)


def classes_first_loss(
    p: Tensor, tags: Tensor, objects: Tensor, ground: Tensor, *, sharpness: float = 5.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Ask each pixel of an object for one of the tags, each of the ground for background, none for an absent class.

    As ``prior_loss``, but the tags of a pixel are pooled first, and logarithms then averaged over pixels; those of absent
    classes over these too. Source: built-in prior, the alternative.
    """
    p, objects, ground = _with_pixels(p, tags, objects, ground)
    absent = ~tags[:, :, None] & (objects | ground)[:, None]  # (B, C-1, N)
    pooled = log_sum_exp_pool(p[:, 1:].transpose(1, 2), tags, sharpness)  # (B, N)
    on = _mean_log(pooled.clamp(min=POOLED_FLOOR), objects & tags.any(dim=1, keepdim=True))
    off = _mean_log(p[:, 0].clamp(min=POOLED_FLOOR), ground)
    none = _mean_log((1 - p[:, 1:]).clamp(min=COMPLEMENT_FLOOR).flatten(start_dim=1), absent.flatten(start_dim=1))
    return -_mean(on), -_mean(off), -_mean(none)


def integral_attention_loss(logits: Tensor, targets: Tensor, threshold: float = 0.001) -> tuple[Tensor, Tensor]:
    """Learn attention maps, but only upwards where there is some: the terms "enhance" and "constrain".

    Enhance is the mean of -t log sigmoid(logit) over the cells whose target t is above ``threshold``: cross entropy without
    its other half, which would hold weak attention down. Constrain is the mean of -log(1 - sigmoid(logit)) over all other
    cells, among them those of absent classes. ``logits`` and ``targets`` in [0, 1] are (B, C-1, h, w); cells are counted
    over the batch. Raises ``ValueError`` when the shapes differ. Source: OAA+ (Jiang et al., ICCV 2019), the threshold:
    author code.
    """
    if logits.shape != targets.shape:
        raise ValueError(f"targets must be {tuple(logits.shape)} as the logits, got {tuple(targets.shape)}")
    logits = _at_least_float32(logits)
    attended = targets > threshold
    rise = torch.where(attended, targets * functional.logsigmoid(logits), 0)
    fall = torch.where(attended, 0, functional.logsigmoid(-logits))
    return -rise.sum() / attended.sum().clamp(min=1), -fall.sum() / (~attended).sum().clamp(min=1)


def pixel_cross_entropy(maps: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy over the known pixels of the batch, summed over the maps of a network with several outputs.

    ``maps`` logits (B, C, h, w), each of its own grid; ``labels`` integer (B, H, W) with 255 = unknown, brought to
    each grid by ``resize_labels``. Raises ``ValueError`` without a map.
    """
    if not maps:
        raise ValueError("maps must hold at least one tensor of logits")
    losses = []
    for logits in maps:
        target = resize_labels(labels, size=(logits.shape[2], logits.shape[3]))  # (B, h, w)
        surprise = _pixel_surprise(_at_least_float32(logits).log_softmax(dim=1), target)
        losses.append(surprise.sum() / (target != UNKNOWN).sum().clamp(min=1))
    return torch.stack(losses).sum()


def centre_loss(features: Tensor, labels: Tensor, centres: Tensor, *, cosine: bool = True) -> Tensor:
    """Mean distance of features (B, D) to the centres (C, D) of their labels, integer (B,) in 0..C-1.

    The distance is 1 - cos (AISI, whose graph compares by the cosine), else half the squared one of Euclid (Wen et al.,
    ECCV 2016). What belongs to a centre of zeros, which is not known yet, counts 0. Raises ``ValueError`` when the shapes
    differ. Centres are not learned by it; ``moved_centres`` moves them.
    """
    if labels.shape != features.shape[:1] or centres.shape[1:] != features.shape[1:]:
        raise ValueError(
            f"expected features (B, D), labels (B,) and centres (C, D), got {tuple(features.shape)}, {tuple(labels.shape)} "
            f"and {tuple(centres.shape)}"
        )
    features = _at_least_float32(features)
    own = centres.detach()[labels.long()].to(features.dtype)  # (B, D)
    squared = (features - own).square().sum(dim=1)
    distance = 1 - functional.cosine_similarity(features, own, dim=1) if cosine else squared / 2
    return _mean(torch.where((own != 0).any(dim=1), distance, 0))


def moved_centres(
    features: Tensor, labels: Tensor, centres: Tensor, *, rate: float = 0.5, cosine: bool = True
) -> Tensor:
    """Return the centres (C, D), each moved by ``rate`` of the way to the mean of its features (B, D), labels (B,).

    One of zeros, which is not known yet, moves all the way (ours); one without a feature stays. With ``cosine`` features
    are of length 1 before, and centres after (ours). The default rate: ours (the paper's c + rate (f - c), a batch at a time).
    """
    features = _at_least_float32(features)
    if cosine:
        features = functional.normalize(features, dim=1)
    member = functional.one_hot(labels.long(), len(centres)).to(features.dtype)  # (B, C)
    counts = member.sum(dim=0)[:, None]  # (C, 1)
    mean = (member.T[:, :, None] * features).sum(dim=1) / counts.clamp(min=1)  # by index sums come in no order on a GPU
    known = (centres != 0).any(dim=1, keepdim=True)
    moved = torch.where(known, torch.lerp(centres.to(mean.dtype), mean, rate), mean)
    moved = functional.normalize(moved, dim=1) if cosine else moved
    return torch.where(counts > 0, moved.to(centres.dtype), centres)


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest-neighbour resize of labels (B, H, W) to (B, h, w), pixel centres aligned as in Pillow.

    Row i comes from floor((i + 1/2) H / h), exact because computed in integers. Torch's ``nearest`` takes
    floor(i H / h), which moves the labels by up to half a cell of the coarse grid.
    """
    rows, columns = (
        torch.div((2 * torch.arange(new, device=labels.device) + 1) * old, 2 * new, rounding_mode="floor")
        for old, new in zip(labels.shape[1:], size, strict=True)
    )
    return labels[:, rows[:, None], columns]


def _with_pixels(p: Tensor, tags: Tensor, *sets: Tensor) -> tuple[Tensor, ...]:
    """Return p as (B, C, N) and sets of pixels as (B, N); raises ``ValueError`` where something does not fit."""
    grid = (p.shape[0], *p.shape[2:])
    if tags.shape != (p.shape[0], p.shape[1] - 1) or any(pixels.shape != grid for pixels in sets):
        shapes = [tuple(pixels.shape) for pixels in sets]
        raise ValueError(
            f"expected tags {(p.shape[0], p.shape[1] - 1)} and pixels {grid}, got {tuple(tags.shape)} and {shapes}"
        )
    return _at_least_float32(p).flatten(start_dim=2), *(pixels.flatten(start_dim=1) for pixels in sets)


def _pixel_surprise(log_p: Tensor, labels: Tensor) -> Tensor:
    """Minus the log-probability of each pixel's label, 0 at unknown pixels: (B, C, h, w), (B, h, w) -> (B, h, w)."""
    # reduction="none": the reducing kernels are the non-deterministic ones on CUDA.
    return functional.nll_loss(input=log_p, target=labels.long(), ignore_index=UNKNOWN, reduction="none")


def _mean_log(pooled: Tensor, chosen: Tensor) -> Tensor:
    """Mean logarithm over the chosen classes, 0 when none is: (B, C), bool (B, C) -> (B,)."""
    # 1 before the logarithm, not 0 after it: an unchosen value must not send infinity times zero backwards.
    logs = torch.where(chosen, pooled, 1.0).log()
    return logs.sum(dim=1) / chosen.sum(dim=1).clamp(min=1)


def _mean(values: Tensor) -> Tensor:
    """Mean, 0 over nothing."""
    return values.sum() / max(values.numel(), 1)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
