"""How good masks, seeds and activations are: one confusion matrix over a whole set, and what follows from it.

Counts are summed over the set in int64; a set's score is never the average of its images' scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tagmask.errors import DataError, OptionError, did_you_mean
from tagmask.types import UNKNOWN

Absent = Literal["skip_nan", "skip_gt", "zero"]


@dataclass(frozen=True, eq=False)
class Scores:
    """What a confusion matrix says, all in [0, 1]; arrays are float64 (C,), nan where a class gives no answer.

    ``miou`` is the mean of ``averaged`` classes' ``iou``. ``frequency_iou`` weighs each class by its true pixels.
    ``fp`` and ``fn`` are the shares of a class's union that are wrongly taken and missed: iou + fp + fn = 1.
    """

    iou: NDArray[np.float64]
    miou: float
    averaged: int
    pixel_accuracy: float
    mean_accuracy: float
    frequency_iou: float
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    fp: NDArray[np.float64]
    fn: NDArray[np.float64]

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and lists, with ``None`` for nan."""
        return json_types(asdict(self))


class Confusion:
    """Counts of (truth, prediction) pairs, where only pixels with a known true class count.

    ``matrix`` int64 (C, C+1): row = true class, column = predicted class, last column = predicted unknown (255).
    Truth of 255, or of any id beyond C-1, is left out. A prediction of 255 is a miss: it counts for its true class and
    for no predicted one.
    """

    def __init__(self, classes: int) -> None:
        if not 1 <= classes <= UNKNOWN:
            raise ValueError(f"classes must lie in 1..{UNKNOWN} with the background, got {classes}")
        self.classes = classes
        self.matrix = np.zeros((classes, classes + 1), dtype=np.int64)

    def add(self, truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """Count one image, both uint8 (H, W).

        Raises ``ValueError`` on other types or sizes, ``DataError`` when a prediction holds an id beyond C-1.
        """
        if (
            truth.dtype != np.uint8
            or prediction.dtype != np.uint8
            or truth.ndim != 2
            or truth.shape != prediction.shape
        ):
            raise ValueError(
                "truth and prediction must be uint8 (H, W) of one size, "
                f"got {truth.dtype} {truth.shape} and {prediction.dtype} {prediction.shape}"
            )
        pairs = truth.astype(np.uint16) * 256 + prediction  # both bytes in one number
        table = np.bincount(pairs.ravel(), minlength=256 * 256).reshape(256, 256)[: self.classes]
        beyond = np.flatnonzero(table[:, self.classes : UNKNOWN].any(axis=0))
        if len(beyond):
            raise DataError(
                f"A predicted mask holds class {self.classes + beyond[0]}; expected 0..{self.classes - 1} or 255 "
                "(unknown). Predict and evaluate with the same list of classes."
            )
        self.matrix[:, :-1] += table[:, : self.classes]
        self.matrix[:, -1] += table[:, UNKNOWN]

    def merge(self, other: Confusion) -> None:
        """Add the counts of another part of the same set. Raises ``ValueError`` when the classes differ."""
        if other.classes != self.classes:
            raise ValueError(f"cannot merge {other.classes} classes into {self.classes}")
        self.matrix += other.matrix

    def scores(self, absent: Absent = "skip_nan", only: Sequence[int] | None = None) -> Scores:
        """Score the counts; ``miou`` and ``mean_accuracy`` average over ``only`` these class ids (default: all).

        ``absent`` says which classes ``miou`` leaves out: ``skip_nan`` those in neither truth nor prediction,
        ``skip_gt`` those not in the truth, ``zero`` none (an absent class counts as 0). On a full data set the three
        agree. Raises ``OptionError`` on another rule, ``ValueError`` on an id beyond C-1.
        """
        return scores_of(self.matrix, absent, only)


def image_iou(truth: NDArray[np.uint8], prediction: NDArray[np.uint8], classes: int) -> float:
    """Mean IoU over the classes in one image's truth or prediction, nan without any; to sort images, not to report."""
    confusion = Confusion(classes)
    confusion.add(truth, prediction)
    return confusion.scores().miou


def scores_of(matrix: NDArray[np.int64], absent: Absent, only: Sequence[int] | None) -> Scores:
    """Score one confusion matrix (C, C+1)."""
    hits = matrix[:, :-1].diagonal()  # (C,)
    true, predicted = matrix.sum(axis=1), matrix[:, :-1].sum(axis=0)  # (C,)
    union = true + predicted - hits
    iou, recall = ratio(hits, union), ratio(hits, true)
    chosen = _chosen(only, classes=len(matrix))
    averaged = chosen & _present(absent, true, union)
    return Scores(
        iou=iou,
        miou=_mean(np.nan_to_num(iou), averaged),  # nan only where ``zero`` asks for it to count as 0
        averaged=int(averaged.sum()),
        pixel_accuracy=float(ratio(hits.sum(), true.sum())),
        mean_accuracy=_mean(recall, chosen & (true > 0)),
        frequency_iou=float(ratio((true * np.nan_to_num(iou)).sum(), true.sum())),
        precision=ratio(hits, predicted),
        recall=recall,
        fp=ratio(predicted - hits, union),
        fn=ratio(true - hits, union),
    )


def _present(absent: Absent, true: NDArray[np.int64], union: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which classes the rule keeps in the average, bool (C,)."""
    match absent:
        case "skip_nan":  # author code (irn)
            return union > 0
        case "skip_gt":  # author code (deeplab-pytorch)
            return true > 0
        case "zero":  # author code (psa, SEAM)
            return np.ones(len(true), dtype=bool)
    rules = get_args(Absent)
    raise OptionError(
        f"No rule {absent!r} for absent classes; give one of {', '.join(rules)}{did_you_mean(absent, rules)}"
    )


def _chosen(only: Sequence[int] | None, classes: int) -> NDArray[np.bool_]:
    """Return the class ids to average over as bool (C,)."""
    chosen = np.zeros(classes, dtype=bool)
    ids = range(classes) if only is None else only
    if any(not 0 <= c < classes for c in ids):
        raise ValueError(f"only must hold class ids 0..{classes - 1}, got {tuple(ids)}")
    chosen[list(ids)] = True
    return chosen


def ratio(part: NDArray | np.number, whole: NDArray | np.number) -> NDArray[np.float64]:
    """Divide, nan where the whole is 0."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _mean(values: NDArray[np.float64], chosen: NDArray[np.bool_]) -> float:
    return float(values[chosen].mean()) if chosen.any() else float("nan")


def json_types(fields: dict[str, Any]) -> dict[str, Any]:
    """Make a dataclass's fields fit for JSON: arrays become lists, nan becomes ``None``."""
    rows = {key: np.asarray(value).tolist() for key, value in fields.items()}
    return {key: [_none(v) for v in row] if isinstance(row, list) else _none(row) for key, row in rows.items()}


def _none(value: float) -> float | None:
    return None if value != value else value
