"""Colours that vary: each change alone against its definition, all together from the generator alone."""

import colorsys

import numpy as np
import pytest

from tagmask.augment import jittered

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)


class Fixed:
    """A generator that draws the top of every range, and leaves the order as it is."""

    def uniform(self, low, high):
        return high

    def permutation(self, number):
        return np.arange(number)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_brightness_contrast_and_saturation_blend(step):
    found = jittered(PIXELS, tuple(0.4 * (n == step) for n in range(4)), Fixed())
    grey = (PIXELS @ np.array([0.299, 0.587, 0.114]))[..., None]
    towards = (0, grey.mean(), grey)[step]
    expected = (1.4 * PIXELS.astype(float) - 0.4 * towards).clip(0, 255)
    assert np.abs(found.astype(float) - expected).max() <= 1


def test_the_hue_turns_and_comes_round():
    turned = jittered(PIXELS, (0, 0, 0, 0.25), Fixed())
    for pixel, found in zip(PIXELS.reshape(-1, 3), turned.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        expected = np.array(colorsys.hsv_to_rgb((hue + 0.25) % 1, saturation, value)) * 255
        assert np.abs(found - expected).max() <= 1
    np.testing.assert_allclose(jittered(turned, (0, 0, 0, 0.75), Fixed()), PIXELS, atol=4)  # rounded in between


def test_the_generator_says_everything_and_the_photo_is_not_touched():
    kept = PIXELS.copy()
    strength = (0.3, 0.3, 0.3, 0.1)
    first, again, other = (jittered(PIXELS[:, ::-1], strength, np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    np.testing.assert_array_equal(PIXELS, kept)
    grey = np.repeat(PIXELS[..., :1], 3, axis=2)
    assert np.ptp(jittered(grey, strength, np.random.default_rng(3)), axis=2).max() == 0
