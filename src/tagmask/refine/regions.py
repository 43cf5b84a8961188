"""What one says of an image region by region: seeds from activations, votes of pixels, likeness in colour to an object.

Wang, You, Li, Ma. Weakly-Supervised Semantic Segmentation by Iteratively Mining Common Object Features (MCOF). CVPR 2018.
``ids`` are integers (H, W), 0..n-1 without a gap, as ``refine.superpixels`` makes them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from tagmask.refine.superpixels import region_means
from tagmask.types import BACKGROUND, UNKNOWN

BINS = 16  # of a colour channel  # ours (not published)


def region_scores(maps: NDArray[np.floating], ids: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the mean of each of the maps (K, H, W) in each region: float64 (n, K)."""
    if not len(maps):
        return np.zeros((int(ids.max()) + 1, 0))
    return region_means(np.moveaxis(maps, 0, 2), ids)


def local_maxima(scores: NDArray[np.floating], pairs: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Mark the regions that no neighbour exceeds: bool (n, K) of scores (n, K) and the pairs (E, 2) that touch."""
    highest = np.full(scores.shape, -np.inf)  # of a region's neighbours
    for here, there in (pairs.T, pairs.T[::-1]):
        np.maximum.at(highest, here, scores[there])
    return scores >= highest


def seed_regions(
    scores: NDArray[np.floating],
    pairs: NDArray[np.integer],
    classes: Sequence[int],
    *,
    floor: float,
    above: float,
    ground: float,
    saliency: NDArray[np.floating] | None = None,
    dark: float = 0.06,  # DSRG  # paper
) -> NDArray[np.uint8]:
    """Label the regions that surely show one of ``classes`` or surely none: uint8 (n,), 255 for the others.

    ``scores`` (n, K) in [0, 1] are the classes' means, ``pairs`` (E, 2) the regions that touch. A class claims the local
    maxima of its score, from ``floor`` on, and whatever is above ``above``; of several claims the highest score wins, the
    first of equal ones. Background is where all scores are below ``ground``, and with ``saliency`` (n,) in [0, 1] only
    where that is below ``dark``; without classes that is everything. Source: MCOF; floor and background: ours.
    """
    claimed = (local_maxima(scores, pairs) & (scores >= floor)) | (scores > above)  # (n, K)
    empty = (scores < ground).all(axis=1) if saliency is None else (scores < ground).all(axis=1) & (saliency < dark)
    labels = np.where(empty, np.uint8(BACKGROUND), np.uint8(UNKNOWN))
    if len(classes):
        best = np.where(claimed, scores, -np.inf).argmax(axis=1)
        some = claimed.any(axis=1)
        labels[some] = np.array(classes, dtype=np.uint8)[best[some]]
    return labels


def majority(labels: NDArray[np.uint8], ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return the most frequent label of each region, uint8 (n,); unknown pixels (255) have no vote.

    Of equally frequent labels the lowest wins; a region without a known pixel is 255.
    """
    held = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).astype(np.uint8)
    column = np.zeros(256, dtype=np.intp)
    column[held] = np.arange(len(held))
    count = int(ids.max()) + 1
    votes = np.bincount((ids * len(held) + column[labels]).ravel(), minlength=count * len(held)).reshape(count, -1)
    votes[:, held == UNKNOWN] = 0
    return np.where(votes.any(axis=1), held[votes.argmax(axis=1)], np.uint8(UNKNOWN))


def evenly(labels: NDArray[np.uint8], most: int, random: np.random.Generator) -> NDArray[np.intp]:
    """Draw at most ``most`` of the regions with a known label, as evenly over the labels as they last: indices, sorted."""
    order = random.permutation(np.flatnonzero(labels != UNKNOWN))
    order = order[np.argsort(labels[order], kind="stable")]  # label by label, each in random order
    _, first, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    turn = np.arange(len(order)) - np.repeat(
        first, sizes
    )  # the first of every label, then the second of every label, ..
    tie = random.permutation(len(order))  # which labels come short in the last turn
    return np.sort(order[np.lexsort((tie, turn))[:most]])


def object_posterior(
    lab: NDArray[np.floating],
    ids: NDArray[np.integer],
    objects: NDArray[np.bool_],
    ground: NDArray[np.bool_],
    prior: NDArray[np.floating],
    *,
    bins: int = BINS,
    averaged: bool = False,
) -> NDArray[np.float64]:
    """Return how probably each region belongs to the object, float64 (n,) in [0, 1], by Bayes' rule.

    ``lab`` (H, W, 3) in [0, 1] is CIELAB, each channel scaled; ``objects`` and ``ground`` bool (n,) are the regions from
    whose pixels the colours of the two are counted, channel by channel, one pixel more in each of ``bins`` bins;
    ``prior`` (n,) in [0, 1] is the saliency. A region's colour is its mean, or with ``averaged`` the mean of its pixels'
    log-likelihoods. Where the prior is one half, only likelihoods speak. Source: MCOF, equation 2; histograms: recalled.
    """
    levels = np.minimum((lab * bins).astype(np.intp), bins - 1)  # (H, W, 3)
    ratio = np.empty((3, bins))  # log of how much more frequent a level is in the object
    for channel in range(3):
        plane = levels[..., channel]
        inside, outside = (np.bincount(plane[chosen[ids]], minlength=bins) + 1 for chosen in (objects, ground))
        ratio[channel] = np.log(inside / inside.sum()) - np.log(outside / outside.sum())
    channels = np.arange(3)
    if averaged:
        evidence = region_means(ratio[channels, levels].sum(axis=2), ids)  # (n,)
    else:
        means = np.minimum((region_means(lab, ids) * bins).astype(np.intp), bins - 1)  # (n, 3)
        evidence = ratio[channels, means].sum(axis=1)
    return expit(logit(np.asarray(prior, dtype=np.float64)) + evidence)


def joined_regions(
    labels: NDArray[np.uint8], posterior: NDArray[np.floating], klass: int, *, above: float, unsure: float = 0.0
) -> NDArray[np.uint8]:
    """Add to the labels (n,) as ``klass`` the regions whose posterior (n,) is over ``above``; objects stay.

    With ``unsure`` above 0, the others are unknown from there on.
    """
    grown = labels.copy()
    free = (labels == BACKGROUND) | (labels == UNKNOWN)
    if unsure > 0:
        grown[free & (posterior >= unsure)] = UNKNOWN
    grown[free & (posterior > above)] = klass
    return grown
