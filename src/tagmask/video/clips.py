"""Clips to learn from, made of labelled photos: drawn as they are needed, or drawn and encoded once by a settled network."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tagmask.ahead import computed
from tagmask.data.photos import PerImage, Photos
from tagmask.files import whole
from tagmask.nets.folded import folded
from tagmask.nets.temporal import TemporalSegmenter
from tagmask.types import LabelMap
from tagmask.video.pseudo import Cutout, Motion, clip_of_photos, cut_out, objects_to_move, pseudo_clip
from tagmask.video.scenes import sequences
from tagmask.work import Job

REAL_PAST = 2  # photos before, where clips are real: at 1 Hz more show something else  # source (video_data)
ARRAYS = ("maps", "fine", "labels", "past")
KEEP_EVERY = 50  # clips after which a kill costs nothing  # ours


def find_movers(labels: PerImage[LabelMap], *, classes: tuple[int, ...]) -> dict:
    """Return {"places": [[name, class, top, left, bottom, right], ...]}: whole objects that can be cut out and moved."""
    places = [[name, *place] for name in labels.names for place in objects_to_move(labels[name].labels, classes)]
    return {"places": places}


@dataclass(frozen=True)
class Clips:
    """Clips of ``past`` + 1 frames of ``size`` (h, w), from ``photos`` and their ``labels``.

    ``places`` are those of ``find_movers``. A share ``real`` of the clips are photos that follow on each other, with up to
    `REAL_PAST` before the last; the rest are pseudo-clips.
    """

    photos: Photos
    labels: PerImage[LabelMap]
    size: tuple[int, int]
    past: int
    motion: Motion
    places: Sequence[Sequence[Any]] = ()
    real: float = 0.0
    before: Mapping[str, Sequence[str]] = field(default_factory=dict)  # made from the photos' names

    def __post_init__(self) -> None:
        found = {
            name: run[max(0, place - min(self.past, REAL_PAST)) : place]
            for run in sequences(self.photos.names)
            for place, name in enumerate(run)
        }
        object.__setattr__(self, "before", found)

    def draw(
        self, name: str, random: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]:
        """Return frames (T+1, h, w, 3), the last one's labels (h, w), and how many of the T frames before there are.

        Those that there are come last, before the labelled one; the rest repeat the first of them.
        """
        pixels, labels = self.photos[name].pixels, self.labels[name].labels
        before = self.before[name] if random.uniform() < self.real else ()
        if before:
            photos = [self.photos[other].pixels for other in before]
            alike = [photo for photo in photos if photo.shape == pixels.shape]
            frames, truth = clip_of_photos([*alike, pixels], labels, self.size, random, self.motion)
            lacking = self.past + 1 - len(frames)
            frames = np.concatenate([np.repeat(frames[:1], lacking, axis=0), frames])
            return frames, truth, np.asarray(len(alike))
        cutouts = self._cutouts(random)
        frames, truth = pseudo_clip(pixels, labels, self.size, self.past, random, self.motion, cutouts)
        return frames, truth, np.asarray(self.past)

    def _cutouts(self, random: np.random.Generator) -> list[Cutout]:
        if not self.places or not self.motion.objects:
            return []
        chosen = [
            self.places[i] for i in random.integers(len(self.places), size=random.integers(self.motion.objects + 1))
        ]
        return [cut_out(self.photos[name].pixels, self.labels[name].labels, place) for name, *place in chosen]


@dataclass(frozen=True)
class ClipViews:
    """Training examples of a network all of which learns: (uint8 RGB (T+1, 3, h, w), labels (h, w), frames before to see).

    ``drop`` is the share of clips of which fewer of the frames before are seen than there are, down to none.
    """

    clips: Clips
    drop: float

    def __len__(self) -> int:
        return len(self.clips.photos)

    def example(self, index: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Return a clip of one photo."""
        frames, labels, past = self.clips.draw(self.clips.photos.names[index], random)
        return np.ascontiguousarray(frames.transpose(0, 3, 1, 2)), labels, fewer(past, random, self.drop)


def fewer(past: NDArray[np.int64], random: np.random.Generator, drop: float) -> NDArray[np.int64]:
    """Return how many of ``past`` frames are seen: fewer, down to none, with the chance ``drop``."""
    return np.asarray(random.integers(int(past) + 1) if random.uniform() < drop else int(past))


@dataclass(frozen=True)
class EncodedClips:
    """N clips as a settled network sees them, on disk.

    ``maps`` float16 (N, T+1, D, h, w), ``fine`` float16 (N, d, h', w') of the last frames, ``labels`` uint8 (N, H, W),
    ``past`` int64 (N,): how many of the T frames before there are. ``key`` names them.
    """

    maps: NDArray[np.float16]
    fine: NDArray[np.float16]
    labels: NDArray[np.uint8]
    past: NDArray[np.int64]
    folder: Path
    key: str = ""

    def save(self, folder: Path) -> None:
        """Move all into ``folder``."""
        for name in ARRAYS:
            shutil.move(self.folder / f"{name}.npy", folder / f"{name}.npy")

    @classmethod
    def load(cls, folder: Path, *, device: str, key: str) -> EncodedClips:
        """Open what ``save`` left, without reading it."""
        arrays: dict[str, Any] = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        return cls(**arrays, folder=folder, key=key)


@dataclass(frozen=True)
class EncodedViews:
    """Training examples of the parts behind a settled one: (maps (T+1, D, h, w), fine, labels, frames before to see)."""

    clips: EncodedClips
    drop: float

    def __len__(self) -> int:
        return len(self.clips.labels)

    def example(self, index: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Return one clip."""
        arrays = (np.array(values[index]) for values in (self.clips.maps, self.clips.fine, self.clips.labels))
        return *arrays, fewer(self.clips.past[index], random, self.drop)


def encode_clips(
    network: TemporalSegmenter,
    photos: Photos,
    labels: PerImage[LabelMap],
    *,
    movers: dict,
    count: int,
    size: tuple[int, int],
    past: int,
    motion: Motion,
    real: float,
    seed: int,
    job: Job,
) -> EncodedClips:
    """Draw ``count`` clips, of all photos as often as of each other, and encode them with the image ``network``.

    A call that was killed goes on where it stopped.
    """
    clips = Clips(photos, labels, size, past, motion, movers["places"], real)
    first = _encoded(network, *clips.draw(photos.names[0], np.random.default_rng(seed)))
    done = job.folder / "done"
    start = int(done.read_text()) if done.exists() else 0
    arrays: dict[str, Any] = {
        name: np.lib.format.open_memmap(
            job.folder / f"{name}.npy", mode="r+" if start else "w+", dtype=value.dtype, shape=(count, *value.shape)
        )
        for name, value in zip(ARRAYS, first, strict=True)
    }

    def make(number: int) -> None:
        turn, place = divmod(number, len(photos))
        name = photos.names[np.random.default_rng([seed, turn]).permutation(len(photos))[place]]
        parts = _encoded(network, *clips.draw(name, np.random.default_rng([seed, 1, number])))
        for array, value in zip(arrays.values(), parts, strict=True):
            array[number] = value

    with job.narrator.stage(f"{job.name} (drawing)", count, start, "clips") as counter:
        for number in computed(range(start, count), make):
            counter.advance()
            if (number + 1) % KEEP_EVERY == 0:
                for array in arrays.values():
                    array.flush()
                with whole(done) as temporary:
                    temporary.write_text(str(number + 1))
    for array in arrays.values():
        array.flush()
    return EncodedClips(**arrays, folder=job.folder)


@torch.no_grad()
def _encoded(
    network: TemporalSegmenter, frames: NDArray[np.uint8], labels: NDArray[np.uint8], past: NDArray[np.int64]
) -> tuple[np.ndarray, ...]:
    device = next(network.parameters()).device
    images = torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))).to(device).float().div(255)
    found = folded(network).encode(images.contiguous(memory_format=torch.channels_last))
    maps, fine = found.map.half().cpu().numpy(), found.fine[-1].half().cpu().numpy()
    return np.ascontiguousarray(maps), np.ascontiguousarray(fine), labels, np.asarray(past)
