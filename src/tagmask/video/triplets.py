"""Training examples of the tracker: a template, the frame before and the frame, from one photo or from a clip.

Each is a tuple of arrays for ``OBJECTS`` objects, of which those that are missing are marked:

==========  ==================================  ====================================================================
template    uint8 (O, 3, h, w)                  the views of ``template_view``
its labels  uint8 (O, h, w)                     1 object, 0 background, 255 neither for sure
before      uint8 (3, h, w)                     the frame before
its masks   uint8 (O, h, w) in {0, 1}           as a tracker may have them: corrupted, or empty
centres     float32 (O, 3)                      row, column and area, in pixels, of the last mask that was not empty
frame       uint8 (3, h, w)                     the frame in which the objects are to be found
its masks   uint8 (O, h, w)                     1 object, 0 background, 255 unknown
there       uint8 (O,)                          1 where the object is followed
==========  ==================================  ====================================================================
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tagmask.augment import channels_first
from tagmask.data.photos import PerImage, Photos
from tagmask.errors import DataError
from tagmask.types import UNKNOWN, LabelMap
from tagmask.video.views import template_view
from tagmask.video.warps import NO_WARP, Limits, corrupted, objects_of, warp_map, warped

Size = tuple[int, int]
Pixels = NDArray[np.uint8]
Frame = tuple[Pixels, Pixels]  # RGB (h, w, 3) and ids (h, w): 0 background, 1..OBJECTS, 255 unknown
OBJECTS = 2  # followed at once in training, at most  # ours
TRIES = 40  # photos without an object that are passed over before giving up  # ours
LEAST_SEEN = 0.004  # share of a frame that the object of a template covers  # ours
JITTER = 0.1  # how far the channels of single frames are scaled  # ours


@dataclass(frozen=True)
class PhotoTriplets:
    """Three warps of one photo: the template's frame is a random one, so is the frame, and the frame before lies near it.

    ``motion`` is the share of the way from the frame's warp to a third random one that the frame before is at: 1 are the
    independent warps of RANet. ``pair`` is how often two objects of a photo are followed where there are two.
    """

    photos: Photos
    truth: PerImage[LabelMap]
    size: Size
    fill: Pixels
    motion: float
    pair: float
    limits: Limits = field(default_factory=Limits)

    def __len__(self) -> int:
        return len(self.photos)

    def example(self, index: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Return three frames of photo ``index``; another one takes its place where it shows no object."""
        for _ in range(TRIES):
            name = self.photos.names[index]
            labels = self.truth[name].labels
            objects = objects_of(labels)
            if objects:
                return self._triplet(self.photos[name].pixels, labels, objects, random)
            index = int(random.integers(len(self)))
        raise DataError(
            "no photo has a mask of an object that fills a hundredth of it; give masks of objects to follow."
        )

    def _triplet(
        self, pixels: Pixels, labels: Pixels, objects: Sequence[NDArray[np.bool_]], random: np.random.Generator
    ) -> tuple[np.ndarray, ...]:
        chosen = random.permutation(len(objects))[: OBJECTS if random.uniform() < self.pair else 1]
        view = _View(
            *_mirrored(pixels, _ids(labels, [objects[place] for place in chosen]), random), self.size, self.fill
        )
        low, high = view.scales
        scale = float(low * (high / low) ** random.uniform())  # from the whole photo to no border
        middle = view.middle + random.uniform() * (view.centre - view.middle)
        first, now, other = (self.limits.draw(random) for _ in range(3))
        start = view.of(first, middle, scale, random)
        if np.count_nonzero(start[1] == 1) < LEAST_SEEN * start[1].size:
            start = view.of(NO_WARP, view.centre, scale, random)  # where it is surely seen
        before = view.of(now + self.motion * (other - now), middle, scale, random)
        return triplet(start, before, view.of(now, middle, scale, random), self.fill, random)


@dataclass(frozen=True)
class ClipTriplets:
    """Two random frames of one clip, and one at most ``gap`` before the second. A clip is the frames of one folder.

    The ids of the masks are objects, the same ones in all frames of a clip. The frames are warped alike, without a bend.
    """

    photos: Photos
    truth: PerImage[LabelMap]
    size: Size
    fill: Pixels
    gap: int
    limits: Limits = field(default_factory=lambda: Limits(bend=0.0, turn=10.0, shift=0.1))

    @cached_property
    def clips(self) -> dict[str, list[str]]:
        """The names of the frames of each clip, in order."""
        return clips_of(self.photos.names)

    def __len__(self) -> int:
        return len(self.photos)

    def example(self, index: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Return three frames of which the last is frame ``index``; another one where the first shows no object."""
        for _ in range(TRIES):
            name = self.photos.names[index]
            clip = self.clips[name.rpartition("/")[0]]
            before = clip[max(0, clip.index(name) - int(random.integers(1, self.gap + 1)))]
            first = clip[int(random.integers(len(clip)))]
            labels = self.truth[first].labels
            seen, counts = np.unique(labels[(labels > 0) & (labels != UNKNOWN)], return_counts=True)
            large = seen[counts >= LEAST_SEEN * labels.size]
            if len(large):
                return self._triplet((first, before, name), random.permutation(large)[:OBJECTS], random)
            index = int(random.integers(len(self)))
        raise DataError("no frame of the clips has a mask of an object; give clips with masks of objects to follow.")

    def _triplet(self, names: Sequence[str], chosen: Pixels, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        warp, flip = self.limits.draw(random), int(random.integers(2))
        frames = []
        for name in names:
            labels = self.truth[name].labels
            ids = _ids(labels, [labels == label for label in chosen])
            view = _View(*_mirrored(self.photos[name].pixels, ids, flip), self.size, self.fill)
            frame = view.of(warp, view.middle, view.scales[0], random)
            if name == names[0] and np.count_nonzero(frame[1] == 1) < LEAST_SEEN * frame[1].size:
                frame = view.of(NO_WARP, view.centre, view.scales[0], random)
            frames.append(frame)
        start, before, now = frames
        return triplet(start, before, now, self.fill, random)


def triplet(
    start: Frame, before: Frame, now: Frame, fill: Pixels, random: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """Return the arrays that the table above names, of three frames of which the first shows object 1."""
    (start_pixels, start_ids), (before_pixels, before_ids), (pixels, ids) = start, before, now
    views, masks, centres, there = [], [], [], []
    for number in range(1, OBJECTS + 1):
        there.append(bool((start_ids == number).any()))
        shown = _only(start_ids, number if there[-1] else 1)
        views.append(template_view(start_pixels, shown, (ids.shape[0], ids.shape[1]), fill))
        true = before_ids == number
        masks.append(corrupted(true, random))
        centres.append(_centre(masks[-1] if masks[-1].any() else true))
    return (
        np.stack([channels_first(view) for view, _ in views]),
        np.stack([labels for _, labels in views]),
        channels_first(before_pixels),
        np.stack(masks).astype(np.uint8),
        np.array(centres, dtype=np.float32),
        channels_first(pixels),
        np.stack([_only(ids, number) for number in range(1, OBJECTS + 1)]),
        np.array(there, dtype=np.uint8),
    )


def clips_of(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the names by their folder, in order.

    >>> clips_of(["b/2", "a/1", "b/1"])
    {'a': ['a/1'], 'b': ['b/1', 'b/2']}
    """
    found: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        found[name.rpartition("/")[0]].append(name)
    return dict(found)


@dataclass(frozen=True)
class _View:
    """A picture (H, W, 3) and its ids (H, W), and how both are seen from a frame of ``size``."""

    pixels: Pixels
    ids: Pixels
    size: Size
    fill: Pixels

    @property
    def middle(self) -> NDArray[np.float64]:
        """The picture's middle: row, column."""
        return (np.array(self.ids.shape) - 1) / 2

    @property
    def centre(self) -> NDArray[np.float64]:
        """The middle of object 1: row, column."""
        return np.argwhere(self.ids == 1).mean(axis=0)

    @property
    def scales(self) -> tuple[float, float]:
        """How far the picture is enlarged to be seen as a whole, and to fill the frame."""
        both = np.array(self.size) / np.array(self.ids.shape)
        return float(both.min()), float(both.max())

    def of(
        self, warp: NDArray[np.float64], about: NDArray[np.float64], scale: float, random: np.random.Generator
    ) -> Frame:
        """Return the warped picture, its colours a little off, and its ids, with the point ``about`` in the middle."""
        places = warp_map(warp, self.size, about, scale)
        gain = random.uniform(1 - JITTER, 1 + JITTER, size=3).astype(np.float32)
        pixels = (self.pixels * gain).clip(0, 255).astype(np.uint8)
        return warped(pixels, places, self.fill), warped(self.ids, places, 0, nearest=True)


def _ids(labels: Pixels, objects: Sequence[NDArray[np.bool_]]) -> Pixels:
    ids = np.where(labels == UNKNOWN, np.uint8(UNKNOWN), np.uint8(0))
    for number, shape in enumerate(objects, start=1):
        ids[shape] = number
    return ids


def _mirrored(pixels: Pixels, ids: Pixels, flip: np.random.Generator | int) -> Frame:
    """Return both mirrored, or not: as ``flip`` says, half of the time where it is random."""
    turned = flip if isinstance(flip, int) else int(flip.integers(2))
    return (np.ascontiguousarray(pixels[:, ::-1]), np.ascontiguousarray(ids[:, ::-1])) if turned else (pixels, ids)


def _only(ids: Pixels, number: int) -> Pixels:
    """Return 1 for one object, 255 where it is unknown, 0 elsewhere."""
    return np.where(ids == UNKNOWN, np.uint8(UNKNOWN), (ids == number).astype(np.uint8))


def _centre(mask: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Return row, column and area of a mask; of an empty one the frame's middle and 0."""
    there = np.argwhere(mask)
    row, column = there.mean(axis=0) if len(there) else (np.array(mask.shape) - 1) / 2
    return float(row), float(column), float(len(there))
