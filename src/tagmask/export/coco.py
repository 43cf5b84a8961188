"""Masks as one COCO instances file, which CVAT, Label Studio, FiftyOne and pycocotools read.

There is one annotation for each class of each image: weak labels know classes, not single objects. Where a method has
found instances, there is one annotation for each of them, with its score.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from tagmask.export.checks import NamedMask, checked
from tagmask.files import whole, write_json
from tagmask.types import BACKGROUND, UNKNOWN, Boxes, Instances

Region = tuple[int, NDArray[np.bool_], float | None]  # class id, pixels (H, W), score


def write_coco(
    masks: Iterable[NamedMask],
    classes: Sequence[str],
    folder: Path,
    *,
    rle: bool = False,
    files: Mapping[str, str] | None = None,
    instances: Callable[[str], Instances | None] = lambda name: None,
    file: str = "annotations.json",
) -> Path:
    """Write (name, uint8 (H, W)) ``masks`` to ``folder/file`` and return its path.

    ``rle``: the segmentation is a compressed run-length code and holds exactly the mask. Otherwise it is polygons along
    the pixel borders, which editors can move; polygons cannot express holes, so holes are filled (``area`` still
    counts the mask's own pixels). ``bbox`` is x, y, width, height in pixels. Neither says where the background is
    sure: 0 and 255 (unknown) both become "no annotation". ``file_name`` is ``files[name]`` where given, otherwise the
    name. Ids count from 1 in the order given, the category id is the class id: the same masks give the same bytes.
    Where ``instances(name)`` is not None, it and not the mask says what is annotated; ``score`` is then given too.
    Appears by atomic rename. Raises DataError for a class id that ``classes`` does not name.
    """
    path = folder / file
    categories = [{"id": index, "name": name} for index, name in enumerate(classes) if index != BACKGROUND]
    folder.mkdir(parents=True, exist_ok=True)
    # Two lists grow at once and neither is held in memory: the second waits in a file of its own.
    with (
        whole(path) as temporary,
        temporary.open("w", encoding="utf-8") as images,
        TemporaryFile("w+", encoding="utf-8", dir=folder) as annotations,
    ):
        images.write(f'{{"categories": {json.dumps(categories)},\n"images": [')
        count = 0
        for number, (name, labels) in enumerate(checked(masks, classes), start=1):
            height, width = labels.shape
            image = {"id": number, "file_name": (files or {}).get(name, name), "width": width, "height": height}
            images.write((",\n" if number > 1 else "\n") + json.dumps(image))
            found = instances(name)
            for region in _class_regions(labels) if found is None else _instance_regions(found):
                count += 1
                annotations.write(",\n" if count > 1 else "\n")
                annotations.write(json.dumps({"id": count, "image_id": number, **_annotation(*region, rle)}))
        images.write('\n],\n"annotations": [')
        annotations.seek(0)
        shutil.copyfileobj(annotations, images)
        images.write("\n]}\n")
    return path


def write_boxes(boxes: Iterable[tuple[str, str, Boxes]], classes: Sequence[str], path: Path) -> None:
    """Write (name, file name, boxes) of every image to ``path``, as COCO with scores and without segmentations.

    ``name`` of an image is beside COCO's own ``file_name``. Ids count from 1 in the order given. Appears by atomic rename.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, file, held) in enumerate(boxes, start=1):
        height, width = held.size
        images.append({"id": number, "file_name": file, "name": name, "width": width, "height": height})
        for (x0, y0, x1, y1), score, tag in zip(held.boxes.tolist(), held.scores.tolist(), held.classes, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number, "category_id": tag, "iscrowd": 0,
                    "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "score": round(score, 5),
                }
            )  # fmt: skip
    categories = [{"id": index, "name": name} for index, name in enumerate(classes) if index != BACKGROUND]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"categories": categories, "images": images, "annotations": annotations})


def polygons(region: NDArray[np.bool_]) -> list[list[int]]:
    """Return the outer borders of ``region`` bool (H, W) as closed polygons ``[x0, y0, x1, y1, ...]``.

    Corners are pixel corners (the top left pixel is the square from 0, 0 to 1, 1), so a region without holes has
    exactly the area of its pixels; parts that touch at a corner form one polygon. Takes 4 bytes for each pixel of the
    region's bounding box.
    """
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    crop = region[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.uint8)
    doubled = crop.repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(doubled, mode=cv2.RETR_EXTERNAL, method=cv2.CHAIN_APPROX_SIMPLE)
    found = []
    for contour in contours:
        # OpenCV walks through pixel centres, half a pixel inside the border. In the doubled image the four half-pixels
        # around a corner (x, y) lie at 2x - 1 and 2x, 2y - 1 and 2y: this sends them all to that corner.
        corners = (contour[:, 0] + 1) // 2  # (N, 2)
        corners = corners[(corners != np.roll(corners, shift=1, axis=0)).any(axis=1)]
        found.append((corners + np.array([left, top])).ravel().tolist())
    return found


def _class_regions(labels: NDArray[np.uint8]) -> Iterator[Region]:
    """Yield every class in ``labels`` (H, W)."""
    for index in np.unique(labels).tolist():
        if index not in (BACKGROUND, UNKNOWN):
            yield index, labels == index, None


def _instance_regions(instances: Instances) -> Iterator[Region]:
    """Yield every instance, the surest first."""
    for number in np.unique(instances.ids).tolist():
        if number != BACKGROUND:
            yield instances.classes[number - 1], instances.ids == number, instances.scores[number - 1]


def _annotation(index: int, region: NDArray[np.bool_], score: float | None, rle: bool) -> dict[str, Any]:
    """Return the annotation of one region, without its ids."""
    code = coco_mask.encode(np.asfortranarray(region.astype(np.uint8)))
    segmentation = {"size": list(region.shape), "counts": code["counts"].decode("ascii")}
    return {
        "category_id": index,
        "iscrowd": 0,
        "area": int(region.sum()),
        "bbox": [int(value) for value in coco_mask.toBbox(code)],
        "segmentation": segmentation if rle else polygons(region),
        **({} if score is None else {"score": score}),
    }
