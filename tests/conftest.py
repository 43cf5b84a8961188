"""What the tests share: a small drawn data set, a tiny network, one thread."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from tagmask.data import load_data, make_toy
from tagmask.nets.backbones import Backbone
from tagmask.types import Dataset
from tagmask.work import Work

torch.set_num_threads(1)
settings.register_profile("steady", derandomize=True)  # the same examples for everyone, every time
settings.load_profile("steady")

TINY = Backbone(name="test_resnet", weights="none", output_stride=16)


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory) -> Path:
    """Sixteen drawn photos with tags and masks, a quarter of them for validation."""
    return make_toy(tmp_path_factory.mktemp("toy"), images=16, size=48, seed=3)


@pytest.fixture(scope="session")
def toy(toy_folder) -> Dataset:
    return load_data(toy_folder)


@pytest.fixture
def work(tmp_path) -> Work:
    made = Work(out=tmp_path / "run", backbone=TINY, store=tmp_path / "store")
    made.out.mkdir()
    made.narrator.console.quiet = True
    return made


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


@pytest.fixture
def nasty(tmp_path, draw, draw_mask):
    """Everything that users' folders hold, in one."""
    images = tmp_path / "images"
    for name in ("good", "other", "Ärger", "twice", "contrary", "no_row", "small_mask", "rgb_mask", "wild_mask"):
        draw(images / f"{name}.png")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(images / "cut.jpg")
    whole = (images / "cut.jpg").read_bytes()
    (images / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "text.jpg").write_text("hello")
    (images / "empty.jpg").touch()
    (images / "phone.heic").write_bytes(b"....ftypheic")
    draw(images / "tiny.png", size=(1, 1))
    Image.new("L", (12000, 9000), 99).save(images / "huge.jpg")
    draw_mask(tmp_path / "masks/small_mask.png", [0, 1], size=(12, 10))
    draw(tmp_path / "masks/rgb_mask.png")
    draw_mask(tmp_path / "masks/wild_mask.png", [0, 77])
    draw_mask(tmp_path / "masks/good.png", [0, 1, 2])
    draw_mask(tmp_path / "masks/lonely.png", [0, 1])
    rows = (
        "good,cat\nother,Cat dog\nÄrger,cat\ntwice,dog\ntwice,dog\ncontrary,dog\ncontrary,cat\ncut,cat\ntext,cat\n"
        "empty,cat\ntiny,cat\nhuge,dog\ngone,cat\nsmall_mask,cat\nrgb_mask,cat\nwild_mask,cat\n"
    )
    (tmp_path / "tags.csv").write_text("image,tags\n" + rows, encoding="utf-8")
    return tmp_path
