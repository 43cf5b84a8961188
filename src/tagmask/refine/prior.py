"""From what a network reacts to, to what is an object: one map in [0, 1], then masks along the edges of the photo.

Saleh, Aliakbarian, Salzmann, Petersson, Gould, Alvarez. ECCV 2016. https://arxiv.org/abs/1609.00446
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from tagmask.refine.crf import PSA_CRF, CrfOptions, mean_field, unary_from_probabilities


def fused(reactions: NDArray[np.floating], *, norm_each: bool = False) -> NDArray[np.float32]:
    """Return the sum of reactions (S, h, w), brought to [0, 1] by its range: float32 (h, w).

    ``norm_each`` brings each to [0, 1] before. Where all cells are equal nothing stands out, and all are 0.
    """
    parts = [_unit(part) for part in reactions] if norm_each else list(reactions)
    return _unit(np.sum(parts, axis=0))


def object_masks(
    foreground: NDArray[np.float32],
    pixels: NDArray[np.uint8],
    *,
    crf: CrfOptions | None = PSA_CRF,
    area: tuple[float, float] = (0.005, 0.95),  # ours
    count: int = 1,
    diversity: float = 0.25,  # ours
) -> NDArray[np.bool_]:
    """Return up to ``count`` masks of the objects, bool (M, H, W) with M at least 1, the likeliest first.

    ``foreground`` (h, w) in [0, 1] is read as the probability of an object, resized bilinearly to ``pixels`` (H, W, 3).
    Without ``crf`` there is one mask, where it exceeds a half. Masks whose share of the photo lies outside of ``area``
    are left out; if all are, one remains, of what exceeds the mean: it is empty only where nothing stands out.  # ours
    """
    height, width = pixels.shape[:2]
    p = np.asarray(cv2.resize(foreground, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)
    if crf is None:
        masks = p[None] > 0.5
    else:
        unary = unary_from_probabilities(np.stack([1 - p, p]))  # (2, H, W)
        masks = diverse_m_best(unary, pixels, crf, count=count, diversity=diversity) == 1
    shares = masks.mean(axis=(1, 2))
    kept = masks[(shares >= area[0]) & (shares <= area[1])]
    return kept if len(kept) else p[None] > p.mean()


def diverse_m_best(
    unary: NDArray[np.float32], pixels: NDArray[np.uint8], crf: CrfOptions = PSA_CRF, *, count: int, diversity: float
) -> NDArray[np.uint8]:
    """Return ``count`` labelings uint8 (M, H, W) of energies (K, H, W), each the CRF's best that also differs from the earlier.

    For every earlier labeling a pixel's label in it costs ``diversity`` more: the reward of the Hamming distance. Equal
    labelings may come twice where it is small. Source: Batra et al., Diverse M-best solutions, ECCV 2012.
    """
    energies = unary.astype(np.float32)  # a copy
    found = []
    for _ in range(count):
        labels = mean_field(energies, pixels, crf).argmax(axis=0)  # (H, W)
        found.append(labels.astype(np.uint8))
        energies += np.float32(diversity) * (np.arange(len(unary))[:, None, None] == labels)
    return np.stack(found)


def _unit(values: NDArray[np.floating]) -> NDArray[np.float32]:
    low, high = values.min(), values.max()
    scaled = (values - low) / (high - low) if high > low else np.zeros(values.shape)
    return scaled.astype(np.float32)
