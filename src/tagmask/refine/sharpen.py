"""Labels drawn along the edges of the photo: hard labels in, dense CRF, hard labels out."""

from __future__ import annotations

import numpy as np

from tagmask.refine.crf import CrfOptions, mean_field, unary_from_labels
from tagmask.types import BACKGROUND, UNKNOWN, LabelMap, Photo


def sharpen(labels: LabelMap, photo: Photo, *, crf: CrfOptions, confidence: float) -> LabelMap:
    """Refine labels with the fully connected CRF over the classes that they hold, and the background.

    Each label is believed with probability ``confidence``, an unknown pixel (255) favours no class; nothing stays unknown.
    A label map of one class is returned as it is. Source of the hard-label unary: irn, author code.
    """
    held = set(np.unique(labels.labels).tolist()) - {UNKNOWN}
    classes = np.array(sorted(held | {BACKGROUND}), dtype=np.uint8)
    if len(classes) == 1:
        return LabelMap(labels=np.where(labels.labels == UNKNOWN, np.uint8(BACKGROUND), labels.labels))
    channel = np.full(256, UNKNOWN, dtype=np.uint8)
    channel[classes] = np.arange(len(classes))
    unary = unary_from_labels(channel[labels.labels], len(classes), confidence=confidence, unknown=UNKNOWN)
    q = mean_field(unary, photo.pixels, crf)  # (K+1, H, W)
    return LabelMap(labels=classes[q.argmax(axis=0)])
