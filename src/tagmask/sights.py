"""The frames of clips one by one, with the masks that were cut out of them: to look at, and to be scored from outside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tagmask.augment import resize_labels
from tagmask.data.photos import PerImage
from tagmask.footage import Footage
from tagmask.keys import digest
from tagmask.label import threshold_labels
from tagmask.tagged_clips import TaggedClips
from tagmask.types import Activation, LabelMap
from tagmask.watching import ATTENTION, MASK, unit


@dataclass(frozen=True)
class Sight:
    """One frame of a footage, and where its clip has no such chosen frame, that too."""

    footage: Footage
    number: int

    @property
    def chosen(self) -> bool:
        """Whether the frame is one of those that show the class."""
        return any(self.number in chunk for chunk in self.footage.facts["chunks"])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the clip."""
        height, width = self.footage.facts["size"]
        return height, width


class Sights(PerImage[Sight]):
    """``sights["CLIP/FRAME"]`` for every frame that was looked at, chosen or not."""

    def __init__(self, clips: TaggedClips, footages: PerImage[Footage]):
        self._where: dict[str, tuple[str, int]] = {}
        for name in clips.names:
            facts, clip = footages[name].facts, clips[name]
            for number in range(0, facts["frames"], facts["stride"]):
                self._where[f"{clip.shown}/{clip.frame_name(number)}"] = name, number
        super().__init__(list(self._where))
        self._footages = footages

    def __getitem__(self, name: str) -> Sight:
        clip, number = self._where[name]
        return Sight(self._footages[clip], number)

    def key_of(self, name: str) -> str:
        """The key of the footage and the number of the frame."""
        clip, number = self._where[name]
        return digest([self._footages.key_of(clip), number])


def mask_of_frame(sight: Sight) -> LabelMap:
    """Return the mask (0, 1) at the size of the clip; a frame that does not show the class has nothing in it."""
    if not sight.chosen:
        return LabelMap(np.zeros(sight.size, dtype=np.uint8))
    return LabelMap(resize_labels(sight.footage.picture(MASK, sight.number), *sight.size))


def cam_of_frame(sight: Sight, *, threshold: float) -> LabelMap:
    """Return the attention over ``threshold`` as a mask (0, 1), as ``mask_of_frame`` does."""
    if not sight.chosen:
        return LabelMap(np.zeros(sight.size, dtype=np.uint8))
    attention = unit(sight.footage.picture(ATTENTION, sight.number))
    return threshold_labels(Activation(attention[None], (1,)), threshold, size=sight.size)
