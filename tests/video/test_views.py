"""Frames on the canvas and back, and the view that a template is made of."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tagmask.video.views import Canvas, template_view

GREY = np.array([127, 127, 127], dtype=np.uint8)


@given(st.integers(1, 300), st.integers(1, 300))
@settings(max_examples=80, deadline=None)
def test_a_frame_lies_whole_and_in_the_middle(height, width):
    canvas = Canvas.of((height, width), (64, 96))
    assert sorted(canvas.size) == [64, 96]
    below, right = (
        whole - inner - at
        for whole, inner, at in zip(canvas.size, canvas.inner, (canvas.top, canvas.left), strict=True)
    )
    assert 0 <= below - canvas.top <= 1
    assert 0 <= right - canvas.left <= 1
    assert canvas.inner[0] == canvas.size[0] or canvas.inner[1] == canvas.size[1]  # as large as fits
    assert canvas.back(torch.rand(2, canvas.size[0] // 4, canvas.size[1] // 4)).shape == (2, height, width)


@pytest.mark.parametrize("size", [(64, 96), (128, 192), (60, 96), (64, 90), (200, 100), (31, 47)])
def test_what_is_placed_comes_back_where_it_was(size):
    height, width = size
    mask = np.zeros(size, dtype=np.uint8)
    mask[height // 8 : height // 2, width // 2 : width - width // 8] = 1  # not symmetric in any way
    canvas = Canvas.of(size, (64, 96))
    placed = canvas.place_labels(mask)
    back = canvas.back(torch.from_numpy(placed)[None].float())[0].numpy() > 0.5
    assert np.count_nonzero(back != mask.astype(bool)) <= 0.04 * mask.size
    pixels = canvas.place(np.repeat(mask[..., None] * 200, 3, axis=2), GREY)
    assert np.count_nonzero((pixels[..., 0] > 160) != placed.astype(bool)) <= 0.03 * placed.size


def test_davis_frames_are_padded_on_both_sides_and_not_resized():
    frame = np.random.default_rng(0).integers(0, 256, (240, 427, 3), dtype=np.uint8)
    canvas = Canvas.of((240, 427), (240, 432))
    placed = canvas.place(frame, GREY)
    np.testing.assert_array_equal(placed[:, 2:429], frame)
    assert (placed[:, :2] == 127).all()
    assert (placed[:, 429:] == 127).all()


@pytest.mark.parametrize("box", [(10, 22, 40, 61), (0, 5, 0, 5), (0, 64, 0, 96), (30, 34, 5, 90), (2, 62, 47, 50)])
def test_a_template_shows_its_object_whole_in_the_middle(box):
    top, bottom, left, right = box
    labels = np.zeros((64, 96), dtype=np.uint8)
    labels[top:bottom, left:right] = 1
    pixels = np.repeat(labels[..., None] * 255, 3, axis=2)
    view, seen = template_view(pixels, labels, (64, 96), GREY)
    assert view.shape == (64, 96, 3)
    rows, columns = np.nonzero(seen == 1)
    assert rows.mean() == pytest.approx(31.5, abs=1.5)
    assert columns.mean() == pytest.approx(47.5, abs=1.5)
    zoom = np.sqrt(len(rows) / np.count_nonzero(labels))
    assert 0.6 < zoom < 2.1  # never more than twice
    shown = np.array([(bottom - top) / 64, (right - left) / 96]) * zoom
    assert shown.max() < 1.03
    assert zoom > 1.9 or shown.max() > 0.6  # small ones twice as large, others at two thirds of the view
    assert np.count_nonzero((view[..., 0] > 191) != (seen == 1)) < 0.03 * seen.size


def test_templates_take_what_is_unknown_along_and_need_an_object():
    labels = np.zeros((64, 96), dtype=np.uint8)
    labels[20:40, 30:60] = 1
    labels[20:40, 60:66] = 255
    _, seen = template_view(np.zeros((64, 96, 3), dtype=np.uint8), labels, (64, 96), GREY)
    assert set(np.unique(seen)) == {0, 1, 255}
    with pytest.raises(ValueError, match="no object"):
        template_view(np.zeros((64, 96, 3), dtype=np.uint8), labels * 0, (64, 96), GREY)
