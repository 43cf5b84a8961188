"""Boxes and masks that may hold an object, whatever it is: found in every photo, or the user's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from tagmask.augment import resize_labels
from tagmask.data.opening import opened
from tagmask.data.photos import PerImage, Photos, Pictures
from tagmask.errors import DataError, OptionError, did_you_mean
from tagmask.keys import digest
from tagmask.refine.boxes import box_of, mask_of, packed
from tagmask.refine.proposals import segments, selective_search
from tagmask.types import Boxes, Photo, Sample
from tagmask.work import Work

SEARCH = "selective-search"
SEGMENTS = "segments"  # of selective search's boxes, instead of the boxes
FOUND = (SEARCH, SEGMENTS)


def checked_proposals(source: str) -> None:
    """Raise OptionError unless ``source`` is selective search, its segments, a COCO file or a folder."""
    path = Path(source)
    if source not in FOUND and not path.is_dir() and not (path.is_file() and path.suffix.lower() == ".json"):
        raise OptionError(
            f"proposals is {source!r}{did_you_mean(source, FOUND)}; expected {' or '.join(FOUND)}, a COCO json file with "
            "boxes or masks, or a folder of NAME.png, in which every number above 0 is a region."
        )


def proposals(work: Work, samples: Sequence[Sample], source: str, *, most: int = 2000) -> PerImage[Boxes]:
    """Return what may be an object in every photo, at the size at which it is worked on, at most ``most``, the best first.

    ``source`` is ``selective-search``, ``segments`` of its boxes, a COCO json file whose annotations (of whatever category)
    are the boxes and, where they have a segmentation, the masks, or a folder of PNGs ``NAME.png`` in which every number
    above 0 is a region. A photo that a file does not name has none. Raises OptionError for anything else, DataError for a
    file that is no COCO's or names none of the photos.
    """
    checked_proposals(source)
    if source in FOUND:
        return work.each("proposals", searched if source == SEARCH else segmented, samples, most=most)
    photos, path = work.photos(samples), Path(source)
    own: PerImage[Boxes]
    own = Pictures(path, photos, read_regions, what="regions") if path.is_dir() else CocoBoxes(path, photos)
    return work.each("proposals", fitted, own, samples, most=most)


def proposals_supervision(source: str) -> str:
    """Return what people had to draw for these proposals: "none" for selective search and its segments."""
    return "none" if source in FOUND else "proposals of the user's"


def searched(photo: Photo, *, most: int) -> Boxes:
    """Return the boxes of selective search, each as sure as the next."""
    boxes = selective_search(photo.pixels, most=most)
    return Boxes(boxes, np.ones(len(boxes), dtype=np.float32), (0,) * len(boxes), photo.size)


def segmented(photo: Photo, *, most: int) -> Boxes:
    """Return the segments of selective search's boxes, with masks, each as sure as the next."""
    boxes, masks = segments(photo.pixels, selective_search(photo.pixels, most=most))
    return Boxes(boxes, np.ones(len(boxes), dtype=np.float32), (0,) * len(boxes), photo.size, masks)


def fitted(own: Boxes, photo: Photo, *, most: int) -> Boxes:
    """Return the surest of the user's own at the size of the photo; what shrinks to nothing is left out."""
    chosen = np.argsort(-own.scores, kind="stable")[:most]
    height, width = photo.size
    scale = np.array([width / own.size[1], height / own.size[0]] * 2)
    boxes = np.rint(own.boxes[chosen] * scale).astype(np.int32)
    masks: list[NDArray[np.bool_]] = []
    for place, index in enumerate(chosen if len(own.masks) else ()):
        mask = resize_labels(mask_of(own, index).view(np.uint8), height, width).astype(bool)
        boxes[place] = box_of(mask) or 0
        masks.append(mask)
    kept = np.flatnonzero((boxes[:, :2] < boxes[:, 2:]).all(axis=1))
    classes = tuple(own.classes[index] for index in chosen[kept])
    return Boxes(boxes[kept], own.scores[chosen][kept], classes, photo.size, packed([masks[k] for k in kept if masks]))


class CocoBoxes(PerImage[Boxes]):
    """``boxes[name]`` are the annotations of one photo in a COCO json file; categories do not matter."""

    def __init__(self, file: Path, photos: Photos):
        super().__init__(photos.names)
        self.file = file
        try:
            content = json.loads(file.read_bytes())
            images = {image["id"]: image for image in content["images"]}
            self._found: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
            by_image: dict[Any, list[dict[str, Any]]] = {}
            for annotation in content["annotations"]:
                by_image.setdefault(annotation["image_id"], []).append(annotation)
            for number, image in images.items():
                self._found[_name_of(image["file_name"])] = (image, by_image.get(number, []))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{file}: is no COCO file of boxes ({error!r}).") from error
        if not any(name in self._found for name in photos.names):
            raise DataError(f"{file}: names none of the {len(photos)} photos (the first is {photos.names[0]!r}).")

    def __getitem__(self, name: str) -> Boxes:
        if name not in self._found:
            return Boxes(np.zeros((0, 4), dtype=np.int32), np.zeros(0, dtype=np.float32), (), (1, 1))
        image, annotations = self._found[name]
        try:
            height, width = int(image["height"]), int(image["width"])
            return _boxes_of(annotations, height, width)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{self.file}: an annotation of {name!r} cannot be read ({error!r}).") from error

    def key_of(self, name: str) -> str:
        """The annotations of the photo, as the file has them."""
        return digest(self._found.get(name))


def read_regions(path: Path) -> Boxes:
    """Read a picture in which every number above 0 is a region; raises DataError for a picture of colours."""
    with opened(path) as image:
        if image.mode not in ("L", "P", "I", "I;16"):
            raise DataError(f"{path}: is a {image.mode} picture; expected grey or palette numbers.")
        ids = np.array(image)
    masks = [ids == number for number in np.unique(ids) if number > 0]
    boxes = np.array([box_of(mask) for mask in masks], dtype=np.int32).reshape(-1, 4)
    return Boxes(boxes, np.ones(len(boxes), dtype=np.float32), (0,) * len(boxes), ids.shape, packed(masks))


def _boxes_of(annotations: Sequence[dict[str, Any]], height: int, width: int) -> Boxes:
    """Return annotations as boxes, each cut at the border of the image; all have masks, or none."""
    boxes, scores, masks = [], [], []
    for annotation in annotations:
        x, y, w, h = (float(value) for value in annotation["bbox"])
        box = [max(0, round(x)), max(0, round(y)), min(width, round(x + w)), min(height, round(y + h))]
        if box[0] >= box[2] or box[1] >= box[3]:
            continue
        boxes.append(box)
        scores.append(float(annotation.get("score", 1.0)))
        masks.append(_mask_of(annotation.get("segmentation"), height, width))
    known = [mask for mask in masks if mask is not None]
    return Boxes(
        np.array(boxes, dtype=np.int32).reshape(-1, 4),
        np.array(scores, dtype=np.float32),
        (0,) * len(boxes),
        (height, width),
        packed(known if len(known) == len(masks) else []),
    )


def _mask_of(segmentation: Any, height: int, width: int) -> NDArray[np.bool_] | None:
    """Return a segmentation, polygons or run lengths, as bool (H, W); None where there is none."""
    if not segmentation:
        return None
    if isinstance(segmentation, list):
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, height, width)
    return np.asarray(coco_mask.decode(segmentation), dtype=bool)


def _name_of(file_name: str) -> str:
    """Return the name of a photo from a COCO file's.

    >>> _name_of("images/a/1.jpg"), _name_of("2.png")
    ('a/1', '2')
    """
    return Path(file_name).with_suffix("").as_posix().removeprefix("images/")
