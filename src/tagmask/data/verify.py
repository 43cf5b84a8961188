"""Look at the files of a data set before anything costs time: headers always, every byte when asked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tagmask.data.boxes import inside
from tagmask.data.listing import Problem, shown
from tagmask.data.pixels import decode_fully, header, read_mask, refuse_mask_mode, refuse_mode
from tagmask.errors import DataError
from tagmask.types import BACKGROUND, UNKNOWN, Sample

LEAST_SIDE = 16  # ours: the coarsest grid of our networks is 1/16 of the image
WORTH_A_TAG = 0.01  # ours: a class that covers less of a mask may well be missing among the tags
_AT_ONCE = 1024  # ours: files handed to the threads in one go, so that waiting results stay few


@dataclass(frozen=True)
class Verifier:
    """What one file is checked against; stateless, so that threads share it.

    ``annotated`` is by name the size (H, W) of the image that its boxes were drawn on, where their file says so.
    """

    root: Path
    classes: tuple[str, ...]
    least_side: int = LEAST_SIDE
    deep: bool = False
    annotated: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def all(self, samples: Sequence[Sample]) -> Iterator[tuple[Sample | None, tuple[Problem, ...]]]:
        """For each sample, in order: the sample as it can be used (``None``: not at all) and what is wrong with it."""
        if not self.deep:  # headers are parsed in Python, where threads only wait for each other
            yield from map(self.one, samples)
            return
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            for start in range(0, len(samples), _AT_ONCE):
                yield from pool.map(self.one, samples[start : start + _AT_ONCE])

    def one(self, sample: Sample) -> tuple[Sample | None, tuple[Problem, ...]]:
        """Check one sample; a bad image takes its sample with it, a bad mask or box goes alone."""
        note = partial(self._problem, sample.image)
        try:
            size, mode = header(sample.image)
            refuse_mode(sample.image, mode)
            if self.deep:
                decode_fully(sample.image)
        except DataError as error:
            return None, (note("unreadable", _without_path(error, sample.image), "skipped"),)
        if min(size) < self.least_side:
            message = f"{size[1]}x{size[0]} pixels; at least {self.least_side} a side are needed"
            return None, (note("too small", message, "skipped"),)
        sample, odd = self._with_boxes(sample, size) if sample.boxes else (sample, ())
        if sample.mask is None:
            return sample, odd
        sample, more = self._with_mask(sample, sample.mask, size)
        return sample, (*odd, *more)

    def _with_boxes(self, sample: Sample, size: tuple[int, int]) -> tuple[Sample, tuple[Problem, ...]]:
        """Keep the boxes that lie in the image; none where they were drawn on an image of another size."""
        note = partial(self._problem, sample.image)
        drawn_on, (height, width) = self.annotated.get(sample.name, size), size
        if drawn_on != size:
            turned = "; the image is turned by EXIF, and boxes are of the upright one" if drawn_on == size[::-1] else ""
            message = f"is {width}x{height}, its boxes are of {drawn_on[1]}x{drawn_on[0]}{turned}; they are left out"
            return replace(sample, boxes=()), (note("box", message, "skipped"),)
        places = [(box[0], inside(box[1:], size)) for box in sample.boxes]
        kept = tuple((number, *place) for number, place in places if place is not None)
        if len(kept) == len(places):
            return replace(sample, boxes=kept), ()
        message = (
            f"{len(places) - len(kept)} of {len(places)} boxes leave its {width}x{height} pixels; they are left out"
        )
        return replace(sample, boxes=kept), (note("box", message, "skipped"),)

    def _with_mask(self, sample: Sample, mask: Path, size: tuple[int, int]) -> tuple[Sample, tuple[Problem, ...]]:
        note = partial(self._problem, mask)
        bare = replace(sample, mask=None)
        try:
            mask_size, mode = header(mask)
            refuse_mask_mode(mask, mode)
            if mask_size != size:
                turned = "; the image is turned by EXIF, turn the mask as well" if mask_size == size[::-1] else ""
                raise DataError(f"is {mask_size[1]}x{mask_size[0]}, its image {size[1]}x{size[0]}{turned}")
            labels = read_mask(mask, len(self.classes)) if self.deep else None
        except DataError as error:
            message = _without_path(error, mask).rstrip(".")
            return bare, (note("mask", f"{message}; the mask is left out, the image kept", "skipped"),)
        doubt = None if labels is None else self._doubt(labels, sample.tags)
        return sample, (() if doubt is None else (note("mask and tags", doubt, "warning"),))

    def _doubt(self, labels: NDArray[np.uint8], tags: tuple[int, ...] | None) -> str | None:
        """What makes one wonder about a mask that could be read."""
        counts = np.bincount(labels.ravel(), minlength=UNKNOWN + 1)  # (256,)
        if tags and counts[UNKNOWN] and not counts[BACKGROUND + 1 : UNKNOWN].any():
            return "holds only 0 and 255, and 255 means unknown; objects need their class id"
        shown_classes = [int(index) for index in np.flatnonzero(counts > WORTH_A_TAG * labels.size)]
        untold = [self.classes[i] for i in shown_classes if i not in (BACKGROUND, UNKNOWN, *(tags or ()))]
        if tags is None or not untold:
            return None
        said = ", ".join(self.classes[index] for index in tags) or "none"
        return f"shows {', '.join(untold)}, the tags say {said}"

    def _problem(self, where: Path, kind: str, message: str, effect: str) -> Problem:
        return Problem(kind, shown(where, self.root), message, effect)  # type: ignore[arg-type]


def _without_path(error: DataError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ").rstrip(".")
