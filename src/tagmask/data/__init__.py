"""What users have: photos with tags in any of five layouts, read without decoding a single picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tagmask.data.assemble import Choice, assemble
from tagmask.data.check import check_as_json, render_check
from tagmask.data.coco import find_coco, read_coco
from tagmask.data.folder import is_folder_per_class, read_folder
from tagmask.data.listing import Findings, Listing, Pictures, Problem
from tagmask.data.native import is_native, read_native
from tagmask.data.novel import with_novel
from tagmask.data.pixels import fingerprint, image_size, load_photo, palette, read_image, read_mask, write_mask
from tagmask.data.table import find_table, read_table
from tagmask.data.toy import make_toy
from tagmask.data.verify import LEAST_SIDE
from tagmask.data.voc import find_voc, read_voc
from tagmask.errors import DataError
from tagmask.keys import digest
from tagmask.types import Dataset

__all__ = [
    "Findings",
    "Problem",
    "check_as_json",
    "fingerprint",
    "image_size",
    "inspect_data",
    "load_data",
    "load_photo",
    "load_verified",
    "make_toy",
    "palette",
    "read_image",
    "read_mask",
    "render_check",
    "write_mask",
]


def load_data(
    path: str | os.PathLike[str],
    *,
    train_split: str = "train",
    val_split: str = "val",
    limit: int | None = None,
    least_side: int = LEAST_SIDE,
    difficult: bool = True,
    novel: str | Sequence[str] = (),
) -> Dataset:
    """Read a data set; the layout is recognised by what lies at ``path``. Only headers of pictures are read.

    What can be skipped is skipped and told by `inspect_data`; what cannot raises DataError. A ``train_split`` other
    than "train" leaves out the images that only other splits name. ``limit`` keeps that many images of train and of
    val, spread evenly. Images under ``least_side`` pixels a side are skipped. ``difficult`` counts the objects that
    VOC marks so. ``novel`` names classes whose masks are not to be learned from (see ``data.novel``).
    """
    dataset, findings = inspect_data(
        path,
        train_split=train_split,
        val_split=val_split,
        limit=limit,
        least_side=least_side,
        difficult=difficult,
        novel=novel,
    )
    if dataset is None:
        raise _refusal(Path(path), findings)
    return dataset


def inspect_data(
    path: str | os.PathLike[str],
    *,
    train_split: str = "train",
    val_split: str = "val",
    limit: int | None = None,
    least_side: int = LEAST_SIDE,
    difficult: bool = True,
    novel: str | Sequence[str] = (),
    deep: bool = False,
) -> tuple[Dataset | None, Findings]:
    """Read as `load_data` does and tell all that is odd; the data set is ``None`` where `load_data` would raise.

    ``deep`` decodes every picture and mask to the end, by threads and one at a time each: only that finds truncated
    files, ids beyond the classes and masks that the tags contradict.
    """
    choice = Choice(train_split, val_split, limit=limit, least_side=least_side, difficult=difficult, deep=deep)
    try:
        dataset, problems = assemble(_read(Path(path).expanduser(), difficult=difficult), choice)
    except DataError as error:
        return None, Findings((Problem("data", "", str(error), "refused"),))
    return (with_novel(dataset, novel) if novel and dataset is not None else dataset), Findings(problems)


def load_verified(path: str | os.PathLike[str], marks: Path, **same: Any) -> tuple[Dataset, tuple[Problem, ...]]:
    """Load as `load_data` does, but leave out what cannot be decoded to its end; return what was left out or is odd too.

    Data that was found sound is remembered by a file in the folder ``marks``, so that it is decoded once, not in every run.
    """
    data = load_data(path, **same)
    files = [[sample.name, *(fingerprint(f) for f in (sample.image, sample.mask) if f)] for sample in data.samples]
    mark = marks / digest([data.classes, files])
    if mark.exists():
        return data, ()
    dataset, findings = inspect_data(path, deep=True, **same)
    if dataset is None:
        raise _refusal(Path(path), findings)
    if not findings.of("skipped"):
        marks.mkdir(parents=True, exist_ok=True)
        mark.touch()
    return dataset, findings.problems


def _refusal(path: Path, findings: Findings) -> DataError:
    """Return the error of data that is refused: its first reason, and how many more there are."""
    first, *more = findings.of("refused")
    message = f"{path / first.where}: {first.message}" if first.where else first.message
    return DataError(message + (f" ({len(more)} more of this; see tagmask check {path})" if more else ""))


def _read(path: Path, *, difficult: bool) -> Listing:
    """Choose the reader by what lies there; the surest signs come first."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder.")
    native = path.parent if path.name == "tags.csv" else path
    if native.is_dir() and is_native(native):
        return read_native(native)
    if path.is_dir() and (year := find_voc(path)):
        return read_voc(year, difficult=difficult)
    if jsons := find_coco(path):
        return read_coco(path, jsons)
    if table := find_table(path):
        return read_table(table)
    if path.is_dir() and is_folder_per_class(path):
        return read_folder(path)
    held = f"{len(Pictures(path).by_name)} images and no tags" if path.is_dir() else "a single file"
    raise DataError(
        f"{path}: holds {held}; expected images/ with tags.csv, a folder for each class, a VOC devkit, "
        "a COCO json, or a CSV or JSON-lines table of images and tags."
    )
