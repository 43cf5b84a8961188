"""Values are checked at birth; splits say who is learned from."""

import re
from pathlib import Path

import numpy as np
import pytest

from tagmask.data.photos import Joined, Photos, Sizes, Truth
from tagmask.errors import DataError
from tagmask.types import Activation, Dataset, LabelMap, Photo, Sample

HERE = Path()


def sample(name, tags=(), mask=None):
    return Sample(name, HERE / f"{name}.jpg", tags, mask)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sample("a", (2, 1)), "sorted and unique"),
        (lambda: sample("a", (1, 1)), "sorted and unique"),
        (lambda: sample("a", (0,)), "1..254"),
        (lambda: sample("a", (255,)), "1..254"),
        (lambda: Photo("a", np.zeros((2, 2), np.uint8), None), "uint8 (H, W, 3)"),
        (lambda: Photo("a", np.zeros((2, 2, 3), np.float32), None), "uint8"),
        (lambda: Activation(np.zeros((1, 2, 2), np.float64), (1,)), "float32"),
        (lambda: Activation(np.zeros((1, 2, 2), np.float32), (1, 2)), "(2, H, W)"),
        (lambda: Activation(np.full((1, 2, 2), 1.5, np.float32), (1,)), "[0, 1]"),
        (lambda: LabelMap(np.zeros((2, 2), np.int64)), "uint8"),
    ],
)
def test_wrong_values_are_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_splits_say_who_is_learned_from():
    samples = tuple(sample(name, tags) for name, tags in zip("abcd", ((1,), None, (), (1,)), strict=True))
    classes = ("background", "cat")
    free = Dataset(HERE, classes, samples)
    assert [s.name for s in free.train] == ["a", "c", "d"]
    assert free.val == ()
    held = Dataset(HERE, classes, samples, splits={"val": ("d",)})
    assert ([s.name for s in held.train], [s.name for s in held.val]) == (["a", "c"], ["d"])
    named = Dataset(HERE, classes, samples, splits={"train": ("a", "b"), "val": ("d",)})
    assert [s.name for s in named.train] == ["a"]


def test_impossible_data_sets_are_refused():
    with pytest.raises(DataError, match="no class found"):
        Dataset(HERE, ("background",), ())
    with pytest.raises(DataError, match="at most 254"):
        Dataset(HERE, tuple(map(str, range(256))), ())
    with pytest.raises(DataError, match=r"share a name \(a\)"):
        Dataset(HERE, ("background", "cat"), (sample("a"), sample("a")))


def test_collections_read_by_name_and_their_keys_follow_what_they_read(toy):
    photos, small = Photos(toy.train), Photos(toy.train, longest=20)
    name = photos.names[0]
    assert photos[name].size == (48, 48)
    assert max(small[name].size) == 20
    assert photos.key_of(name) != small.key_of(name)
    assert Truth(toy.train, 6, longest=20)[name].labels.shape == small[name].size
    assert Sizes(toy.train)[name] == (48, 48)
    both = Joined(small, Photos(toy.samples))
    assert len(both) == len(toy.samples)
    assert both.key_of(name) == small.key_of(name)
    assert both[toy.val[0].name].size == (48, 48)
    assert name in both
    with pytest.raises(DataError, match="have no mask"):
        Truth([sample("a")], 6)
