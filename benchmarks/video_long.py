"""Does a long clip need more memory than a short one? Run `tagmask track` on a clip of 1000 frames and of 10 000.

    python -m benchmarks.video_long --clip DIR --mask FILE --model RUN [--frames 1000 10000] [--runs local]

The frames of CLIP, a folder or a video, are shown forth and back until there are enough of them. docs/results-video.json gets
a row for each length: the peak of resident memory of the whole process, and frames a second with reading and writing.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain, cycle, islice
from pathlib import Path

from benchmarks.results import ROOT, _commit
from benchmarks.video_follow import OUT, keep
from PIL import Image

from tagmask.data.pixels import read_mask
from tagmask.data.video import Clip, ClipWriter, Frame, open_clip
from tagmask.files import read_json
from tagmask.runs import choose_device, device_name


def main() -> None:
    """Measure every length that has no row yet, and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clip", type=Path, required=True, help="a clip that is made longer")
    parser.add_argument("--mask", type=Path, required=True, help="PNG of ids: the objects in its first frame")
    parser.add_argument("--model", type=Path, required=True, help="the folder of a tracker")
    parser.add_argument("--frames", nargs="+", type=int, default=[1000, 10_000])
    parser.add_argument("--runs", type=Path, default=ROOT / "local", help="where the long clips lie meanwhile")
    given = parser.parse_args()
    given.runs.mkdir(parents=True, exist_ok=True)
    done = [row["method"] for row in (read_json(OUT) if OUT.exists() else [])]
    for frames in given.frames:
        if named(frames) in done:
            continue
        with tempfile.TemporaryDirectory(dir=given.runs) as folder:
            seconds, peak = followed(given, frames, Path(folder))
        row = {
            "task": "length", "method": named(frames), "frames": frames, "peak_mb": round(peak),
            "fps": round(frames / seconds, 1), "clip": given.clip.name, "size": list(open_clip(given.clip).size),
            "device": device_name(choose_device("auto")), "commit": _commit(),
            "command": f"python -m benchmarks.video_long --clip CLIP --mask FIRST --model RUN --frames {frames}",
        }  # fmt: skip
        print(row, flush=True)
        keep(OUT, row)


def named(frames: int) -> str:
    """Return the name of a row.

    >>> named(1000)
    'track, 1000 frames'
    """
    return f"track, {frames} frames"


def followed(given: argparse.Namespace, frames: int, folder: Path) -> tuple[float, float]:
    """Return the seconds and the peak of memory in MB of `tagmask track` on so many frames."""
    clip, mask, even = (
        folder / "long.mp4",
        folder / "first.png",
        tuple(side - side % 2 for side in open_clip(given.clip).size),
    )
    Image.fromarray(read_mask(given.mask, classes=255)[: even[0], : even[1]]).save(mask)
    with ClipWriter(clip) as writer:
        for frame in islice(forth_and_back(open_clip(given.clip)), frames):
            writer.write(frame)
    start = time.perf_counter()
    tagmask = str(Path(sys.executable).with_name("tagmask"))
    words = ["track", clip, "--mask", mask, "--model", given.model, "--out", folder / "out", "--quiet"]
    child = os.posix_spawn(tagmask, [tagmask, *map(str, words)], os.environ)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"track ended with {os.waitstatus_to_exitcode(status)}")
    written = len(list((folder / "out" / "masks").rglob("*.png")))
    if written != frames:
        raise SystemExit(f"track wrote {written} masks of {frames} frames")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def forth_and_back(clip: Clip) -> Iterator[Frame]:
    """Yield the frames of a clip from the first to the last, back to the first, and so on: every frame like the one before."""
    frames = list(clip)
    return cycle(chain(frames, reversed(frames[1:-1])))


if __name__ == "__main__":
    main()
