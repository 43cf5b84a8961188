"""Choose the background threshold from the training photos alone, without a single mask.

A good cut follows the object, and objects differ from their surroundings in colour. At every threshold the photo falls
into two parts; how much do its colours tell about which part a pixel is in? That is the mutual information between the
pixel's colour and the cut. A cut too low takes ground of every colour into the object, one too high leaves half of the
object's colours outside; both tell less. The threshold with the largest mean over the photos is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import xlogy

from tagmask.data.photos import PerImage, Photos
from tagmask.errors import OptionError
from tagmask.label import strongest
from tagmask.types import Activation

THRESHOLDS = tuple(round(0.02 * step, 2) for step in range(1, 50))  # 0.02 .. 0.98  # ours
PHOTOS = 300  # photos asked, evenly spread  # ours
COLOURS = 24  # colours a photo is reduced to  # ours
SAMPLE = 7000  # pixels among which a photo's colours are sought  # ours


def choose_threshold(
    photos: Photos,
    activation: PerImage[Activation],
    *,
    fixed: float = 0.0,
    thresholds: Sequence[float] = THRESHOLDS,
    most: int = PHOTOS,
) -> dict[str, Any]:
    """Return ``threshold`` in [0, 1], the ``criterion``, and the curve of ``thresholds`` and ``values`` behind it.

    ``fixed`` above 0 is returned as it is. At most ``most`` tagged photos, evenly spread, are asked. Without a tagged
    photo the middle of the range is returned. Raises OptionError for a ``fixed`` threshold outside [0, 1].
    """
    if not 0 <= fixed <= 1:
        raise OptionError(f"the threshold is {fixed}; expected 0 (choose it) or a number up to 1.")
    if fixed:
        return {"threshold": fixed, "criterion": "given", "curve": {"thresholds": [], "values": []}}
    tagged = [name for name in photos.names if photos.tags(name)]
    if not tagged:
        return {"threshold": 0.5, "criterion": "no photo has a tag", "curve": {"thresholds": [], "values": []}}
    asked = tagged[:: max(1, -(-len(tagged) // most))]
    values = np.mean([colour_information(photos[n].pixels, activation[n], thresholds) for n in asked], axis=0)  # (T,)
    return {
        "threshold": round(peak(np.asarray(thresholds), values), 3),
        "criterion": "what the colours of the photos tell about the cut (mutual information, nats)",
        "photos": len(asked),
        "curve": {"thresholds": list(thresholds), "values": [round(float(value), 4) for value in values]},
    }


def colour_information(
    pixels: NDArray[np.uint8], activation: Activation, thresholds: Sequence[float]
) -> NDArray[np.float64]:
    """Return float64 (T,): nats that the colours of ``pixels`` uint8 (H, W, 3) tell about the cut at each threshold."""
    colours = dominant_colours(pixels)  # (N,)
    _, value = strongest(activation, size=(pixels.shape[0], pixels.shape[1]))  # (H, W)
    levels = np.asarray(thresholds, dtype=np.float32)
    step = np.searchsorted(levels, value.ravel(), side="left")  # thresholds that the pixel is above: 0..T
    counts = np.zeros((COLOURS, len(levels) + 1))
    np.add.at(counts, (colours, step), 1)
    above = counts[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:] / len(colours)  # (COLOURS, T): share kept, by colour
    total = counts.sum(axis=1, keepdims=True) / len(colours)
    joint = np.stack([above, total - above])  # (2, COLOURS, T)
    return _entropy(joint.sum(axis=1), axis=0) + _entropy(total, axis=0) - _entropy(joint, axis=(0, 1))


def dominant_colours(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return int64 (N,): for every pixel the nearest of the photo's own COLOURS colours, found by k-means in CIELAB."""
    lab = cv2.cvtColor(pixels, code=cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.float32)  # (N, 3)
    some = lab[:: max(1, len(lab) // SAMPLE)]
    if len(some) < COLOURS:
        return np.arange(len(lab)) % COLOURS
    cv2.setRNGSeed(0)
    stop = (cv2.TERM_CRITERIA_COUNT, 10, 0.0)
    _, _, centres = cv2.kmeans(some, COLOURS, cast(Any, None), stop, 1, cv2.KMEANS_PP_CENTERS)
    return cKDTree(centres).query(lab)[1].astype(np.int64)


def _entropy(p: NDArray[np.float64], axis: int | tuple[int, ...]) -> NDArray[np.float64]:
    """Return the entropy in nats along ``axis``; the entries there sum to 1."""
    return np.asarray(-xlogy(p, p).sum(axis=axis))


def peak(places: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """Return where a noisy curve is highest: the top of the parabola through the best of three-point means.

    >>> peak(np.array([0.1, 0.2, 0.3, 0.4, 0.5]), np.array([0.0, 0.5, 0.8, 0.5, 0.0]))
    0.3
    """
    padded = np.pad(values, 1, mode="edge")
    smooth = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    best = int(smooth.argmax())
    if not 0 < best < len(places) - 1:
        return float(places[best])
    left, top, right = smooth[best - 1 : best + 2]
    bend = left - 2 * top + right
    shift = 0.5 * (left - right) / bend if bend else 0.0
    return float(round(places[best] + shift * (places[best + 1] - places[best]), 6))
