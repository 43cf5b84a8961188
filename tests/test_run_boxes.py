"""The boxes of a run on disk, and against boxes or masks that people drew."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from scipy import ndimage

from tagmask.boxes import FILE, boxes_of_run, boxes_on_photo, lay_boxes, score_boxes, true_boxes
from tagmask.errors import DataError, RunError
from tagmask.pacing import KeptBoxes
from tagmask.predict import evaluate_folder, render_scores
from tagmask.types import Boxes


def held(boxes, classes, size=(24, 24), scores=None):
    scores = np.linspace(0.9, 0.2, len(boxes)) if scores is None else scores
    return Boxes(
        np.array(boxes, dtype=np.int32).reshape(-1, 4), np.asarray(scores, dtype=np.float32), tuple(classes), size
    )


def perfect(toy, samples, size=48):
    """The box around each connected part of the masks, at half of the photo's size where ``size`` is 24."""
    found = {}
    for sample in samples:
        labels, boxes, classes = np.asarray(Image.open(sample.mask)), [], []
        for tag in sample.tags:
            parts, _ = ndimage.label(labels == tag)
            for rows, columns in ndimage.find_objects(parts):
                boxes.append([columns.start, rows.start, columns.stop, rows.stop])
                classes.append(tag)
        grown = boxes_on_photo(held(boxes, classes, (48, 48)), (size, size))
        found[sample.name] = grown
    return KeptBoxes(found)


def test_boxes_are_scaled_to_the_photo():
    large = boxes_on_photo(held([[1, 2, 10, 20]], [3]), (48, 96))
    assert large.boxes.tolist() == [[4, 4, 40, 40]]
    assert (large.size, large.classes) == ((48, 96), (3,))


def test_what_is_laid_is_coco_and_read_again(toy, tmp_path):
    names = [sample.name for sample in toy.train[:3]]
    kept = KeptBoxes(
        {
            names[0]: held([[1, 2, 10, 20], [3, 3, 9, 9]], [2, 1]),
            names[1]: held([], []),
            names[2]: held([[0, 0, 24, 24]], [5]),
        }
    )
    lay_boxes(toy, tmp_path, kept)
    coco = COCO(str(tmp_path / FILE))
    first = next(number for number, image in coco.imgs.items() if image["name"] == names[0])
    assert [a["bbox"] for a in coco.loadAnns(coco.getAnnIds(imgIds=[first]))] == [[2, 4, 18, 36], [6, 6, 12, 12]]
    again = boxes_of_run(tmp_path / FILE, toy)
    assert set(again) == set(names)
    assert again[names[0]].boxes.tolist() == [[2, 4, 20, 40], [6, 6, 18, 18]]
    assert again[names[0]].classes == (2, 1)
    assert again[names[0]].scores == pytest.approx([0.9, 0.2])
    assert len(again[names[1]]) == 0
    lay_boxes(toy, tmp_path, None)
    assert not (tmp_path / FILE).exists()
    (tmp_path / FILE).write_text('{"images": []}')
    with pytest.raises(RunError, match="holds no boxes of the classes"):
        boxes_of_run(tmp_path / FILE, toy)


def test_against_masks_where_nobody_drew_boxes(toy):
    kept = perfect(toy, toy.train, size=48)
    scores = score_boxes(toy.train, len(toy.classes), kept.__getitem__)
    assert (scores["truth"], scores["images"]) == ("masks", len(toy.train))
    assert (scores["corloc"], scores["ap50"]) == (1.0, 1.0)
    tag = toy.train[0].tags[0]
    none = {name: held([[0, 0, 1, 1]], [tag], (48, 48)) for name in kept.names}
    wrong = score_boxes(toy.train, len(toy.classes), none.get, only=[tag])
    assert (wrong["corloc"], wrong["ap50"]) == (0.0, 0.0)
    half = score_boxes(toy.train, len(toy.classes), lambda name: kept[name] if name == toy.train[0].name else None)
    assert half["images"] == 1
    bare = tuple(replace(sample, mask=None) for sample in toy.train)
    assert score_boxes(bare, len(toy.classes), kept.__getitem__) is None


def test_against_boxes_where_people_drew_some(toy):
    one, two, *rest = toy.train
    one = replace(one, boxes=((one.tags[0], 1, 2, 20, 30), (0, 5, 5, 9, 9)), hidden=())
    negative = replace(two, tags=(), boxes=())
    kind, known = true_boxes((one, negative, *rest), len(toy.classes))
    assert kind == "boxes"
    assert set(known) == {one.name, negative.name}  # nobody said what is in the others
    assert known[one.name]() == [(one.tags[0], 1, 2, 20, 30)]
    assert known[negative.name]() == []
    hidden = replace(one, hidden=(one.tags[0],))
    assert true_boxes((hidden,), len(toy.classes))[1][one.name]() == []


def test_evaluate_says_corloc_and_ap50(toy, tmp_path):
    lay_boxes(toy, tmp_path / "run", perfect(toy, toy.samples, size=24))
    bare = toy.only(tuple(replace(sample, mask=None) for sample in toy.samples))
    with pytest.raises(DataError, match=r"holds no NAME\.png"):
        evaluate_folder(tmp_path / "run", bare)
    scores = evaluate_folder(tmp_path / "run", toy)
    assert set(scores) == {"classes", "boxes"}
    assert scores["boxes"]["corloc"] > 0.8
    said = render_scores(scores)
    assert said.startswith("CorLoc ")
    assert "against the parts of masks" in said
    (tmp_path / "run" / "masks").mkdir()
    for sample in toy.samples:
        Image.open(sample.mask).save(tmp_path / "run" / "masks" / f"{sample.name}.png")
    both = evaluate_folder(tmp_path / "run", toy, split="val", only=list(toy.classes))
    assert both["miou"] == 1.0
    assert both["boxes"]["images"] == len(toy.val)
    assert "mIoU 100.0" in render_scores(both)
    assert "CorLoc" in render_scores(both)
    json.dumps(both, allow_nan=False)
