"""Follow objects through a whole clip into a folder: masks, scores of every frame, and the clip with the objects over it.

What was interrupted goes on from its last checkpoint, and ends with the same masks.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file

from tagmask.data.pixels import fingerprint, read_mask, write_mask
from tagmask.data.video import Clip, Frame, open_clip
from tagmask.errors import DataError
from tagmask.files import read_json, whole, write_json
from tagmask.progress import Narrator
from tagmask.types import UNKNOWN
from tagmask.video.clip_folder import claim_clip, frame_names
from tagmask.video.overlay import write_overlay
from tagmask.video.track import Tracker, load_tracker, objects_in

EVERY = 100  # frames between two checkpoints  # ours
DONE, STATE, SCORES, OVERLAY = "track.json", ".state.safetensors", "scores.csv", "overlay.mp4"
COLUMNS = ("frame", "object", "area", "confidence", "row", "column")


def track_clip(
    clip: Path,
    mask: Path,
    model: Path,
    out: Path,
    *,
    device: str = "auto",
    looking: str = "float32",
    every: int = EVERY,
    overlay: bool = True,
    quiet: bool = False,
) -> int:
    """Follow the objects of ``mask``, a PNG of ids of the first frame, through a clip; return the number of frames.

    ``clip`` is a video file or a folder of frames, ``model`` the folder of a tracker. In ``out``: ``masks/NAME.png`` (the
    frame's number, or its file's name), ``scores.csv`` and, with ``overlay``, ``overlay.mp4``. Raises DataError for what
    cannot be read, RunError where ``out`` holds something else. Memory does not grow with the clip.
    """
    frames = open_clip(clip)
    first, tracker = first_mask(mask, frames.size), load_tracker(model, device=device, looking=looking)
    claim_clip(out, frames, model, {"mask": fingerprint(mask), "looking": looking})
    narrator = Narrator(log=out / "log.txt", quiet=quiet)
    if not (out / DONE).exists():
        count = _follow(frames, first, tracker, out, every, narrator)
        write_json(out / DONE, {"frames": count})
        (out / STATE).unlink(missing_ok=True)
    count = int(read_json(out / DONE)["frames"])
    if overlay and not (out / OVERLAY).exists():
        narrator.say(f"{OVERLAY} ...")
        labels = (
            read_mask(out / "masks" / f"{name}.png", classes=UNKNOWN) for name in islice(frame_names(frames), count)
        )
        write_overlay(out / OVERLAY, frames, labels)
    return count


def first_mask(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read the ids of a first frame of that size; where there are only 0 and 255, as DAVIS 2016 has it, the second is 1.

    Raises DataError, which names the file.
    """
    ids = read_mask(path, classes=UNKNOWN)
    if set(np.unique(ids)) == {0, UNKNOWN}:
        ids //= UNKNOWN
    try:
        objects_in(ids, size)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return ids


def _follow(clip: Clip, mask: NDArray[np.uint8], tracker: Tracker, out: Path, every: int, narrator: Narrator) -> int:
    """Track from the last checkpoint to the end, and return the number of frames."""
    done = _resume(tracker, out)
    with (
        narrator.stage("track", clip.frames, done, unit="frames") as counter,
        (out / SCORES).open("a", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        names = islice(frame_names(clip), done, None)
        for number, (frame, name) in enumerate(zip(_rest(clip, done), names, strict=False), start=done):
            if number == 0:
                tracker.start(frame, mask)
                labels = np.where(mask == UNKNOWN, np.uint8(0), mask)
            else:
                labels = tracker.step(frame)
            with whole(out / "masks" / f"{name}.png") as temporary:
                write_mask(temporary, labels)
            table.writerows(_rows(number, tracker))
            done = number + 1
            if done % every == 0:
                file.flush()
                with whole(out / STATE) as temporary:
                    save_file(tracker.state(), temporary, metadata={"frames": str(done)})
            counter.advance()
    return done


def _rows(number: int, tracker: Tracker) -> Iterator[list[Any]]:
    for score in tracker.scores:
        told = [score.confidence, score.row, score.column]
        yield [number, score.object, score.area, *("" if value != value else f"{value:.4f}" for value in told)]


def _resume(tracker: Tracker, out: Path) -> int:
    """Bring the tracker and the table to the last checkpoint; return how many frames are done."""
    done = 0
    if (out / STATE).exists():
        with safe_open(out / STATE, framework="pt") as held:
            done = int(held.metadata()["frames"])
            tracker.restore({name: held.get_tensor(name) for name in held.keys()})  # noqa: SIM118
    kept = [",".join(COLUMNS)]
    if done and (out / SCORES).exists():
        lines = (out / SCORES).read_text(encoding="utf-8").splitlines()[1:]
        kept += [line for line in lines if line.count(",") == len(COLUMNS) - 1 and int(line.partition(",")[0]) < done]
    with whole(out / SCORES) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    return done


def _rest(clip: Clip, done: int) -> Iterator[Frame]:
    """Yield the frames after the first ``done``: those of a folder are not even read."""
    if clip.pictures:
        left = clip.pictures[done:]
        return iter(replace(clip, pictures=left, frames=len(left))) if left else iter(())
    return islice(clip, done, None)
