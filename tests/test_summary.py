"""Scores by how many tags an image has, and which boxes a report shows."""

from dataclasses import replace

import numpy as np

from tagmask.data.photos import PerImage
from tagmask.evaluate import Confusion
from tagmask.summary import score, shown_boxes
from tagmask.types import Boxes, LabelMap


class Maps(PerImage[LabelMap]):
    """Label maps in memory."""

    def __init__(self, maps):
        super().__init__(list(maps))
        self.maps = maps

    def __getitem__(self, name):
        return LabelMap(self.maps[name])

    def key_of(self, name):
        return name


def test_images_of_several_tags_are_scored_apart(toy):
    samples = tuple(
        replace(sample, tags=tags)
        for sample, tags in zip(toy.samples, [(1,), (1, 2), (), (2, 3, 4), None], strict=False)
    )
    data, random = replace(toy, samples=samples, splits={}), np.random.default_rng(0)
    truth, masks = (Maps({s.name: random.integers(0, 4, (5, 6), dtype=np.uint8) for s in samples}) for _ in range(2))
    found = score(truth, masks, data)
    for key, chosen in (("one_tag", samples[::2]), ("several_tags", samples[1::2]), ("miou", samples)):
        confusion = Confusion(len(data.classes))
        for sample in chosen:
            confusion.add(truth[sample.name].labels, masks[sample.name].labels)
        assert found[key] == confusion.scores().miou
    assert "seeds" not in found
    alone = score(Maps({samples[0].name: truth[samples[0].name].labels}), masks, data)
    assert (alone["several_tags"], alone["one_tag"]) == (None, alone["miou"])


def test_the_surest_box_of_each_class_is_shown_and_all_that_are_sure():
    places = np.arange(20, dtype=np.int32).reshape(5, 4)
    boxes = Boxes(places, np.array([0.1, 0.9, 0.6, 0.2, 0.3], dtype=np.float32), (4, 2, 2, 2, 4), (30, 30))
    assert shown_boxes(boxes) == [(2, *places[1]), (2, *places[2]), (4, *places[4])]
