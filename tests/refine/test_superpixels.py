"""SLIC where OpenCV's own has no place for a region: strips and specks are cut into about as many rectangles."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from tagmask.refine.superpixels import slic


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("size", "regions", "wanted"),
    [
        ((1, 700), 7, 7),
        ((2, 300), 7, 7),
        ((5, 900), 3, 3),
        ((3, 4), 500, 12),
        ((1, 1), 9, 1),
        ((30, 40), 1, 1),
        ((4, 4), 4, 4),
    ],
)
def test_small_images_are_cut_into_rectangles(size, regions, wanted, turned):
    size = size[::-1] if turned else size
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    labels = slic(pixels, regions=regions)
    assert np.array_equal(np.unique(labels), np.arange(wanted))
    for k, box in enumerate(ndimage.find_objects(labels + 1)):
        assert (labels[box] == k).all()
