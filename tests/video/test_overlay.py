"""What is drawn over a frame, and the clips that come of it."""

from __future__ import annotations

import numpy as np
import pytest

from tagmask.data import palette
from tagmask.data.video import ClipWriter, open_clip
from tagmask.errors import DataError
from tagmask.video.overlay import overlay, write_overlay


def scene(size=(40, 60)):
    frame = np.full((*size, 3), (100, 50, 200), dtype=np.uint8)
    labels = np.zeros(size, dtype=np.uint8)
    labels[10:30, 20:40] = 2
    labels[32:38, 4:12] = 255
    return frame, labels


def test_areas_are_tinted_outlines_are_full_and_the_rest_is_left():
    frame, labels = scene()
    drawn = overlay(frame, labels)
    colour = palette()[2]
    assert (drawn[labels != 2] == frame[labels != 2]).all()  # the background and what is unknown
    inside = drawn[12:28, 22:38]
    assert (np.abs(inside.astype(int) - (frame[0, 0].astype(int) + colour) / 2) <= 1).all()
    assert (drawn[10, 20:40] == colour).all()
    assert (drawn[10:30, 39] == colour).all()
    plain = overlay(frame, labels, outlines=False, strength=0.0)
    np.testing.assert_array_equal(plain, frame)
    assert frame.max() == 200  # the frame itself is not drawn on


def test_class_0_is_drawn_where_it_is_a_class():
    frame, labels = scene()
    drawn = overlay(frame, labels, background=None, strength=1.0)
    assert (drawn[labels == 0] == palette()[0]).all()
    assert (drawn[labels == 255] == frame[labels == 255]).all()


def test_every_label_has_its_colour_and_sizes_must_agree():
    labels = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 48)
    drawn = overlay(np.zeros((16, 48, 3), dtype=np.uint8), labels, background=None, strength=1.0)
    np.testing.assert_array_equal(drawn[labels != 255], palette()[labels[labels != 255]])
    with pytest.raises(ValueError, match="one size"):
        overlay(np.zeros((16, 40, 3), dtype=np.uint8), labels)


def clip_of(path, count=6):
    with ClipWriter(path, rate=12) as writer:
        for _ in range(count):
            writer.write(scene()[0])
    return open_clip(path)


def test_a_clip_of_overlays(tmp_path):
    clip, labels = clip_of(tmp_path / "in.mp4"), scene()[1]
    write_overlay(tmp_path / "out.mp4", clip, [labels] * 6)
    made = open_clip(tmp_path / "out.mp4")
    assert (made.rate, made.size, len(list(made))) == (12.0, (40, 60), 6)
    for frame in made:
        assert np.abs(frame.astype(int) - overlay(scene()[0], labels)).mean() < 8


@pytest.mark.parametrize(("count", "said"), [(5, "no label map 5"), (7, "no frame 6")])
def test_a_clip_needs_a_label_map_for_every_frame(tmp_path, count, said):
    clip = clip_of(tmp_path / "in.mp4")
    with pytest.raises(DataError, match=rf"in.mp4: there is {said}"):
        write_overlay(tmp_path / "out.mp4", clip, [scene()[1]] * count)
    with pytest.raises(DataError, match=r"frame 0 is \(40, 60\), its labels are \(9, 9\)"):
        write_overlay(tmp_path / "out.mp4", clip, [np.zeros((9, 9), dtype=np.uint8)] * 6)
    assert not (tmp_path / "out.mp4").exists()
