"""Two networks that label for each other: scored proposals become labels of pixels, those become labels of proposals.

Qi, Liu, Shi, Zhao, Jia. Augmented Feedback in Semantic Segmentation under Image Level Supervision. ECCV 2016.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tagmask.errors import OptionError, did_you_mean
from tagmask.refine.boxes import mask_of, overlaps
from tagmask.refine.grabcut import Guess, grabcut
from tagmask.refine.kmeans import kmeans_1d
from tagmask.refine.votes import UNIT, sizes, sums, votes
from tagmask.types import BACKGROUND, UNKNOWN, Boxes

LOW, MIDDLE, HIGH = range(3)
STARTS = ("background", "nearest", "none")  # how GrabCut starts with the ambiguous pixels
POSITIVE = 0.25  # share of positives among the proposals of a training step  # ours (Fast R-CNN)
HARD = 0.5  # share of hard ones among its negatives  # ours


def kept(scores: NDArray[np.floating], *, above: float, fewest: int) -> NDArray[np.floating]:
    """Return the scores (n, K) of the boxes that vote for a tag, 0 for the others.

    They exceed ``above`` (paper) or are among the ``fewest`` best of the tag (ours).
    """
    stays = scores > above
    best = np.argsort(-scores, axis=0, kind="stable")[:fewest]
    np.put_along_axis(stays, best, True, axis=0)
    return np.where(stays, scores, 0)


def bands(vote: NDArray[np.floating], *, pinned: bool = True) -> tuple[NDArray[np.uint8], float]:
    """Sort the votes for a tag, (H, W) of 0 or more, by k-means into LOW, MIDDLE and HIGH, uint8 (H, W).

    With ``pinned`` the lowest centre is 0 whatever else there is, for votes are mostly exactly 0 and two of three centres
    would meet there (ours). Two centres are LOW and HIGH; where all votes are equal nothing is told: MIDDLE (ours). Also
    returned is the value halfway between the outer centres.
    """
    if vote.min() == vote.max():
        return np.full(vote.shape, MIDDLE, dtype=np.uint8), float(vote.min())
    centres, labels = kmeans_1d(vote, clusters=3, lowest=0.0 if pinned else None)
    return labels if len(centres) == 3 else labels * np.uint8(HIGH), float(centres[0] + centres[-1]) / 2


def cut_out(
    pixels: NDArray[np.uint8], vote: NDArray[np.floating], *, pinned: bool, middle: str, widest: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return where a tag is, and where that stays open, both bool (H, W), from the votes for it (H, W).

    The high band is the object, the low one is not, and GrabCut decides on the one between. It starts from the background
    there, or for ``middle`` "nearest" from the outer centre that is nearer; with "none" that band is background. Where it
    fails its start stands. A band between that is wider than the share ``widest`` of the photo stays open (ours).
    """
    if middle not in STARTS:
        raise OptionError(f"middle is {middle!r}{did_you_mean(middle, STARTS)}; expected one of {', '.join(STARTS)}.")
    band, halfway = bands(vote, pinned=pinned)
    high, between = band == HIGH, band == MIDDLE
    if between.mean() > widest:
        return high, between
    if middle == "none" or not between.any():
        return high, np.zeros_like(high)
    guesses = np.array([Guess.BACKGROUND, Guess.MAYBE_BACKGROUND, Guess.OBJECT], dtype=np.uint8)[band]
    if middle == "nearest":
        guesses[between & (vote > halfway)] = Guess.MAYBE_OBJECT
    return grabcut(pixels, guesses), np.zeros_like(high)


def aggregate(
    pixels: NDArray[np.uint8],
    boxes: Boxes,
    scores: NDArray[np.floating],
    classes: Sequence[int],
    *,
    above: float = 0.5,  # source
    fewest: int = 5,  # ours
    by: str = "sum",
    pinned: bool = True,
    middle: str = "background",
    widest: float = 0.6,  # ours
) -> NDArray[np.uint8]:
    """Label the pixels of an RGB image (H, W, 3) by what its boxes with ``scores`` (n, K) of the K ``classes`` say.

    uint8 (H, W), 0 background, 255 unknown. See ``kept``, ``votes``, ``cut_out`` and ``merged``. Source: module c.
    """
    vote = votes(boxes, kept(scores, above=above, fewest=fewest), by=by)  # (K, H, W)
    vote /= vote.max(axis=(1, 2), keepdims=True, initial=1 / UNIT)  # the least vote: without any, 0 stays 0
    claims, unsure = np.zeros((2, *vote.shape), dtype=bool)
    for index, one in enumerate(vote):
        claims[index], unsure[index] = cut_out(pixels, one, pinned=pinned, middle=middle, widest=widest)
    return merged(claims, unsure, vote, classes)


def merged(
    claims: NDArray[np.bool_], unsure: NDArray[np.bool_], vote: NDArray[np.floating], classes: Sequence[int]
) -> NDArray[np.uint8]:
    """Join what K tags claim, bool (K, H, W), and leave open, into labels uint8 (H, W).

    Of several tags that claim a pixel the one with the most votes (K, H, W) has it, the first of equal ones; what nobody
    claims is background, or 255 where a tag is unsure. Where a tag that got no pixel has most votes it may well be, so that
    is 255; without a single vote it may be anywhere, and no pixel is sure to be background.  # ours
    """
    labels = np.where(unsure.any(axis=0), np.uint8(UNKNOWN), np.uint8(BACKGROUND))
    if not len(classes):
        return labels
    names = np.array(classes, dtype=np.uint8)
    some = claims.any(axis=0)
    labels[some] = names[np.where(claims, vote, -1).argmax(axis=0)][some]
    for one, name in zip(vote, names, strict=True):
        if not (labels == name).any():
            labels[one == one.max() if one.any() else labels == BACKGROUND] = UNKNOWN
    return labels


def best_overlaps(boxes: Boxes, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the largest intersection over union of each box with a connected piece of a mask (H, W): float64 (n,).

    Boxes are compared with the boxes around the pieces, masks with the pieces themselves; without a piece it is 0.
    """
    ids, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if not count or not len(boxes):
        return np.zeros(len(boxes))
    if not len(boxes.masks):
        pieces = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(ids)]
        return overlaps(boxes.boxes, np.array(pieces)).max(axis=1)
    pixels = np.bincount(ids.ravel(), minlength=count + 1)
    best = np.zeros(len(boxes))
    for index, own in enumerate(sizes(boxes)):
        common = np.bincount(ids[mask_of(boxes, index)], minlength=count + 1)
        best[index] = (common / (own + pixels - common))[1:].max()
    return best


def select(
    boxes: Boxes,
    labels: NDArray[np.uint8],
    probabilities: NDArray[np.floating],
    scores: NDArray[np.floating],
    classes: Sequence[int],
    *,
    overlap: float = 0.5,  # ours (not published), as the others
    likely: float = 0.5,
    apart: float = 0.3,
    unlikely: float = 0.2,
    hard: float = 0.5,
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return what each box teaches, uint8 (n,): a class, 0 background, 255 nothing; and how much it looks like a tag, (n,).

    ``labels`` (H, W) and ``probabilities`` (K, H, W) of the K ``classes`` are the segmenter's, ``scores`` (n, K) the
    localiser's. A box is positive where it overlaps a piece of a class by ``overlap`` or more and that is ``likely`` in it
    on average; of several classes the one of the largest overlap counts. It is negative where no overlap reaches ``apart``
    and it is ``unlikely`` for all, hard negative where it looks like a tag all the same, by one of the networks: from
    ``hard`` on, which a tag without a piece forbids, for that box may show it (ours). Source: module d.
    """
    n, k = len(boxes), len(classes)
    inside = sums(boxes, probabilities) / sizes(boxes).clip(min=1)[:, None]  # (n, K)
    iou = np.array([best_overlaps(boxes, labels == name) for name in classes]).reshape(k, n).T
    looks = np.maximum(inside, scores)  # (n, K)
    found = np.array([(labels == name).any() for name in classes], dtype=bool)
    look = looks.max(axis=1, initial=0)
    fits = np.where((iou >= overlap) & (inside >= likely), iou, -1)
    taught = np.full(n, UNKNOWN, dtype=np.uint8)
    if k:
        positive = fits.max(axis=1) >= 0
        taught[positive] = np.array(classes, dtype=np.uint8)[fits.argmax(axis=1)][positive]
    away = (iou < apart).all(axis=1) & (taught == UNKNOWN)
    easy = (inside < unlikely).all(axis=1) & (look < hard)
    missed = (looks[:, ~found] >= hard).any(axis=1)
    taught[away & (easy | ((look >= hard) & ~missed))] = BACKGROUND
    return taught, look


def drawn(
    taught: NDArray[np.uint8], look: NDArray[np.floating], samples: int, random: np.random.Generator, *, hard: float
) -> NDArray[np.int64]:
    """Return which of the boxes that ``select`` sorted are learned from in one step: at most ``samples``, drawn at random.

    A quarter are positives, half of the rest are negatives that look like a tag from ``hard`` on, as far as there are any;
    what one kind of negatives lacks the other fills.
    """
    negative = taught == BACKGROUND
    kinds = (~negative & (taught != UNKNOWN), negative & (look >= hard), negative & (look < hard))
    positives, alike, others = (random.permutation(np.flatnonzero(kind)) for kind in kinds)
    positives = positives[: max(1, round(POSITIVE * samples))]
    rest = samples - len(positives)
    alike = alike[: max(round(HARD * rest), rest - len(others))]
    return np.concatenate([positives, alike, others[: rest - len(alike)]])
