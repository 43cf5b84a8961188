"""The dense CRF against pydensecrf, which the published systems ran."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tagmask.refine.crf import IRN_CRF, PSA_CRF, CrfOptions, mean_field

densecrf = pytest.importorskip("pydensecrf.densecrf", reason="the peer package pydensecrf2 is not installed")
pytestmark = pytest.mark.slow


def photo(height: int, width: int) -> np.ndarray:
    """Draw a textured picture, uint8 (H, W, 3): waves, a disc and grain."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([128 + 80 * np.sin(x / 37 + c) + 40 * np.cos(y / (23 + 5 * c)) for c in range(3)], axis=2)
    disc = np.hypot(x - width / 2, y - height / 2) < height / 3
    return np.clip(waves + disc[..., None] * (60, -50, 30) + rng.normal(0, 8, waves.shape), 0, 255).astype(np.uint8)


def energies(classes: int, height: int, width: int) -> np.ndarray:
    """Draw energies (K, H, W) of blocks with noise."""
    rng = np.random.default_rng(classes)
    blocks = rng.normal(0, 2, (classes, -(-height // 25), -(-width // 25))).repeat(25, axis=1).repeat(25, axis=2)
    return (blocks[:, :height, :width] + rng.normal(0, 0.5, (classes, height, width))).astype(np.float32)


def peer(unary: np.ndarray, pixels: np.ndarray, options: CrfOptions) -> np.ndarray:
    classes, height, width = unary.shape
    field = densecrf.DenseCRF2D(width, height, classes)
    field.setUnaryEnergy(unary.reshape(classes, -1))
    field.addPairwiseGaussian(sxy=options.spatial_xy, compat=options.spatial_weight)
    field.addPairwiseBilateral(
        sxy=options.bilateral_xy, srgb=options.bilateral_rgb, rgbim=pixels, compat=options.bilateral_weight
    )
    return np.array(field.inference(options.iterations)).reshape(unary.shape)


# Narrow colours amplify the rounding of float32 in later iterations (a relative change of 1e-6 of the unary moves a Q
# of IRN_CRF by 3e-4 after ten), so that preset is compared after five.
@pytest.mark.parametrize("options", [PSA_CRF, replace(IRN_CRF, iterations=5)])
@pytest.mark.parametrize("classes", [3, 21])
def test_equals_pydensecrf(classes, options):
    pixels, unary = photo(375, 500), energies(classes, 375, 500)
    expected, found = peer(unary, pixels, options), mean_field(unary, pixels, options)
    moved = (unary.argmin(axis=0) != expected.argmax(axis=0)).mean()
    assert moved > 0.02  # else the pairwise terms would not be tested
    assert np.abs(found - expected).max() <= 1e-4
    assert (found.argmax(axis=0) == expected.argmax(axis=0)).mean() >= 0.9999
