"""What a recipe hands back: masks and a network, and what a report needs to show how they came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tagmask.data.photos import PerImage
from tagmask.nets.segmenter import Segmenter
from tagmask.types import Activation, Instances, LabelMap, Saliency


@dataclass(frozen=True)
class Outcome:
    """``masks`` of the training photos and the ``segmenter`` are the result; the rest explains it.

    ``steps`` are the label maps on the way, by name, in order: each is scored where the user has masks. ``val_steps`` are
    what simpler means than the segmenter say of the validation photos, without their tags, for comparison.
    ``predict`` are the options with which the segmenter is to be used on new photos (see ``predict_labels``).
    ``instances`` are the single objects of the training photos, from methods that find such. ``saliency`` is what stood
    out in them, for methods that ask, and ``supervision`` what people had to paint or draw for it, beyond what the method
    itself needs ("none" for a detector).
    """

    masks: PerImage[LabelMap]
    segmenter: Segmenter
    activation: PerImage[Activation] | None = None
    seeds: PerImage[LabelMap] | None = None
    threshold: dict[str, Any] | None = None
    steps: Mapping[str, PerImage[LabelMap]] = field(default_factory=dict)
    val_steps: Mapping[str, PerImage[LabelMap]] = field(default_factory=dict)
    predict: dict[str, Any] = field(default_factory=dict)
    instances: PerImage[Instances] | None = None
    saliency: PerImage[Saliency] | None = None
    supervision: str = "none"
