"""A cut changes the colours of many pixels, a camera that moves does not."""

import numpy as np

from tagmask.refine.shots import SHOT_CHANGE, colour_change, colour_shares


def test_shares_sum_to_one_and_count_colours():
    frame = np.zeros((32, 64, 3), dtype=np.uint8)
    frame[:, 32:] = 255
    shares = colour_shares(frame)
    assert shares.shape == (512,)
    assert shares[0] == shares[511] == 0.5
    assert colour_change(shares, shares) == 0


def test_another_scene_is_a_cut_and_a_step_aside_is_none():
    random = np.random.default_rng(0)
    scene = random.integers(0, 120, (40, 80, 3), dtype=np.uint8)
    same, other = colour_shares(np.roll(scene, 4, axis=1)), colour_shares(scene + 120)
    assert colour_change(colour_shares(scene), same) < SHOT_CHANGE < colour_change(colour_shares(scene), other)
