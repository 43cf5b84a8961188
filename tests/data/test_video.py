"""Clips as users have them: files of any kind, folders of frames, and broken ones."""

import numpy as np
import pytest
from PIL import Image

from tagmask.data.video import ClipWriter, is_clip, open_clip
from tagmask.errors import DataError, OptionError


def frames(count=12, size=(48, 64)):
    height, width = size
    for number in range(count):
        frame = np.full((height, width, 3), (200, 40, 90), dtype=np.uint8)
        frame[10:30, 4 + 2 * number : 20 + 2 * number] = (20, 180, 230)
        yield frame


def written(path, count=12, size=(48, 64)):
    with ClipWriter(path, rate=10) as clip:
        for frame in frames(count, size):
            clip.write(frame)
    return path


@pytest.mark.parametrize("ending", ["mp4", "webm", "avi"])
def test_what_is_written_is_read(tmp_path, ending):
    clip = open_clip(written(tmp_path / f"a.{ending}"))
    assert (clip.name, clip.size, clip.rate, clip.frames) == ("a", (48, 64), 10.0, 12)
    for _ in range(2):  # every pass reads anew
        read = list(clip)
        assert len(read) == 12
        for expected, frame in zip(frames(), read, strict=True):
            assert frame.dtype == np.uint8
            assert np.abs(frame.astype(int) - expected).mean() < 6
    assert [path.name for path in tmp_path.iterdir()] == [f"a.{ending}"]


def test_a_gif_is_a_clip(tmp_path):
    first, *rest = (Image.fromarray(frame) for frame in frames(5))
    first.save(tmp_path / "a.gif", save_all=True, append_images=rest, duration=40)
    read = list(open_clip(tmp_path / "a.gif"))
    assert len(read) == 5
    assert np.abs(read[4].astype(int) - list(frames(5))[4]).mean() < 12


def test_a_folder_of_frames_in_the_order_of_their_numbers(tmp_path):
    for number, frame in enumerate(frames(11)):
        Image.fromarray(frame).save(tmp_path / f"f{number}.png")
    (tmp_path / "notes.txt").touch()
    clip = open_clip(tmp_path)
    assert (clip.frames, clip.rate, clip.name) == (11, 25.0, tmp_path.name)
    for expected, frame in zip(frames(11), clip, strict=True):
        np.testing.assert_array_equal(frame, expected)
    assert is_clip(tmp_path)
    assert not is_clip(tmp_path / "notes.txt")


def test_broken_clips_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone.mp4: no such file"):
        open_clip(tmp_path / "gone.mp4")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("hello")
    for name in ("empty", "text"):
        with pytest.raises(DataError, match=rf"{name}.mp4: no frame of it can be read"):
            open_clip(tmp_path / f"{name}.mp4")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="holds 0 pictures"):
        open_clip(tmp_path / "folder")
    with pytest.raises(DataError, match=r"one.avi: only 1 frames of it can be read; expected 2"):
        open_clip(written(tmp_path / "one.avi", count=1), least=2)


def test_a_truncated_clip_gives_its_frames_and_then_an_error(tmp_path):
    random = np.random.default_rng(0)
    with ClipWriter(tmp_path / "whole.avi") as clip:
        for _ in range(30):
            clip.write(random.integers(0, 255, (96, 128, 3), dtype=np.uint8))
    content = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: len(content) // 2])
    read = []
    with pytest.raises(DataError, match=r"cut.avi: is truncated \(frame \d+ of 30"):
        read.extend(open_clip(tmp_path / "cut.avi"))
    assert 10 < len(read) < 20


def test_frames_of_another_size_are_named(tmp_path):
    for number in range(4):
        Image.new("RGB", (64, 48) if number != 2 else (32, 24)).save(tmp_path / f"{number}.png")
    with pytest.raises(DataError, match=r"2.png: frame 2 has 32x24 pixels, those before have 64x48"):
        list(open_clip(tmp_path))


def test_an_interrupted_writer_leaves_nothing(tmp_path):
    clip = ClipWriter(tmp_path / "a.mp4").__enter__()
    clip.write(next(frames()))
    clip.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert not list(tmp_path.iterdir())
    with pytest.raises(OptionError, match=r"expected an ending .mp4"):
        ClipWriter(tmp_path / "a.xyz")


def test_odd_sides_lose_a_pixel(tmp_path):
    with ClipWriter(tmp_path / "a.mp4") as clip:
        for frame in frames(size=(47, 65)):
            clip.write(frame)
    assert open_clip(tmp_path / "a.mp4").size == (46, 64)
