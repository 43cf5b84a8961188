"""The fully connected CRF: labels that agree with the colours of the image, by mean field over all pairs of pixels.

Kraehenbuehl, Koltun. Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials. NIPS 2011.
https://arxiv.org/abs/1210.5644

The conventions are those of pydensecrf, which the published systems used, and the result equals its result: symmetric
normalisation of both kernels, the message of a pixel to itself included, all pixels updated at once. A weight counts
relative to the unary energies, so the three unaries below are not interchangeable.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from math import isfinite, log

import cv2
import numpy as np
from numpy.typing import NDArray

from tagmask.errors import OptionError
from tagmask.refine.lanes import exponential, fill, lanes, larger, largest, load, store, total
from tagmask.refine.lattice import Lattice, blur, build_lattice, compiled

_CORNERS = 3 + 6  # of a simplex in the two dimensions of the spatial and the five of the bilateral kernel


@dataclass(frozen=True)
class CrfOptions:
    """The two Gaussian kernels and the number of mean-field iterations.

    ``*_xy`` are standard deviations in pixels, ``bilateral_rgb`` one in grey levels of 0..255; the weights count
    against the unary. The defaults are those of the psa code and of pydensecrf's README. Two ways to save time are off
    by default: with ``settled`` above 0 the iterations end when no message at a lattice vertex has changed by more, in
    nats; with ``shrink`` of 2 or more the CRF works on the image reduced so many times a side.
    Raises ``OptionError`` for a deviation that is not positive, or a negative weight or number of iterations.
    """

    spatial_xy: float = 3.0  # author code
    spatial_weight: float = 3.0  # author code
    bilateral_xy: float = 80.0  # author code
    bilateral_rgb: float = 13.0  # author code
    bilateral_weight: float = 10.0  # author code
    iterations: int = 10  # author code
    settled: float = 0.0  # ours
    shrink: int = 1  # ours

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            positive = field.name.endswith(("_xy", "_rgb", "shrink"))
            if not isfinite(value) or value < 0 or (positive and value == 0):
                expected = "a number above 0" if positive else "0 or more"
                raise OptionError(f"{field.name} of the dense CRF is {value}, expected {expected}.")


PSA_CRF = CrfOptions()  # author code; soft scores: psa, SEAM, RETAB
IRN_CRF = CrfOptions(bilateral_xy=50.0, bilateral_rgb=5.0)  # author code; hard labels: irn, BES
SEC_TEST_CRF = CrfOptions()  # author code
SEC_TRAIN_CRF = CrfOptions(spatial_xy=3.0 / 12, bilateral_xy=80.0 / 12)  # author code: 12 for the 41 x 41 grid
DEEPLAB_V1_CRF = CrfOptions(bilateral_xy=121.0, bilateral_rgb=5.0, bilateral_weight=4.0)  # source: LargeFOV model page
DEEPLAB_V2_CRF = CrfOptions(spatial_xy=1.0, bilateral_xy=67.0, bilateral_rgb=3.0, bilateral_weight=4.0)  # author code
FAST_CRF = CrfOptions(shrink=2, settled=0.05)  # ours; docs/speed.md says what it costs


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
    height, width = unary.shape[1:]
    if pixels.dtype != np.uint8 or pixels.shape != (height, width, 3) or not unary.size:
        raise ValueError(f"pixels must be uint8 ({height}, {width}, 3), got {pixels.dtype} {pixels.shape}")
    if not np.isfinite(unary).all():
        raise ValueError("unary energies must be finite; clip probabilities before the logarithm")
    if options.shrink == 1 or min(height, width) < 2 * options.shrink:
        return _mean_field(unary, pixels, options)
    small = (max(1, width // options.shrink), max(1, height // options.shrink))
    fewer = replace(
        options,
        spatial_xy=options.spatial_xy / options.shrink,
        bilateral_xy=options.bilateral_xy / options.shrink,
    )
    shrunk = np.stack([cv2.resize(src=plane, dsize=small, interpolation=cv2.INTER_AREA) for plane in unary])
    seen = np.asarray(cv2.resize(src=pixels, dsize=small, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    q = _mean_field(shrunk, seen, fewer)
    return np.stack([cv2.resize(src=plane, dsize=(width, height), interpolation=cv2.INTER_LINEAR) for plane in q])


def _mean_field(unary: NDArray[np.float32], pixels: NDArray[np.uint8], options: CrfOptions) -> NDArray[np.float32]:
    """Return the marginals at the resolution of the image."""
    classes, height, width = unary.shape
    spatial = spatial_lattice(height, width, options.spatial_xy)
    bilateral = bilateral_lattice(pixels, options.bilateral_xy, options.bilateral_rgb)
    vertices = np.concatenate([spatial.vertices, bilateral.vertices + np.int32(spatial.size)], axis=1)  # (N, 9)
    shares = np.concatenate([spatial.shares, bilateral.shares], axis=1)  # (N, 9)
    across = lanes(4 if classes <= 4 else 8)  # ours: the widest registers that every machine of the last decade has
    padded = -(-classes // len(across)) * len(across)
    logits = _rows(unary.reshape(classes, -1), _table(height * width, padded))  # (N, K)
    heard, said = (_table(spatial.size + bilateral.size, padded) for _ in range(2))  # both lattices in one
    near, alike = slice(spatial.size), slice(spatial.size, None)
    marginals = np.empty((classes, height * width), dtype=np.float32)
    listen = False  # nobody has spoken yet
    for _ in range(options.iterations):
        _pass_messages(logits, vertices, shares, heard, said, marginals, listen, False, across)
        before = heard.copy() if options.settled else heard  # the blur overwrites it
        blur(said[near], heard[near], spatial.neighbours, np.float32(options.spatial_weight), across)
        blur(said[alike], heard[alike], bilateral.neighbours, np.float32(options.bilateral_weight), across)
        heard, said, listen = said, heard, True
        said.fill(0)
        if options.settled and np.abs(heard - before).max() <= options.settled:  # cannot hold after the first
            break
    _pass_messages(logits, vertices, shares, heard, said, marginals, listen, True, across)
    return marginals.reshape(classes, height, width)


def _table(rows: int, columns: int) -> NDArray[np.float32]:
    """Return zeros (rows, columns) that begin at a cache line, so that no vector of 8 lies across two."""
    raw = np.zeros(rows * columns + 16, dtype=np.float32)
    start = -raw.ctypes.data // raw.itemsize % 16
    return raw[start : start + rows * columns].reshape(rows, columns)


@lru_cache(maxsize=4)  # ours: photos of one data set share few sizes
def spatial_lattice(height: int, width: int, deviation: float) -> Lattice:
    """Return the lattice of the pixel grid; it depends on nothing else, so images of one size share it."""
    return build_lattice(_grid(height, width) / np.float32(deviation))


def bilateral_lattice(pixels: NDArray[np.uint8], deviation_xy: float, deviation_rgb: float) -> Lattice:
    """Return the lattice of positions and colours together."""
    grid = _grid(*pixels.shape[:2]) / np.float32(deviation_xy)
    colours = pixels.reshape(-1, 3).astype(np.float32) / np.float32(deviation_rgb)
    return build_lattice(np.concatenate([grid, colours], axis=1))  # (N, 5)


def _grid(height: int, width: int) -> NDArray[np.float32]:
    """Return x and y of each pixel in row order, float32 (N, 2)."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)


# Compiled functions call those of their own file and of lanes.py only: numba's cache on disk does not see a change in
# another file.
@compiled()
def _rows(energies: NDArray[np.float32], logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fill ``logits`` (N, K or more) with minus the energies (K, N), and with minus infinity beyond K; return it."""
    classes, n = energies.shape
    for start in range(0, n, 64):  # a block at a time stays in the first-level cache
        for p in range(start, min(start + 64, n)):
            for k in range(classes, logits.shape[1]):
                logits[p, k] = -np.inf
        for k in range(classes):
            for p in range(start, min(start + 64, n)):
                logits[p, k] = -energies[k, p]
    return logits


@compiled()
def _pass_messages(
    logits: NDArray[np.float32],
    vertices: NDArray[np.int32],
    shares: NDArray[np.float32],
    heard: NDArray[np.float32],
    said: NDArray[np.float32],
    marginals: NDArray[np.float32],
    listen: bool,
    last: bool,
    across: tuple[np.float32, ...],
) -> None:
    """Take all pixels from one message to the next, or the ``last`` time to their ``marginals`` (K, N).

    One pass slices the values ``heard`` (not where there is nothing to ``listen`` to yet), takes the softmax and splats
    it to what is ``said``, so that Q is never stored before the end. A row of classes is worked on in pieces of as many
    lanes as ``across`` is long.
    """
    n, width = logits.shape
    step = len(across)
    row = np.empty((1, width), dtype=np.float32)
    for p in range(n):
        largest_yet = fill(np.float32(-np.inf), across)
        for k in range(0, width, step):
            scores = load(logits, p, k, across)
            if listen:
                for corner in range(_CORNERS):
                    scores = scores + fill(shares[p, corner], across) * load(heard, vertices[p, corner], k, across)
            largest_yet = larger(largest_yet, scores)
            store(row, 0, k, scores)
        top = fill(largest(largest_yet), across)
        together = fill(np.float32(0), across)
        for k in range(0, width, step):
            raised = exponential(load(row, 0, k, across) - top)
            together = together + raised
            store(row, 0, k, raised)
        scale = np.float32(1) / total(together)
        if last:
            for k in range(len(marginals)):
                marginals[k, p] = row[0, k] * scale
            continue
        for k in range(0, width, step):
            q = load(row, 0, k, across) * fill(scale, across)
            for corner in range(_CORNERS):
                vertex = vertices[p, corner]
                store(said, vertex, k, load(said, vertex, k, across) + fill(shares[p, corner], across) * q)
