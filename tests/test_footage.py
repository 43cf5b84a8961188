"""Pictures of a clip in one file: written one at a time, read one at a time, gone with the last use."""

import gc

import numpy as np
import pytest

from tagmask.errors import RunError
from tagmask.files import KINDS
from tagmask.footage import Footage, Recorder

SMOOTH = np.stack(np.broadcast_arrays(*np.ogrid[:40, :60], 90), axis=2).astype(np.uint8)
GREY = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)


def recorded(**facts):
    recorder = Recorder()
    recorder.add("frame", 3, SMOOTH)
    recorder.add("attention", 3, GREY)
    return recorder.done(facts)


def test_what_is_recorded_is_read_also_from_a_stage(tmp_path):
    made = recorded(chunks=[[3]])
    ending, write, read = KINDS[Footage]
    write(tmp_path / f"a{ending}", made)
    write(tmp_path / f"b{ending}", recorded(chunks=[[3]]))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    for footage in (made, read(tmp_path / "a.zip")):
        assert footage.facts == {"chunks": [[3]]}
        np.testing.assert_array_equal(footage.picture("attention", 3), GREY)
        frame = footage.picture("frame", 3)
        assert frame.shape == SMOOTH.shape
        assert np.abs(frame.astype(int) - SMOOTH).mean() < 3
        assert footage.stack("frame", [3, 3]).shape == (2, 40, 60, 3)


def test_temporary_files_go_with_their_use():
    made = recorded()
    path = made.path
    assert path.exists()
    del made
    gc.collect()
    assert not path.exists()
    recorder = Recorder()
    recorder.add("frame", 0, SMOOTH)
    recorder.drop()
    assert not recorder.path.exists()


def test_what_is_missing_or_no_footage_is_named(tmp_path):
    with pytest.raises(RunError, match="frame 4 cannot be read"):
        recorded().picture("frame", 4)
    (tmp_path / "a.zip").write_text("hello")
    with pytest.raises(RunError, match=r"a\.zip: holds no footage"):
        KINDS[Footage][2](tmp_path / "a.zip")
