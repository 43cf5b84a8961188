"""Images, masks and results by the image's name, read when they are asked for and never all in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from tagmask.augment import resize_labels
from tagmask.data.pixels import fingerprint, image_size, load_photo, read_mask
from tagmask.errors import DataError
from tagmask.keys import digest
from tagmask.types import UNKNOWN, Boxes, LabelMap, Photo, Sample

Item = TypeVar("Item")


class PerImage(ABC, Generic[Item]):
    """One value an image, by the image's name. Its law: equal keys mean equal values."""

    def __init__(self, names: Sequence[str]):
        self.names = list(names)
        self._known = set(self.names)

    @abstractmethod
    def key_of(self, name: str) -> str:
        """The key of one value."""

    @abstractmethod
    def __getitem__(self, name: str) -> Item:
        """Read one value."""

    @cached_property
    def key(self) -> str:
        """The key of the whole."""
        return digest([[name, self.key_of(name)] for name in self.names])

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self._known


class Photos(PerImage[Photo]):
    """``photos[name]`` reads a ``Photo``, made smaller where its longest side is over ``longest`` (0: never)."""

    def __init__(self, samples: Sequence[Sample], longest: int = 0):
        super().__init__([sample.name for sample in samples])
        self.samples = {sample.name: sample for sample in samples}
        self.longest = longest
        self._keys: dict[str, str] = {}

    def __getitem__(self, name: str) -> Photo:
        return load_photo(self.samples[name], longest=self.longest or None)

    def size_of(self, name: str) -> tuple[int, int]:
        """Height and width of the image in its file, without reading it; equal ones are read at equal sizes."""
        return image_size(self.samples[name].image)

    def tags(self, name: str) -> tuple[int, ...] | None:
        """The tags of one image, without reading it."""
        return self.samples[name].tags

    def key_of(self, name: str) -> str:
        """The key of one photo: its bytes, its tags and the size at which it is read."""
        if name not in self._keys:
            sample = self.samples[name]
            self._keys[name] = digest([fingerprint(sample.image), sample.tags, self.longest])
        return self._keys[name]


class Truth(PerImage[LabelMap]):
    """``truth[name]`` reads the user's own mask, at the size at which ``Photos`` reads the image."""

    def __init__(self, samples: Sequence[Sample], classes: int, longest: int = 0):
        without = [sample.name for sample in samples if sample.mask is None]
        if without:
            raise DataError(
                f"{len(without)} of {len(samples)} images have no mask (first: {without[0]}); this needs masks/."
            )
        super().__init__([sample.name for sample in samples])
        self.paths = {sample.name: sample.mask for sample in samples if sample.mask is not None}
        self.hidden = {sample.name: sample.hidden for sample in samples}
        self.classes, self.longest = classes, longest

    def __getitem__(self, name: str) -> LabelMap:
        labels = read_mask(self.paths[name], classes=self.classes)
        labels[np.isin(labels, self.hidden[name])] = UNKNOWN
        height, width = labels.shape
        if self.longest and max(height, width) > self.longest:
            scale = self.longest / max(height, width)
            labels = resize_labels(labels, max(1, round(height * scale)), max(1, round(width * scale)))
        return LabelMap(labels=labels)

    def key_of(self, name: str) -> str:
        """The key of one mask: its bytes and the size at which it is read."""
        return digest([fingerprint(self.paths[name]), self.longest, *self.hidden[name]])


class DrawnBoxes(PerImage[Boxes]):
    """``boxes[name]`` are those that people drew, in pixels of the file, each as sure as the next.

    A box of a hidden class is of class 255: nobody is to know what is in it.
    """

    def __init__(self, samples: Sequence[Sample]):
        super().__init__([sample.name for sample in samples])
        self._samples = {sample.name: sample for sample in samples}

    def __getitem__(self, name: str) -> Boxes:
        sample = self._samples[name]
        places = np.array([box[1:] for box in sample.boxes], dtype=np.int32).reshape(-1, 4)
        classes = tuple(UNKNOWN if box[0] in sample.hidden else box[0] for box in sample.boxes)
        return Boxes(places, np.ones(len(places), dtype=np.float32), classes, image_size(sample.image))

    def key_of(self, name: str) -> str:
        """The boxes and the size of the image."""
        sample = self._samples[name]
        return digest([sample.boxes, sample.hidden, image_size(sample.image)])


class Pictures(PerImage[Item]):
    """``pictures[name]`` is what ``read`` makes of ``FOLDER/NAME.png``, one for every photo; its bytes are its key.

    Raises DataError where there is none for a photo: ``what`` is its name in words, ``expected`` what to do.
    """

    def __init__(self, folder: Path, photos: Photos, read: Callable[[Path], Item], *, what: str, expected: str = ""):
        super().__init__(photos.names)
        self.folder, self.read = folder, read
        missing = [name for name in photos.names if not self._path(name).is_file()]
        if missing:
            raise DataError(
                f"{folder}: {len(missing)} of {len(photos)} photos have no {what} (first: {self._path(missing[0]).name})"
                f"{expected}."
            )

    def __getitem__(self, name: str) -> Item:
        return self.read(self._path(name))

    def key_of(self, name: str) -> str:
        """The bytes of the file."""
        return digest(fingerprint(self._path(name)))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.png"


class Sizes(PerImage[tuple[int, int]]):
    """``sizes[name]`` is height and width of the image as the user has it, from the file's header."""

    def __init__(self, samples: Sequence[Sample]):
        super().__init__([sample.name for sample in samples])
        self._sizes = {sample.name: sample.image for sample in samples}

    def __getitem__(self, name: str) -> tuple[int, int]:
        return image_size(self._sizes[name])

    def key_of(self, name: str) -> str:
        """The size itself."""
        return digest(list(self[name]))


class Joined(PerImage[Item]):
    """Several collections as one; of two with the same image the first is taken."""

    def __init__(self, *parts: PerImage[Item]):
        self._source = {name: part for part in reversed(parts) for name in part.names}
        super().__init__(list(self._source))

    def __getitem__(self, name: str) -> Item:
        return self._source[name][name]

    def key_of(self, name: str) -> str:
        """The key of one value."""
        return self._source[name].key_of(name)
