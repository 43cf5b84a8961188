"""Temporal and video consistency against loops over the pixels, and on motion that is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.errors import OptionError
from tagmask.refine.flow import optical_flow
from tagmask.video.consistency import (
    TemporalConsistency,
    VideoConsistency,
    flow_name,
    motions,
    seen_in_both,
    temporal_consistency,
    warp_labels,
)

SIZE = (24, 32)


def labels_of(seed, classes=4, size=SIZE):
    return np.random.default_rng(seed).integers(0, classes, size, dtype=np.uint8)


def steady_flow(dx, dy, size=SIZE):
    return np.broadcast_to(np.array([dx, dy], dtype=np.float32), (*size, 2)).copy()


def moved(labels, dx, dy):
    """The labels with everything dx to the right and dy down; what comes in is class 0."""
    return np.roll(labels, (dy, dx), axis=(0, 1))


def looped_warp(later, flow):
    height, width = later.shape
    out = np.full_like(later, 255)
    for y, x in np.ndindex(height, width):
        v, u = round(float(y + flow[y, x, 1])), round(float(x + flow[y, x, 0]))
        if 0 <= v < height and 0 <= u < width:
            out[y, x] = later[v, u]
    return out


def looped_tc(sequences, classes):
    """Intersections and unions of every class, added up over all pairs and then divided."""
    hits, unions = np.zeros(classes), np.zeros(classes)
    for labels, later, flow, visible in sequences:
        warped = looped_warp(later, flow)
        for y, x in np.ndindex(labels.shape):
            a, b = int(labels[y, x]), int(warped[y, x])
            if 255 in (a, b) or not visible[y, x]:
                continue
            hits[a] += a == b
            for known in {a, b}:
                unions[known] += 1
    shares = [h / u for h, u in zip(hits, unions, strict=True) if u]
    return np.mean(shares) if shares else float("nan"), len(shares)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), spread=st.sampled_from([0.4, 3.0, 40.0]))
def test_tc_is_what_loops_count(seed, spread):
    rng = np.random.default_rng(seed)
    counted, pairs = TemporalConsistency(6), []
    for _ in range(2):
        a, b = (
            np.where(rng.random((9, 11)) < 0.1, 255, rng.integers(0, 4, (9, 11))).astype(np.uint8) for _ in range(2)
        )
        flow = (rng.normal(0, spread, (9, 11, 2))).astype(np.float32)
        visible = rng.random((9, 11)) < 0.8
        np.testing.assert_array_equal(warp_labels(b, flow), looped_warp(b, flow))
        counted.add(a, b, flow, visible)
        pairs.append((a, b, flow, visible))
    found = counted.scores()
    assert (found.tc, found.classes) == pytest.approx(looped_tc(pairs, 6), nan_ok=True)
    assert found.pairs == 2


def test_identical_maps_that_do_not_move_are_wholly_consistent():
    labels = labels_of(0)
    found = temporal_consistency([labels] * 4, [(steady_flow(0, 0), None)] * 3, classes=4)
    assert (found.tc, found.pairs) == (1.0, 3)


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (0, -2), (-4, 5)])
def test_what_moves_as_the_flow_says_is_wholly_consistent_and_the_sign_matters(dx, dy):
    labels = labels_of(1)
    later = moved(labels, dx, dy)
    there = temporal_consistency([labels, later], [(steady_flow(dx, dy), None)], classes=4)
    wrong = temporal_consistency([labels, later], [(steady_flow(-dx, -dy), None)], classes=4)
    assert there.tc == 1.0
    assert wrong.tc < 0.4


def test_what_leaves_the_frame_does_not_count():
    labels = labels_of(2)
    warped = warp_labels(labels, steady_flow(5, 0))
    assert (warped[:, -5:] == 255).all()
    assert (warped[:, :-5] != 255).all()


def test_nearest_keeps_the_labels():
    labels = np.where(labels_of(3, classes=2) > 0, 200, 3).astype(np.uint8)
    flow = np.random.default_rng(0).normal(0, 2, (*SIZE, 2)).astype(np.float32)
    assert set(np.unique(warp_labels(labels, flow)).tolist()) <= {3, 200, 255}


def test_absent_classes_and_unknown_pixels_do_not_count():
    labels = np.where(labels_of(4) > 1, 255, 2).astype(np.uint8)
    found = temporal_consistency([labels, labels], [(steady_flow(0, 0), None)], classes=19)
    assert (found.tc, found.classes) == (1.0, 1)
    assert found.to_json()["iou"][:3] == [None, None, 1.0]


def test_as_many_flows_as_pairs():
    with pytest.raises(ValueError, match="shorter"):
        temporal_consistency([labels_of(0)] * 3, [(steady_flow(0, 0), None)], classes=4)
    with pytest.raises(ValueError, match="one size"):
        temporal_consistency([labels_of(0)] * 2, [(steady_flow(0, 0, (9, 9)), None)], classes=4)


def textured(size, seed=0):
    """A frame that flow can hold on to: smooth noise."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=size), ksize=(0, 0), sigmaX=3)
    grey = 255 * (noise - noise.min()) / np.ptp(noise)
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def test_the_flow_goes_from_the_first_frame_to_the_second():
    frame = textured((96, 128))
    later = np.roll(frame, 4, axis=1)
    labels = np.zeros((96, 128), dtype=np.uint8)
    labels[20:70, 30:80] = 1
    [(flow, visible)] = motions([frame, later], preset="medium")
    assert visible is None
    along = temporal_consistency([labels, np.roll(labels, 4, axis=1)], [(flow, None)], classes=2)
    against = temporal_consistency([labels, np.roll(labels, -4, axis=1)], [(flow, None)], classes=2)
    assert along.tc > 0.99
    assert against.tc < 0.9
    assert flow_name().startswith("DIS medium (OpenCV ")
    with pytest.raises(OptionError, match="expected one of ultrafast"):
        list(motions([frame, later], preset="slow"))


def test_hidden_pixels_are_left_out():
    frame, later = textured((96, 128)), textured((96, 128))
    patch = textured((40, 40), seed=5)
    frame[28:68, 30:70], later[28:68, 38:78] = patch, patch  # it moves over the ground, which stays
    [(flow, visible)] = motions([frame, later], occlusion=True)
    assert visible[:20].mean() > 0.99
    assert visible[32:64, 34:66].mean() > 0.9
    assert visible[32:64, 70:78].mean() < 0.5  # what it hides
    np.testing.assert_array_equal(visible, seen_in_both(flow, optical_flow(later, frame)))


def test_seen_in_both_is_the_inequality():
    forward = np.zeros((2, 3, 2), dtype=np.float32)
    forward[0, 1] = (1, 0)
    backward = np.zeros((2, 3, 2), dtype=np.float32)
    backward[0, 2] = (-1, 0)  # where the pixel arrives: comes back, though the pixel it lands on goes nowhere
    backward[1, 0] = (0.9, 0)  # .81 is above .01 * .81 + .5
    assert seen_in_both(forward, backward).tolist() == [[True, True, False], [False, True, True]]


def looped_vc(predictions, truths, window):
    shares = []
    for start in range(len(truths) - window + 1):
        t, p = np.stack(truths[start : start + window]), np.stack(predictions[start : start + window])
        stays = (t == t[0]).all(axis=0) & (t[0] != 255)
        right = (p == t).all(axis=0)
        if stays.any():
            shares.append((stays & right).sum() / stays.sum())
    return np.mean(shares) if shares else float("nan")


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), window=st.integers(1, 5), frames=st.integers(1, 9))
def test_vc_is_what_windows_show(seed, window, frames):
    rng = np.random.default_rng(seed)
    now, truths, predictions = rng.integers(0, 3, (6, 7)), [], []
    for _ in range(frames):
        now = np.where(rng.random((6, 7)) < 0.15, rng.choice([0, 1, 2, 255]), now)
        truths.append(now.astype(np.uint8))
        predictions.append(np.where(rng.random((6, 7)) < 0.1, 1, now).astype(np.uint8))
    steady = VideoConsistency(window)
    for prediction, truth in zip(predictions, truths, strict=True):
        steady.add(prediction, truth)
    assert steady.score == pytest.approx(looped_vc(predictions, truths, window), nan_ok=True)


def test_vc_of_two_clips_has_no_window_over_the_cut():
    a, b = labels_of(0), labels_of(1)
    steady = VideoConsistency(window=3)
    for clip in ([a] * 3, [b] * 4):
        steady.cut()
        for labels in clip:
            steady.add(labels, labels)
    assert (steady.windows, steady.score) == (3, 1.0)
    with pytest.raises(ValueError, match="one size"):
        steady.add(a[:9], a[:9])
