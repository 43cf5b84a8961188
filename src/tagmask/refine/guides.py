"""Guides: full label maps out of where objects are (seeds) and how far they reach (saliency).

Oh, Benenson, Khoreva, Akata, Fritz, Schiele. Exploiting Saliency for Object Segmentation from Image Level Labels (guided
labelling). CVPR 2017. https://arxiv.org/abs/1701.08261

Three rules: G0 draws the class of a salient piece, G1 asks a classifier, G2 lets the seeds spread over it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tagmask.errors import OptionError
from tagmask.refine.crf import DEEPLAB_V1_CRF, CrfOptions, mean_field
from tagmask.types import BACKGROUND, UNKNOWN, LabelMap

AROUND = np.ones((3, 3))  # pieces hang together over their corners too; author code
SURE = 1e-3  # a seed is one with the probability 1 - this, anything else with this; author code
SPREAD = 10.0  # pixels: deviation of the Gaussian by which seeds spread inside a piece; author code


def salient_mask(saliency: NDArray[np.floating], share: float) -> NDArray[np.bool_]:
    """Mark what is at least ``share`` of the largest saliency (H, W), and more than nothing.

    Raises ``OptionError`` unless 0 < share <= 1.

    >>> salient_mask(np.array([[0.0, 0.2, 0.4]]), 0.5)
    array([[False,  True,  True]])
    """
    if not 0 < share <= 1:
        raise OptionError(f"salient is {share}; expected a share of the largest saliency, above 0 and up to 1.")
    return (saliency >= np.asarray(share, dtype=saliency.dtype) * saliency.max(initial=0)) & (saliency > 0)


def random_guide(salient: NDArray[np.bool_], tags: Sequence[int], random: np.random.Generator) -> LabelMap:
    """Label each piece of the salient mask (H, W) with one of the tags, drawn evenly (G0); the rest is background.

    Source: paper; one draw a piece: ours. A photo without tags is background.
    """
    pieces, count = ndimage.label(salient, structure=AROUND)
    drawn = (
        random.choice(np.asarray(tags, dtype=np.uint8), size=count) if len(tags) else np.zeros(count, dtype=np.uint8)
    )
    return LabelMap(np.concatenate([np.full(1, BACKGROUND, dtype=np.uint8), drawn])[pieces])


def regions(salient: NDArray[np.bool_], smallest: float) -> NDArray[np.int32]:
    """Number the pieces of the salient mask (H, W) that a classifier is to look at one by one, from 1 on; 0 elsewhere.

    Pieces under the share ``smallest`` of the image are one region together, the last  # ours: each costs a look
    """
    pieces, count = ndimage.label(salient, structure=AROUND)
    large = np.bincount(pieces.ravel(), minlength=count + 1)[1:] >= smallest * salient.size
    number = np.where(large, np.cumsum(large), large.sum() + 1)
    return np.concatenate([[0], number]).astype(np.int32)[pieces]


def scored_guide(numbered: NDArray[np.int32], scores: NDArray[np.floating], tags: Sequence[int]) -> LabelMap:
    """Label region r of ``regions`` (H, W) with the best of its scores (R, K), row r - 1, of the K tags (G1).

    The rest is background, of equal scores the first wins. Source: paper.
    """
    labels = np.full(int(numbered.max(initial=0)) + 1, BACKGROUND, dtype=np.uint8)
    if len(tags) and len(scores):
        labels[1:] = np.asarray(tags, dtype=np.uint8)[scores.argmax(axis=1)]
    return LabelMap(labels[numbered])


def propagated_guide(
    seeds: LabelMap,
    salient: NDArray[np.bool_],
    pixels: NDArray[np.uint8],
    *,
    smallest: float = 0.01,  # author code
    keep_unknown: bool = False,
    crf: CrfOptions = DEEPLAB_V1_CRF,  # author code
) -> LabelMap:
    """Let the seeds (H, W) spread over the pieces of the salient mask that they touch, on RGB ``pixels`` (G2).

    A piece of at least the share ``smallest`` of the image takes the class of the seeds in it. Several classes share it
    out by a CRF between them, where a class is as likely as there are seeds of it around. Seeds that touch no such piece
    stay as they are: an object that does not stand out. All else is background, also a piece without a seed; with
    ``keep_unknown`` (ours) it is 255, but for background seeds that are not salient. Source: author code.
    """
    own = seeds.labels
    classes = [int(c) for c in np.unique(own) if c not in (BACKGROUND, UNKNOWN)]
    pieces, count = ndimage.label(salient, structure=AROUND)
    large = np.bincount(pieces.ravel(), minlength=count + 1) >= smallest * own.size
    large[0] = False
    labels = np.full(own.shape, UNKNOWN, dtype=np.uint8)
    shared: dict[tuple[int, ...], NDArray[np.uint8]] = {}  # one CRF for all pieces with the same classes
    for piece in np.flatnonzero(large):
        inside = pieces == piece
        there = tuple(c for c in classes if (own[inside] == c).any())
        if len(there) > 1 and there not in shared:
            shared[there] = _shared_out(own, there, pixels, crf)
        if there:
            labels[inside] = shared[there][inside] if len(there) > 1 else there[0]
    for c in classes:
        parts, count = ndimage.label(own == c, structure=AROUND)
        touched = np.zeros(count + 1, dtype=bool)
        touched[parts[large[pieces]]] = touched[0] = True
        labels[~touched[parts]] = c
    labels[(own == BACKGROUND) & ~salient] = BACKGROUND
    if not keep_unknown:
        labels[labels == UNKNOWN] = BACKGROUND
    return LabelMap(labels)


def _shared_out(
    own: NDArray[np.uint8], classes: tuple[int, ...], pixels: NDArray[np.uint8], crf: CrfOptions
) -> NDArray[np.uint8]:
    """Return which of ``classes`` each pixel (H, W) belongs to: the energy is minus how much of a class is around it.

    That is minus a probability and not minus its logarithm: the published rule's, and not interchangeable.
    """
    there = [np.clip(own == c, SURE, 1 - SURE).astype(np.float32) for c in classes]
    around = np.stack([ndimage.gaussian_filter(input=each, sigma=SPREAD) for each in there])  # (K, H, W)
    return np.asarray(classes, dtype=np.uint8)[mean_field(-around, pixels, crf).argmax(axis=0)]
