"""A PASCAL VOC devkit: the objects of the XML files become tags and boxes, SegmentationClass the masks."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from tagmask.data.boxes import corners
from tagmask.data.listing import Found, Listing, Pictures, read_splits
from tagmask.data.tags import clean, folded, read_classes
from tagmask.errors import DataError

# source: VOC2012 development kit, in the order of the ids in its masks
_NAMES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant sheep "
    "sofa train tvmonitor"
)
VOC_CLASSES = tuple(_NAMES.split())


def find_voc(path: Path) -> Path | None:
    """The year's folder (with JPEGImages) at the path, in VOCdevkit/ or below it. Raises DataError for several."""
    for candidates in ([path], path.glob("VOC*"), path.glob("VOCdevkit/VOC*")):
        years = sorted(year for year in candidates if _is_year(year))
        if len(years) > 1:
            raise DataError(f"{path}: holds {', '.join(year.name for year in years)}; point at one of them.")
        if years:
            return years[0]
    return None


def read_voc(path: Path, *, difficult: bool = True) -> Listing:
    """Read the folder of one VOC year; ``difficult`` counts the objects marked so. Raises DataError."""
    listing = Listing(reader="VOC devkit (Annotations become tags and boxes)", root=path)
    pictures = Pictures(path / "JPEGImages", strip="")
    pictures.report(listing)
    found = {name: Found(name, image) for name, image in pictures.by_name.items()}
    annotations = {file.stem: file for file in sorted((path / "Annotations").glob("*.xml"))}
    for stem, file in annotations.items():
        name = pictures.find(stem)
        if name is None:
            listing.note("row without image", file, "there is no image of this name", "skipped")
        else:
            _read_objects(listing, file, found[name], difficult=difficult)
    for name in sorted(set(found) - {pictures.find(stem) for stem in annotations}):
        message = "has no file in Annotations: its tags are unknown, so it is not learned from"
        listing.note("image without row", found[name].image, message, "warning")
    for mask in sorted((path / "SegmentationClass").glob("*.png")):
        name = pictures.find(mask.stem)
        if name is None:
            listing.note("mask without image", mask, "there is no image of this name", "skipped")
        else:
            found[name].mask = mask
    words = {folded(word) for one in found.values() for word in one.tags or ()}
    if (path / "classes.txt").is_file():
        listing.classes = read_classes(path / "classes.txt")
    elif words <= set(VOC_CLASSES):
        listing.classes = VOC_CLASSES  # also where some are missing, for the ids in the masks to fit
    lists = sorted((path / "ImageSets" / "Segmentation").glob("*.txt"))
    if not lists:  # beside the splits, Main holds a list for each class (cat_train.txt)
        lists = [file for file in sorted((path / "ImageSets" / "Main").glob("*.txt")) if "_" not in file.stem]
    read_splits(listing, lists, pictures)
    listing.found = list(found.values())
    return listing


def _is_year(path: Path) -> bool:
    return (path / "JPEGImages").is_dir() and any(
        (path / part).is_dir() for part in ("Annotations", "SegmentationClass")
    )


def _read_objects(listing: Listing, file: Path, found: Found, *, difficult: bool) -> None:
    """Take tags and boxes from one XML file; of a broken one the tags stay unknown."""
    try:
        root = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, OSError) as error:
        listing.note("annotation", file, f"is not XML ({error}): the image's tags are unknown", "warning")
        return
    names, boxes = [], []
    for entry in root.iter("object"):
        if not difficult and (entry.findtext("difficult") or "0").strip() == "1":
            continue
        name, box = clean(entry.findtext("name") or ""), entry.find("bndbox")
        names.append(name)
        if box is not None:
            left, top, right, bottom = (box.findtext(end) for end in ("xmin", "ymin", "xmax", "ymax"))
            place = corners([_before(left), _before(top), right, bottom])
            if place is None:
                message = f"{name or 'an object'} has no box but {left}, {top}, {right}, {bottom}"
                listing.note("box", file, message, "skipped")
            else:
                boxes.append((name, *place))
    found.tags, found.boxes = tuple(dict.fromkeys(name for name in names if name)), tuple(boxes)
    size = corners([0, 0, root.findtext("size/width"), root.findtext("size/height")])
    found.annotated = size and (size[3], size[2])


def _before(first: str | None) -> float | None:
    """Return the first pixel of a box from 0 on; VOC counts from 1, and its last pixel is in the box."""
    try:
        return float(first or "") - 1
    except ValueError:
        return None
