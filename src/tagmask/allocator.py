"""Freed memory serves the next step: glibc hands large blocks back to the system, which clears and maps each one anew.

For a training step on a CPU, which takes and frees every feature map, that is a good part of its time (docs/speed.md).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of mallopt(3)
USUAL = {MMAP_MAX: 65_536, TRIM_THRESHOLD: 128 * 1024}  # what glibc begins with
KEPT = 2**31 - 1  # bytes that stay with the process when they are free, at most: the largest that mallopt takes  # ours


def keep_memory() -> bool:
    """Keep freed blocks of any size, for the whole process; return whether that could be told to the C library.

    Peak memory is what it was, give or take gaps between blocks; it stays with the process. Only glibc can be told.
    """
    return _told({MMAP_MAX: 0, TRIM_THRESHOLD: KEPT})


def give_memory_back() -> bool:
    """Undo ``keep_memory``: free blocks go back to the system, as glibc does by itself."""
    return _told(USUAL)


def _told(wishes: Mapping[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return False
    return all(mallopt(name, value) for name, value in wishes.items())
