"""Groups of displacement fields drawn by hand, maps split by them, and labels cut into instances."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.errors import OptionError
from tagmask.refine.instances import cut_labels, group_cells, split_maps
from tagmask.types import LabelMap


def pointing_at(places, size):
    """Return the field (2, h, w) that points from each cell to the nearest of the places, and which that is (h, w)."""
    cells = np.stack(np.mgrid[: size[0], : size[1]])  # (2, h, w)
    away = np.stack([np.array(place)[:, None, None] - cells for place in places])  # (places, 2, h, w)
    nearest = (away**2).sum(axis=1).argmin(axis=0)
    return np.take_along_axis(away, nearest[None, None], axis=0)[0].astype(np.float32), nearest


def same_partition(one, other):
    pairs = set(zip(one.ravel().tolist(), other.ravel().tolist(), strict=True))
    return len(pairs) == len(set(one.ravel().tolist())) == len(set(other.ravel().tolist()))


def test_cells_that_point_to_one_place_are_one_group():
    field, nearest = pointing_at([(8, 7), (20, 30), (5, 31)], (29, 40))
    assert same_partition(group_cells(field), nearest)


def test_many_short_steps_lead_as_far_as_one_long():
    field, nearest = pointing_at([(8, 7), (20, 30)], (29, 40))
    length = np.hypot(*field)
    short = np.where(length > 2, 3 * field / np.maximum(length, 1e-6), field)  # three cells at a time
    assert same_partition(group_cells(short), nearest)
    assert not same_partition(group_cells(short, steps=1), nearest)


def followed(field, steps):
    """Follow one cell after the other, in float64."""
    height, width = field.shape[1:]
    ends = np.zeros((height, width, 2), dtype=int)
    for start in np.ndindex(height, width):
        y, x = map(float, start)
        for _ in range(steps):
            top, left = int(y), int(x)
            rows, columns = [top, min(top + 1, height - 1)], [left, min(left + 1, width - 1)]
            square = field[:, rows][:, :, columns].astype(float)  # (2, 2, 2)
            move = np.einsum("dij,i,j->d", square, [1 - y + top, y - top], [1 - x + left, x - left])
            y, x = np.clip(y + move[0], 0, height - 1), np.clip(x + move[1], 0, width - 1)
        ends[start] = round(y), round(x)
    return ends


@given(st.sampled_from([1, 2, 7]), st.sampled_from([1, 5, 11]), st.sampled_from([0, 1, 4]), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_groups_are_those_of_cells_followed_one_by_one(height, width, steps, seed):
    from scipy import ndimage

    field = np.random.default_rng(seed).normal(scale=3, size=(2, height, width)).astype(np.float32)
    centres, _ = ndimage.label(np.hypot(*field) < 2.5)
    ends = followed(field, steps)
    assert same_partition(group_cells(field, steps=steps), centres[ends[..., 0], ends[..., 1]])


def test_a_field_that_is_none_is_refused():
    with pytest.raises(ValueError, match="finite"):
        group_cells(np.full((2, 3, 3), np.nan))
    with pytest.raises(ValueError, match="displacement"):
        group_cells(np.zeros((3, 3, 3)))


def test_parts_sum_to_the_maps():
    rng = np.random.default_rng(0)
    maps, groups = rng.random((3, 8, 9)).astype(np.float32), rng.integers(0, 5, (8, 9))
    maps[2] = 0
    parts, owners = split_maps(maps, groups)
    assert owners.tolist() == [0] * 5 + [1] * 5 + [2]  # an empty class keeps one part
    for k in range(3):
        np.testing.assert_array_equal(parts[owners == k].sum(axis=0), maps[k])
    assert all(len(np.unique(groups[part > 0])) <= 1 for part in parts)
    few, kept = split_maps(maps, groups, most=2)
    assert set(kept) == {0, 1, 2}
    heaviest = sorted((maps[k][groups == g].sum() for k in range(3) for g in range(5)), reverse=True)
    assert sorted(few.sum(axis=(1, 2)), reverse=True)[0] == pytest.approx(heaviest[0])
    assert split_maps(maps[:0], groups)[0].shape == (0, 8, 9)


def blobs():
    """Two blobs of class 7 that touch, one of class 3 apart from them, and a speck."""
    labels = np.zeros((40, 60), dtype=np.uint8)
    labels[10:30, 5:20] = labels[10:30, 20:35] = 7
    labels[5:15, 45:55] = 3
    labels[38, 58] = 3
    return labels


def test_two_touching_blobs_of_one_class_are_two_instances():
    labels = blobs()
    field, nearest = pointing_at([(10, 6), (10, 13), (5, 25)], (20, 30))  # on a grid of a half
    maps = np.stack([(labels == c)[::2, ::2] for c in (3, 7)]).astype(np.float32)
    maps[1][nearest == 1] *= 0.5
    parts, owners = split_maps(maps, group_cells(field))
    found = cut_labels(LabelMap(labels), parts, [(3, 7)[k] for k in owners], least=0.01)
    sizes = {n: int((found.ids == n).sum()) for n in range(1, 4)}
    assert sorted(zip(found.classes, found.scores, strict=True)) == [(3, 1.0), (7, 0.5), (7, 1.0)]
    assert list(found.scores) == sorted(found.scores, reverse=True)
    for number, klass in enumerate(found.classes, start=1):
        assert set(labels[found.ids == number]) == {klass}
        assert abs(sizes[number] - (100 if klass == 3 else 300)) <= 20  # a column of pixels, for the grid is coarser
    assert found.ids.max() == 3
    assert found.ids[38, 58] == 0  # the speck is a fragment
    with_specks = cut_labels(LabelMap(labels), parts, [(3, 7)[k] for k in owners], least=0.0)
    assert (with_specks.ids > 0).sum() == (labels > 0).sum()


def test_unknown_pixels_and_other_classes_are_no_instances():
    labels = blobs()
    labels[0] = 255
    parts = np.ones((1, 4, 4), dtype=np.float32)
    found = cut_labels(LabelMap(labels), parts, [7], least=0.0)
    np.testing.assert_array_equal(found.ids > 0, labels == 7)
    nothing = cut_labels(LabelMap(labels), parts[:0], [], least=0.0)
    assert nothing.classes == ()
    assert not nothing.ids.any()
    with pytest.raises(OptionError, match="share"):
        cut_labels(LabelMap(labels), parts, [7], least=1.5)


def test_the_surest_are_kept_of_more_than_a_byte_can_count():
    labels = np.zeros((40, 40), dtype=np.uint8)
    labels[::2, ::2] = 1  # 400 pieces
    parts = np.linspace(0, 1, 1600, dtype=np.float32).reshape(1, 40, 40)
    found = cut_labels(LabelMap(labels), parts, [1], least=0.0)
    assert len(found.classes) == found.ids.max() == 255
    assert min(found.scores) >= np.sort(parts[0][labels == 1])[-255] - 1e-4
