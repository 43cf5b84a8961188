"""The scores against a worked example and loops over pixels; the curve against one threshold at a time."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.errors import DataError, OptionError
from tagmask.evaluate import Confusion, image_iou
from tagmask.label import threshold_labels
from tagmask.quality import SeedQuality, ThresholdCurve, seed_precision
from tagmask.types import Activation

few = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 10_000)

# Four classes, of which 3 is nowhere. One pixel has no truth (row 2, right), one no prediction (row 1, right).
TRUTH = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 2, 2, 255], [0, 2, 2, 1]], dtype=np.uint8)
PREDICTION = np.array([[0, 0, 1, 1], [0, 1, 1, 255], [0, 2, 0, 1], [0, 2, 2, 2]], dtype=np.uint8)
# Counted by hand over the 15 pixels with a truth:
#             predicted   0  1  2  3  unknown | T
MATRIX = [  #        true
    [5, 1, 0, 0, 0],  # 0                     | 6
    [0, 3, 1, 0, 1],  # 1                     | 5
    [1, 0, 3, 0, 0],  # 2                     | 4
    [0, 0, 0, 0, 0],  # 3                     | 0
]  #             P:       6  4  4  0          ; TP: 5 3 3 0; union T + P - TP: 7 6 5 0
IOU = [5 / 7, 3 / 6, 3 / 5]


@pytest.fixture
def confusion():
    counted = Confusion(classes=4)
    counted.add(TRUTH, PREDICTION)
    return counted


def test_worked_example(confusion):
    assert confusion.matrix.tolist() == MATRIX
    scores = confusion.scores()
    assert scores.iou.tolist() == pytest.approx([*IOU, math.nan], nan_ok=True)
    assert scores.miou == pytest.approx(sum(IOU) / 3)
    assert scores.averaged == 3
    assert scores.pixel_accuracy == pytest.approx(11 / 15)
    assert scores.mean_accuracy == pytest.approx((5 / 6 + 3 / 5 + 3 / 4) / 3)
    assert scores.frequency_iou == pytest.approx((6 * IOU[0] + 5 * IOU[1] + 4 * IOU[2]) / 15)
    assert scores.precision.tolist() == pytest.approx([5 / 6, 3 / 4, 3 / 4, math.nan], nan_ok=True)
    assert scores.recall.tolist() == pytest.approx([5 / 6, 3 / 5, 3 / 4, math.nan], nan_ok=True)
    assert scores.fp.tolist() == pytest.approx([1 / 7, 1 / 6, 1 / 5, math.nan], nan_ok=True)
    assert scores.fn.tolist() == pytest.approx([1 / 7, 2 / 6, 1 / 5, math.nan], nan_ok=True)


def test_absent_rules(confusion):
    assert confusion.scores(absent="zero").miou == pytest.approx(sum(IOU) / 4)
    assert confusion.scores(absent="zero").averaged == 4
    confusion.add(
        np.zeros((1, 1), dtype=np.uint8), np.full((1, 1), 3, dtype=np.uint8)
    )  # class 3 in the prediction only
    shared = 5 / 8 + 3 / 6 + 3 / 5  # background: T 7, P 6, TP 5
    assert confusion.scores(absent="skip_gt").miou == pytest.approx(shared / 3)
    assert confusion.scores(absent="skip_nan").miou == pytest.approx(shared / 4)
    with pytest.raises(OptionError, match=r"skip_nan, skip_gt, zero.*did you mean 'skip_nan'"):
        confusion.scores(absent="skipnan")


def test_only_chooses_the_average_not_the_counts(confusion):
    scores = confusion.scores(only=(1, 2, 3))
    assert scores.miou == pytest.approx((IOU[1] + IOU[2]) / 2)
    assert scores.mean_accuracy == pytest.approx((3 / 5 + 3 / 4) / 2)
    assert scores.averaged == 2
    assert scores.iou[0] == pytest.approx(IOU[0])
    assert math.isnan(confusion.scores(only=(3,)).miou)
    with pytest.raises(ValueError, match="only"):
        confusion.scores(only=(4,))


def test_json_has_none_for_nan_and_survives_a_strict_writer(confusion):
    written = json.loads(json.dumps(confusion.scores().to_json(), allow_nan=False))
    assert written["iou"] == pytest.approx([*IOU, None])
    assert written["averaged"] == 3
    empty = Confusion(classes=2).scores().to_json()
    assert empty["miou"] is None
    assert empty["iou"] == [None, None]
    assert empty["averaged"] == 0


@few
@given(classes=st.integers(1, 5), size=st.tuples(st.integers(1, 5), st.integers(1, 5)), seed=seeds)
def test_counts_and_scores_are_those_of_loops(classes, size, seed):
    random = np.random.default_rng(seed)
    truth = random.choice([*range(classes + 2), 255], size).astype(
        np.uint8
    )  # ids beyond the last class count as unknown
    prediction = random.choice([*range(classes), 255], size).astype(np.uint8)
    confusion = Confusion(classes)
    confusion.add(truth, prediction)
    scores = confusion.scores()
    pairs = [(int(t), int(p)) for t, p in zip(truth.flat, prediction.flat, strict=True) if t < classes]
    present = []
    for c in range(classes):
        both = sum(t == c and p == c for t, p in pairs)
        either = sum(t == c or p == c for t, p in pairs)
        if either:
            present.append(both / either)
            assert scores.iou[c] == pytest.approx(both / either)
            assert scores.iou[c] + scores.fp[c] + scores.fn[c] == pytest.approx(1)
        else:
            assert math.isnan(scores.iou[c])
    mean = sum(present) / len(present) if present else math.nan
    assert scores.miou == pytest.approx(mean, nan_ok=True)
    assert image_iou(truth, prediction, classes) == pytest.approx(mean, nan_ok=True)
    assert confusion.matrix.sum() == len(pairs)


def test_merged_parts_are_the_whole(confusion):
    parts = Confusion(classes=4), Confusion(classes=4)
    parts[0].add(TRUTH[:2], PREDICTION[:2])
    parts[1].add(TRUTH[2:], PREDICTION[2:])
    parts[0].merge(parts[1])
    np.testing.assert_array_equal(parts[0].matrix, confusion.matrix)
    with pytest.raises(ValueError, match="merge"):
        confusion.merge(Confusion(classes=5))


def test_counts_do_not_overflow_small_integers():
    confusion = Confusion(classes=255)
    confusion.matrix[254, 254] = 2**40
    confusion.add(np.full((2, 2), 254, dtype=np.uint8), np.full((2, 2), 254, dtype=np.uint8))
    assert confusion.matrix[254, 254] == 2**40 + 4


def test_masks_that_cannot_be_compared_are_refused(confusion):
    with pytest.raises(ValueError, match="one size"):
        confusion.add(TRUTH, PREDICTION[:2])
    with pytest.raises(ValueError, match="uint8"):
        confusion.add(TRUTH, PREDICTION.astype(np.int64))
    with pytest.raises(DataError, match=r"class 7; expected 0\.\.3 or 255"):
        confusion.add(TRUTH, np.full_like(TRUTH, 7))
    assert confusion.matrix.tolist() == MATRIX


def test_seed_quality_of_the_worked_example():
    seeds = SeedQuality(classes=4)
    seeds.add(TRUTH, PREDICTION)
    scores = seeds.scores()
    # Without the unknown pixel class 1 has T 4, union 5; with it as background that has P 7, union 8.
    assert scores.miou_labelled == pytest.approx((5 / 7 + 3 / 5 + 3 / 5) / 3)
    assert scores.coverage == pytest.approx(14 / 15)
    assert scores.miou_unknown_as_background == pytest.approx((5 / 8 + 3 / 6 + 3 / 5) / 3)
    assert scores.foreground_recall == pytest.approx(6 / 9)
    assert scores.missed == pytest.approx(1 / 9)
    assert scores.precision.tolist() == pytest.approx([5 / 6, 3 / 4, 3 / 4, math.nan], nan_ok=True)
    assert scores.recall.tolist() == pytest.approx([5 / 6, 3 / 5, 3 / 4, math.nan], nan_ok=True)
    assert seeds.scores(only=(1,)).miou_labelled == pytest.approx(3 / 5)
    assert scores.to_json()["precision"][3] is None


def test_seeds_that_label_nothing_have_no_miou_of_labelled_pixels():
    seeds = SeedQuality(classes=3)
    seeds.add(np.array([[0, 1]], dtype=np.uint8), np.full((1, 2), 255, dtype=np.uint8))
    scores = seeds.scores()
    assert math.isnan(scores.miou_labelled)
    assert scores.coverage == 0
    assert scores.miou_unknown_as_background == pytest.approx((1 / 2 + 0) / 2)
    assert scores.foreground_recall == 0


@few
@given(
    chosen=st.sets(st.integers(1, 4), max_size=3),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    images=st.integers(1, 3),
    same_size=st.booleans(),
    seed=seeds,
)
def test_curve_is_one_confusion_a_threshold(chosen, size, images, same_size, seed):
    random = np.random.default_rng(seed)
    curve = ThresholdCurve(classes=5)
    naive = [Confusion(classes=5) for _ in curve.thresholds]
    for _ in range(images):
        truth = random.choice([0, 1, 2, 3, 4, 5, 255], size).astype(np.uint8)
        grid = size if same_size else (2, 3)
        # Multiples of 0.05 meet thresholds exactly, and exceed the range.
        maps = (random.integers(0, 21, (len(chosen), *grid)) / 20).astype(np.float32)
        activation = Activation(maps, classes=tuple(sorted(chosen)))
        curve.add(truth, activation)
        for confusion, threshold in zip(naive, curve.thresholds, strict=True):
            confusion.add(truth, threshold_labels(activation, float(threshold), size=size).labels)
    np.testing.assert_array_equal(curve.matrices(), [confusion.matrix for confusion in naive])
    for only in (None, (1, 3)):
        np.testing.assert_array_equal(curve.miou(only), [c.scores(only=only).miou for c in naive])


def test_best_threshold_by_hand():
    curve = ThresholdCurve(classes=2, thresholds=np.array([0.0, 0.2, 0.4, 0.45, 0.6]))
    maps = np.array([[[0.1, 0.4, 0.5, 0.9]]], dtype=np.float32)
    curve.add(np.array([[0, 0, 1, 1]], dtype=np.uint8), Activation(maps, classes=(1,)))
    # Predicted classes: 1111, 0111, 0011 (0.4 ties with 0.4), 0011, 0001; of equal ones the lowest is the best.
    assert curve.miou().tolist() == pytest.approx([(0 + 2 / 4) / 2, (1 / 2 + 2 / 3) / 2, 1, 1, (2 / 3 + 1 / 2) / 2])
    assert curve.best() == (0.4, 1.0)
    assert not curve.at_the_end


def test_a_best_threshold_at_an_end_is_told():
    truth = np.array([[0, 1]], dtype=np.uint8)
    late = Activation(np.array([[[0.7, 0.9]]], dtype=np.float32), classes=(1,))
    early = Activation(np.array([[[0.1, 0.2]]], dtype=np.float32), classes=(1,))
    for activation, thresholds, told in (
        (late, [0.1, 0.4, 0.7], True),
        (late, [0.1, 0.7, 0.8, 0.9], False),
        (early, [0.15, 0.4, 0.7], True),
        (Activation(np.array([[[0.0, 0.2]]], dtype=np.float32), classes=(1,)), [0.0, 0.4], False),
    ):
        curve = ThresholdCurve(classes=2, thresholds=np.array(thresholds))
        curve.add(truth, activation)
        assert curve.best()[1] == 1
        assert curve.at_the_end is told


def test_an_empty_curve_has_no_best():
    curve = ThresholdCurve(classes=3)
    assert len(curve.thresholds) == 60
    assert curve.thresholds[-1] == 0.59
    assert np.isnan(curve.best()).all()
    assert curve.at_the_end is False


def test_bad_curves_are_refused():
    for thresholds in ([], [0.2, 0.1], [-0.1, 0.5], [0.5, 1.5], [[0.1, 0.2]]):
        with pytest.raises(ValueError, match="thresholds"):
            ThresholdCurve(classes=2, thresholds=np.array(thresholds))
    with pytest.raises(DataError, match="ids up to 1"):
        ThresholdCurve(classes=2).add(
            np.zeros((1, 1), dtype=np.uint8), Activation(np.zeros((1, 1, 1), dtype=np.float32), classes=(2,))
        )


@pytest.mark.parametrize("seed", range(5))
def test_localisation_is_scored_at_two_recalls(seed):
    random, thresholds = np.random.default_rng(seed), np.arange(20) / 20
    curve, labelled = ThresholdCurve(classes=4, thresholds=thresholds), {t: [] for t in thresholds}
    for _ in range(3):
        truth = random.choice([0, 0, 0, 1, 3, 255], (6, 5)).astype(np.uint8)
        maps = random.random((2, 6, 5)) * np.where(np.isin(truth, [1, 3]), 1, 0.6)
        activation = Activation(maps.astype(np.float32), classes=(1, 3))
        curve.add(truth, activation)
        for t, pairs in labelled.items():
            pairs += zip(truth.ravel(), threshold_labels(activation, float(t)).labels.ravel(), strict=True)
    rows = []
    for pairs in labelled.values():
        known = [(t, p) for t, p in pairs if t != 255]
        hits = {c: sum(t == p == c for t, p in known) for c in (0, 1, 3)}
        right = {c: hits[c] / max(1, sum(p == c for _, p in known)) for c in hits}
        found = {c: hits[c] / sum(t == c for t, _ in known) for c in hits}
        rows.append(((found[1] + found[3]) / 2, (right[1] + right[3]) / 2, found[0], right[0]))
    foreground = min((row for row in rows if row[0] > 0.2), key=lambda row: row[0])[1]
    background = min((row for row in rows if row[2] > 0.8), key=lambda row: row[2])[3]
    said = seed_precision(curve)
    assert said["foreground"] == pytest.approx(foreground)
    assert said["background"] == pytest.approx(background)
    assert said["mean"] == pytest.approx((foreground + background) / 2)
    nothing = {"mean": None, "foreground": None, "background": None}
    assert seed_precision(ThresholdCurve(classes=3)) == nothing


def test_image_iou_of_an_image_without_truth_is_nan():
    assert math.isnan(image_iou(np.full((2, 2), 255, dtype=np.uint8), np.zeros((2, 2), dtype=np.uint8), classes=3))
