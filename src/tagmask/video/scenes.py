"""Frames with labels: which classes their masks know, which follow on each other, and views of them to learn from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from tagmask.augment import channels_first, random_view
from tagmask.data.listing import read_lines
from tagmask.data.photos import PerImage, Photos, Truth
from tagmask.data.tags import is_background
from tagmask.errors import DataError
from tagmask.types import UNKNOWN, Dataset, LabelMap, Sample


def class_names(data: Dataset) -> tuple[str, ...]:
    """Return the names of the ids 0, 1, ... of the masks.

    In our own layout they are the lines of ``classes.txt``: where its first line is no background, 0 is a class like any
    other, as in the data sets of driving. Elsewhere 0 is the background.
    """
    path = data.root / "classes.txt"
    if data.reader.startswith("native") and path.is_file() and not is_background(read_lines(path)[0]):
        return data.classes[1:]
    return data.classes


def labelled(data: Dataset, split: str) -> tuple[Sample, ...]:
    """Return the samples of a split that have a mask, whatever their tags; without splits, all are of the train split."""
    if split in data.splits:
        members = set(data.splits[split])
        return tuple(sample for sample in data.samples if sample.name in members and sample.mask is not None)
    if split != data.train_split:
        return ()
    held_out = {name for other in (data.val_split, "test") for name in data.splits.get(other, ())}
    return tuple(sample for sample in data.samples if sample.mask is not None and sample.name not in held_out)


def count_labels(truth: Truth, *, classes: int) -> dict:
    """Return {"shares": the share of the known pixels of each class}; reads every mask, so that none is wrong later on.

    Raises DataError, which names the file, for ids that no class has.
    """
    counts = np.zeros(UNKNOWN + 1, dtype=np.int64)
    for name in truth.names:
        try:
            counts += np.bincount(truth[name].labels.ravel(), minlength=UNKNOWN + 1)
        except DataError as error:
            raise DataError(
                f"{error} Ids of masks count the lines of classes.txt from 0; where 0 is the background, its first line "
                "must say so."
            ) from error
    known = counts[:classes]
    return {"shares": [round(float(share), 6) for share in known / max(1, known.sum())]}


def sequences(names: Sequence[str]) -> list[list[str]]:
    """Return names in the order of time, those that follow on each other together: one prefix, numbers at the usual gap.

    >>> sequences(["a_4", "a_2", "b", "a_6", "a_30", "a_32"])
    [['a_2', 'a_4', 'a_6'], ['a_30', 'a_32'], ['b']]
    """
    numbered: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        found = re.fullmatch(r"(.*?)(\d+)", name)
        prefix, number = (found[1], int(found[2])) if found else (name, 0)
        numbered.setdefault(prefix, []).append((number, name))
    runs = []
    for prefix in sorted(numbered):
        frames = sorted(numbered[prefix])
        gaps = [later - earlier for (earlier, _), (later, _) in pairwise(frames)]
        usual = min(Counter(gaps).items(), key=lambda pair: (-pair[1], pair[0]))[0] if gaps else 0
        runs.append([frames[0][1]])
        for gap, (_, name) in zip(gaps, frames[1:], strict=True):
            if gap == usual:
                runs[-1].append(name)
            else:
                runs.append([name])
    return runs


@dataclass(frozen=True)
class LabelledFrames:
    """Training examples: (uint8 RGB (3, h, w), uint8 labels (h, w), 255 where padded or unknown) of views of ``crop``.

    Each is scaled, mirrored and changed in colour by up to ``jitter``.
    """

    photos: Photos
    labels: PerImage[LabelMap]
    crop: tuple[int, int]
    zoom: tuple[float, float]
    jitter: float
    fill: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.photos)

    def example(self, index: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Return a random view of one photo and of its labels."""
        name = self.photos.names[index]
        view, labels = random_view(
            self.photos[name].pixels, self.labels[name].labels, crop=self.crop, scale=random.uniform(*self.zoom),
            fill=self.fill, random=random,
        )  # fmt: skip
        assert labels is not None
        return channels_first(jittered(view, random, self.jitter)), labels


def jittered(pixels: NDArray[np.uint8], random: np.random.Generator, amount: float) -> NDArray[np.uint8]:
    """Return uint8 RGB (H, W, 3) with its brightness, contrast and saturation each changed by a share of up to ``amount``."""
    brightness, contrast, saturation = 1 + amount * random.uniform(-1, 1, size=3)
    # All three are linear in the colours, so one matrix does: to grey and back, then about the middle.
    grey = np.tile(np.array([0.299, 0.587, 0.114]), (3, 1))  # ITU-R BT.601
    matrix = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * grey)
    offset = 128 * (1 - contrast)
    return np.asarray(cv2.transform(src=pixels, m=np.hstack([matrix, np.full((3, 1), offset)])), dtype=np.uint8)
