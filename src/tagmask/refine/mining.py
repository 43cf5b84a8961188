"""Objects beside what stands out: mining them out of the background, and masking what was never looked at (NSROM).

Yao, Chen, Xie, Sun, Zhang, Tang. Non-Salient Region Object Mining. CVPR 2021. https://arxiv.org/abs/2103.14581
Arrays in, arrays out. A photo without tags is background everywhere, which both leave as it is  # ours.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tagmask.errors import OptionError
from tagmask.label import strongest, without_small
from tagmask.types import BACKGROUND, UNKNOWN, Activation, LabelMap

MINED = ("unknown", "class")


def mined_labels(
    labels: LabelMap,
    activation: Activation,
    *,
    mined: str = "unknown",
    threshold: float = 0.0,
    floor: float = 0.3,  # paper
    smallest: float = 0.01,  # author code
) -> LabelMap:
    """Take out of the background what an activation of the labels' size shows: potential object mining (POM).

    Where the label is background and the map of a class lies above the class's ``mining_threshold`` (or above the fixed
    ``threshold``, where that is not 0) the label becomes 255, or with ``mined="class"`` the class, of several the one of
    the strongest map  # ours. The paper warns of the latter: mined regions have no sharp borders. No other label changes,
    but all become 255 where less than the share ``smallest`` is objects.
    """
    if mined not in MINED:
        raise OptionError(f"mined is {mined!r}; expected {' or '.join(MINED)}.")
    if not activation.classes:
        return labels
    cuts = [
        threshold or mining_threshold(a, labels.labels == klass, floor=floor)
        for a, klass in zip(activation.maps, activation.classes, strict=True)
    ]
    above = activation.maps > np.array(cuts, dtype=np.float32)[:, None, None]  # (K, H, W)
    shown: Any = np.uint8(UNKNOWN)
    if mined == "class":
        shown = strongest(Activation(np.where(above, activation.maps, np.float32(0)), activation.classes))[0]
    found = above.any(axis=0) & (labels.labels == BACKGROUND)
    return without_small(LabelMap(np.where(found, shown, labels.labels)), smallest)


def mining_threshold(values: NDArray[np.float32], labelled: NDArray[np.bool_], *, floor: float = 0.3) -> float:
    """Return above which value of a class's map (H, W), in [0, 1], pixels may show it.

    It is the median of the map over the pixels ``labelled`` (H, W) as the class. Where there is none, or the map is 0 on
    all of them, it is the top quartile of what exceeds ``floor``, as the author code takes it: the median of the values
    above their median; and 1, so that none is, where no value exceeds that.
    """
    inside = values[labelled]
    if inside.any():
        return float(np.median(inside))
    high = values[values > np.float32(floor)]
    higher = high[high > np.median(high)] if len(high) else high
    return float(np.median(higher)) if len(higher) else 1.0


def masked_labels(
    predicted: LabelMap,
    known: LabelMap,
    *,
    tags: int,
    masking: bool = True,
    saliency: NDArray[np.floating] | None = None,
    dilation: int = 30,  # author code, for photos of 500 pixels
    smallest: float = 0.01,  # author code
) -> LabelMap:
    """Make labels to learn from of a network's: non-salient region masking (NSRM), for a photo of so many ``tags``.

    In a photo of several tags the objects of the ``known`` labels are laid over the predicted background, and what lies
    further from all objects than the ``dilation`` (a square of ones of that side in pixels, 0 for none) becomes 255:
    objects may have been missed there. Where ``saliency`` (H, W) is given, pixels where it is not 0 count as objects.
    Other photos, and without ``masking`` all, keep what is predicted. Everywhere all labels become 255 where less than
    the share ``smallest`` is objects. All maps are of one size.
    """
    if not tags:
        return LabelMap(np.full_like(predicted.labels, BACKGROUND))
    labels = predicted.labels
    if tags > 1 and masking:
        kept = (labels == BACKGROUND) & (known.labels != UNKNOWN)
        labels = np.where(kept, known.labels, labels)
        objects = labels != BACKGROUND if saliency is None else (labels != BACKGROUND) | (saliency > 0)
        kernel = np.ones((max(1, dilation),) * 2, dtype=np.uint8)
        near = cv2.dilate(src=objects.astype(np.uint8), kernel=kernel)
        labels = np.where(near > 0, labels, np.uint8(UNKNOWN))
    return without_small(LabelMap(labels), smallest)
