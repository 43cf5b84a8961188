"""Any CSV, TSV or JSON-lines file with a column of paths and columns of tags.

Tags are either one column of words, or one column a class that holds 0 or 1. Columns called ``split`` and ``mask``
are understood too; every other column is left alone.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from tagmask.data.listing import Found, Listing, Pictures, nfc, read_text, split_name, without_ending
from tagmask.data.pixels import ENDINGS
from tagmask.data.tags import clean, read_classes, split_cells
from tagmask.errors import DataError

_PATHS = "image path file filename file_name filepath file_path img image_path image_name photo name"
_TAGS = "tags tag labels label classes class categories category"
PATH_COLUMNS, TAG_COLUMNS = _PATHS.split(), _TAGS.split()  # ours, as the next two
SPLIT_COLUMNS, MASK_COLUMNS = ["split", "subset", "set"], ["mask", "mask_path"]
TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson")
_YES, _NO = {"1", "1.0", "true", "yes"}, {"", "0", "0.0", "false", "no"}

Row = dict[str, Any]


def find_table(path: Path) -> Path | None:
    """The table that is meant: the file itself, or the one table of a folder that has a column of pictures."""
    if path.is_file():
        return path if path.suffix.lower() in TABLE_ENDINGS else None
    tables = sorted(file for file in path.iterdir() if file.suffix.lower() in TABLE_ENDINGS and file.is_file())
    fitting = [table for table in tables if path_column(read_rows(table)) is not None]
    if len(fitting) > 1:
        names = ", ".join(table.name for table in fitting)
        raise DataError(f"{path}: several tables ({names}); name the one to read.")
    return fitting[0] if fitting else None


def read_table(path: Path) -> Listing:
    """Read a table; its folder's other pictures are listed with unknown tags. Raises DataError."""
    rows = read_rows(path)
    column = path_column(rows)
    if column is None:
        raise DataError(f"{path}: no column of image paths; call it 'image'.")
    listing = Listing(reader=f"table ({path.name})", root=path.parent)
    if (path.parent / "classes.txt").is_file():
        listing.classes = read_classes(path.parent / "classes.txt")
    said = row_tags(rows, column, known=listing.classes or (), where=path)
    pictures = Pictures(path.parent)
    pictures.report(listing)
    masks = {_beside(path, row[key]) for key in _named(rows, MASK_COLUMNS) for row in rows if row.get(key)}
    found = {name: Found(name, file) for name, file in pictures.by_name.items() if _is_photo(name, file, masks)}
    split_column, mask_column = _named(rows, SPLIT_COLUMNS), _named(rows, MASK_COLUMNS)
    outside = _Outside(path, [str(row.get(column) or "") for row in rows])
    words: list[tuple[str, tuple[str, ...] | None]] = []
    for number, (row, tags) in enumerate(zip(rows, said, strict=True), start=1):
        text = str(row.get(column) or "")
        name = outside.name(text, found) or pictures.find(text)
        if name is None or name not in found:
            listing.note(
                "row without image", path, f"row {number} names {text!r}, and there is no such image", "skipped"
            )
            continue
        words.append((name, tags))
        for key in mask_column:
            found[name].mask = _beside(path, row[key]) if row.get(key) else found[name].mask
        for key in split_column:
            if str(row.get(key) or "").strip():
                listing.splits.setdefault(split_name(str(row[key])), []).append(name)
    say(listing, found, words, where=path)
    listing.found = list(found.values())
    return listing


def read_rows(path: Path) -> list[Row]:
    """The rows of a table by column name; cells beyond the header lie under ``None``. Raises DataError."""
    text = read_text(path)
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return [_json_row(path, number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    head = text.partition("\n")[0]
    mark = max((",", "\t", ";"), key=head.count)
    try:
        rows: list[Row] = list(csv.DictReader(StringIO(text, newline=""), delimiter=mark, restval=""))
    except csv.Error as error:
        raise DataError(f"{path}: is not a table ({error}).") from error
    return [{key.strip() if key else key: cell for key, cell in row.items()} for row in rows]


def path_column(rows: Sequence[Row]) -> str | None:
    """The column of image paths: one with such a name, otherwise the first whose cells end like pictures."""
    if not rows:
        return None
    pictures = [key for key in rows[0] if key and Path(str(rows[0][key])).suffix.lower() in ENDINGS]
    named = [key for key in _named(rows, PATH_COLUMNS) if key in pictures] or _named(rows, PATH_COLUMNS) or pictures
    return named[0] if named else None


def row_tags(rows: Sequence[Row], column: str, *, known: Sequence[str], where: Path) -> list[tuple[str, ...] | None]:
    """The words each row says: from one column of tags, else from columns of 0 and 1. Raises DataError."""
    keys = _named(rows, TAG_COLUMNS)
    if keys:
        cells = [_cell(row, keys[0]) for row in rows]
        words = split_cells([cell for cell in cells if isinstance(cell, str)], known=known)
        split = iter(words)
        return [
            next(split) if isinstance(cell, str) else None if cell is None else tuple(map(clean, map(str, cell)))
            for cell in cells
        ]
    other = [key for key in rows[0] if key and key not in (column, *_named(rows, SPLIT_COLUMNS + MASK_COLUMNS))]
    flags = [key for key in other if all(_flag(row.get(key)) is not None for row in rows)]
    flags = [key for key in flags if any(str(row.get(key) or "").strip() for row in rows)]
    if not flags:
        raise DataError(f"{where}: no column of tags; call it 'tags', or give one column of 0 and 1 for each class.")
    return [tuple(clean(key) for key in flags if _flag(row.get(key))) for row in rows]


def say(
    listing: Listing, found: dict[str, Found], words: Sequence[tuple[str, tuple[str, ...] | None]], *, where: Path
) -> None:
    """Give the rows' tags to their images; repeated rows and images without a row are noted."""
    said: set[str] = set()
    for name, tags in words:
        if name in said:
            before = found[name].tags or ()
            equal = set(before) == set(tags or ())
            tags = tuple(dict.fromkeys((*before, *(tags or ()))))
            both = "say the same; counted once" if equal else f"differ; all their tags are taken: {' '.join(tags)}"
            listing.note("duplicate rows", found[name].image, f"its rows in {where.name} {both}", "warning")
        found[name].tags = tags
        said.add(name)
    for name in sorted(set(found) - said):
        message = f"has no row in {where.name}: its tags are unknown, so it is not learned from"
        listing.note("image without row", found[name].image, message, "warning")


class _Outside:
    """Names for pictures that a table names by a path leading outside of its folder."""

    def __init__(self, table: Path, texts: Sequence[str]) -> None:
        self._table = table
        far = [text for text in texts if Path(text).is_absolute()]
        self._common = Path(os.path.commonpath([str(Path(text).parent) for text in far])) if far else table.parent

    def name(self, text: str, found: dict[str, Found]) -> str | None:
        """The name of the picture, now in ``found``; ``None`` when the path stays inside or leads nowhere."""
        path = Path(text)
        if not (path.is_absolute() or ".." in path.parts):
            return None
        path = Path(os.path.normpath(self._table.parent / path))
        if path.is_relative_to(os.path.normpath(self._table.parent)) or not path.is_file():
            return None
        near = path.relative_to(self._common) if path.is_relative_to(self._common) else Path(*path.parts[1:])
        name = nfc(without_ending(near.as_posix()))
        return found.setdefault(name, Found(name, path)).name


def _json_row(path: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {number} is not JSON ({error.msg}).") from error
    if not isinstance(row, dict):
        raise DataError(f'{path}: line {number} is no object; expected one like {{"image": ..., "tags": [...]}}.')
    return row


def _named(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    """The columns with one of these names, in the order of the names."""
    return [key for name in names for key in (rows[0] if rows else ()) if key and key.lower() == name]


def _cell(row: Row, key: str) -> str | list[str] | None:
    """The tags of a row as text or list; cells beyond the header belong to it: ``a.jpg,cat,dog``."""
    value = row.get(key)
    if value is None or isinstance(value, list):
        return value
    return ",".join([str(value), *row.get(None, [])])  # type: ignore[call-overload]


def _flag(value: Any) -> bool | None:
    text = str(value if value is not None else "").strip().lower()
    return True if text in _YES else False if text in _NO else None


def _beside(table: Path, text: Any) -> Path:
    return Path(os.path.normpath(table.parent / str(text).replace("\\", "/")))


def _is_photo(name: str, file: Path, masks: set[Path]) -> bool:
    return not name.startswith("masks/") and Path(os.path.normpath(file)) not in masks
