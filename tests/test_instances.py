"""Instances on disk, and in COCO as other tools read them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from tagmask.cli import main
from tagmask.errors import RunError
from tagmask.export import export_masks
from tagmask.files import KINDS, read_instances
from tagmask.instances import instances_on_photo
from tagmask.types import Instances
from tests.recipes.test_contract import go

# pycocotools 2.0.11 decodes with the array protocol of NumPy 1
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def two():
    ids = np.zeros((12, 20), dtype=np.uint8)
    ids[2:8, 1:9], ids[2:8, 9:18] = 2, 1
    return Instances(ids, classes=(3, 3), scores=(0.9, 0.25))


def test_what_is_written_is_read(tmp_path):
    _, write, read = KINDS[Instances]
    write(tmp_path / "a.png", two())
    found = read(tmp_path / "a.png")
    np.testing.assert_array_equal(found.ids, two().ids)
    assert (found.classes, found.scores) == (two().classes, two().scores)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), two().ids)
    Image.fromarray(two().ids).save(tmp_path / "b.png")
    with pytest.raises(RunError, match=r"b\.png: holds no instances"):
        read_instances(tmp_path / "b.png")
    with pytest.raises(ValueError, match="do not fit"):
        Instances(two().ids, classes=(3,), scores=(1.0,))


def test_larger_photos_get_larger_instances():
    large = instances_on_photo(two(), (24, 40))
    np.testing.assert_array_equal(large.ids, two().ids.repeat(2, axis=0).repeat(2, axis=1))
    assert large.classes == two().classes


@pytest.mark.parametrize("rle", [True, False])
def test_coco_has_one_annotation_an_instance(tmp_path, rle):
    labels = np.where(two().ids > 0, np.uint8(3), np.uint8(0))
    masks = [("with", labels), ("without", labels)]
    path = export_masks(
        masks, ("background", "a", "b", "c"), tmp_path, format="coco", rle=rle,
        instances=lambda name: two() if name == "with" else None,
    )  # fmt: skip
    coco = COCO(str(path))
    found = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    assert [(a["category_id"], a["score"]) for a in found] == [(3, 0.9), (3, 0.25)]
    for number, annotation in enumerate(found, start=1):
        np.testing.assert_array_equal(coco.annToMask(annotation) > 0, two().ids == number)
    (whole,) = coco.loadAnns(coco.getAnnIds(imgIds=[2]))
    assert "score" not in whole
    np.testing.assert_array_equal(coco.annToMask(whole) > 0, labels > 0)


def test_a_run_leaves_instances_that_its_export_hands_on(toy, tmp_path, capsys):
    run = tmp_path / "run"
    go("irn", toy, run, longest=24, walk_threshold=0.05, least_instance=0.0)
    coco = COCO(str(run / "instances.json"))
    listed = {image["file_name"]: number for number, image in coco.imgs.items()}
    assert set(listed) == {f"{s.name}{s.image.suffix}" for s in toy.train}
    count = 0
    for sample in toy.train:
        kept = read_instances(run / "instances" / f"{sample.name}.png")
        assert kept.ids.shape == (48, 48)  # as the user has the photo, though it was looked at in 24
        assert set(kept.classes) <= set(sample.tags)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[listed[f"{sample.name}{sample.image.suffix}"]])):
            region = coco.annToMask(annotation) > 0
            (number,) = set(np.unique(kept.ids[region]))
            np.testing.assert_array_equal(region, kept.ids == number)
            assert annotation["category_id"] == kept.classes[number - 1]
            assert annotation["score"] == kept.scores[number - 1]
            count += 1
    assert count > 0
    assert main(["export", str(run), "--format", "coco", "--rle", "--out", str(tmp_path / "out")]) == 0
    exported = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert sum("score" in annotation for annotation in exported["annotations"]) == count
    assert len(exported["images"]) == len(toy.samples)
    capsys.readouterr()
    go("irn", toy, run, longest=24, instances=False)
    assert not (run / "instances").exists()
    assert not (run / "instances.json").exists()
