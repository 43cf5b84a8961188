"""Our own layout: ``images/``, ``tags.csv``, and where there are any masks, boxes, classes and splits.

These are ``masks/``, ``boxes.csv``, ``classes.txt`` and ``splits/*.txt``.
"""

from __future__ import annotations

from pathlib import Path

from tagmask.data.boxes import read_boxes
from tagmask.data.listing import Found, Listing, Pictures, read_lines, read_splits
from tagmask.data.table import read_rows, row_tags, say
from tagmask.data.tags import is_background, read_classes
from tagmask.errors import DataError


def is_native(path: Path) -> bool:
    """Whether the folder has our layout; without tags, a list of classes must say what the masks hold."""
    return (path / "images").is_dir() and ((path / "tags.csv").is_file() or (path / "classes.txt").is_file())


def read_native(path: Path) -> Listing:
    """Read our own layout. Raises DataError for a table, a list of classes or a split that is not to be understood."""
    listing = Listing(reader="native (images/, tags.csv)", root=path)
    pictures = Pictures(path / "images")
    pictures.report(listing)
    found = {name: Found(name, image) for name, image in pictures.by_name.items()}
    if (path / "classes.txt").is_file():
        listing.classes = read_classes(path / "classes.txt")
    if (path / "tags.csv").is_file():
        _read_tags(listing, found, pictures)
    if (path / "masks").is_dir():
        _read_masks(listing, found)
    if (path / "boxes.csv").is_file():
        read_boxes(listing, found, pictures)
    read_splits(listing, sorted((path / "splits").glob("*.txt")), pictures)
    listing.found = list(found.values())
    return listing


def _read_tags(listing: Listing, found: dict[str, Found], pictures: Pictures) -> None:
    table = listing.root / "tags.csv"
    rows = read_rows(table)
    header = {str(key).lower(): key for key in (rows[0] if rows else {})}
    if "image" not in header or "tags" not in header:
        given = ", ".join(map(str, header)) or "nothing"
        raise DataError(f"{table}: its first line names {given}; expected the columns image,tags.")
    words = []
    tags = row_tags(rows, header["image"], known=listing.classes or (), where=table)
    for number, (row, said) in enumerate(zip(rows, tags, strict=True), start=2):
        name = pictures.find(row[header["image"]])
        if name is None:
            message = f"line {number} names {row[header['image']]!r}, and there is no such image"
            listing.note("row without image", table, message, "skipped")
        else:
            words.append((name, said))
    say(listing, found, words, where=table)


def _read_masks(listing: Listing, found: dict[str, Found]) -> None:
    masks = Pictures(listing.root / "masks", strip="")
    for name, path in masks.by_name.items():
        if path.suffix.lower() in (".jpg", ".jpeg", ".webp", ".gif"):
            listing.note("mask", path, "is no PNG, and lossy files change ids; the mask is left out", "skipped")
        elif name not in found:
            listing.note("mask without image", path, "there is no image of this name", "skipped")
        else:
            found[name].mask = path
    lines = read_lines(listing.root / "classes.txt") if listing.classes else []
    if lines and not is_background(lines[0]):
        message = f"does not begin with background: in masks 0 is taken as background and 1 as {lines[0]!r}"
        listing.note("class order", listing.root / "classes.txt", message, "warning")
