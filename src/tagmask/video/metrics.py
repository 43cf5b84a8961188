"""How well objects are followed: DAVIS's region similarity J and boundary accuracy F, frame by frame and over a clip.

Perazzi, Pont-Tuset, McWilliams, Van Gool, Gross, Sorkine-Hornung. CVPR 2016; Pont-Tuset and others. DAVIS 2017.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from tagmask.types import BACKGROUND

TOLERANCE = 0.008  # of the diagonal  # author code
RECALLED = 0.5  # a frame with more than this counts for the recall  # author code
BINS = 4  # the decay is the mean of the first less that of the last  # author code

Item = TypeVar("Item")


def region(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """J: intersection over union of two masks bool (H, W), in [0, 1]; 1 where both are empty."""
    union = np.count_nonzero(prediction | truth)
    return np.count_nonzero(prediction & truth) / union if union else 1.0


def outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the boundary of a mask bool (H, W), one pixel wide and half a pixel towards the origin.

    A pixel is on it that differs from its east, south or south-east neighbour; in the last row only the east one counts,
    in the last column only the south one. A mask that fills the frame has none. Source: author code.

    >>> outline(np.pad(np.ones((1, 2), dtype=bool), 1)).astype(int).tolist()
    [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    """
    edge = np.zeros_like(mask)
    here = mask[:-1, :-1]
    edge[:-1, :-1] = (here ^ mask[:-1, 1:]) | (here ^ mask[1:, :-1]) | (here ^ mask[1:, 1:])
    edge[-1, :-1] = mask[-1, :-1] ^ mask[-1, 1:]
    edge[:-1, -1] = mask[:-1, -1] ^ mask[1:, -1]
    return edge


def tolerance(size: tuple[int, int]) -> int:
    """Return by how many pixels boundaries in frames of this size (H, W) may be apart: 0.8 % of the diagonal, rounded up.

    >>> tolerance((480, 854)), tolerance((360, 480))
    (8, 5)
    """
    return math.ceil(TOLERANCE * float(np.linalg.norm(size)))


def boundary(prediction: NDArray[np.bool_], truth: NDArray[np.bool_], radius: int | None = None) -> float:
    """F: harmonic mean of the shares of both boundaries that lie within ``radius`` pixels of the other, in [0, 1].

    Masks are bool (H, W); the distance is Euclidean, ``radius`` by default what `tolerance` says. 1 where neither has a
    boundary, 0 where one has.
    """
    ours, theirs = outline(prediction), outline(truth)
    if not (ours.any() and theirs.any()):
        return float(ours.any() == theirs.any())
    reach = tolerance(prediction.shape[:2]) if radius is None else radius
    # Only distances between the two boundaries are asked for: nothing outside of the box around both matters.
    x, y, width, height = cv2.boundingRect((ours | theirs).view(np.uint8))
    ours, theirs = ours[y : y + height, x : x + width], theirs[y : y + height, x : x + width]
    precision, recall = _near(ours, theirs, reach), _near(theirs, ours, reach)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _near(points: NDArray[np.bool_], others: NDArray[np.bool_], radius: int) -> float:
    """Return the share of the points that have one of the others within the radius."""
    distance = cv2.distanceTransform(
        src=(~others).view(np.uint8), distanceType=cv2.DIST_L2, maskSize=cv2.DIST_MASK_PRECISE
    )
    # Squared distances are whole numbers: half of one more leaves no doubt about rounding.
    return np.count_nonzero(distance[points] <= math.sqrt(radius**2 + 0.5)) / np.count_nonzero(points)


@dataclass(frozen=True)
class Statistics:
    """What becomes of the values of one clip's frames: their mean, the share above .5, and how much is lost over time."""

    mean: float
    recall: float
    decay: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Statistics:
        """Sum up the values of consecutive frames. Raises ``ValueError`` without any.

        The decay is the mean of the first quarter less that of the last; neighbouring quarters share a frame. Source:
        author code, whose 8-bit numbers of frames wrap beyond 256; here they do not.

        >>> Statistics.of([1.0, 0.75, 0.5, 0.25, 0.0])
        Statistics(mean=0.5, recall=0.4, decay=0.75)
        """
        v = np.fromiter(values, dtype=np.float64)
        if not len(v):
            raise ValueError("no frame to sum up; a clip needs three or more, for the first and the last do not count")
        ends = np.round(np.linspace(1, len(v), BINS + 1) + 1e-10).astype(np.intp) - 1
        first, last = v[ends[0] : ends[1] + 1], v[ends[-2] : ends[-1] + 1]
        decay = float(first.mean() - last.mean())
        return cls(mean=float(v.mean()), recall=float((v > RECALLED).mean()), decay=decay)

    @classmethod
    def mean_of(cls, several: Iterable[Statistics]) -> Statistics:
        """Average the statistics of several objects or clips."""
        table = np.array([(one.mean, one.recall, one.decay) for one in several], dtype=np.float64)
        return cls(*table.mean(axis=0).tolist())


@dataclass(frozen=True)
class ObjectScores:
    """J and F of one object of one clip."""

    region: Statistics
    boundary: Statistics

    @property
    def both(self) -> float:
        """J&F: the mean of both means."""
        return (self.region.mean + self.boundary.mean) / 2

    @classmethod
    def mean_of(cls, several: Iterable[ObjectScores]) -> ObjectScores:
        """Average the scores of several objects or clips."""
        held = list(several)
        return cls(Statistics.mean_of(one.region for one in held), Statistics.mean_of(one.boundary for one in held))


class ClipScores:
    """Scores of all objects of one clip, filled frame by frame in order; only numbers are kept.

    Its law: an object is whatever id but 0 the truth shows in a frame that counts. Its frames count from the first on in
    which truth or prediction show it (as vos-benchmark has it); with ``from_start`` from the first frame on, where an
    object that neither shows yet counts as found (DAVIS's own code). Where all objects are there from the first frame on
    the two agree. Ids that only the prediction shows count for nothing.
    """

    def __init__(self, *, from_start: bool = False) -> None:
        self.from_start = from_start
        self.frames = 0
        self._true: set[int] = set()
        self._values: dict[int, list[tuple[float, float]]] = {}

    def add(self, prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
        """Score one frame, both uint8 (H, W) of ids. Raises ``ValueError`` for other types or two sizes."""
        if prediction.dtype != np.uint8 or truth.dtype != np.uint8 or prediction.shape != truth.shape:
            raise ValueError(
                "prediction and truth must be uint8 (H, W) of one size, "
                f"got {prediction.dtype} {prediction.shape} and {truth.dtype} {truth.shape}"
            )
        self._true.update(ids_in(truth))
        for known in {*self._true, *ids_in(prediction)}:
            self._values.setdefault(known, [(1.0, 1.0)] * self.frames if self.from_start else [])
        for known, values in self._values.items():
            ours, theirs = prediction == known, truth == known
            values.append((region(ours, theirs), boundary(ours, theirs)))
        self.frames += 1

    def objects(self) -> dict[int, ObjectScores]:
        """Return the scores of every object, by its id."""
        return {
            known: ObjectScores(*(Statistics.of(values) for values in zip(*self._values[known], strict=True)))
            for known in sorted(self._true)
        }


def score_clip(
    frames: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]], *, from_start: bool = False
) -> dict[int, ObjectScores]:
    """Return J and F of every object of a clip, given (prediction, truth) of its frames, each uint8 (H, W) of ids.

    The first frame, which is given, and the last, which the authors leave out too, do not count. One pass, two frames in
    memory. ``from_start`` as in `ClipScores`.
    """
    scores = ClipScores(from_start=from_start)
    for prediction, truth in inner(frames):
        scores.add(prediction, truth)
    return scores.objects()


def inner(items: Iterable[Item]) -> Iterator[Item]:
    """Yield all but the first and the last.

    >>> list(inner("abcd"))
    ['b', 'c']
    """
    rest = iter(items)
    next(rest, None)
    for held in rest:
        for after in rest:
            yield held
            held = after


def ids_in(labels: NDArray[np.uint8]) -> list[int]:
    """Return the ids in labels uint8 (H, W) but 0, sorted.

    >>> ids_in(np.array([[3, 0], [1, 3]], dtype=np.uint8))
    [1, 3]
    """
    return [
        known for known in np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).tolist() if known != BACKGROUND
    ]
