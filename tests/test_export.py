"""Export: what is written reads back as the same masks with the tools that people use."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy import ndimage

from tagmask.errors import DataError, OptionError
from tagmask.export import export_masks
from tagmask.export.coco import polygons

# pycocotools 2.0.11 decodes with the array protocol of NumPy 1
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

CLASSES = ("background", "cat", "Hündin", 'a "quoted" bus')


def drawn(seed: int, size: tuple[int, int] = (60, 80)) -> NDArray[np.uint8]:
    """Blobs of classes 1..3 with holes and fragments, and some unknown."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=size), sigma=3)
    labels = np.digitize(noise, np.quantile(noise, [0.4, 0.6, 0.8, 0.95])).astype(np.uint8)
    labels[labels == 4] = 255
    return labels


MASKS = [("a", drawn(1)), ("sub/ü b", drawn(2, (33, 21))), ("empty", np.zeros((5, 9), dtype=np.uint8))]


def area(polygon: list[int]) -> float:
    """The shoelace formula."""
    x, y = np.array(polygon, dtype=float).reshape(-1, 2).T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def iou(one: NDArray, other: NDArray) -> float:
    return float(np.logical_and(one, other).sum() / np.logical_or(one, other).sum())


def test_png_round_trip(tmp_path: Path) -> None:
    assert export_masks(iter(MASKS), CLASSES, tmp_path / "out") == tmp_path / "out"
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert files == ["a.png", "classes.txt", "empty.png", "sub/ü b.png"]
    assert (tmp_path / "out" / "classes.txt").read_text(encoding="utf-8").split("\n") == [*CLASSES, ""]
    for name, labels in MASKS:
        with Image.open(tmp_path / "out" / f"{name}.png") as image:
            assert image.mode == "P"
            np.testing.assert_array_equal(np.array(image), labels)


@pytest.mark.parametrize("name", ["../out", "/etc/mask", "a/../../b", ""])
def test_png_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="leads out of"):
        export_masks([(name, MASKS[0][1])], CLASSES, tmp_path / "deep" / "out")
    assert [path.name for path in tmp_path.rglob("*.png")] == []


def test_coco_run_lengths_hold_exactly_the_masks(tmp_path: Path) -> None:
    path = export_masks(iter(MASKS), CLASSES, tmp_path / "out", format="coco", rle=True, files={"a": "a.jpg"})
    assert [found.name for found in (tmp_path / "out").iterdir()] == ["annotations.json"]
    coco = COCO(str(path))
    assert {category["id"]: category["name"] for category in coco.loadCats(coco.getCatIds())} == {
        1: "cat",
        2: "Hündin",
        3: 'a "quoted" bus',
    }
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == ["a.jpg", "sub/ü b", "empty"]
    for number, (_, labels) in enumerate(MASKS, start=1):
        assert (coco.imgs[number]["height"], coco.imgs[number]["width"]) == labels.shape
        rebuilt = np.zeros_like(labels)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[number])):
            region = coco.annToMask(annotation)
            assert not rebuilt[region > 0].any()
            rebuilt[region > 0] = annotation["category_id"]
            rows, columns = np.nonzero(region)
            x, y, width, height = annotation["bbox"]
            assert (x, y, x + width, y + height) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert annotation["area"] == region.sum()
            assert annotation["iscrowd"] == 0
        np.testing.assert_array_equal(rebuilt, np.where(labels == 255, 0, labels))


def test_coco_polygons_of_a_solid_blob(tmp_path: Path) -> None:
    labels = np.zeros((90, 120), dtype=np.uint8)
    cv2.ellipse(labels, center=(60, 45), axes=(37, 21), angle=30, startAngle=0, endAngle=360, color=2, thickness=-1)
    labels[3:6, 3:40] = 2  # a second part, thin
    coco = COCO(str(export_masks([("a", labels)], CLASSES, tmp_path, format="coco")))
    (annotation,) = coco.loadAnns(coco.getAnnIds())
    assert len(annotation["segmentation"]) == 2
    assert annotation["area"] == (labels == 2).sum()
    assert iou(coco.annToMask(annotation) > 0, labels == 2) >= 0.99


@given(region=arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
@settings(deadline=None, max_examples=150)
def test_polygons_run_along_the_pixel_borders(region: NDArray[np.bool_]) -> None:
    """Oracle: a pixel is inside where a ray from its centre crosses the border an odd number of times."""
    # What no path of 4-neighbours over free pixels leads out of is filled: islands in holes go with their hole.
    filled = ndimage.binary_fill_holes(region)
    found = polygons(region)
    assert sum(map(area, found)) == filled.sum()
    inside = np.zeros(region.shape, dtype=int)
    for polygon in found:
        corners = np.array(polygon).reshape(-1, 2)
        assert len(corners) >= 4
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            assert (x0 == x1) != (y0 == y1)  # every side lies on the pixel grid
            if x0 == x1:
                inside[min(y0, y1) : max(y0, y1), :x0] += 1
    np.testing.assert_array_equal(inside % 2 == 1, filled)


@pytest.mark.parametrize(("format", "rle"), [("png", False), ("coco", False), ("coco", True)])
def test_same_masks_same_bytes(tmp_path: Path, format: str, rle: bool) -> None:
    written = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        for _ in range(2):  # writing over an older export changes nothing
            export_masks(iter(MASKS), CLASSES, folder, format=format, rle=rle)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        written.append([(str(path.relative_to(folder)), path.read_bytes()) for path in files])
    assert written[0] == written[1]


def test_no_mask_at_all_is_still_a_file(tmp_path: Path) -> None:
    content = json.loads(export_masks([], CLASSES, tmp_path, format="coco").read_text(encoding="utf-8"))
    assert (content["images"], content["annotations"], len(content["categories"])) == ([], [], 3)


def test_a_failing_export_leaves_the_old_file(tmp_path: Path) -> None:
    path = export_masks(MASKS, CLASSES, tmp_path, format="coco")
    before = path.read_bytes()
    strange = ("odd", np.full((4, 4), 9, dtype=np.uint8))
    with pytest.raises(DataError, match=r"mask of 'odd' holds class id 9, expected 0\.\.3 or 255"):
        export_masks([MASKS[0], strange], CLASSES, tmp_path, format="coco")
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["annotations.json"]
    with pytest.raises(DataError, match="'odd'"):
        export_masks([strange], CLASSES, tmp_path)
    with pytest.raises(ValueError, match="must be uint8"):
        export_masks([("wide", np.zeros((2, 2), dtype=np.int64))], CLASSES, tmp_path)


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(
        OptionError, match=r"no export format 'coc' \(did you mean 'coco'\?\); expected one of: png, coco"
    ):
        export_masks(MASKS, CLASSES, tmp_path / "out", format="coc")
    assert not (tmp_path / "out").exists()


def test_memory_does_not_grow_with_the_number_of_masks(tmp_path: Path) -> None:
    def many(count: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        return ((f"{number:05d}", MASKS[number % 2][1]) for number in range(count))

    peaks = []
    for count in (400, 1600):  # both far beyond the buffers of the files
        tracemalloc.start()
        path = export_masks(many(count), CLASSES, tmp_path / str(count), format="coco", rle=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(json.loads(path.read_text(encoding="utf-8"))["images"]) == count
    assert peaks[1] < peaks[0] + 100_000


def test_coco_decodes_without_the_index_too(tmp_path: Path) -> None:
    """The run-length code is the plain COCO one: pycocotools decodes the JSON's own object."""
    content = json.loads(export_masks(MASKS[:1], CLASSES, tmp_path, format="coco", rle=True).read_text("utf-8"))
    for annotation in content["annotations"]:
        region = coco_mask.decode(annotation["segmentation"])
        np.testing.assert_array_equal(region > 0, MASKS[0][1] == annotation["category_id"])
