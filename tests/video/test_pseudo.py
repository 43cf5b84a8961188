"""Clips made of one photo: the camera moves as it says, labels stay on what they label, nothing is invented."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest

from tagmask.video.pseudo import (
    Cutout,
    Motion,
    camera_path,
    clip_of_photos,
    cut_out,
    disturbed,
    objects_to_move,
    pseudo_clip,
)

QUIET = Motion(gain=0, noise=0, objects=0)


@pytest.fixture(autouse=True)
def no_blur(monkeypatch, request):
    if "disturbed" not in request.node.name:
        monkeypatch.setattr(
            "tagmask.video.pseudo.disturbed", lambda frames, random, motion: np.ascontiguousarray(frames)
        )


def photo(height=120, width=160):
    """A photo that is smooth, with labels that follow from its colours."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([255 * x / width, 255 * y / height, np.full(x.shape, 99)], axis=2).astype(np.uint8)
    return pixels, (pixels[..., 0] // 64 + 4 * (pixels[..., 1] // 64)).astype(np.uint8)


@pytest.mark.parametrize("seed", range(6))
def test_the_last_frame_has_its_labels_and_no_border_is_invented(seed):
    pixels, labels = photo()
    frames, truth = pseudo_clip(pixels, labels, (80, 104), 7, np.random.default_rng(seed), QUIET)
    assert frames.shape == (8, 80, 104, 3)
    assert truth.shape == (80, 104)
    red, green = frames[-1, ..., 0].astype(int), frames[-1, ..., 1].astype(int)
    inside = (np.abs(red % 64 - 32) < 28) & (np.abs(green % 64 - 32) < 28)  # a pixel off the steps
    assert inside.mean() > 0.5
    assert np.array_equal(truth[inside], (red // 64 + 4 * (green // 64))[inside])
    # Smooth to the rim: pixels of a border that was invented would repeat.
    for frame in frames:
        assert len(np.unique(frame[0, :, 0])) > 20
        assert len(np.unique(frame[:, 0, 1])) > 20
        for rows in (frame[0] != frame[1], frame[-1] != frame[-2], (frame[:, 0] != frame[:, 1])):
            assert rows.any()


def test_earlier_frames_lie_where_the_path_says():
    random = np.random.default_rng(3)
    path = camera_path((80, 104), 5, random, Motion(roll=2.0))
    assert len(path) == 6
    assert np.array_equal(path[-1], np.eye(3))
    pixels, labels = photo()
    compared = 0  # the same numbers give the same path, so a point of frame t must have the colour it has at the end
    for seed in range(20):
        frames, _ = pseudo_clip(pixels, labels, (80, 104), 5, np.random.default_rng(seed), QUIET)
        steps = camera_path((80, 104), 5, np.random.default_rng(seed), QUIET)
        mirrored = frames[-1, 40, 80, 0] < frames[-1, 40, 20, 0]
        seen = frames[:, :, ::-1] if mirrored else frames
        for frame, step in zip(seen, steps, strict=True):
            x, y, _ = step @ [50, 40, 1]
            if not (1 < x < 102 and 1 < y < 78):
                continue
            compared += 1
            there = cv2.getRectSubPix(np.ascontiguousarray(seen[-1]).astype(np.float32), (1, 1), (x, y))[0, 0]
            assert np.abs(frame[40, 50].astype(float) - there).max() < 2.5
    assert compared > 90


def test_the_camera_drives_forward_smoothly():
    zooms, jumps = [], []
    for seed in range(200):
        path = camera_path((80, 104), 7, np.random.default_rng(seed), Motion())
        zooms.append(np.log(np.linalg.det(path[0][:2, :2])) / 2 / 7)
        middles = np.array([(np.linalg.inv(step) @ [52, 40, 1])[:2] for step in path])
        moves = np.diff(middles, axis=0)
        jumps.append((np.abs(np.diff(moves, axis=0)).mean(), np.abs(moves).mean()))
    assert np.mean(zooms) == pytest.approx(0.012, abs=0.002)
    change, move = np.mean(jumps, axis=0)
    assert change < 0.75 * move


def test_objects_are_pasted_into_every_frame_and_labelled_in_the_last():
    pixels, labels = np.full((120, 160, 3), 90, np.uint8), np.zeros((120, 160), np.uint8)
    thing = Cutout(np.full((20, 12, 3), 250, np.uint8), np.ones((20, 12), bool), label=7, low=0.6)
    places = []
    for seed in range(30):
        frames, truth = pseudo_clip(
            pixels, labels, (80, 104), 4, np.random.default_rng(seed), Motion(gain=0, noise=0), [thing]
        )
        bright = frames[..., 0] > 170
        assert np.array_equal(bright[-1], truth == 7) or np.mean(bright[-1] != (truth == 7)) < 0.01
        assert set(np.unique(truth)) <= {0, 7}
        if (truth == 7).sum() > 100 and bright.reshape(5, -1).any(axis=1).all():
            places.append([np.argwhere(one).mean(axis=0) for one in bright])
    moved = np.linalg.norm(np.diff(np.array(places), axis=1), axis=2)
    assert len(places) > 10
    assert 0.5 < moved.mean() < 10


def test_whole_objects_of_the_classes_asked_for_can_be_cut_out():
    labels = np.zeros((60, 80), np.uint8)
    labels[10:30, 20:35] = 3
    labels[40:50, 60:80] = 3  # touches the border
    labels[35:37, 5:7] = 3  # tiny
    labels[40:55, 30:40] = 4
    labels[0:8, 0:80] = 5
    assert objects_to_move(labels, (3,)) == [(3, 10, 20, 30, 35)]
    assert objects_to_move(labels, (3, 4, 5)) == [(3, 10, 20, 30, 35), (4, 40, 30, 55, 40)]
    pixels = np.arange(60 * 80 * 3).reshape(60, 80, 3).astype(np.uint8)
    thing = cut_out(pixels, labels, (3, 10, 20, 30, 35))
    assert np.array_equal(thing.pixels, pixels[10:30, 20:35])
    assert thing.inside.all()
    assert (thing.label, thing.low) == (3, 0.5)


def test_disturbed_frames_differ_though_the_scene_does_not():
    still = np.full((6, 40, 50, 3), 120, np.uint8)
    made = disturbed(still, np.random.default_rng(0), Motion())
    assert made.dtype == np.uint8
    means = made.reshape(6, -1).mean(axis=1)
    assert 1 < means.std() < 6
    assert np.abs(means - 120).max() <= 0.05 * 120 + 1
    assert all(np.abs(a.astype(int) - b).mean() > 1 for a, b in pairwise(made))
    nothing = disturbed(still, np.random.default_rng(0), Motion(gain=0, noise=0))
    assert np.abs(nothing.astype(int) - still).max() <= 2  # JPEG rounds


def test_the_same_generator_makes_the_same_clip():
    pixels, labels = photo()
    first, second = (pseudo_clip(pixels, labels, (80, 104), 3, np.random.default_rng(5), Motion()) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("size", [(17, 16), (40, 300), (300, 40)])
def test_photos_of_any_size_will_do(size):
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    thing = Cutout(pixels[:5, :5], np.ones((5, 5), bool), 1, 0.5)
    frames, truth = pseudo_clip(pixels, pixels[..., 0], (64, 96), 2, np.random.default_rng(0), Motion(), [thing])
    assert frames.shape == (3, 64, 96, 3)
    assert truth.shape == (64, 96)


def test_real_photos_are_seen_through_one_view():
    pixels, labels = photo()
    shifted = np.roll(pixels, 5, axis=1)
    frames, truth = clip_of_photos([shifted, pixels, pixels], labels, (80, 104), np.random.default_rng(1), QUIET)
    assert frames.shape == (3, 80, 104, 3)
    assert np.array_equal(frames[1], frames[2])
    assert not np.array_equal(frames[0], frames[1])
    assert truth.shape == (80, 104)
