"""Tags of all photos' instances: read photo by photo, laid back to the photos, painted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tagmask.association import Assigned, assign_tags, painted, tagged
from tagmask.refine.boxes import packed
from tagmask.refine.pieces import painted_labels
from tagmask.types import Boxes
from tests.refine.test_association import RULE
from tests.test_regions import Each

ATTENTION = {
    "a": {"tags": [2, 5], "boxes": [[0, 0, 2, 2], [2, 0, 4, 2]], "scores": [[0.9, 0.2], [0.3, 0.4]]},
    "negative": {"tags": [], "boxes": [[0, 0, 1, 1]], "scores": [[]]},
    "bare": {"tags": [5], "boxes": [], "scores": []},
    "b": {"tags": [5], "boxes": [[1, 1, 3, 3]], "scores": [[0.1]]},
    "c": {"tags": [2], "boxes": [[0, 0, 4, 4]], "scores": [[0.8]]},
}
LOOKS = {
    "a": [[1, 0], [0, 1]], "negative": [[1, 0]], "bare": np.zeros((0, 2)), "b": [[0, 1]], "c": [[1, 0.1]],
}  # fmt: skip
attention = Each(list(ATTENTION), ATTENTION.__getitem__)
features = Each(list(LOOKS), lambda name: np.asarray(LOOKS[name], dtype=np.float32))


def test_tags_are_laid_back_to_their_photos():
    everything = assign_tags(attention, features, rule=replace(RULE, keep=1.0), seed=0)
    assert everything["tags"] == {"a": [2, 5], "negative": [0], "bare": [], "b": [5], "c": [2]}
    assert (everything["instances"], everything["noise"]) == (4, 0)
    fewer = assign_tags(attention, features, rule=RULE, seed=0)
    assert fewer["tags"] == {"a": [2, 5], "negative": [0], "bare": [], "b": [0], "c": [2]}
    alone = assign_tags(attention, None, rule=replace(RULE, graph=False, keep=0.5), seed=0)
    assert alone["tags"] == {"a": [2, 0], "negative": [0], "bare": [], "b": [0], "c": [2]}


def test_no_instance_at_all():
    names = ["negative", "bare"]
    found = assign_tags(Each(names, ATTENTION.__getitem__), Each(names, features.__getitem__), rule=RULE, seed=0)
    assert found["tags"] == {"negative": [0], "bare": []}
    assert found["instances"] == 0


def test_assigned_tags_as_a_collection():
    one = Assigned({"tags": {"a": [2, 5], "b": [0]}})
    other = Assigned({"tags": {"a": [2, 5], "b": [3]}})
    assert one["a"] == [2, 5]
    assert one.key_of("a") == other.key_of("a")
    assert one.key_of("b") != other.key_of("b")


def test_painting_a_photo():
    masks = [np.zeros((3, 4), dtype=bool) for _ in range(2)]
    masks[0][:2, :2], masks[1][:2, 2:] = True, True
    boxes = np.array(ATTENTION["a"]["boxes"], dtype=np.int32)
    photo = Boxes(boxes, np.ones(2, dtype=np.float32), (0, 0), (3, 4), packed(masks))
    for missed in (True, False):
        labels = painted(photo, ATTENTION["a"], [2, 0], missed=missed).labels
        np.testing.assert_array_equal(labels, painted_labels(photo, [2, 0], (2, 5), missed=missed).labels)
        assert labels[0].tolist() == [2, 2, 255, 255]
        assert labels[2, 0] == (255 if missed else 0)
    made = tagged(photo, ATTENTION["a"], [2, 5])
    assert (made.classes, made.scores) == ((2, 5), (0.9, pytest.approx(0.4)))
    assert made.ids[0].tolist() == [1, 1, 2, 2]
    assert tagged(photo, ATTENTION["a"], [0, 0]).classes == ()
