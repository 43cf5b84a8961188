"""What the tests share: a small drawn data set, a tiny network, one thread."""

from pathlib import Path

import pytest
import torch

from tagmask.data import load_data, make_toy
from tagmask.nets.backbones import Backbone
from tagmask.types import Dataset
from tagmask.work import Work

torch.set_num_threads(1)

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
