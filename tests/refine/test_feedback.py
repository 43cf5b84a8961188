"""Boxes into labels of pixels, and labels of pixels into labels of boxes."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.errors import OptionError
from tagmask.refine.boxes import mask_of, overlaps, packed
from tagmask.refine.feedback import (
    HIGH,
    LOW,
    MIDDLE,
    aggregate,
    bands,
    best_overlaps,
    cut_out,
    drawn,
    kept,
    merged,
    select,
)
from tagmask.types import Boxes

SIZE = (40, 60)


def held(rows, size=SIZE, masks=()):
    boxes = np.array(rows, dtype=np.int32).reshape(-1, 4)
    return Boxes(boxes, np.ones(len(boxes), dtype=np.float32), (0,) * len(boxes), size, packed(masks))


def scene():
    """A red square at 10..20 on blue noise, both with some spread."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 30, (*SIZE, 3), dtype=np.uint8)
    pixels[..., 2] += 180
    pixels[10:20, 10:20] = random.integers(0, 30, (10, 10, 3))
    pixels[10:20, 10:20, 0] += 200
    return pixels


def test_who_votes():
    scores = np.array([[0.9, 0.2], [0.5, 0.3], [0.6, 0.1]])
    assert kept(scores, above=0.5, fewest=0).tolist() == [[0.9, 0], [0, 0], [0.6, 0]]
    assert kept(scores, above=0.5, fewest=1).tolist() == [[0.9, 0], [0, 0.3], [0.6, 0]]
    assert kept(scores, above=0.5, fewest=9).tolist() == scores.tolist()
    assert kept(scores[:0], above=0.5, fewest=2).shape == (0, 2)
    assert kept(scores[:, :0], above=0.5, fewest=2).shape == (3, 0)


def test_votes_in_three_bands():
    vote = np.zeros((4, 5))
    vote[1, :3], vote[2, :2] = (0.5, 0.45, 0.5), (1.0, 0.95)
    band, halfway = bands(vote)
    expected = np.full((4, 5), LOW)
    expected[1, :3], expected[2, :2] = MIDDLE, HIGH
    np.testing.assert_array_equal(band, expected)
    assert halfway == pytest.approx(0.975 / 2)
    two = bands(np.array([[0.0, 1.0, 0.0]]))[0]
    assert two.tolist() == [[LOW, HIGH, LOW]]
    for value in (0.0, 0.7):
        assert (bands(np.full((3, 3), value))[0] == MIDDLE).all()
    mostly = np.array([[0.0] * 50 + [0.3] * 40 + [1.0]])
    assert bands(mostly)[0][0, 50] == MIDDLE


def test_grabcut_decides_between():
    pixels, vote = scene(), np.zeros(SIZE)
    vote[6:24, 6:24], vote[12:18, 12:18] = 0.5, 1.0
    options = {"pinned": True, "widest": 0.6}
    found, unsure = cut_out(pixels, vote, middle="background", **options)
    square = np.zeros(SIZE, dtype=bool)
    square[10:20, 10:20] = True
    assert (found == square).mean() > 0.99
    assert not unsure.any()
    high, unsure = cut_out(pixels, vote, middle="none", **options)
    np.testing.assert_array_equal(high, vote == 1)
    assert not unsure.any()
    narrow, unsure = cut_out(pixels, vote, middle="background", pinned=True, widest=0.05)
    np.testing.assert_array_equal(narrow, vote == 1)
    np.testing.assert_array_equal(unsure, vote == 0.5)
    always = cut_out(pixels, vote, middle="background", pinned=True, widest=0.0)
    np.testing.assert_array_equal(always, (vote == 1, vote == 0.5))


def test_the_ambiguous_start_from_their_nearest_centre(monkeypatch):
    started = []
    monkeypatch.setattr(
        "tagmask.refine.feedback.grabcut", lambda pixels, guesses: started.append(guesses) or guesses > 0
    )
    vote = np.repeat([0.0, 0.4, 0.6, 1.0], 10)[None]
    pixels = np.zeros((1, 40, 3), dtype=np.uint8)
    for middle in ("background", "nearest"):
        cut_out(pixels, vote, pinned=True, middle=middle, widest=1.0)
    assert [g[0, ::10].tolist() for g in started] == [[0, 2, 2, 1], [0, 2, 3, 1]]


def test_where_grabcut_fails_the_high_band_stands(monkeypatch):
    vote = np.zeros(SIZE)
    vote[6:24, 6:24], vote[12:18, 12:18] = 0.5, 1.0
    flat = np.full((*SIZE, 3), 90, dtype=np.uint8)  # one colour
    few = vote.copy()
    few[12:18, 12:18], few[12, 12:15] = 0.5, 1.0  # three sure pixels are no colour model
    options = {"pinned": True, "middle": "background", "widest": 0.6}
    np.testing.assert_array_equal(cut_out(flat, vote, **options)[0], vote == 1)
    np.testing.assert_array_equal(cut_out(scene(), few, **options)[0], few == 1)

    def fails(**given):
        raise cv2.error

    monkeypatch.setattr(cv2, "grabCut", fails)
    np.testing.assert_array_equal(cut_out(scene(), vote, **options)[0], vote == 1)


@pytest.mark.parametrize("score", [0.0, 0.8])
def test_constant_votes_say_nothing_about_a_photo(score):
    whole = held([[0, 0, 60, 40]])
    assert (aggregate(scene(), whole, np.full((1, 1), score), (3,)) == 255).all()
    assert (aggregate(scene(), held([]), np.zeros((0, 1)), (3,)) == 255).all()
    assert not aggregate(scene(), whole, np.zeros((1, 0)), ()).any()


def test_boxes_vote_for_an_object():
    rows = [[9, 9, 21, 21], [10, 10, 20, 20], [11, 10, 20, 19], [6, 6, 24, 24], [40, 5, 55, 30]]
    scores = np.array([[0.9], [0.8], [0.7], [0.6], [0.1]])
    labels = aggregate(scene(), held(rows), scores, (7,), fewest=0)
    square = np.zeros(SIZE, dtype=np.uint8)
    square[10:20, 10:20] = 7
    assert (labels == square).mean() > 0.98
    assert set(np.unique(labels)) == {0, 7}
    hard = aggregate(scene(), held(rows), scores, (7,), fewest=0, middle="none")
    np.testing.assert_array_equal(hard, square)
    masks = [mask_of(held(rows), index) for index in range(5)]
    np.testing.assert_array_equal(aggregate(scene(), held(rows, masks=masks), scores, (7,), fewest=0), labels)


def test_two_tags_share_a_photo():
    claims = np.zeros((2, 2, 4), dtype=bool)
    claims[0, :, :3], claims[1, :, 2:] = True, True
    vote = np.array([[[0.9, 0.9, 0.4, 0.0]] * 2, [[0.0, 0.0, 0.4, 0.7]] * 2])
    unsure = np.zeros_like(claims)
    assert merged(claims, unsure, vote, (2, 5)).tolist() == [[2, 2, 2, 5]] * 2
    vote[1, 1, 2] = 0.5
    assert merged(claims, unsure, vote, (2, 5)).tolist() == [[2, 2, 2, 5], [2, 2, 5, 5]]
    claims[1] = False
    unsure[1, 0] = True
    got = merged(claims, unsure, vote, (2, 5)).tolist()  # the second has no pixel: where it has most votes is open
    assert got == [[2, 2, 2, 255], [2, 2, 2, 255]]
    vote[1] = 0
    assert merged(claims, unsure, vote, (2, 5)).tolist() == [[2, 2, 2, 255]] * 2  # anywhere but where the first is sure
    assert merged(claims[:0], unsure[:0], vote[:0], ()).tolist() == [[0] * 4] * 2


@pytest.mark.parametrize("masks", [False, True])
def test_overlaps_with_the_pieces_of_a_mask(masks):
    random = np.random.default_rng(4)
    mask = np.zeros(SIZE, dtype=bool)
    mask[3:10, 5:20] = mask[20:35, 30:40] = True
    mask[5:8, 8:12] = False
    rows = np.array([[5, 3, 20, 10], [0, 0, 60, 40], [28, 18, 40, 33], [50, 0, 60, 9], [5, 3, 12, 10]])
    shapes = [np.logical_and(mask_of(held(rows), n), random.random(SIZE) < 0.9) for n in range(5)] if masks else []
    boxes = held(rows, masks=shapes)
    found = best_overlaps(boxes, mask)
    pieces = [mask & (np.arange(60) < 25), mask & (np.arange(60) >= 25)]
    around = np.array([[5, 3, 20, 10], [30, 20, 40, 35]])
    for n in range(5):
        if masks:
            own = mask_of(boxes, n)
            expected = max((own & piece).sum() / (own | piece).sum() for piece in pieces)
        else:
            expected = overlaps(rows[n : n + 1], around).max()
        assert found[n] == pytest.approx(expected)
    assert best_overlaps(boxes, np.zeros(SIZE, dtype=bool)).tolist() == [0] * 5
    assert best_overlaps(held([]), mask).shape == (0,)


def taught(rows, labels, chances, scores, classes, **options):
    return [part.tolist() for part in select(held(rows), labels, chances, np.array(scores), classes, **options)]


def test_boxes_are_sorted_by_what_the_segmenter_says():
    labels = np.zeros(SIZE, dtype=np.uint8)
    labels[10:30, 10:30], labels[0:8, 40:60] = 3, 6
    chances = np.zeros((2, *SIZE))
    chances[0, 10:30, 10:30], chances[1, 0:8, 40:60] = 0.9, 0.7
    rows = [
        [10, 10, 30, 30],  # the first object
        [40, 0, 60, 9],  # the second
        [12, 12, 20, 20],  # a part: little overlap, surely inside
        [40, 20, 60, 40],  # ground
        [40, 20, 60, 40],  # ground that the localiser takes for the first
        [10, 10, 30, 20],  # half of the first
        [24, 24, 44, 40],  # a corner of it
        [0, 0, 60, 40],  # everything
    ]
    scores = np.zeros((8, 2))
    scores[4, 0] = 0.6
    scores[1, 1] = 0.95
    found, look = taught(rows, labels, chances, scores, (3, 6), overlap=0.6)
    assert found == [3, 6, 0, 0, 0, 255, 0, 0]
    np.testing.assert_allclose(look, [0.9, 0.95, 0.9, 0, 0.6, 0.9, 0.9 * 36 / 320, 0.9 * 400 / 2400])
    half = taught(rows, labels, chances, scores, (3, 6), overlap=0.5)[0]
    assert half[5] == 3
    unlikely = taught(rows, labels, chances, scores, (3, 6), likely=0.8)[0]
    assert unlikely[:2] == [3, 255]  # overlaps well, but not sure enough: neither
    assert taught(rows, labels, chances, scores, (3, 6), hard=0.99)[0][2:5] == [255, 0, 0]
    few = taught(rows, labels, chances, scores, (3, 6), unlikely=0.1)[0]
    assert few[6] == 255


def test_the_box_of_a_tag_that_the_segmenter_missed_is_no_negative():
    labels = np.zeros(SIZE, dtype=np.uint8)
    labels[10:30, 10:30] = 3
    chances = np.zeros((2, *SIZE))
    chances[0] = labels == 3
    rows, scores = [[40, 20, 60, 40], [40, 0, 60, 10]], [[0.0, 0.8], [0.8, 0.0]]
    assert taught(rows, labels, chances, scores, (3, 6))[0] == [255, 0]
    labels[0, 0] = 6
    assert taught(rows, labels, chances, scores, (3, 6))[0] == [0, 0]


def test_photos_without_tags_show_ground_only():
    found, look = taught(
        [[0, 0, 9, 9], [5, 5, 60, 40]], np.zeros(SIZE, np.uint8), np.zeros((0, *SIZE)), np.zeros((2, 0)), ()
    )
    assert (found, look) == ([0, 0], [0, 0])
    assert taught([], np.zeros(SIZE, np.uint8), np.zeros((1, *SIZE)), np.zeros((0, 1)), (3,)) == [[], []]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(4, 64), st.integers(0, 99))
def test_a_quarter_positives_and_half_of_the_rest_hard(objects, hard, easy, samples, seed):
    random = np.random.default_rng(seed)
    labels = np.array([5] * objects + [0] * (hard + easy) + [255] * 3, dtype=np.uint8)
    look = np.array([0.1] * objects + [0.5] * hard + [0.4] * easy + [0.9] * 3)
    order = random.permutation(len(labels))
    labels, look = labels[order], look[order]
    chosen = drawn(labels, look, samples, random, hard=0.5)
    assert len(set(chosen.tolist())) == len(chosen) <= samples
    positives = (labels[chosen] == 5).sum()
    alike = ((labels[chosen] == 0) & (look[chosen] >= 0.5)).sum()
    others = ((labels[chosen] == 0) & (look[chosen] < 0.5)).sum()
    assert positives + alike + others == len(chosen)
    assert positives == min(objects, round(samples / 4))
    rest = samples - positives
    assert alike + others == min(rest, hard + easy)
    if hard >= rest and easy >= rest:
        assert alike == round(rest / 2)
    if alike < round(rest / 2):
        assert alike == hard
    if others < rest - round(rest / 2):
        assert others == easy


def test_unknown_words_are_refused():
    with pytest.raises(OptionError, match=r"did you mean 'nearest'.*background, nearest, none"):
        cut_out(scene(), np.zeros(SIZE), pinned=True, middle="near", widest=0.6)
