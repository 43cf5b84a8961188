"""Masks as a tree of palette PNG files: the pixel value is the class id, the colours are those of PASCAL VOC."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from tagmask.data.pixels import write_mask
from tagmask.errors import DataError
from tagmask.export.checks import NamedMask, checked
from tagmask.files import whole


def write_png(masks: Iterable[NamedMask], classes: Sequence[str], folder: Path) -> Path:
    """Write ``NAME.png`` for each (name, uint8 (H, W)) and ``classes.txt``, line n (from 0) naming class id n.

    255 stays unknown. Returns ``folder``. Raises DataError for a name that leads out of ``folder`` and for a class
    id that ``classes`` does not name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    for name, labels in checked(masks, classes):
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts or not inside.parts:
            raise DataError(f"mask name {name!r} leads out of {folder}; expected a relative name: rename the image.")
        with whole(folder / f"{name}.png") as temporary:
            write_mask(temporary, labels)
    return folder
