"""Seconds and peak memory of a piece of work, measured while it runs."""

from __future__ import annotations

import resource
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

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
        self._start = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def seconds(self) -> float:
        """Seconds since the meter was entered."""
        return time.monotonic() - self._start

    def __enter__(self) -> Meter:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._start = time.monotonic()
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
