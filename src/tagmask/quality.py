"""How good seeds, activations and saliency are: seeds that leave pixels unknown, and scores at every threshold at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tagmask.errors import DataError
from tagmask.evaluate import Absent, Confusion, json_types, ratio, scores_of
from tagmask.label import strongest
from tagmask.types import BACKGROUND, UNKNOWN, Activation, Saliency

THRESHOLDS = np.arange(60) / 100  # author code (psa, SEAM): 0, 0.01, .., 0.59


@dataclass(frozen=True, eq=False)
class SeedScores:
    """How good seeds are, all in [0, 1]; the first alone would reward leaving the hard pixels unknown.

    ``miou_labelled`` is over labelled pixels only, ``coverage`` the share of the pixels with a known truth that are
    labelled, ``miou_unknown_as_background`` over all pixels. ``foreground_recall`` is the share of the true
    foreground that carries its own class, ``missed`` the share that is labelled background. ``precision`` and ``recall``
    float64 (C,); unknown pixels lower the recall.
    """

    miou_labelled: float
    coverage: float
    miou_unknown_as_background: float
    foreground_recall: float
    missed: float
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and lists, with ``None`` for nan."""
        return json_types(asdict(self))


class SeedQuality:
    """A confusion matrix of label maps that leave pixels unknown, read in the ways that are fair to seeds."""

    def __init__(self, classes: int) -> None:
        self.confusion = Confusion(classes)

    def add(self, truth: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        """Count one image, both uint8 (H, W), 255 in ``labels`` where there is no seed; raises as ``Confusion.add``."""
        self.confusion.add(truth, labels)

    def scores(self, absent: Absent = "skip_nan", only: Sequence[int] | None = None) -> SeedScores:
        """Score the seeds; ``absent`` and ``only`` act on the two mIoUs as in ``Confusion.scores``."""
        matrix = self.confusion.matrix
        labelled, as_background = matrix.copy(), matrix.copy()
        labelled[:, -1] = 0
        as_background[:, BACKGROUND] += as_background[:, -1]
        as_background[:, -1] = 0
        whole = scores_of(matrix, absent, only)
        return SeedScores(
            miou_labelled=scores_of(labelled, absent, only).miou,
            coverage=float(ratio(labelled.sum(), matrix.sum())),
            miou_unknown_as_background=scores_of(as_background, absent, only).miou,
            foreground_recall=float(ratio(matrix.diagonal()[1:].sum(), matrix[1:].sum())),
            missed=float(ratio(matrix[1:, BACKGROUND].sum(), matrix[1:].sum())),
            precision=whole.precision,
            recall=whole.recall,
        )


class ThresholdCurve:
    """The confusion at every background threshold at once, exactly as ``threshold_labels`` would give one by one.

    A pixel's label is its strongest class under every threshold below that class's value, background from there on. So
    one count of (thresholds below the value, true class, strongest class) holds all the matrices: they are its sums.
    """

    def __init__(self, classes: int, thresholds: NDArray[np.floating] = THRESHOLDS) -> None:
        self.classes = classes
        self.thresholds = np.asarray(thresholds, dtype=np.float64)  # (T,)
        if self.thresholds.ndim != 1 or not len(self.thresholds) or not (np.diff(self.thresholds) > 0).all():
            raise ValueError("thresholds must be one increasing row of at least one number")
        if not (self.thresholds[0] >= 0 and self.thresholds[-1] <= 1):
            raise ValueError("thresholds must lie in [0, 1]")
        self._counts = np.zeros((len(self.thresholds) + 1, classes, classes), dtype=np.int64)

    def add(self, truth: NDArray[np.uint8], activation: Activation) -> None:
        """Count one image: truth uint8 (H, W); an activation of another size is resized bilinearly to it.

        Raises ``DataError`` when the activation holds a class beyond C-1.
        """
        if any(c >= self.classes for c in activation.classes):
            raise DataError(f"An activation holds classes {activation.classes}; expected ids up to {self.classes - 1}.")
        winner, value = strongest(activation, size=(truth.shape[0], truth.shape[1]))
        known = truth < self.classes  # (H, W)
        exact = self.thresholds.astype(np.float32)  # as threshold_labels compares, so that ties are the same ties
        below = np.searchsorted(exact, value[known], side="left")  # (N,) number of thresholds that the value exceeds
        cell = (below * self.classes + truth[known]) * self.classes + winner[known]
        self._counts += np.bincount(cell, minlength=self._counts.size).reshape(self._counts.shape)

    def matrices(self) -> NDArray[np.int64]:
        """Return the confusion matrix at every threshold, laid out as ``Confusion.matrix``: int64 (T, C, C+1)."""
        reached = self._counts.cumsum(axis=0)[:-1]  # (T, C, C): value at or below the threshold, so background
        matrices = np.zeros((len(reached), self.classes, self.classes + 1), dtype=np.int64)
        matrices[:, :, :-1] = self._counts.sum(axis=0) - reached
        matrices[:, :, BACKGROUND] += reached.sum(axis=2)
        return matrices

    def miou(self, only: Sequence[int] | None = None) -> NDArray[np.float64]:
        """Return the mIoU at every threshold, float64 (T,), averaged as ``Confusion.scores(only=only)`` does."""
        return np.array([scores_of(matrix, "skip_nan", only).miou for matrix in self.matrices()])

    def best(self, only: Sequence[int] | None = None) -> tuple[float, float]:
        """Return the threshold of the highest mIoU (the lowest of equal ones) and that mIoU.

        A threshold found on the truth is an oracle: report it as such. Both are nan before anything was counted.
        """
        miou = self.miou(only)
        if np.isnan(miou).all():
            return np.nan, np.nan
        best = int(np.nanargmax(miou))
        return float(self.thresholds[best]), float(miou[best])

    @property
    def at_the_end(self) -> bool:
        """Whether the best threshold (over all classes) is an end of the range, so that a better one may lie outside.

        No threshold lies below 0, which is therefore no such end.
        """
        threshold = self.best()[0]
        return bool(threshold == self.thresholds[-1] or threshold == self.thresholds[0] > 0)


def seed_precision(
    curve: ThresholdCurve, *, foreground_recall: float = 0.2, background_recall: float = 0.8
) -> dict[str, float | None]:
    """Return how well maps localise: the ``mean`` of two precisions of the labels that a threshold makes of them.

    That of the ``foreground``, a mean over its classes, where their mean recall is just over ``foreground_recall``, and
    that of the ``background`` just over ``background_recall``; ``None`` where no threshold gives such a recall. Source:
    guided labelling (Oh et al. CVPR 2017), author code.
    """
    matrices = curve.matrices().astype(np.float64)  # (T, C, C+1)
    hits = matrices[:, range(curve.classes), range(curve.classes)]  # (T, C)
    precision, recall = ratio(hits, matrices.sum(axis=1)[:, :-1]), ratio(hits, matrices.sum(axis=2))
    occurs = matrices[0, 1:].sum(axis=1) > 0
    said = np.nan_to_num(precision[:, 1:][:, occurs])  # a class that no pixel gets: 0  # ours
    rows = {
        "foreground": (
            said.mean(axis=1) if occurs.any() else said.sum(axis=1),
            recall[:, 1:][:, occurs],
            foreground_recall,
        ),
        "background": (precision[:, 0], recall[:, :1], background_recall),
    }
    found: dict[str, float | None] = {}
    for name, (right, reached, least) in rows.items():
        mean = reached.sum(axis=1) / max(1, reached.shape[1])  # (T,)
        over = np.flatnonzero(mean > least)
        found[name] = float(right[over[mean[over].argmin()]]) if len(over) else None
    both = [value for value in found.values() if value is not None]
    return {"mean": sum(both) / 2 if len(both) == 2 else None, **found}


@dataclass(frozen=True)
class SaliencyScores:
    """How well saliency tells the tagged objects from the rest, all in [0, 1], over the pixels of all images.

    ``precision`` and ``recall`` are of what is at least half of the scale, ``ground_precision`` and ``ground_recall`` of
    what DSRG takes for background (below 0.06). ``best_f`` is the largest F measure with beta^2 = 0.3 (the field's) over
    all cuts, an oracle, at ``best_cut``. ``overlapping`` is the share of the images whose salient half overlaps the
    objects by an IoU over 0.6 (a measure of guided labelling).
    """

    precision: float
    recall: float
    ground_precision: float
    ground_recall: float
    best_f: float
    best_cut: float
    mean_absolute_error: float
    overlapping: float

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers, with ``None`` for nan."""
        return json_types(asdict(self))


class SaliencyQuality:
    """Counts of the values of saliency on objects and on ground: all cuts follow from these two rows of 256."""

    HALF = 128  # guided labelling: at least half of 255  # paper
    GROUND = 0.06  # DSRG  # paper

    def __init__(self) -> None:
        self._counts = np.zeros((2, 256), dtype=np.int64)  # ground, objects
        self._overlapping = self._images = 0

    def add(self, truth: NDArray[np.uint8], saliency: Saliency) -> None:
        """Count one image: truth uint8 (H, W) of the same size, 255 left out; images without objects count as ground."""
        known = truth != UNKNOWN
        objects = (truth != BACKGROUND)[known]
        values = saliency.values[known]
        for row, chosen in enumerate((~objects, objects)):
            self._counts[row] += np.bincount(values[chosen], minlength=256)
        if objects.any():
            salient = values >= self.HALF
            self._images += 1
            self._overlapping += (salient & objects).sum() > 0.6 * (salient | objects).sum()  # paper: 0.6

    def scores(self) -> SaliencyScores:
        """Score what was counted."""
        ground, objects = self._counts
        above = np.cumsum(self._counts[:, ::-1], axis=1)[:, ::-1]  # (2, 256): at least the value
        precision, recall = ratio(above[1], above.sum(axis=0)), ratio(above[1], np.full(256, objects.sum()))
        f = ratio(1.3 * precision * recall, 0.3 * precision + recall)
        best = int(np.nanargmax(f)) if not np.isnan(f).all() else 0
        dark = np.arange(256) < self.GROUND * 255
        off = (np.arange(256) * ground).sum() + (np.arange(255, -1, -1) * objects).sum()
        return SaliencyScores(
            precision=float(precision[self.HALF]),
            recall=float(recall[self.HALF]),
            ground_precision=float(ratio(ground[dark].sum(), self._counts[:, dark].sum())),
            ground_recall=float(ratio(ground[dark].sum(), ground.sum())),
            best_f=float(f[best]),
            best_cut=best / 255,
            mean_absolute_error=float(ratio(off, 255 * self._counts.sum())),
            overlapping=float(ratio(np.int64(self._overlapping), np.int64(self._images))),
        )
