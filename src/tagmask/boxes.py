"""The boxes of a run: laid into its folder at the size of the user's photos, and compared with what people drew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from tagmask.data.photos import PerImage, Sizes, Truth
from tagmask.data.pixels import image_size
from tagmask.errors import RunError
from tagmask.export.coco import write_boxes
from tagmask.files import read_json
from tagmask.refine.boxes import BoxQuality, whole_pixels
from tagmask.types import BACKGROUND, UNKNOWN, Boxes, Dataset, Sample

FILE = "boxes.json"
TrueBox = tuple[int, int, int, int, int]  # class id, x0, y0, x1, y1


def lay_boxes(data: Dataset, folder: Path, boxes: PerImage[Boxes] | None) -> None:
    """Leave ``RUN/boxes.json`` (COCO, with scores), in pixels of the user's photos; None takes an earlier one away."""
    if boxes is None:
        (folder / FILE).unlink(missing_ok=True)
        return
    samples = [sample for sample in data.samples if sample.name in boxes]
    sizes = Sizes(samples)
    listed = ((s.name, s.name + s.image.suffix, boxes_on_photo(boxes[s.name], sizes[s.name])) for s in samples)
    write_boxes(listed, data.classes, folder / FILE)


def boxes_on_photo(boxes: Boxes, size: tuple[int, int]) -> Boxes:
    """Return the boxes, without masks of their own, in pixels of ``size`` (height, width)."""
    grow = np.array([size[1] / boxes.size[1], size[0] / boxes.size[0]] * 2)
    return Boxes(whole_pixels(boxes.boxes * grow, size), boxes.scores, boxes.classes, size)


def boxes_of_run(file: Path, data: Dataset) -> dict[str, Boxes]:
    """Return the boxes in a run's ``boxes.json`` by the image's name; raises RunError for what is no such file."""
    content = read_json(file)
    try:
        names = {category["id"]: data.classes.index(category["name"]) for category in content["categories"]}
        by_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            by_image[annotation["image_id"]].append(annotation)
        found = {}
        for image in content["images"]:
            held = by_image[image["id"]]
            places = np.array([a["bbox"] for a in held], dtype=np.int32).reshape(-1, 4)
            places[:, 2:] += places[:, :2]
            scores = np.array([a["score"] for a in held], dtype=np.float32)
            classes = tuple(names[a["category_id"]] for a in held)
            found[image["name"]] = Boxes(places, scores, classes, (image["height"], image["width"]))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{file}: holds no boxes of the classes of {data.root} ({error!r}); run it again.") from error
    return found


def true_boxes(samples: Sequence[Sample], classes: int) -> tuple[str, dict[str, Callable[[], list[TrueBox]]]]:
    """Return from what the true boxes are, and what reads those of each image, in pixels of its file.

    "boxes" where people drew any: then images with boxes count, and those whose tags say that nothing is there. Else
    "masks": the box around each connected part of a class. Else "", and nothing.
    """
    drawn = {s.name: s for s in samples if s.boxes or s.tags == ()}
    if any(sample.boxes for sample in drawn.values()):
        return "boxes", {name: _drawn(sample) for name, sample in drawn.items()}
    masked = [sample for sample in samples if sample.mask is not None]
    if not masked:
        return "", {}
    truth = Truth(masked, classes)
    return "masks", {sample.name: _around(truth, sample) for sample in masked}


def score_boxes(
    samples: Sequence[Sample],
    classes: int,
    found: Callable[[str], Boxes | None],
    only: Sequence[int] | None = None,
) -> dict[str, Any] | None:
    """Return CorLoc and AP50 of boxes against true ones, as JSON types: None where nothing can be compared.

    ``truth`` says what the true boxes are (see ``true_boxes``), ``images`` how many were compared. Means are over
    the classes that occur, or those of ``only`` that do.
    """
    kind, known = true_boxes(samples, classes)
    sizes = {sample.name: sample.image for sample in samples}
    quality, images = BoxQuality(classes), 0
    for name, read in known.items():
        boxes = found(name)
        if boxes is not None:
            quality.add(read(), boxes_on_photo(boxes, image_size(sizes[name])))
            images += 1
    return {"truth": kind, "images": images, **quality.scores(only)} if images else None


def _drawn(sample: Sample) -> Callable[[], list[TrueBox]]:
    return lambda: [box for box in sample.boxes if box[0] not in (BACKGROUND, *sample.hidden)]


def _around(truth: Truth, sample: Sample) -> Callable[[], list[TrueBox]]:
    def read() -> list[TrueBox]:
        labels, boxes = truth[sample.name].labels, []
        for tag in np.unique(labels[(labels != BACKGROUND) & (labels != UNKNOWN)]).tolist():
            parts, _ = ndimage.label(labels == tag)
            for rows, columns in ndimage.find_objects(parts):
                boxes.append((tag, columns.start, rows.start, columns.stop, rows.stop))
        return boxes

    return read
