"""The exact dense CRF against the equations, written out pixel by pixel."""

from __future__ import annotations

from math import exp, sqrt

import numpy as np
import pytest
import torch

from tagmask.refine.crf import SEC_TRAIN_CRF, CrfOptions
from tagmask.refine.exact import mean_field_exact

OPTIONS = CrfOptions(
    spatial_xy=1.5, spatial_weight=2.0, bilateral_xy=4.0, bilateral_rgb=40.0, bilateral_weight=3.0, iterations=4
)


def oracle(unary: np.ndarray, pixels: np.ndarray, options: CrfOptions) -> np.ndarray:
    """Q <- softmax(-U + sum_m w_m diag(n_m) K_m diag(n_m) Q), by loops over all pairs of pixels, in float64."""
    classes, height, width = unary.shape
    where = [(y, x) for y in range(height) for x in range(width)]

    def spatial(i, j):
        return sum((a - b) ** 2 for a, b in zip(i, j, strict=True)) / options.spatial_xy**2

    def bilateral(i, j):
        colours = sum((float(pixels[i][c]) - float(pixels[j][c])) ** 2 for c in range(3)) / options.bilateral_rgb**2
        return sum((a - b) ** 2 for a, b in zip(i, j, strict=True)) / options.bilateral_xy**2 + colours

    message = np.zeros((len(where), len(where)))
    for weight, squared in ((options.spatial_weight, spatial), (options.bilateral_weight, bilateral)):
        kernel = np.array([[exp(-squared(i, j) / 2) for j in where] for i in where])
        for i in range(len(where)):
            for j in range(len(where)):
                message[i, j] += weight * kernel[i, j] / sqrt(kernel[i].sum()) / sqrt(kernel[j].sum())
    logits = -unary.reshape(classes, -1).astype(np.float64)

    def softmax(scores):
        e = np.exp(scores - scores.max(axis=0))
        return e / e.sum(axis=0)

    q = softmax(logits)
    for _ in range(options.iterations):
        q = softmax(logits + q @ message.T)
    return q.reshape(unary.shape)


def drawn(seed: int, classes: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    unary = rng.normal(0, 1.5, (classes, height, width)).astype(np.float32)
    return unary, rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("options", [OPTIONS, CrfOptions(iterations=0), CrfOptions(bilateral_weight=0.0)])
def test_equals_the_equations(classes, options):
    images = [drawn(seed, classes, height=6, width=8) for seed in (0, 1)]
    unary = torch.from_numpy(np.stack([unary for unary, _ in images]))
    pixels = torch.from_numpy(np.stack([pixels for _, pixels in images])).float()
    q = mean_field_exact(unary, pixels, options).numpy()
    for found, (energy, image) in zip(q, images, strict=True):
        np.testing.assert_allclose(found, oracle(energy, image, options), atol=2e-6)


def test_images_of_a_batch_do_not_mix():
    unary, pixels = drawn(3, classes=3, height=5, width=7)
    alone = mean_field_exact(torch.from_numpy(unary)[None], torch.from_numpy(pixels).float()[None], OPTIONS)
    other = torch.randn(1, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    both = mean_field_exact(
        torch.cat([other, torch.from_numpy(unary)[None]]),
        torch.stack([torch.full((5, 7, 3), 9.0), torch.from_numpy(pixels).float()]),
        OPTIONS,
    )
    torch.testing.assert_close(both[1:], alone)


def test_no_gradient_and_no_half_precision():
    unary, pixels = drawn(4, classes=3, height=9, width=6)
    energy = torch.from_numpy(unary)[None].requires_grad_()
    image = torch.from_numpy(pixels).float()[None]
    q = mean_field_exact(energy, image, SEC_TRAIN_CRF)
    assert not q.requires_grad
    with torch.autocast(device_type="cpu", dtype=torch.bfloat16):
        under_autocast = mean_field_exact(energy, image, SEC_TRAIN_CRF)
    assert under_autocast.dtype == torch.float32
    torch.testing.assert_close(under_autocast, q, rtol=0, atol=0)


def test_swapped_height_and_width_is_refused():
    with pytest.raises(ValueError, match="pixels must be"):
        mean_field_exact(torch.zeros(1, 2, 4, 6), torch.zeros(1, 6, 4, 3))
