"""Seconds and peak memory of a piece of work, measured while it runs."""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO

import torch

SAMPLE_EVERY = 0.2  # seconds between two looks at the resident memory  # ours
_STATM = Path("/proc/self/statm")


def resident_mb() -> float:
    """Return the resident memory of this process in MiB (on systems without ``/proc``: its highest value so far)."""
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * resource.getpagesize() / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


class Meter:
    """A context manager: ``seconds`` since it was entered, ``peak_mb`` of host (and GPU) memory since then."""

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._start, self._start_cpu = time.monotonic(), time.process_time()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def seconds(self) -> float:
        """Seconds since the meter was entered."""
        return time.monotonic() - self._start

    @property
    def idle(self) -> float:
        """Seconds since then in which the cores (as many as torch has threads) had nothing to do, on average."""
        return max(0.0, self.seconds - (time.process_time() - self._start_cpu) / torch.get_num_threads())

    def __enter__(self) -> Meter:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._start, self._start_cpu = time.monotonic(), time.process_time()
        self.look()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self.look()

    def look(self) -> float:
        """Take a sample now and return the peak so far in MiB."""
        self.peak_mb = max(self.peak_mb, resident_mb())
        if torch.cuda.is_available():
            self.peak_mb = max(self.peak_mb, torch.cuda.max_memory_allocated() / 2**20)
        return self.peak_mb

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_EVERY):
            self.look()


@dataclass
class StageCost:
    """One line of ``metrics.json``: what a stage computed, what it found done, seconds (of both) and peak memory.

    ``waited`` are the seconds in which nothing was computed: of a training those until the next batch was read, of a
    stage over images those in which cores were idle.
    """

    name: str
    items: int
    computed: int
    reused: int
    seconds: float
    peak_mb: float
    waited: float = 0.0


class Ledger:
    """Seconds and memory of finished images, a line each, so that a resumed stage still knows what it cost in all."""

    def __init__(self, path: Path):
        self.path = path
        self._file: TextIO | None = None

    def open(self) -> Ledger:
        """Open for adding; use as a context manager."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, key: str, seconds: float, peak_mb: float, waited: float) -> None:
        """Write one line."""
        assert self._file is not None
        self._file.write(json.dumps([key, round(seconds, 4), round(peak_mb, 1), round(waited, 4)]) + "\n")
        self._file.flush()

    def total(self, keys: Iterable[str]) -> tuple[float, float, float]:
        """Return seconds in all, peak MiB and seconds waited of the given images."""
        known: dict[str, tuple[float, float, float]] = {}
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    key, seconds, peak, waited = json.loads(line)
                except ValueError:  # a line that a kill cut short
                    continue
                known[key] = (seconds, peak, waited)
        found = [known[key] for key in keys if key in known]
        return sum(s for s, _, _ in found), max((p for _, p, _ in found), default=0.0), sum(w for _, _, w in found)
