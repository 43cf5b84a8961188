"""Label a whole clip into a folder: a mask for every frame, and the clip with its labels over it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tagmask.data.pixels import read_mask, write_mask
from tagmask.data.tags import is_background
from tagmask.data.video import Clip, ClipWriter, Frame, open_clip
from tagmask.files import whole
from tagmask.progress import Narrator
from tagmask.runs import choose_device
from tagmask.types import UNKNOWN
from tagmask.video.clip_folder import claim_clip, frame_names
from tagmask.video.label import CUT, FrameLabeller, load_labeller
from tagmask.video.overlay import overlay

OVERLAY = "overlay.mp4"


def label_clip(
    clip: str | Path,
    model: str | Path,
    out: str | Path,
    *,
    device: str = "auto",
    longest: int | None = None,
    cut: float = CUT,
    looking: str = "float32",
    draw: bool = True,
    quiet: bool = False,
) -> int:
    """Write ``out/masks/FRAME.png`` for every frame of a clip, and with ``draw`` ``out/overlay.mp4``; return how many.

    Frames go through one at a time. A call that was interrupted goes on where it stopped and ends with the same files.
    Raises RunError where ``out`` holds something else, DataError for a clip that cannot be read.
    """
    opened, out = open_clip(Path(clip)), Path(out)
    labeller = load_labeller(model, device=choose_device(device), longest=longest, cut=cut, looking=looking)
    claim_clip(out, opened, Path(model), {"longest": labeller.longest, "cut": cut, "looking": looking})
    ground = 0 if is_background(labeller.classes[0]) else None
    narrator, done = Narrator(quiet=quiet), 0
    with (
        ClipWriter(out / OVERLAY, rate=opened.rate) if draw else nullcontext() as writer,
        narrator.stage(f"labels of {opened.name}", opened.frames, unit="frames") as counter,
    ):
        for frame, labels in _labels(opened, labeller, out / "masks"):
            if writer is not None:
                writer.write(overlay(frame, labels, background=ground))
            done += 1
            counter.advance()
    return done


def _labels(clip: Clip, labeller: FrameLabeller, masks: Path) -> Iterator[tuple[Frame, NDArray[np.uint8]]]:
    """Yield every frame and its labels, read where they are there already, and otherwise written.

    The first frame without a mask reads from the frames before it, so these are looked at again.
    """
    first = next(number for number, name in enumerate(_with_end(clip)) if not (masks / f"{name}.png").exists())
    labeller.reset(number=max(0, first - labeller.reach))
    for number, (frame, name) in enumerate(zip(clip, frame_names(clip), strict=False)):
        path = masks / f"{name}.png"
        if number < first:
            if number >= first - labeller.reach:
                labeller.see(frame)
            yield frame, read_mask(path, classes=UNKNOWN)
            continue
        labels = labeller.step(frame)
        with whole(path) as temporary:
            write_mask(temporary, labels)
        yield frame, labels


def _with_end(clip: Clip) -> Iterator[str]:
    """Yield the names of the frames' masks, and a name that no mask has."""
    yield from frame_names(clip)
    yield "/"
