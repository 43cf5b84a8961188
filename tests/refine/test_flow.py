"""Warping against a loop over the pixels, on every kind of values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.refine.flow import consistent, warp

SIDES = st.sampled_from([1, 2, 5, 13])


def looked_up(values, flow, y, x, nearest):
    """Find the value at one pixel from the four around the place where it goes."""
    height, width = values.shape[:2]
    to_y = min(max(float(y + flow[y, x, 1]), 0), height - 1)
    to_x = min(max(float(x + flow[y, x, 0]), 0), width - 1)
    if nearest:
        return values[round(to_y), round(to_x)]
    top, left = int(to_y), int(to_x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    b, a = to_y - top, to_x - left
    above = (1 - a) * values[top, left] + a * values[top, right]
    below = (1 - a) * values[bottom, left] + a * values[bottom, right]
    return (1 - b) * above + b * below


@settings(deadline=None, max_examples=40)
@given(
    height=SIDES,
    width=SIDES,
    planes=st.sampled_from([(), (1,), (3,), (21,), (128,)]),
    kind=st.sampled_from([bool, np.uint8, np.int32, np.int64, np.float32]),
    seed=st.integers(0, 999),
)
def test_warping_is_what_a_loop_finds(height, width, planes, kind, seed):
    rng = np.random.default_rng(seed)
    values = (rng.random((height, width, *planes)) * 9).astype(kind)
    flow = rng.normal(0, 3, (height, width, 2)).astype(np.float32)
    moved = warp(values, flow, nearest=True)
    assert moved.dtype == values.dtype
    wanted = [looked_up(values, flow, y, x, nearest=True) for y, x in np.ndindex(height, width)]
    np.testing.assert_array_equal(moved, np.array(wanted).reshape(values.shape))
    if kind is np.float32:
        wanted = [looked_up(values, flow, y, x, nearest=False) for y, x in np.ndindex(height, width)]
        np.testing.assert_allclose(warp(values, flow), np.array(wanted).reshape(values.shape), atol=9 / 32)


@pytest.mark.parametrize(
    "values", [np.zeros((4, 5, 129), np.float32), np.zeros((4, 5), bool), np.zeros((4, 5), np.int32)]
)
def test_what_cannot_be_interpolated_is_refused(values):
    flow = np.zeros((4, 5, 2), dtype=np.float32)
    with pytest.raises(ValueError, match="expected uint8"):
        warp(values, flow)
    np.testing.assert_array_equal(warp(values, flow, nearest=True), values)


def test_consistency_is_a_distance_below_the_limit():
    forward = np.zeros((3, 4, 2), dtype=np.float32)
    backward = forward + np.array([0.6, 0.8], dtype=np.float32)  # all come back one pixel off
    assert consistent(forward, backward, limit=1.1).all()
    assert not consistent(forward, backward, limit=0.9).any()
