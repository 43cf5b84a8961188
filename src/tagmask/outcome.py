"""What a recipe hands back: masks and a network, and what a report needs to show how they came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tagmask.data.photos import Joined, PerImage
from tagmask.nets.segmenter import Segmenter
from tagmask.types import Activation, Boxes, Instances, LabelMap, Saliency


@dataclass(frozen=True)
class Outcome:
    """``masks`` of the training photos and the ``segmenter`` are the result; the rest explains it.

    ``steps`` are the label maps on the way, by name, in order: each is scored where the user has masks. ``val_steps`` are
    what simpler means than the segmenter say of the validation photos, without their tags, for comparison.
    ``predict`` are the options with which the segmenter is to be used on new photos (see ``predict_labels``).
    ``instances`` are the single objects of the training photos, ``boxes`` those around them, from methods that find such;
    ``box_steps`` are the boxes on the way, ``val_boxes`` those of validation photos, found without their tags.
    ``saliency`` is what stood out in the training photos, for methods that ask, and ``supervision`` what people had to
    paint or draw for it, beyond what the method itself needs ("none" for a detector).
    ``warnings`` are lines for the reader of the report, such as what of the user's could not be used.
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
    boxes: PerImage[Boxes] | None = None
    box_steps: Mapping[str, PerImage[Boxes]] = field(default_factory=dict)
    val_boxes: PerImage[Boxes] | None = None
    saliency: PerImage[Saliency] | None = None
    supervision: str = "none"
    warnings: tuple[str, ...] = ()

    @property
    def all_boxes(self) -> PerImage[Boxes] | None:
        """The boxes of training and validation photos together; None from methods that find none."""
        if self.boxes is None or self.val_boxes is None:
            return self.boxes
        return Joined(self.boxes, self.val_boxes)
