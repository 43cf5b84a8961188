"""Folders of masks of clips: a folder of PNGs for each, or one clip's PNGs directly; and the frames that belong to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tagmask.data.pixels import read_mask
from tagmask.data.video import VIDEOS, Clip, in_order, is_clip, open_clip
from tagmask.errors import DataError
from tagmask.types import BACKGROUND, UNKNOWN
from tagmask.video.metrics import ids_in


@dataclass(frozen=True)
class MaskClip:
    """The masks of one clip: ``masks`` PNGs by the name of their frame, in order (2 comes before 10)."""

    name: str
    folder: Path
    masks: dict[str, Path]

    def of(self, frame: str) -> Path:
        """Return the mask of a frame; raises DataError where there is none."""
        if frame not in self.masks:
            raise DataError(
                f"{self.folder}: has no {frame}.png; expected a mask for every frame "
                f"({len(self.masks)} are here, the first is {next(iter(self.masks))}.png)."
            )
        return self.masks[frame]


@dataclass(frozen=True)
class Masks:
    """The clips under one folder, by name; ``single`` where the folder itself is the one clip."""

    folder: Path
    clips: dict[str, MaskClip]
    single: bool


def find_masks(folder: Path) -> Masks:
    """Find the clips of masks under a folder, or under its ``masks/``. Raises DataError where there are none."""
    if not folder.is_dir():
        raise DataError(
            f"{folder}: {'is a file' if folder.exists() else 'no such folder'}; expected a folder of masks."
        )
    if one := _clip(folder):
        return Masks(folder, {one.name: one}, single=True)
    inside = folder / "masks" if (folder / "masks").is_dir() else folder
    found = (_clip(part) for part in sorted(inside.iterdir()) if part.is_dir() and not part.name.startswith("."))
    clips = {clip.name: clip for clip in found if clip}
    if not clips:
        raise DataError(f"{folder}: holds no PNG masks; expected a folder of PNGs for each clip, or PNGs directly.")
    return Masks(folder, clips, single=False)


def _clip(folder: Path) -> MaskClip | None:
    """Return the clip whose masks lie directly in this folder or in its ``masks/``, if there is one."""
    for place in (folder, folder / "masks"):
        files = [part for part in place.glob("*.[pP][nN][gG]") if not part.name.startswith(".")]
        if files:
            name = folder.resolve().name
            return MaskClip(name, place, {path.stem: path for path in sorted(files, key=in_order)})
    return None


def pair_up(predictions: Masks, truth: Masks) -> tuple[list[tuple[MaskClip, MaskClip]], list[str]]:
    """Return (prediction, truth) of every clip that both have, and the names of the clips that only the truth has.

    Two single clips belong together whatever their names. Raises DataError where no clip is in both.
    """
    if predictions.single and truth.single:
        return list(zip(predictions.clips.values(), truth.clips.values(), strict=True)), []
    both = [name for name in truth.clips if name in predictions.clips]
    if not both:
        raise DataError(
            f"{predictions.folder} and {truth.folder} have no clip in common (they hold {_few(predictions)}; "
            f"{_few(truth)}); expected folders of the same names in both."
        )
    lacking = [] if predictions.single else [name for name in truth.clips if name not in predictions.clips]
    return [(predictions.clips[name], truth.clips[name]) for name in both], lacking


def _few(masks: Masks) -> str:
    return ", ".join(list(masks.clips)[:3]) + (" ..." if len(masks.clips) > 3 else "")


def frames_of(folder: Path, name: str, *, only: bool) -> Clip:
    """Open the clip ``name`` under a folder of clips (or under its ``images/``): a folder of frames or a video file.

    Where one clip is all there is (``only``), ``folder`` may be that clip itself. Raises DataError where there is none.
    """
    if only and folder.exists() and is_clip(folder):
        return open_clip(folder)
    for place in (folder, folder / "images"):
        for path in (place / name, *(place / f"{name}{ending}" for ending in VIDEOS)):
            if path.exists() and is_clip(path):
                return open_clip(path)
    raise DataError(f"{folder}: has no clip {name}; expected a folder {name}/ of frames or a video {name}.mp4.")


class IdReader:
    """Reads the masks of one clip as ids of objects. Its law: they speak one language, 0/255 (one object, 1) or ids.

    What does not is found by `objects`: smoothed edges, which show as values between 0 and 255.
    """

    def __init__(self) -> None:
        self._first: dict[int, Path] = {}  # the file in which a value is first seen

    def read(self, path: Path) -> NDArray[np.uint8]:
        """Return ids uint8 (H, W). Raises DataError for a picture that holds 255 and other ids, or cannot be read."""
        labels = read_mask(path, classes=UNKNOWN)
        seen = ids_in(labels)
        for value in seen:
            self._first.setdefault(value, path)
        if UNKNOWN not in seen:
            return labels
        if len(seen) > 1:
            raise self._mixed(path, seen[0])
        return (labels != BACKGROUND).astype(np.uint8)

    def objects(self) -> set[int]:
        """Return the ids that were seen. Raises DataError where some files have 255 and others ids."""
        others = sorted(value for value in self._first if value not in (1, UNKNOWN))
        if UNKNOWN in self._first and others:
            raise self._mixed(self._first[others[0]], others[0])
        return {1 if value == UNKNOWN else value for value in self._first}

    def agree_with(self, truth: set[int]) -> None:
        """Raise DataError, which names the file, where there is an id that the truth of the clip does not have."""
        for value in sorted(self.objects() - truth):
            path = self._first.get(value) or self._first[UNKNOWN]
            raise DataError(
                f"{path}: holds the id {value}; the truth has {', '.join(map(str, sorted(truth))) or 'no object'}. "
                "Give objects the ids of the first mask, and scale masks to the nearest pixel, without smoothing."
            )
        if UNKNOWN in self._first and truth != {1}:
            path = self._first[UNKNOWN]
            raise DataError(f"{path}: holds 0 and 255, which is one object; the truth has {len(truth)}. Give ids.")

    def _mixed(self, path: Path, value: int) -> DataError:
        return DataError(
            f"{path}: holds the value {value} in a clip whose masks also have 255; expected 0 and 255, or ids only. "
            "Are its edges smoothed? Scale masks to the nearest pixel."
        )
