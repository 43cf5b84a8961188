"""COCO json files: the categories of an image's annotations become its tags, their boxes its boxes; nothing is decoded.

Crowds count: something of the class is there. An image that no annotation names is a negative, as COCO means it; in a
file without annotations (the test sets) tags are unknown. Ids follow the order of the category ids.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tagmask.data.boxes import corners
from tagmask.data.listing import Found, Listing, nfc, split_name, without_ending
from tagmask.data.tags import clean
from tagmask.errors import DataError


def find_coco(path: Path) -> list[Path]:
    """The json files that are meant, by COCO's and Roboflow's names; empty where there are none."""
    if path.is_file():
        return [path] if path.suffix.lower() == ".json" else []
    for pattern in ("annotations/instances*.json", "instances*.json", "*coco*.json", "*/_annotations.coco.json"):
        files = sorted(path.glob(pattern))
        if files:
            return files
    files = [*path.glob("*.json"), *path.glob("annotations/*.json")]
    return sorted(file for file in files if '"images"' in _head(file))


def read_coco(path: Path, files: list[Path]) -> Listing:
    """Read one or more COCO json files as one data set; a file's name tells its split. Raises DataError."""
    root = path if path.is_dir() else path.parent.parent if path.parent.name == "annotations" else path.parent
    listing = Listing(reader=f"COCO ({', '.join(file.name for file in files)})", root=root)
    found: dict[str, Found] = {}
    names: dict[int, str] = {}
    used: set[str] = set()
    instances = 0
    for file in files:
        content = _load(file)
        own = {entry["id"]: clean(str(entry["name"])) for entry in content.get("categories", [])}
        names.update(own)
        tags = _tags(listing, file, content, own)
        instances += len(content.get("annotations", []))
        used |= {word for words in tags.values() for word in words}
        members = _add_images(listing, file, content, tags, _boxes(listing, file, content, own), found)
        split = split_name(_split_of(file))
        if split in ("train", "val", "test"):
            listing.splits.setdefault(split, []).extend(members)
    listing.classes = tuple(dict.fromkeys(names[key] for key in sorted(names) if names[key] in used))
    unused = sorted(set(names.values()) - used)
    if unused:
        listing.note("category", files[0], f"no annotation has {', '.join(unused[:5])}: left out", "warning")
    message = f"{instances} annotations are read as tags and boxes; no masks are made of their polygons"
    listing.note("masks", files[0], message, "warning")
    listing.found = list(found.values())
    return listing


def _tags(listing: Listing, file: Path, content: dict[str, Any], names: dict[int, str]) -> dict[int, dict[str, None]]:
    """The tags of each image id, in the order met; annotations of nothing known are noted."""
    tags: dict[int, dict[str, None]] = {entry["id"]: {} for entry in content["images"]}
    for entry in content.get("annotations", []):
        image, category = entry.get("image_id"), entry.get("category_id")
        if image not in tags or category not in names:
            what = f"image {image}" if image not in tags else f"category {category}"
            listing.note(
                "annotation", file, f"annotation {entry.get('id')} is of {what}, which is not listed", "skipped"
            )
        else:
            tags[image][names[category]] = None
    return tags


def _boxes(
    listing: Listing, file: Path, content: dict[str, Any], names: dict[int, str]
) -> dict[int, list[tuple[str, int, int, int, int]]]:
    """The boxes of each image id, in the order met; those without a pixel are noted."""
    boxes: dict[int, list[tuple[str, int, int, int, int]]] = {}
    for entry in content.get("annotations", []):
        box = entry.get("bbox")
        if not box or entry.get("category_id") not in names:
            continue
        try:
            x, y, width, height = map(float, box)
            place = corners([x, y, x + width, y + height])
        except (TypeError, ValueError):
            place = None
        if place is None:
            listing.note("box", file, f"annotation {entry.get('id')} holds no box but {box}", "skipped")
        else:
            boxes.setdefault(entry.get("image_id"), []).append((names[entry["category_id"]], *place))
    return boxes


def _add_images(
    listing: Listing,
    file: Path,
    content: dict[str, Any],
    tags: dict[int, dict[str, None]],
    boxes: dict[int, list[tuple[str, int, int, int, int]]],
    found: dict[str, Found],
) -> list[str]:
    """Add the images of one json to ``found`` and return their names; those without a file are noted."""
    root = listing.root
    split = _split_of(file)
    folders = [root / "images" / split, root / split, root / "images", root, file.parent / "images", file.parent]
    folders = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
    members = []
    for entry in content["images"]:
        image = next(
            (folder / entry["file_name"] for folder in folders if (folder / entry["file_name"]).is_file()), None
        )
        if image is None:
            listing.note(
                "row without image", file, f"lists {entry['file_name']!r}, and there is no such image", "skipped"
            )
            continue
        inside = image.relative_to(root).as_posix() if image.is_relative_to(root) else image.name
        name = nfc(without_ending(inside)).removeprefix("images/")
        said = tuple(tags[entry["id"]]) if "annotations" in content else None
        drawn = tuple(boxes.get(entry["id"], ()))
        if name in found:
            drawn = (*found[name].boxes, *drawn)
            said = tuple(dict.fromkeys((*(found[name].tags or ()), *(said or ()))))
            listing.note("duplicate rows", image, "is listed twice; the tags of both are taken", "warning")
        size = corners([0, 0, entry.get("width"), entry.get("height")])
        found[name] = Found(name, image, tags=said, boxes=drawn, annotated=size and (size[3], size[2]))
        members.append(name)
    return members


def _split_of(file: Path) -> str:
    """``train2017`` for instances_train2017.json, ``valid`` for valid/_annotations.coco.json."""
    return file.parent.name if file.name.startswith("_annotations") else file.stem.rpartition("_")[2]


def _load(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{file}: is not JSON ({error}).") from error
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise DataError(f"{file}: is no COCO file; expected an object with images, annotations and categories.")
    for key, needed in (("images", {"id", "file_name"}), ("categories", {"id", "name"})):
        if not all(isinstance(entry, dict) and needed <= entry.keys() for entry in content.get(key, [])):
            raise DataError(f"{file}: an entry of {key} lacks {' or '.join(sorted(needed))}.")
    return content


def _head(file: Path) -> str:
    with file.open("rb") as opened:
        return opened.read(1 << 20).decode("utf-8", errors="replace")
