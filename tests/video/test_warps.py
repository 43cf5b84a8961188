"""Warps against what they say they do, masks got wrong, and the triplets that a tracker learns from."""

import numpy as np
import pytest

from tagmask.data.photos import PerImage, Photos, Truth
from tagmask.errors import DataError
from tagmask.types import LabelMap
from tagmask.video.triplets import ClipTriplets, PhotoTriplets, clips_of
from tagmask.video.warps import CONTROLS, NO_WARP, Limits, corrupted, objects_of, warp_map, warped

SIZE = (64, 96)
GREY = np.array([127, 127, 127], dtype=np.uint8)


def places(warp=NO_WARP, scale=1.0, middle=(31.5, 47.5)):
    return warp_map(np.asarray(warp, dtype=np.float64), SIZE, np.array(middle), scale)


def grid():
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float64)
    return y, x


def test_no_warp_leaves_everything_and_scale_and_middle_are_about_the_middle():
    y, x = grid()
    np.testing.assert_allclose(places(), np.stack([x, y], axis=-1), atol=1e-4)
    twice = places(scale=2.0, middle=(10, 20))
    np.testing.assert_allclose(twice[..., 0], 20 + (x - 47.5) / 2, atol=1e-4)
    np.testing.assert_allclose(twice[..., 1], 10 + (y - 31.5) / 2, atol=1e-4)


def test_turn_zoom_and_shift_are_those_of_a_rotation_matrix():
    warp = NO_WARP.copy()
    warp[:4] = np.deg2rad(20), np.log(1.25), 0.1, -0.05
    found = places(warp)
    y, x = grid()
    dy, dx = (y - 31.5) - 0.1 * 64, (x - 47.5) + 0.05 * 96
    turn = np.array([[np.cos(warp[0]), np.sin(warp[0])], [-np.sin(warp[0]), np.cos(warp[0])]]) / 1.25
    expected = np.stack([dx, dy], axis=-1) @ turn.T + [47.5, 31.5]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_spline_moves_its_control_points_as_told():
    size = (240, 432)
    bend = np.random.default_rng(0).uniform(-0.15, 0.15, (CONTROLS, CONTROLS, 2))
    found = warp_map(np.concatenate([NO_WARP[:4], bend.ravel()]), size, np.array([119.5, 215.5]), 1.0)
    for row in range(1, CONTROLS - 1):  # those on the border lie between pixels of the frame
        for column in range(1, CONTROLS - 1):
            y, x = row / (CONTROLS - 1) * 240 - 0.5, column / (CONTROLS - 1) * 432 - 0.5
            at = found[int(y) : int(y) + 2, int(x) : int(x) + 2].mean(axis=(0, 1))
            moved = at - [x, y]
            assert moved == pytest.approx([bend[row, column, 1] * 432, bend[row, column, 0] * 240], abs=1.0)


def test_a_spline_whose_points_all_move_alike_is_a_shift():
    warp = NO_WARP.copy()
    warp[4:] = np.tile([0.1, -0.2], CONTROLS**2)
    y, x = grid()
    np.testing.assert_allclose(places(warp), np.stack([x - 0.2 * 96, y + 0.1 * 64], axis=-1), atol=1e-3)


def test_pictures_and_masks_are_moved_alike():
    random = np.random.default_rng(3)
    mask = np.zeros((50, 70), dtype=np.uint8)
    mask[10:40, 20:60] = 200
    there = places(Limits().draw(random), scale=1.2, middle=(25, 35))
    picture = warped(np.repeat(mask[..., None], 3, axis=2), there, GREY * 0)
    labels = warped(mask, there, 0, nearest=True)
    assert set(np.unique(labels)) == {0, 200}
    assert np.count_nonzero((picture[..., 1] > 100) != (labels == 200)) < 0.02 * labels.size


def test_draws_stay_within_the_limits_and_follow_the_generator():
    limits = Limits(bend=0.1, turn=30, zoom=0.25, shift=0.2)
    draws = np.stack([limits.draw(np.random.default_rng(seed)) for seed in range(300)])
    assert np.abs(draws[:, 0]).max() <= np.deg2rad(30)
    assert np.deg2rad(25) < np.abs(draws[:, 0]).max()
    assert 0.75 <= np.exp(draws[:, 1]).min() < 0.8
    assert 1.2 < np.exp(draws[:, 1]).max() <= 1.25
    assert np.abs(draws[:, 2:4]).max() <= 0.2
    assert np.abs(draws[:, 4:]).max() <= 0.1
    np.testing.assert_array_equal(draws[7], limits.draw(np.random.default_rng(7)))


def test_objects_are_connected_parts_of_one_class_that_are_large_enough():
    labels = np.zeros((20, 30), dtype=np.uint8)
    labels[1:5, 1:5] = 3
    labels[5:8, 5:8] = 3  # touches it by a corner
    labels[1:9, 20:25] = 3
    labels[12:18, 3:9] = 1
    labels[12:18, 9:12] = 2
    labels[19, 29] = 1  # a six hundredth
    labels[10, :] = 255
    found = objects_of(labels)
    assert [int(part.sum()) for part in found] == [36, 18, 25, 40]
    assert all(len(np.unique(labels[part])) == 1 for part in found)
    assert objects_of(np.full((5, 5), 255, dtype=np.uint8)) == []


def test_masks_are_got_wrong_a_little_and_sometimes_lost():
    mask = np.zeros((60, 80), dtype=bool)
    mask[20:40, 30:60] = True
    made = [corrupted(mask, np.random.default_rng(seed)) for seed in range(200)]
    lost = sum(not one.any() for one in made)
    assert 8 < lost < 35
    overlaps = [np.count_nonzero(one & mask) / np.count_nonzero(one | mask) for one in made if one.any()]
    assert 0.5 < min(overlaps) < 0.8
    assert 0.75 < np.mean(overlaps) < 0.99
    np.testing.assert_array_equal(made[5], corrupted(mask, np.random.default_rng(5)))
    thin = np.zeros((60, 80), dtype=bool)
    thin[30, :] = True
    assert all(corrupted(thin, np.random.default_rng(seed), drop=0).any() for seed in range(50))
    assert not corrupted(np.zeros((9, 9), dtype=bool), np.random.default_rng(0)).any()


def check(example):
    views, view_labels, before, masks, centres, frame, labels, there = example
    assert views.shape == (2, 3, *SIZE)
    assert view_labels.shape == masks.shape == labels.shape == (2, *SIZE)
    assert before.shape == frame.shape == (3, *SIZE)
    assert centres.shape == (2, 3)
    assert centres.dtype == np.float32
    assert all(part.dtype == np.uint8 for part in (views, view_labels, before, masks, frame, labels, there))
    assert there[0] == 1
    assert (view_labels[0] == 1).any()
    assert set(np.unique(labels)) <= {0, 1, 255}
    assert set(np.unique(masks)) <= {0, 1}
    assert np.isfinite(centres).all()
    for mask, centre in zip(masks, centres, strict=True):
        if mask.any():
            rows, columns = np.nonzero(mask)
            assert centre == pytest.approx([rows.mean(), columns.mean(), len(rows)], rel=1e-5)


def photo_triplets(samples, classes, **more):
    return PhotoTriplets(Photos(samples), Truth(samples, classes), SIZE, GREY, **{"motion": 0.2, "pair": 0.5, **more})


def test_photos_make_triplets_that_follow_the_generator(toy):
    examples = photo_triplets(toy.train, len(toy.classes))
    both = 0
    for index in range(len(examples)):
        example = examples.example(index, np.random.default_rng(index))
        check(example)
        both += int(example[-1][1])
        again = examples.example(index, np.random.default_rng(index))
        assert all(np.array_equal(a, b) for a, b in zip(example, again, strict=True))
    assert 0 < both < len(examples)
    alone = photo_triplets(toy.train, len(toy.classes), pair=0.0)
    assert not any(alone.example(i, np.random.default_rng(i))[-1][1] for i in range(len(alone)))


def test_without_motion_the_frame_before_is_the_frame(toy):
    near, far = [], []
    for motion, into in ((0.0, near), (1.0, far)):
        examples = photo_triplets(toy.train, len(toy.classes), motion=motion)
        for seed in range(8):
            _, _, before, _, _, frame, _, _ = examples.example(0, np.random.default_rng(seed))
            into.append(np.abs(before.astype(float) - frame).mean())
    assert max(near) < 25  # colours differ a little
    assert np.mean(far) > np.mean(near) + 10


class Fixed(PerImage):
    """Masks by name."""

    def __init__(self, masks):
        super().__init__(list(masks))
        self.masks = masks

    def __getitem__(self, name):
        return LabelMap(self.masks[name])

    def key_of(self, name):
        return name


def test_photos_without_an_object_are_passed_over(toy):
    empty = Fixed({s.name: np.zeros((48, 48), dtype=np.uint8) for s in toy.train})
    examples = PhotoTriplets(Photos(toy.train), empty, SIZE, GREY, motion=0.2, pair=0.5)
    with pytest.raises(DataError, match="no photo has a mask of an object"):
        examples.example(0, np.random.default_rng(0))
    empty.masks[toy.train[3].name][10:30, 10:30] = 4
    check(examples.example(0, np.random.default_rng(1)))


def clip_examples(toy, gap=2):
    """Two clips made of the photos of the toy set: object 9 moves to the right, 7 is in the second only."""
    names = [f"a/{n}" for n in range(6)] + [f"b/{n}" for n in range(6)]
    masks = {}
    for name in names:
        step = 3 * int(name[-1])
        masks[name] = np.zeros((48, 48), dtype=np.uint8)
        masks[name][10:25, 5 + step : 20 + step] = 9
        if name[0] == "b":
            masks[name][30:45, 20:40] = 7
            masks[name][30:45, 40:44] = 255
    samples = [type(s)(name=n, image=s.image, tags=()) for n, s in zip(names, toy.samples, strict=False)]
    return ClipTriplets(Photos(samples), Fixed(masks), SIZE, GREY, gap=gap)


def test_clips_make_triplets_of_one_clip(toy):
    examples = clip_examples(toy)
    assert clips_of(examples.photos.names) == {c: [f"{c}/{n}" for n in range(6)] for c in "ab"}
    both = []
    for index in range(12):
        example = examples.example(index, np.random.default_rng(index))
        check(example)
        both.append(int(example[-1][1]))
    assert both == [0] * 6 + [1] * 6


def test_the_frame_before_is_at_most_the_gap_away(toy):
    examples, asked = clip_examples(toy, gap=2), []
    read = examples.photos

    class Spy(Photos):
        def __getitem__(self, name):
            asked.append(name)
            return read[name]

    object.__setattr__(examples, "photos", Spy(list(read.samples.values())))
    for seed in range(30):
        asked.clear()
        examples.example(4, np.random.default_rng(seed))
        first, before, now = asked
        assert now == "a/4"
        assert before in ("a/2", "a/3")
        assert first.startswith("a/")
    asked.clear()
    examples.example(0, np.random.default_rng(0))
    assert asked[1:] == ["a/0", "a/0"]  # nothing lies before the first
