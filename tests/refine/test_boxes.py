"""Boxes against counting pixels, average precision against its definition."""

from itertools import pairwise

import numpy as np
import pytest

from tagmask.refine.boxes import (
    BoxQuality,
    average_precision,
    box_of,
    mask_of,
    moved,
    moves_between,
    overlaps,
    packed,
    standing_out,
    strongest_apart,
    whole_pixels,
)
from tagmask.types import Boxes


def some(random, count, side=12):
    low = random.integers(0, side - 1, (count, 2))
    return np.concatenate([low, low + random.integers(1, side - low + 1)], axis=1).astype(np.int32)


def full(box, side=12):
    mask = np.zeros((side, side), dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def held(boxes, scores, classes, side=12, masks=()):
    return Boxes(boxes, np.asarray(scores, dtype=np.float32), tuple(classes), (side, side), packed(masks))


@pytest.mark.parametrize("seed", range(4))
def test_overlaps_by_counting_pixels(seed):
    random = np.random.default_rng(seed)
    first, second = some(random, 5), some(random, 4)
    found = overlaps(first, second)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            assert found[i, j] == pytest.approx((full(a) & full(b)).sum() / (full(a) | full(b)).sum())
    assert overlaps(first[:0], second).shape == (0, 4)


def test_boxes_and_masks_of_each_other():
    random = np.random.default_rng(1)
    masks = [random.random((12, 12)) < 0.1 for _ in range(3)]
    boxes = np.array([box_of(mask) for mask in masks], dtype=np.int32)
    kept = held(boxes, [1, 1, 1], [0, 0, 0], masks=masks)
    for index, mask in enumerate(masks):
        np.testing.assert_array_equal(mask_of(kept, index), mask)
        assert not (mask & ~full(boxes[index])).any()
        np.testing.assert_array_equal(mask_of(held(boxes, [1, 1, 1], [0, 0, 0]), index), full(boxes[index]))
    assert box_of(np.zeros((3, 3), dtype=bool)) is None


@pytest.mark.parametrize("seed", range(4))
def test_the_strongest_suppress_what_overlaps_them(seed):
    random = np.random.default_rng(seed)
    boxes, scores = some(random, 20), random.random(20)
    left, kept = np.argsort(-scores).tolist(), []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [other for other in left if overlaps(boxes[[best]], boxes[[other]])[0, 0] <= 0.37]
    assert strongest_apart(boxes, scores, overlap=0.37).tolist() == kept
    assert strongest_apart(boxes, scores, overlap=0.37, most=2).tolist() == kept[:2]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("eleven", [True, False])
def test_average_precision_by_its_definition(seed, eleven):
    random = np.random.default_rng(seed)
    scores, right = random.random(15), random.random(15) < 0.5
    objects = int(right.sum()) + 3
    points = []
    for count in range(1, 16):
        best = np.argsort(-scores)[:count]
        points.append((right[best].sum() / objects, right[best].mean()))

    def precision_at(recall):
        return max((p for r, p in points if r >= recall - 1e-12), default=0.0)

    if eleven:
        expected = np.mean([precision_at(recall / 10) for recall in range(11)])
    else:
        recalls = [0.0, *sorted({r for r, _ in points})]
        expected = sum((b - a) * precision_at(b) for a, b in pairwise(recalls))
    assert average_precision(scores, right, objects, eleven_points=eleven) == pytest.approx(expected)
    assert np.isnan(average_precision(scores, right, 0))


def test_quality_on_a_case_by_hand():
    quality = BoxQuality(4)
    cat, dog = (1, 0, 0, 6, 6), (2, 6, 6, 12, 12)
    right, wrong = [0, 0, 6, 5], [6, 0, 12, 6]
    # The surest box of the cat is right; a second one on the same cat is a false alarm. Nobody finds the dog.
    quality.add([cat, dog], held(np.array([right, right, wrong], dtype=np.int32), [0.9, 0.8, 0.7], [1, 1, 2]))
    # Here the surest is wrong, the other right; a class that is not there is found.
    quality.add([cat], held(np.array([wrong, right, wrong], dtype=np.int32), [0.6, 0.5, 0.4], [1, 1, 3]))
    scores = quality.scores()
    assert scores["corloc_by_class"] == [None, 0.5, 0.0, None]
    # Cat, by score: right, wrong, wrong, right, over two objects: 0.5 * 1 + 0.5 * 0.5.
    assert scores["ap50_by_class"] == pytest.approx([None, 0.75, 0.0, None])
    assert (scores["corloc"], scores["ap50"]) == pytest.approx((0.25, 0.375))
    assert BoxQuality(3).scores()["corloc"] is None


@pytest.mark.parametrize("wrong", [[[0, 0, 13, 5]], [[3, 0, 3, 5]], [[-1, 0, 3, 5]]])
def test_boxes_outside_the_image_are_refused(wrong):
    with pytest.raises(ValueError, match="must not be empty and lie in 12x12"):
        held(np.array(wrong, dtype=np.int32), [1], [0])


def test_what_stands_out_is_the_inside_less_the_ring():
    random = np.random.default_rng(0)
    values, boxes = random.random((12, 12)), some(random, 30)
    for box, found in zip(boxes, standing_out(values, boxes), strict=True):
        x0, y0, x1, y1 = box
        wide, tall = np.ceil((x1 - x0) / 4).astype(int), np.ceil((y1 - y0) / 4).astype(int)
        inside, around = full(box), np.zeros((12, 12), dtype=bool)
        around[max(0, y0 - tall) : y1 + tall, max(0, x0 - wide) : x1 + wide] = True
        around &= ~inside
        expected = values[inside].mean() - (values[around].mean() if around.any() else 0)
        assert found == pytest.approx(expected)


def test_boxes_move_where_they_were_meant_to():
    random = np.random.default_rng(1)
    boxes, targets = some(random, 40), some(random, 40)
    np.testing.assert_array_equal(moved(boxes, moves_between(boxes, targets), (12, 12)), targets)
    np.testing.assert_array_equal(moved(boxes, np.zeros((40, 4)), (12, 12)), boxes)
    wild = moved(boxes, random.normal(0, 100, (40, 4)), (12, 12))
    held(wild, np.ones(40), [1] * 40)  # lies inside, not empty
    assert whole_pixels(np.array([[-3.0, 2.6, 2.4, 2.7]]), (9, 9)).tolist() == [[0, 3, 2, 4]]
