"""Boxes that people drew around objects: from the numbers of a file to whole pixels inside of the image.

A box is x0, y0, x1, y1 in pixels of the upright image (as EXIF turns it, and as one sees it), counted from 0, the ends
excluded. Annotations are turned into that when they are read; what is odd is noted and left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from tagmask.data.listing import Corners, Found, Listing, Pictures
from tagmask.data.table import Row, read_rows
from tagmask.data.tags import clean
from tagmask.errors import DataError

COLUMNS = ("x0", "y0", "x1", "y1")
BEYOND = 2  # pixels that a box may leave the image by, for tools round in their own way; it is cut off  # ours


def corners(values: Sequence[object]) -> Corners | None:
    """Return four numbers as whole pixels, none below 0; None where they are no numbers or hold no pixel.

    >>> corners(["3.2", 0, 8, 4.9]), corners([-1, 0, 5, 5]), corners([3, 0, 3, 4]), corners(["", 0, 1, 1])
    ((3, 0, 8, 5), (0, 0, 5, 5), None, None)
    """
    try:
        numbers = [float(value) for value in values]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    if not all(map(isfinite, numbers)) or min(numbers) < -BEYOND:
        return None
    x0, y0, x1, y1 = (max(0, round(number)) for number in numbers)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def read_boxes(listing: Listing, found: dict[str, Found], pictures: Pictures) -> None:
    """Read ``boxes.csv`` of our own layout; rows that cannot be used are noted. Raises DataError for other columns.

    The class may be left out: then nobody knows what is in the box.
    """
    table = listing.root / "boxes.csv"
    rows = read_rows(table)
    header = {str(key).lower(): key for key in (rows[0] if rows else {})}
    if rows and not {"image", *COLUMNS} <= header.keys():
        raise DataError(f"{table}: its first line names {', '.join(header)}; expected image,class,{','.join(COLUMNS)}.")
    for number, row in enumerate(rows, start=2):
        name = pictures.find(str(row[header["image"]]))
        place = corners([row[header[column]] for column in COLUMNS])
        if name is None:
            message = f"line {number} names {row[header['image']]!r}, and there is no such image"
            listing.note("row without image", table, message, "skipped")
        elif place is None:
            listing.note("box", table, f"line {number} holds no box: {_said(row, header)}", "skipped")
        else:
            word = clean(str(row[header["class"]])) if "class" in header else ""
            found[name].boxes += ((word, *place),)


def inside(place: Corners, size: tuple[int, int]) -> Corners | None:
    """Return a box cut at the border of an image of ``size`` (H, W); None where it leaves it by more than BEYOND.

    >>> inside((2, 2, 11, 6), (6, 10)), inside((2, 2, 30, 6), (6, 10)), inside((10, 2, 12, 6), (6, 10))
    ((2, 2, 10, 6), None, None)
    """
    (x0, y0, x1, y1), (height, width) = place, size
    if x0 >= width or y0 >= height or x1 > width + BEYOND or y1 > height + BEYOND:
        return None
    return x0, y0, min(x1, width), min(y1, height)


def _said(row: Row, header: dict[str, str]) -> str:
    return ", ".join(f"{column}={row[header[column]]!r}" for column in COLUMNS)
