"""Threads of a group: one batch for what all ask at the same time, whatever the clock, and nobody waits for ever."""

import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from tagmask.activate import multi_scale_cam
from tagmask.nets.backbones import build_backbone
from tagmask.nets.classifier import Classifier
from tagmask.together import Together, groups_of, together
from tests.conftest import TINY


class Body(nn.Module):
    """Doubles images, and remembers the batches that it saw."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, x):
        self.batches.append(x[:, 0, 0, 0].tolist())
        if (x < 0).any():
            raise RuntimeError("negative")
        return [2 * x, x + 1]


def image(value, side=2):
    return torch.full((1, 3, side, side), float(value))


@pytest.mark.parametrize("late", [0, 1, 2])
def test_one_batch_in_the_order_of_the_group_whoever_comes_last(late):
    body = Body()
    network, found = Together(body), {}

    def compute(value):
        time.sleep(0.02 * (value == late))
        found[value] = [float(m[0, 0, 0, 0]) for m in network(image(value))]

    together([0, 1, 2], compute)
    assert body.batches == [[0, 1, 2]]
    assert found == {value: [2 * value, value + 1] for value in range(3)}


def test_some_ask_more_often_and_some_not_at_all():
    body = Body()
    network, found = Together(body), {}

    def compute(value):
        for turn in range(value):
            found[value, turn] = float(network(image(10 * value + turn))[0][0, 0, 0, 0])

    together([0, 1, 2, 3], compute)
    assert body.batches == [[10, 20, 30], [21, 31], [32]]
    assert found == {(value, turn): 2 * (10 * value + turn) for value in range(4) for turn in range(value)}


def test_other_sizes_are_batches_of_their_own():
    body = Body()
    network = Together(body)
    together([1, 2, 3], lambda value: network(image(value, side=2 + value % 2)))
    assert sorted(body.batches) == [[1, 3], [2]]


def test_an_error_ends_the_group_and_is_told():
    network, seen = Together(Body()), []

    def compute(value):
        if value == 2:
            raise ValueError("broken photo")
        seen.append(network(image(value)))

    with pytest.raises(ValueError, match="broken photo"):
        together([1, 2, 3], compute)
    assert len(seen) == 2
    with pytest.raises(RuntimeError, match="negative"):
        together([1, 2], lambda value: network(image(-value)))


def test_alone_nothing_is_asked_of_others():
    network, threads = Together(Body()), []
    together(["a"], lambda name: threads.append((threading.current_thread(), network(image(1)))))
    assert threads[0][0] is threading.current_thread()
    assert float(network(image(4))[0].max()) == 8


def test_groups_are_the_same_whatever_is_missing(work, toy):
    names = [sample.name for sample in toy.train]
    photos = work.photos(toy.train)
    assert groups_of(names, photos.size_of, most=5) == [names[start : start + 5] for start in range(0, len(names), 5)]


def test_a_stage_that_works_together_gives_the_same_and_resumes_with_the_same_bytes(work, toy, tmp_path):
    torch.manual_seed(0)
    network = Classifier(build_backbone(TINY), classes=len(toy.classes) - 1).eval()
    work._made[id(network)] = (network, "classifier")
    alone = work.each("alone", multi_scale_cam, network, toy.train, scales=(1.0, 0.5))
    bytes_of, store = {}, work.store
    for turn in ("all", "rest"):
        work.store, work.batches = tmp_path / f"store-{turn}", True
        if turn == "rest":  # as a killed run leaves it
            work.batches = True
            first = work.each("first", multi_scale_cam, network, toy.train, scales=(1.0, 0.5))
            for name in first.names[::2]:
                first._path(first._keys[name]).unlink()
        found = work.each(turn, multi_scale_cam, network, toy.train, scales=(1.0, 0.5))
        bytes_of[turn] = {n: found._path(found._keys[n]).read_bytes() for n in found.names}
    assert bytes_of["all"] == bytes_of["rest"]
    work.store = store
    for name in alone.names:
        with np.load(tmp_path / "store-all" / alone._path(alone._keys[name]).relative_to(store)) as held:
            np.testing.assert_allclose(held["maps"].astype(np.float32), alone[name].maps, atol=2e-3)
