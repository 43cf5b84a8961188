"""How fast a step that takes a frame and gives a result is: one frame at a time, median and the slowest in twenty.

What is measured is told with it: device, threads, frames. The step says itself what it includes (resizing, the way back
to full resolution); frames should lie on the device already.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch

WARM_UP = 20  # steps before the clock runs  # source
FRAMES = 100  # steps that count  # source
RUNS = 3  # on a CPU, of which the fastest counts: others work on the machine too  # source


@dataclass(frozen=True)
class Speed:
    """Milliseconds a frame: ``median`` and ``p95`` of ``frames`` frames, ``first`` right after the start.

    ``once`` is what starting costs, before any frame. ``peak_mb`` is the most memory on a GPU, ``None`` elsewhere.
    """

    median: float
    p95: float
    first: float
    once: float
    frames: int
    runs: int
    device: str
    threads: int
    peak_mb: float | None

    @property
    def fps(self) -> float:
        """Frames a second, by the median."""
        return 1000 / self.median

    def spread(self, frames: int) -> float:
        """Milliseconds a frame of a clip of so many frames, with what starting costs spread over them."""
        return self.median + self.once / frames

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers."""
        return asdict(self) | {"fps": self.fps}


def measure(
    step: Callable[[Any], Any],
    frames: Sequence[Any],
    *,
    start: Callable[[], Any] | None = None,
    device: str | torch.device = "cpu",
    threads: int | None = None,
    warm_up: int = WARM_UP,
    count: int = FRAMES,
    runs: int | None = None,
) -> Speed:
    """Call ``step`` with frame after frame (over again where they end) and return its speed, of the fastest run.

    ``start`` is called before each run, and timed apart: the work of once a clip. On a GPU its queue is waited for before
    each look at the clock, and one run is enough; on a CPU torch is given ``threads`` (default: as it is set). Raises
    ``ValueError`` without frames to measure.
    """
    place = torch.device(device)
    if not len(frames) or count < 1 or warm_up < 0:
        raise ValueError(f"cannot measure {count} steps after {warm_up} on {len(frames)} frames")
    rounds = runs or (1 if place.type == "cuda" else RUNS)
    with _ready(place, threads):
        fastest = min(
            (_run(step, frames, start, place, warm_up, count) for _ in range(rounds)),
            key=lambda run: float(np.median(run[2])),
        )
        once, first, times = fastest
        return Speed(
            median=float(np.median(times)), p95=float(np.percentile(times, 95)), first=first, once=once,
            frames=count, runs=rounds, device=_name(place), threads=torch.get_num_threads(),
            peak_mb=torch.cuda.max_memory_allocated(place) / 2**20 if place.type == "cuda" else None,
        )  # fmt: skip


def _run(
    step: Callable[[Any], Any],
    frames: Sequence[Any],
    start: Callable[[], Any] | None,
    place: torch.device,
    warm_up: int,
    count: int,
) -> tuple[float, float, list[float]]:
    """Return milliseconds of the start, of the first step, and of each step that counts."""
    once = _milliseconds(start, place) if start is not None else 0.0
    feed = cycle(frames)
    first = next(feed)
    early = _milliseconds(partial(step, first), place)
    for frame in islice(feed, max(0, warm_up - 1)):
        step(frame)
    return once, early, [_milliseconds(partial(step, frame), place) for frame in islice(feed, count)]


def _milliseconds(call: Callable[[], Any], place: torch.device) -> float:
    _wait(place)
    begin = time.perf_counter()
    call()
    _wait(place)
    return 1000 * (time.perf_counter() - begin)


def _wait(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize(place)


def _name(place: torch.device) -> str:
    return torch.cuda.get_device_name(place) if place.type == "cuda" else place.type


@contextmanager
def _ready(place: torch.device, threads: int | None) -> Iterator[None]:
    """No gradients, torch's threads, the fastest convolutions of a GPU; all is put back at the end."""
    before, tuned = torch.get_num_threads(), torch.backends.cudnn.benchmark
    try:
        torch.set_num_threads(threads or before)
        torch.backends.cudnn.benchmark = True
        if place.type == "cuda":
            torch.cuda.reset_peak_memory_stats(place)
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)
        torch.backends.cudnn.benchmark = tuned
