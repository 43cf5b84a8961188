"""Drawn pictures for the readers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def draw() -> Callable[..., Path]:
    """Write a small picture of its own content (by its path) and return the path."""

    def write(path: Path, size: tuple[int, int] = (24, 20), fill: int | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        value = fill if fill is not None else sum(path.as_posix().encode()) % 250
        Image.new("RGB", size, (value, 255 - value, 90)).save(path)
        return path

    return write


@pytest.fixture
def draw_mask() -> Callable[..., Path]:
    """Write a grey PNG of ids, one column of pixels after the other."""

    def write(path: Path, ids: list[int], size: tuple[int, int] = (24, 20)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        width, height = size
        columns = np.resize(np.array(ids, dtype=np.uint8), width)
        Image.fromarray(np.tile(columns, (height, 1))).save(path)
        return path

    return write
