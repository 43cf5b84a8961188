"""Choose the background threshold from the training photos alone, without a single mask.

What a threshold keeps should be the object, and what it leaves out should not. At every threshold the photo is cut in
two, each half laid on the mean colour, and the classifier is asked again: it should still see the tag in the half that
was kept, and no longer in the half that was left. A threshold too low keeps the tag for free but takes in the ground, one
too high leaves the tag in the other half; the choice is where evidence kept and evidence removed are largest together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tagmask.classify import mean_colour
from tagmask.data.photos import PerImage, Photos
from tagmask.errors import OptionError
from tagmask.label import strongest
from tagmask.nets.classifier import Classifier
from tagmask.types import Activation, Photo

THRESHOLDS = tuple(round(0.05 + 0.025 * step, 3) for step in range(25))  # 0.05 .. 0.65  # ours
PHOTOS = 150  # photos asked; more change the choice by less than a step  # ours


def choose_threshold(
    classifier: Classifier,
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
    asked = tagged[:: max(1, -(-len(tagged) // most))]
    values = np.mean([evidence(classifier, photos[n], activation[n], thresholds) for n in asked], axis=0)  # (T,)
    return {
        "threshold": round(peak(np.asarray(thresholds), values), 3),
        "criterion": "evidence kept and evidence removed, by asking the classifier again",
        "photos": len(asked),
        "curve": {"thresholds": list(thresholds), "values": [round(float(value), 4) for value in values]},
    }


def evidence(
    classifier: Classifier, photo: Photo, activation: Activation, thresholds: Sequence[float]
) -> NDArray[np.float64]:
    """Return float64 (T,): over the photo's tags, the mean of P(tag | kept half) - P(tag | other half)."""
    winner, value = strongest(activation)  # (H, W)
    mean, device = mean_colour(classifier), next(classifier.parameters()).device
    total = np.zeros(len(thresholds))
    for tag in activation.classes:
        kept = (winner == tag) & (value > np.asarray(thresholds, dtype=np.float32)[:, None, None])  # (T, H, W)
        halves = np.where(np.concatenate([kept, ~kept])[..., None], photo.pixels, mean)  # (2T, H, W, 3)
        with torch.no_grad():
            images = torch.from_numpy(halves).to(device).permute(0, 3, 1, 2).float() / 255
            p = classifier(images)[:, tag - 1].sigmoid().double().cpu().numpy()  # (2T,)
        total += p[: len(thresholds)] - p[len(thresholds) :]
    return total / max(1, len(activation.classes))


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
