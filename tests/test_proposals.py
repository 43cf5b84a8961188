"""Proposals by whoever made them."""

import json

import numpy as np
import pytest
from PIL import Image

from tagmask.errors import DataError, OptionError
from tagmask.files import KINDS
from tagmask.proposals import proposals, proposals_supervision
from tagmask.refine.boxes import mask_of, packed
from tagmask.refine.proposals import selective_search
from tagmask.types import Boxes

# pycocotools 2.0.11 decodes with the array protocol of NumPy 1
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_selective_search(toy, work):
    found = proposals(work, toy.train, "selective-search", most=30)
    name = toy.train[0].name
    np.testing.assert_array_equal(found[name].boxes, selective_search(work.photos(toy.train)[name].pixels, most=30))
    assert proposals_supervision("selective-search") == "none"


def test_segments(toy, work):
    boxes, found = (proposals(work, toy.train, source, most=30) for source in ("selective-search", "segments"))
    name = toy.train[0].name
    assert 1 <= len(found[name]) <= len(boxes[name])
    assert len(found[name].masks) == len(found[name]) == len(found[name].scores)
    assert proposals_supervision("segments") == "none"


def test_a_coco_file_of_boxes_and_masks(toy, work, tmp_path):
    first, second, third = (sample.name for sample in toy.train[:3])
    polygon = [[10.0, 10.0, 30.0, 10.0, 30.0, 20.0, 10.0, 20.0]]
    content = {
        "images": [
            {"id": 1, "file_name": f"images/{first}.png", "width": 96, "height": 96},
            {"id": 2, "file_name": f"{second}.jpg", "width": 48, "height": 48},
        ],
        "annotations": [
            {"image_id": 1, "bbox": [10, 10, 20, 10], "score": 0.25, "segmentation": polygon},
            {
                "image_id": 1,
                "bbox": [0, 0, 96, 96],
                "score": 0.75,
                "segmentation": {"size": [96, 96], "counts": [0, 9216]},
            },
            {"image_id": 2, "bbox": [-4, 3.2, 20, 100], "category_id": 5},
            {"image_id": 2, "bbox": [3, 3, 0, 2]},
        ],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    found = proposals(work, toy.train, str(tmp_path / "boxes.json"))
    assert found[first].boxes.tolist() == [[0, 0, 48, 48], [5, 5, 15, 10]]  # the surest first, at the photo's size
    assert found[first].scores.tolist() == [0.75, 0.25]
    assert mask_of(found[first], 1).sum() == 50
    assert mask_of(found[first], 0).all()
    assert found[second].boxes.tolist() == [[0, 3, 16, 48]]
    assert not len(found[second].masks)
    assert len(found[third]) == 0
    assert proposals_supervision(str(tmp_path / "boxes.json")) == "proposals of the user's"
    assert len(proposals(work, toy.train, str(tmp_path / "boxes.json"), most=1)[first]) == 1


def test_a_folder_of_regions(toy, work, tmp_path):
    for number, sample in enumerate(toy.train):
        ids = np.zeros((24, 24), dtype=np.uint8)
        ids[2:5, 4:10] = 3
        ids[10:20, 1:3] = 200 if number else 0
        Image.fromarray(ids).save(tmp_path / f"{sample.name}.png")
    found = proposals(work, toy.train, str(tmp_path))
    assert found[toy.train[0].name].boxes.tolist() == [[8, 4, 20, 10]]
    assert found[toy.train[1].name].boxes.tolist() == [[8, 4, 20, 10], [2, 20, 6, 40]]
    assert mask_of(found[toy.train[1].name], 1).sum() == 80


def test_what_is_no_source_is_refused(toy, work, tmp_path):
    with pytest.raises(OptionError, match="did you mean 'selective-search'"):
        proposals(work, toy.train, "selective search")
    with pytest.raises(DataError, match=f"{len(toy.train)} of {len(toy.train)} photos have no regions"):
        proposals(work, toy.train, str(tmp_path))
    for text, message in (("[]", "is no COCO file"), ('{"images": [], "annotations": []}', "names none of the")):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(DataError, match=message):
            proposals(work, toy.train, str(tmp_path / "a.json"))


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("masks", [True, False])
def test_boxes_on_disk(tmp_path, count, masks):
    boxes = np.tile(np.array([[1, 2, 5, 6]], dtype=np.int32), (count, 1))
    codes = packed([np.random.default_rng(n).random((9, 7)) < 0.5 for n in range(count)] if masks else [])
    value = Boxes(boxes, np.linspace(0, 1, count, dtype=np.float32), tuple(range(count)), (9, 7), codes)
    suffix, write, read = KINDS[Boxes]
    write(tmp_path / f"a{suffix}", value)
    again = read(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(again.boxes, value.boxes)
    np.testing.assert_array_equal(again.scores, value.scores)
    np.testing.assert_array_equal(again.masks, value.masks)
    assert (again.classes, again.size) == (value.classes, value.size)
