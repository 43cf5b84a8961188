"""Pieces of what stands out against a flood and a search for the nearest seed, and painting by its words."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.refine.test_guides import pieces_of

from tagmask.refine.boxes import box_of, packed
from tagmask.refine.pieces import painted_labels, seeds_of, split_pieces, tagged_instances
from tagmask.types import Boxes


def instances_of(*masks):
    boxes = np.array([box_of(mask) for mask in masks], dtype=np.int32).reshape(-1, 4)
    return Boxes(boxes, np.ones(len(masks), dtype=np.float32), (0,) * len(masks), masks[0].shape, packed(masks))


def from_text(*rows):
    """Return the mask of each letter."""
    table = np.array([list(row) for row in rows])
    return {letter: table == letter for letter in np.unique(table).tolist()}


def test_seeds_hang_together_and_show_one_class():
    labels = np.array([[1, 0, 2, 2], [0, 1, 0, 1], [255, 0, 0, 1]], dtype=np.uint8)
    assert seeds_of(labels).tolist() == [[1, 0, 3, 3], [0, 1, 0, 2], [0, 0, 0, 2]]
    assert not seeds_of(np.zeros((2, 2), dtype=np.uint8)).any()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.0, 0.05, 0.3]), st.integers(0, 999))
@example(height=9, width=4, smallest=0.3, seed=827)
def test_each_pixel_of_a_piece_goes_to_one_of_the_nearest_seeds(height, width, smallest, seed):
    random = np.random.default_rng(seed)
    salient = random.random((height, width)) < 0.7
    seeds = np.where(random.random((height, width)) < 0.15, random.integers(1, 4, (height, width)), 0)
    found = split_pieces(salient, seeds, smallest=smallest)
    least = max(1, smallest * height * width)
    total = np.sum(found, axis=0) if found else np.zeros((height, width), dtype=int)
    assert total.max(initial=0) <= 1
    for piece in pieces_of(salient):
        places = sorted(piece)
        parts = {next((n for n, mask in enumerate(found) if mask[place]), None) for place in places}
        if len(places) < least:
            assert parts == {None}
            continue
        assert None not in parts
        assert all(sum(mask[place] for place in places) == mask.sum() >= least for mask in (found[n] for n in parts))
        if len(parts) == 1:
            continue
        own = {n: {seeds[place] for place in places if seeds[place] and found[n][place]} for n in parts}
        # A part may hold other seeds too, whose own would be too small: one of its seeds explains all of its pixels.
        assert any(explained(found, places, seeds, dict(zip(own, one, strict=True))) for one in product(*own.values()))


def explained(found, places, seeds, numbers):
    """Say whether each place lies in the part whose seed is nearest (or one of them), if part n has the seed ``numbers[n]``."""
    counted = {place: seeds[place] for place in places if seeds[place] in numbers.values()}
    for place in places:
        away = {s: (place[0] - s[0]) ** 2 + (place[1] - s[1]) ** 2 for s in counted}
        nearest = {counted[s] for s, distance in away.items() if distance == min(away.values())}
        (part,) = (n for n in numbers if found[n][place])
        if numbers[part] not in nearest:
            return False
    return True


def test_a_piece_with_one_seed_or_none_stays_whole():
    salient = np.ones((4, 10), dtype=bool)
    salient[:, 5] = False
    seeds = np.zeros((4, 10), dtype=int)
    seeds[0, 0], seeds[1, 6], seeds[1, 9] = 1, 2, 3
    found = split_pieces(salient, seeds, smallest=0.0)
    assert [mask.sum() for mask in found] == [20, 8, 8]
    assert [mask.sum() for mask in split_pieces(salient, seeds * 0)] == [20, 16]
    assert [mask.sum() for mask in split_pieces(salient, seeds, smallest=0.3)] == [20, 16]  # parts of 8 are too small
    assert split_pieces(salient, seeds, smallest=0.6) == []
    assert split_pieces(salient & False, seeds) == []


def test_seeds_whose_part_is_too_small_leave_it_to_the_others():
    salient, seeds = np.ones((1, 12), dtype=bool), np.zeros((1, 12), dtype=int)
    seeds[0, [0, 1, 7, 11]] = 1, 2, 3, 4  # parts of 1, 3 or 4, 5 and 2 or 3 pixels
    found = split_pieces(salient, seeds, smallest=0.2)
    assert all(mask.sum() >= 3 for mask in found)
    assert np.sum(found, axis=0).tolist() == [[1] * 12]
    assert found[0][0, 0]
    assert found[0][0, 1]


def test_painting():
    m = from_text("aab.", "acb.", "acb.", "....")
    whole = {"a": m["a"] | m["c"]}  # the smaller c lies on top
    photo = instances_of(m["c"], whole["a"], m["b"])
    paint = painted_labels(photo, [4, 2, 0], (2, 4)).labels
    assert paint[m["a"]].tolist() == [2] * m["a"].sum()
    assert paint[m["c"]].tolist() == [4, 4]
    assert paint[m["b"]].tolist() == [255] * 3
    assert not paint[m["."]].any()
    missed = painted_labels(photo, [2, 2, 0], (2, 4)).labels
    assert (missed[m["."]] == 255).all()
    assert (missed[m["c"]] == 2).all()
    assert not painted_labels(photo, [2, 2, 0], (2, 4), missed=False).labels[m["."]].any()
    for tags, missing in (((2,), True), ((2, 4), False)):
        assert (painted_labels(photo, [0, 0, 0], tags, missed=missing).labels == 255).all()
    assert not painted_labels(photo, [0, 0, 0], ()).labels.any()
    nothing = Boxes(np.zeros((0, 4), dtype=np.int32), np.zeros(0, dtype=np.float32), (), (2, 3))
    assert painted_labels(nothing, [], (1,)).labels.tolist() == [[255] * 3] * 2
    full = Boxes(
        np.array([[1, 0, 3, 1]], dtype=np.int32), np.ones(1, dtype=np.float32), (0,), (2, 3)
    )  # a box of no mask
    assert painted_labels(full, [7], (7,)).labels.tolist() == [[0, 7, 7], [0, 0, 0]]


def test_tagged_instances_count_from_the_surest_and_are_all_to_be_seen():
    m = from_text("aab.", "acb.", "acb.", "....")
    photo = instances_of(m["c"], m["a"] | m["c"], m["b"], m["a"] | m["b"])
    made = tagged_instances(photo, [4, 2, 0, 1], [0.25, 0.5, 0.9, 0.75])
    assert made.classes == (1, 2, 4)
    assert made.scores == (0.75, 0.5, 0.25)
    assert (made.ids[m["c"]] == 3).all()
    assert (made.ids[m["b"]] == 1).all()  # noise covers nothing
    assert (made.ids[m["."]] == 0).all()
    hidden = tagged_instances(instances_of(m["c"], m["c"]), [4, 2], [0.5, 0.75])
    assert len(hidden.classes) == 1
    assert tagged_instances(photo, [0] * 4, [0.0] * 4).classes == ()


@pytest.mark.parametrize("count", [0, 300])
def test_more_instances_than_ids(count):
    masks = [np.arange(400).reshape(20, 20) == n for n in range(count)] or [np.zeros((20, 20), dtype=bool)]
    photo = (
        instances_of(*masks) if count else Boxes(np.zeros((0, 4), dtype=np.int32), np.zeros(0, np.float32), (), (2, 2))
    )
    made = tagged_instances(photo, [1] * count, [n / 300 for n in range(count)])
    assert len(made.classes) == min(count, 255)
    assert made.ids.max(initial=0) == len(made.classes)
