"""Clips by class: folders as users have them, bad clips named and left out, clips made of photos."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from tagmask.data.video import ClipWriter
from tagmask.errors import DataError, OptionError
from tagmask.tagged_clips import clips_in, moving_view, tagged_clips

CLASSES = ("background", "cat", "traffic light")


def video(path, count=4, size=(32, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    with ClipWriter(path) as clip:
        for number in range(count):
            clip.write(np.full((*size, 3), 40 * number + 20, dtype=np.uint8))
    return path


def pictures(folder, count=3, size=(32, 40), last=None):
    folder.mkdir(parents=True)
    for number in range(count):
        shape = last if last is not None and number == count - 1 else size
        Image.new("RGB", shape[::-1], (10 * number, 90, 200)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "clips"
    video(root / "Cat/a.mp4")
    video(root / "Cat/b.avi")
    video(root / "Cat/b.webm")
    pictures(root / "Cat/c")
    pictures(root / "traffic  light/c", count=2)
    pictures(root / "cta/x")
    video(root / "loose.mp4")
    (root / "Cat/empty.mp4").touch()
    video(root / "Cat/one.mp4", count=1)
    (root / "Cat/none").mkdir()
    (root / "Cat/.hidden").mkdir()
    (root / "Cat/notes.txt").touch()
    return root


def test_clips_by_class_and_what_cannot_be_used(folder):
    clips = clips_in(folder, CLASSES)
    assert {name: (clips[name].shown, clips[name].tag) for name in clips.names} == {
        "Cat/a": ("a", 1),
        "Cat/b.avi": ("b.avi", 1),
        "Cat/b.webm": ("b.webm", 1),
        "Cat/c": ("Cat_c", 1),
        "traffic  light/c": ("traffic  light_c", 2),
    }
    told = "\n".join(clips.problems)
    for words in (
        "empty.mp4: no frame", "one.mp4: only 1 frames", "none: holds 0 pictures", "cta: is no class of the data (did you mean "
        "'cat'?)", "loose.mp4: lies in no folder of a class",
    ):  # fmt: skip
        assert words in told
    assert len(clips.problems) == 5
    assert clips["Cat/c"].frame_name(2) == "2"
    assert clips["Cat/a"].frame_name(2) == "00002"
    assert len({clips.key_of(name) for name in clips.names}) == 5


def test_keys_follow_the_content_and_the_class(folder):
    before = clips_in(folder, CLASSES)
    first = before.key_of("Cat/c")
    Image.new("RGB", (40, 32), (1, 2, 3)).save(folder / "Cat/c/1.png")
    after, other = clips_in(folder, CLASSES), clips_in(folder, ("background", "traffic light", "cat"))
    assert before.key_of("Cat/a") == after.key_of("Cat/a") != other.key_of("Cat/a")
    assert first != after.key_of("Cat/c")


def test_pictures_where_clips_should_be(tmp_path):
    pictures(tmp_path / "cat")
    assert "holds pictures; expected a folder of frames" in clips_in(tmp_path, CLASSES).problems[0]


def test_errors_say_what_is_expected(toy, work, tmp_path):
    with pytest.raises(
        OptionError, match=r"clips is empty; expected --clips CLIPS .*\(disc, square, triangle, \.\.\.\)"
    ):
        tagged_clips(work, toy, "", count=4)
    with pytest.raises(OptionError, match="did you mean 'made'"):
        tagged_clips(work, toy, "maed", count=4)
    pictures(tmp_path / "clips/zebra/a")
    with pytest.raises(DataError, match=r"holds no clip of the classes of the data .*zebra: is no class"):
        tagged_clips(work, toy, str(tmp_path / "clips"), count=4)
    several = toy.only(tuple(replace(sample, tags=(1, 2)) for sample in toy.samples))
    with pytest.raises(DataError, match="no photo has exactly one tag"):
        tagged_clips(work, several, "made", count=4)


def test_clips_are_made_of_the_photos_with_one_tag(toy, work):
    clips = tagged_clips(work, toy, "made", count=5)
    single = {sample.name: sample.tags[0] for sample in toy.train if len(sample.tags) == 1}
    assert {name: clips[name].tag for name in clips.names} == single
    name = clips.names[0]
    frames = list(clips[name].clip)
    assert len(frames) == 5
    assert {frame.shape for frame in frames} == {(36, 36, 3)}
    for frame, again in zip(frames, clips[name].clip, strict=True):
        np.testing.assert_array_equal(frame, again)
    assert (frames[0] != frames[-1]).any()
    work.seed = 1
    other = tagged_clips(work, toy, "made", count=5)
    assert clips.key_of(name) != other.key_of(name)
    assert (next(iter(other[name].clip)) != frames[0]).any()


@pytest.mark.parametrize("shape", [(60, 80), (1, 1), (2, 31)])
def test_a_moving_view_shows_nothing_but_the_photo(shape):
    pixels = np.stack(np.broadcast_arrays(*np.ogrid[: shape[0], : shape[1]], 7), axis=2).astype(np.uint8)
    views = list(moving_view(pixels, 6, np.random.default_rng(0)))
    assert len({view.shape for view in views}) == 1
    for view in views:  # the places that are seen: along both axes from low to high, and inside
        assert (view[..., 2] == 7).all()
        assert (np.diff(view[..., 0].astype(int), axis=0) >= 0).all()
        assert view[..., 0].max() < shape[0]
        assert view[..., 1].max() < shape[1]
    steps = [abs(float(b.mean()) - float(a.mean())) for a, b in pairwise(views)]
    assert max(steps) < 10


def test_photos_are_made_smaller_as_for_the_run(toy, work):
    work.longest = 24
    clips = tagged_clips(work, toy, "made", count=2)
    assert next(iter(clips[clips.names[0]].clip)).shape == (18, 18, 3)
