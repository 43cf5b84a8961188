"""The fully connected CRF: labels that agree with the colours of the image, by mean field over all pairs of pixels.

Kraehenbuehl, Koltun. Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials. NIPS 2011.
https://arxiv.org/abs/1210.5644

The conventions are those of pydensecrf, which the published systems used, and the result equals its result: symmetric
normalisation of both kernels, the message of a pixel to itself included, all pixels updated at once. A weight counts
relative to the unary energies, so the three unaries below are not interchangeable.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from math import isfinite, log, sqrt

import numpy as np
from numpy.typing import NDArray

from tagmask.errors import OptionError
from tagmask.refine.lattice import Lattice, blur, build_lattice, compiled

_LANES = 4  # ours: classes are padded to a multiple of this, so that rows are loaded as vectors
_BLOCK = 1024  # ours: values of the pixels worked on at a time; 4 kB stay in the first-level cache
_CORNERS = 3 + 6  # of a simplex in the two dimensions of the spatial and the five of the bilateral kernel


@dataclass(frozen=True)
class CrfOptions:
    """The two Gaussian kernels and the number of mean-field iterations.

    ``*_xy`` are standard deviations in pixels, ``bilateral_rgb`` one in grey levels of 0..255; the weights count
    against the unary. The defaults are those of the psa code and of pydensecrf's README.
    Raises ``OptionError`` for a deviation that is not positive, or a negative weight or number of iterations.
    """

    spatial_xy: float = 3.0  # author code
    spatial_weight: float = 3.0  # author code
    bilateral_xy: float = 80.0  # author code
    bilateral_rgb: float = 13.0  # author code
    bilateral_weight: float = 10.0  # author code
    iterations: int = 10  # author code

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            positive = field.name.endswith(("_xy", "_rgb"))
            if not isfinite(value) or value < 0 or (positive and value == 0):
                expected = "a number above 0" if positive else "0 or more"
                raise OptionError(f"{field.name} of the dense CRF is {value}, expected {expected}.")


PSA_CRF = CrfOptions()  # author code; soft scores: psa, SEAM, RETAB
IRN_CRF = CrfOptions(bilateral_xy=50.0, bilateral_rgb=5.0)  # author code; hard labels: irn, BES
SEC_TEST_CRF = CrfOptions()  # author code
SEC_TRAIN_CRF = CrfOptions(spatial_xy=3.0 / 12, bilateral_xy=80.0 / 12)  # author code: 12 for the 41 x 41 grid
DEEPLAB_V1_CRF = CrfOptions(bilateral_xy=121.0, bilateral_rgb=5.0, bilateral_weight=4.0)  # source: LargeFOV model page
DEEPLAB_V2_CRF = CrfOptions(spatial_xy=1.0, bilateral_xy=67.0, bilateral_rgb=3.0, bilateral_weight=4.0)  # author code


def unary_from_probabilities(probabilities: NDArray[np.floating], clip: float = 1e-5) -> NDArray[np.float32]:
    """Return the energies -log(p), float32 (K, H, W), of probabilities (K, H, W) raised to at least ``clip``.

    They need not sum to one and are not made to (source: pydensecrf). For argmaxed labels use `unary_from_labels`:
    here a one-hot map would cost 11.5 nats and hardly move.
    """
    return -np.log(np.clip(np.asarray(probabilities, dtype=np.float32), clip, 1))


def unary_from_scores(scores: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the energies -s, float32 (K, H, W), of logits (K, H, W): the same CRF as -log softmax(s)."""
    return -np.asarray(scores, dtype=np.float32)


def unary_from_labels(
    labels: NDArray[np.integer], classes: int, confidence: float = 0.7, unknown: int | None = None
) -> NDArray[np.float32]:
    """Return energies float32 (K, H, W) of hard labels (H, W) in 0..K-1 that are right with probability ``confidence``.

    The label costs -log g, each other class -log((1 - g) / (K - 1)); where the label is ``unknown`` all classes cost
    log K. The default confidence is the irn code's. Raises ``OptionError`` for a confidence not between 0 and 1, and
    ``ValueError`` for labels beyond the classes.
    """
    if not 0 < confidence < 1:
        raise OptionError(f"The confidence of the labels is {confidence}, expected a number between 0 and 1.")
    unsure = np.zeros(labels.shape, dtype=bool) if unknown is None else labels == unknown
    sure = labels[~unsure]
    if sure.size and not 0 <= sure.min() <= sure.max() < classes:
        raise ValueError(f"labels must lie in 0..{classes - 1}, got {sure.min()}..{sure.max()}")
    other = -log((1 - confidence) / max(classes - 1, 1))
    is_label = labels[None] == np.arange(classes)[:, None, None]  # (K, H, W)
    energy = np.where(is_label, np.float32(-log(confidence)), np.float32(other))
    return np.where(unsure[None], np.float32(log(classes)), energy)


def mean_field(
    unary: NDArray[np.float32], pixels: NDArray[np.uint8], options: CrfOptions = PSA_CRF
) -> NDArray[np.float32]:
    """Return the marginals Q, float32 (K, H, W) summing to one over K, of energies (K, H, W) on an RGB image (H, W, 3).

    ``pixels`` are uint8. Time and memory are linear in H * W * K; the interpreter lock is released, so a pool of
    threads over images scales. Raises ``OptionError`` where the deviations are too small for the size of the image,
    ``ValueError`` for arrays that do not fit or energies that are not finite.
    """
    classes, height, width = unary.shape
    if pixels.dtype != np.uint8 or pixels.shape != (height, width, 3) or not unary.size:
        raise ValueError(f"pixels must be uint8 ({height}, {width}, 3), got {pixels.dtype} {pixels.shape}")
    if not np.isfinite(unary).all():
        raise ValueError("unary energies must be finite; clip probabilities before the logarithm")
    spatial = _spatial_lattice(height, width, options.spatial_xy)
    bilateral = _bilateral_lattice(pixels, options.bilateral_xy, options.bilateral_rgb)
    vertices = np.concatenate([spatial.vertices, bilateral.vertices + np.int32(spatial.size)], axis=1)  # (N, 9)
    shares = np.concatenate(  # the weight acts once in the splat and once in the slice: half of it in each
        [
            spatial.shares * np.float32(sqrt(options.spatial_weight)),
            bilateral.shares * np.float32(sqrt(options.bilateral_weight)),
        ],
        axis=1,
    )
    padded = -(-classes // _LANES) * _LANES
    logits = np.full((height * width, padded), -np.inf, dtype=np.float32)  # (N, K): rows of classes are contiguous
    logits[:, :classes] = -unary.reshape(classes, -1).T
    heard = np.zeros((spatial.size + bilateral.size, padded), dtype=np.float32)  # both lattices in one table
    said = np.zeros_like(heard)
    marginals = np.empty((classes, height * width), dtype=np.float32)
    for _ in range(options.iterations):
        _pass_messages(heard, logits, vertices, shares, said, marginals, False)
        blur(said[: spatial.size], heard[: spatial.size], spatial.neighbours)
        blur(said[spatial.size :], heard[spatial.size :], bilateral.neighbours)
        heard, said = said, heard
        said.fill(0)
    _pass_messages(heard, logits, vertices, shares, said, marginals, True)
    return marginals.reshape(classes, height, width)


@lru_cache(maxsize=4)  # ours: photos of one data set share few sizes
def _spatial_lattice(height: int, width: int, deviation: float) -> Lattice:
    """Return the lattice of the pixel grid; it depends on nothing else, so images of one size share it."""
    return build_lattice(_grid(height, width) / np.float32(deviation))


def _bilateral_lattice(pixels: NDArray[np.uint8], deviation_xy: float, deviation_rgb: float) -> Lattice:
    """Return the lattice of positions and colours together."""
    grid = _grid(*pixels.shape[:2]) / np.float32(deviation_xy)
    colours = pixels.reshape(-1, 3).astype(np.float32) / np.float32(deviation_rgb)
    return build_lattice(np.concatenate([grid, colours], axis=1))  # (N, 5)


def _grid(height: int, width: int) -> NDArray[np.float32]:
    """Return x and y of each pixel in row order, float32 (N, 2)."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


# Compiled functions call those of their own file only: numba's cache on disk does not see a change in another one.
@compiled()
def _pass_messages(
    heard: NDArray[np.float32],
    logits: NDArray[np.float32],
    vertices: NDArray[np.int32],
    shares: NDArray[np.float32],
    said: NDArray[np.float32],
    marginals: NDArray[np.float32],
    last: bool,
) -> None:
    """Take all pixels from one message to the next, or the ``last`` time to their ``marginals`` (K, N).

    One pass slices the values ``heard``, takes the softmax and splats the result to ``said``, so that Q is never
    stored before the end.
    """
    n, classes = logits.shape
    block = max(1, _BLOCK // classes)
    scores = np.empty((block, classes), dtype=np.float32)
    bits = np.empty(block * classes, dtype=np.int32)
    for start in range(0, n, block):
        stop = min(start + block, n)
        _slice(heard, logits, vertices, shares, start, stop, scores)
        _exponentiate(scores.reshape(-1)[: (stop - start) * classes], bits)
        if last:
            _normalise(scores, start, stop, marginals)
        else:
            _splat(scores, vertices, shares, start, stop, said)


@compiled(fastmath={"contract", "reassoc"})
def _slice(
    heard: NDArray[np.float32],
    logits: NDArray[np.float32],
    vertices: NDArray[np.int32],
    shares: NDArray[np.float32],
    start: int,
    stop: int,
    scores: NDArray[np.float32],
) -> None:
    """Fill ``scores`` with logits plus messages of a block of pixels, less the largest of each pixel.

    The nine corners are written out: one expression keeps the sum in a register, a loop over corners does not.
    """
    for p in range(start, stop):
        v, s, row = vertices[p], shares[p], scores[p - start]
        a, b, c = heard[v[0]], heard[v[1]], heard[v[2]]
        d, e, f, g, h, i = heard[v[3]], heard[v[4]], heard[v[5]], heard[v[6]], heard[v[7]], heard[v[8]]
        for k in range(len(row)):
            spatial = s[0] * a[k] + s[1] * b[k] + s[2] * c[k]
            bilateral = s[3] * d[k] + s[4] * e[k] + s[5] * f[k] + s[6] * g[k] + s[7] * h[k] + s[8] * i[k]
            row[k] = logits[p, k] + spatial + bilateral
        largest = row[0]
        for k in range(1, len(row)):
            largest = max(largest, row[k])
        for k in range(len(row)):
            row[k] -= largest


@compiled(fastmath={"contract"})
def _exponentiate(x: NDArray[np.float32], bits: NDArray[np.int32]) -> None:
    """Replace x <= 0 by exp(x) to within 2e-7 of it, and by 0 below -87 where float32 would be subnormal.

    The library's exp is called once a number; this loop of plain arithmetic runs on vectors: exp(x) = 2^n exp(r),
    where 2^n is written as the exponent bits of a float and r in [-ln 2 / 2, ln 2 / 2] goes through a polynomial.
    Constants: Moshier, Cephes, expf.
    """
    for i in range(len(x)):
        power = np.floor(max(x[i], np.float32(-87)) * np.float32(1.44269504) + np.float32(0.5))
        bits[i] = (np.int32(power) + np.int32(127)) << np.int32(23) if x[i] >= np.float32(-87) else np.int32(0)
        r = max(x[i], np.float32(-87)) - power * np.float32(0.693359375) + power * np.float32(2.12194440e-4)
        y = np.float32(1.9875691500e-4) * r + np.float32(1.3981999507e-3)
        y = y * r + np.float32(8.3334519073e-3)
        y = y * r + np.float32(4.1665795894e-2)
        y = y * r + np.float32(1.6666665459e-1)
        y = y * r + np.float32(5.0000001201e-1)
        x[i] = y * (r * r) + r + np.float32(1)
    scale = bits.view(np.float32)
    for i in range(len(x)):
        x[i] *= scale[i]


@compiled(fastmath={"contract", "reassoc"})
def _splat(
    weights: NDArray[np.float32],
    vertices: NDArray[np.int32],
    shares: NDArray[np.float32],
    start: int,
    stop: int,
    said: NDArray[np.float32],
) -> None:
    """Add the Q of a block of pixels, given up to a factor in ``weights``, to the vertices around them."""
    for p in range(start, stop):
        row = weights[p - start]
        total = np.float32(0)
        for k in range(len(row)):
            total += row[k]
        for corner in range(_CORNERS):
            vertex = vertices[p, corner]
            share = shares[p, corner] / total
            for k in range(len(row)):
                said[vertex, k] += share * row[k]


@compiled(fastmath={"contract", "reassoc"})
def _normalise(weights: NDArray[np.float32], start: int, stop: int, marginals: NDArray[np.float32]) -> None:
    """Write the Q of a block of pixels, given up to a factor in ``weights``, to ``marginals`` (K, N)."""
    for p in range(start, stop):
        row = weights[p - start]
        total = np.float32(0)
        for k in range(len(row)):
            total += row[k]
        for k in range(len(marginals)):
            marginals[k, p] = row[k] / total
