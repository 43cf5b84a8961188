"""The values that travel between stages, checked at birth.

One alphabet of axes in the whole package: ``B`` batch, ``K`` classes present in the image, ``C`` all classes with
background, ``H W`` pixels, ``h w`` feature grid, ``N`` pixels flattened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tagmask.errors import DataError

BACKGROUND = 0
UNKNOWN = 255
MOST_CLASSES = 254  # a label map is uint8: 0 is the background, 255 is unknown


@dataclass(frozen=True)
class Sample:
    """One image of the user's, not yet read.

    ``name`` names every result of the image; it may hold ``/`` for images in sub-folders, never an ending.
    ``tags`` are sorted class ids ``1..C-1``: an empty tuple is a *negative* (surely nothing there), ``None`` is *unknown*.
    ``mask`` is a PNG of class ids (0 background, 255 unknown), where the user has one. ``group`` keeps images together
    that must not be split (a patient, a clip). Pixels of the ``hidden`` classes are read from the mask as unknown.
    ``boxes`` are what people drew around objects: class id (0 where nobody said), x0, y0, x1, y1 in pixels of the upright
    image, the ends excluded.
    """

    name: str
    image: Path
    tags: tuple[int, ...] | None
    mask: Path | None = None
    group: str | None = None
    hidden: tuple[int, ...] = ()
    boxes: tuple[tuple[int, int, int, int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.tags is not None and tuple(sorted(set(self.tags))) != self.tags:
            raise ValueError(f"tags of {self.name!r} must be sorted and unique, got {self.tags}")
        if self.tags and not (self.tags[0] >= 1 and self.tags[-1] <= MOST_CLASSES):
            raise ValueError(f"tags of {self.name!r} must lie in 1..{MOST_CLASSES}, got {self.tags}")
        for box in self.boxes:
            c, x0, y0, x1, y1 = box
            if not (0 <= c <= MOST_CLASSES and 0 <= x0 < x1 and 0 <= y0 < y1):
                raise ValueError(f"a box of {self.name!r} must be a class id, x0 < x1 and y0 < y1 from 0 on, got {box}")


@dataclass(frozen=True)
class Dataset:
    """What the user has: samples, the names of the classes (``classes[0]`` is the background) and named splits.

    ``novel`` are ids of classes whose masks no method may learn from (see ``data.novel``).
    """

    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    train_split: str = "train"
    val_split: str = "val"
    reader: str = "native"
    novel: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise DataError(f"{self.root}: no class found; expected at least one tag name beside the background.")
        if len(self.classes) - 1 > MOST_CLASSES:
            raise DataError(
                f"{self.root}: {len(self.classes) - 1} classes given, at most {MOST_CLASSES} fit in a mask."
            )
        names = [sample.name for sample in self.samples]
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})[:3]
            raise DataError(f"{self.root}: two images share a name ({', '.join(twice)}); rename one of them.")

    @property
    def train(self) -> tuple[Sample, ...]:
        """The samples to learn from: those of the train split (without splits: all) whose tags are known."""
        if self.train_split in self.splits:
            return tuple(sample for sample in self._split(self.train_split) if sample.tags is not None)
        held_out = set(self.splits.get(self.val_split, ())) | set(self.splits.get("test", ()))
        return tuple(s for s in self.samples if s.tags is not None and s.name not in held_out)

    @property
    def val(self) -> tuple[Sample, ...]:
        """The samples of the validation split; empty without one. Never learned from."""
        return self._split(self.val_split)

    def _split(self, name: str) -> tuple[Sample, ...]:
        members = set(self.splits.get(name, ()))
        return tuple(sample for sample in self.samples if sample.name in members)

    def only(self, samples: tuple[Sample, ...]) -> Dataset:
        """The same data set with these samples only."""
        return replace(self, samples=samples)


@dataclass(frozen=True)
class Photo:
    """An image that has been read: ``pixels`` uint8 RGB (H, W, 3), and what the user said of it."""

    name: str
    pixels: NDArray[np.uint8]
    tags: tuple[int, ...] | None

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 3 or self.pixels.shape[2] != 3:
            raise ValueError(f"pixels must be uint8 (H, W, 3), got {self.pixels.dtype} {self.pixels.shape}")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True)
class Activation:
    """Where each tag of one image is seen: ``maps`` float32 (K, H, W) in [0, 1], ``classes`` the K sorted ids 1..C-1."""

    maps: NDArray[np.float32]
    classes: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.maps.dtype != np.float32 or self.maps.ndim != 3 or len(self.maps) != len(self.classes):
            raise ValueError(
                f"maps must be float32 ({len(self.classes)}, H, W), got {self.maps.dtype} {self.maps.shape}"
            )
        if self.maps.size and not (self.maps.min() >= 0 and self.maps.max() <= 1):
            raise ValueError(f"maps must lie in [0, 1], got {self.maps.min():.3g}..{self.maps.max():.3g}")


@dataclass(frozen=True)
class LabelMap:
    """One label a pixel: ``labels`` uint8 (H, W), 0 background, 1..C-1 classes, 255 unknown."""

    labels: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.labels.dtype != np.uint8 or self.labels.ndim != 2:
            raise ValueError(f"labels must be uint8 (H, W), got {self.labels.dtype} {self.labels.shape}")


@dataclass(frozen=True)
class Saliency:
    """How much each pixel stands out, whatever it shows: ``values`` uint8 (H, W), 0 not at all, 255 surely an object."""

    values: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.values.dtype != np.uint8 or self.values.ndim != 2:
            raise ValueError(f"values must be uint8 (H, W), got {self.values.dtype} {self.values.shape}")

    @classmethod
    def of(cls, unit: NDArray[np.floating]) -> Saliency:
        """Round values (H, W) in [0, 1] to 8 bits.

        >>> Saliency.of(np.array([[0.0, 0.25, 1.0]])).values
        array([[  0,  64, 255]], dtype=uint8)
        """
        return cls((unit * 255).round().astype(np.uint8))

    @property
    def unit(self) -> NDArray[np.float32]:
        """The values as float32 (H, W) in [0, 1]."""
        return self.values.astype(np.float32) / np.float32(255)


@dataclass(frozen=True)
class Regions:
    """An image cut into small regions, such as superpixels: ``ids`` int32 (H, W), 0..n-1 without a gap."""

    ids: NDArray[np.int32]

    def __post_init__(self) -> None:
        if self.ids.dtype != np.int32 or self.ids.ndim != 2 or self.ids.min(initial=0) < 0:
            raise ValueError(f"ids must be int32 (H, W) from 0, got {self.ids.dtype} {self.ids.shape}")
        if not np.bincount(self.ids.ravel()).all():
            raise ValueError(f"ids must count the regions without a gap, but some below {self.ids.max()} are not used")

    @property
    def count(self) -> int:
        """The number of regions, n."""
        return int(self.ids.max(initial=-1)) + 1


@dataclass(frozen=True)
class Instances:
    """The single objects of one image: ``ids`` uint8 (H, W), 0 where there is none; id n is of class ``classes[n - 1]``.

    ``scores`` in [0, 1] say how sure each is.
    """

    ids: NDArray[np.uint8]
    classes: tuple[int, ...]
    scores: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.ids.dtype != np.uint8 or self.ids.ndim != 2:
            raise ValueError(f"ids must be uint8 (H, W), got {self.ids.dtype} {self.ids.shape}")
        if len(self.classes) != len(self.scores) or self.ids.max(initial=0) > len(self.classes):
            raise ValueError(
                f"{len(self.classes)} classes, {len(self.scores)} scores and ids up to {self.ids.max(initial=0)} "
                "do not fit together"
            )


@dataclass(frozen=True)
class Boxes:
    """Rectangles in one image of ``size`` (H, W), which may each come with a mask of its own.

    ``boxes`` int32 (n, 4) are x0, y0, x1, y1 in pixels, the ends excluded; ``scores`` float32 (n,) say how sure each is;
    ``classes`` are their n ids, 0 where nobody knows what is in it. ``masks`` uint8 (n, ceil(H W / 8)) are packed bits
    (``refine.boxes.packed``), or of length 0: a box without a mask is full.
    """

    boxes: NDArray[np.int32]
    scores: NDArray[np.float32]
    classes: tuple[int, ...]
    size: tuple[int, int]
    masks: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.uint8))

    def __post_init__(self) -> None:
        n = len(self.boxes)
        if self.boxes.dtype != np.int32 or self.boxes.shape != (n, 4) or self.scores.dtype != np.float32:
            raise ValueError(
                f"boxes must be int32 (n, 4) and scores float32, got {self.boxes.dtype} {self.boxes.shape}"
            )
        if self.scores.shape != (n,) or len(self.classes) != n or len(self.masks) not in (0, n):
            raise ValueError(f"{n} boxes, {len(self.scores)} scores, {len(self.classes)} classes do not fit together")
        height, width = self.size
        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        if not ((low >= 0).all() and (low < high).all() and (high <= (width, height)).all()):
            raise ValueError(f"boxes must not be empty and lie in {width}x{height} pixels")

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class BoxScores:
    """How surely each of the n boxes of one image shows each of its tags: ``values`` float32 (n, K) in [0, 1].

    The rows are in the order of the boxes, which lie elsewhere; ``classes`` are the K sorted ids 1..C-1.
    """

    values: NDArray[np.float32]
    classes: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.values.dtype != np.float32 or self.values.ndim != 2 or self.values.shape[1] != len(self.classes):
            raise ValueError(
                f"values must be float32 (n, {len(self.classes)}), got {self.values.dtype} {self.values.shape}"
            )
        if self.values.size and not (self.values.min() >= 0 and self.values.max() <= 1):
            raise ValueError(f"values must lie in [0, 1], got {self.values.min():.3g}..{self.values.max():.3g}")
