"""Freed memory stays: what is taken again costs no page of the system."""

import ctypes
import subprocess
import sys

import pytest

from tagmask.allocator import give_memory_back, keep_memory

COUNT = """
import resource, sys
import numpy as np
from tagmask.allocator import give_memory_back, keep_memory

if sys.argv[1] != "usual":
    assert keep_memory()
if sys.argv[1] == "undone":
    assert give_memory_back()
for turn in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(64 * 2**20, dtype=np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    done = subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library cannot be told")
def test_a_block_that_was_freed_is_taken_again_without_a_page_fault():
    assert faults("kept") < 100 < min(faults("usual"), faults("undone"))


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_another_c_library_is_left_as_it_is(monkeypatch, error):
    def unknown(name):
        raise error

    monkeypatch.setattr(ctypes, "CDLL", unknown)
    assert not keep_memory()
    assert not give_memory_back()
