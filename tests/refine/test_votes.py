"""Votes of boxes and sums in boxes against loops over pixels."""

import numpy as np
import pytest

from tagmask.errors import OptionError
from tagmask.refine.boxes import packed
from tagmask.refine.votes import AT_ONCE, contrast, sizes, sums, votes
from tagmask.types import Boxes

SIZE = (13, 17)


def some(random, count, masks):
    """Random boxes, each with a mask that fills part of it, and the masks."""
    height, width = SIZE
    low = np.stack([random.integers(0, side - 1, count) for side in (width, height)], axis=1)
    span = np.array([width, height]) - low
    boxes = np.concatenate([low, low + 1 + (random.random((count, 2)) * span).astype(int)], axis=1).astype(np.int32)
    full = np.zeros((count, *SIZE), dtype=bool)
    for mask, (x0, y0, x1, y1) in zip(full, boxes, strict=True):
        mask[y0:y1, x0:x1] = random.random((y1 - y0, x1 - x0)) < 0.6 if masks else True
        mask[y0, x0] = True
    codes = packed(list(full) if masks else [])
    return Boxes(boxes, np.ones(count, dtype=np.float32), (0,) * count, SIZE, codes), full


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("count", [0, 1, 9, AT_ONCE + 7])
def test_votes_pixel_by_pixel(count, masks):
    random = np.random.default_rng(count)
    boxes, full = some(random, count, masks)
    scores = random.random((count, 3)) * (random.random((count, 3)) < 0.7)
    by = {how: votes(boxes, scores, by=how) for how in ("sum", "mean", "max")}
    for k, (y, x) in ((k, place) for k in range(3) for place in np.ndindex(SIZE)):
        over = [score for score, mask in zip(scores[:, k], full, strict=True) if mask[y, x] and score]
        assert by["sum"][k, y, x] == pytest.approx(sum(over), abs=1e-4)
        assert by["mean"][k, y, x] == pytest.approx(np.mean(over) if over else 0, abs=1e-4)
        assert by["max"][k, y, x] == pytest.approx(max(over, default=0), abs=1e-4)
        if not over:
            assert (by["sum"][k, y, x], by["mean"][k, y, x], by["max"][k, y, x]) == (0, 0, 0)


def test_what_the_same_boxes_cover_has_the_same_votes():
    """To the last bit, however many boxes begin and end before: k-means counts different values."""
    random = np.random.default_rng(0)
    boxes, full = some(random, 60, masks=False)
    found = votes(boxes, random.random((60, 1)))[0]
    covered = {}
    for y, x in np.ndindex(SIZE):
        covered.setdefault(full[:, y, x].tobytes(), set()).add(float(found[y, x]))
    assert all(len(values) == 1 for values in covered.values())


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("classes", [0, 2])
@pytest.mark.parametrize("count", [0, 5, AT_ONCE + 1])
def test_sums_in_boxes(count, classes, masks):
    random = np.random.default_rng(count)
    boxes, full = some(random, count, masks)
    maps = random.random((classes, *SIZE)).astype(np.float32)
    expected = [[one[mask].sum() for one in maps] for mask in full]
    np.testing.assert_allclose(sums(boxes, maps), np.array(expected).reshape(count, classes), rtol=1e-5)
    assert sizes(boxes).tolist() == [mask.sum() for mask in full]


@pytest.mark.parametrize("masks", [False, True])
def test_contrast_with_the_ring_around(masks):
    random = np.random.default_rng(1)
    boxes, full = some(random, 30, masks)
    maps = random.random((2, *SIZE)).astype(np.float32)
    found = contrast(boxes, maps, ring=0.3)
    for index, (mask, (x0, y0, x1, y1)) in enumerate(zip(full, boxes.boxes.tolist(), strict=True)):
        right, down = int(np.ceil(0.3 * (x1 - x0))), int(np.ceil(0.3 * (y1 - y0)))
        ring = np.zeros(SIZE, dtype=bool)
        ring[max(0, y0 - down) : y1 + down, max(0, x0 - right) : x1 + right] = True
        ring &= ~mask
        for k, one in enumerate(maps):
            expected = max(0, one[mask].mean() - one[ring].mean()) if ring.any() else 0
            assert found[index, k] == pytest.approx(expected, abs=1e-4)


def test_the_whole_photo_stands_out_from_nothing():
    whole = Boxes(np.array([[0, 0, 17, 13]], dtype=np.int32), np.ones(1, dtype=np.float32), (0,), SIZE)
    assert contrast(whole, np.ones((1, *SIZE), dtype=np.float32), ring=0.2).tolist() == [[0.0]]


def test_an_unknown_way_is_refused():
    boxes, _ = some(np.random.default_rng(0), 2, masks=False)
    with pytest.raises(OptionError, match=r"did you mean 'mean'.*sum, mean, max"):
        votes(boxes, np.ones((2, 1)), by="means")
