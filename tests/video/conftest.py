"""Clips of drawn objects that move, and a tracker that has learned nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tagmask.data.pixels import write_mask
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.storage import save_network
from tagmask.nets.tracker import TrackerNet

TINY = Backbone("test_resnet", "none", 16, norm="frozen")
SMALL = {"size": (64, 96), "embed": 8, "width": 8}


def moving(count: int, size=(60, 100), objects: int = 1):
    """Yield frames and ids of discs that move to the right over a ground of stripes; object 2 leaves after 5 frames."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    ground = np.stack([110 + 40 * np.sin(x / 3)] * 3, axis=-1) + np.stack([x * 0, y, x], axis=-1) * 20 / max(size)
    for number in range(count):
        ids = np.zeros(size, dtype=np.uint8)
        for known in range(1, objects + 1):
            row, column = height * known / (objects + 1), 15 + 1.5 * number + 12 * known
            if not (known == 2 and number >= 5):
                ids[(y - row) ** 2 + (x - column) ** 2 < (height / 3 / objects + 3) ** 2] = known
        frame = ground.copy()
        frame[ids > 0] = np.array([[230, 40, 40], [40, 230, 60], [60, 50, 240]])[(ids[ids > 0] - 1) % 3]
        yield frame.clip(0, 255).astype(np.uint8), ids


def tiny_tracker(**options) -> TrackerNet:
    torch.manual_seed(4)
    return TrackerNet(build_backbone(TINY), **{**SMALL, **options}).eval()


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """The folder of a tracker with random weights."""
    folder = tmp_path_factory.mktemp("tracker")
    save_network(tiny_tracker(), folder)
    return folder


@pytest.fixture
def clip(tmp_path) -> Path:
    """A folder of twelve frames, and beside it the mask of the first."""
    (tmp_path / "clip").mkdir()
    for number, (frame, ids) in enumerate(moving(12, objects=2)):
        Image.fromarray(frame).save(tmp_path / f"clip/{number + 1}.png")
        if number == 0:
            write_mask(tmp_path / "first.png", ids)
    return tmp_path / "clip"
