"""Masks in the formats that other tools read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from tagmask.errors import OptionError, did_you_mean
from tagmask.export.checks import NamedMask
from tagmask.export.coco import write_coco
from tagmask.export.png import write_png
from tagmask.types import Instances

FORMATS = ("png", "coco")

__all__ = ["FORMATS", "export_masks", "write_coco", "write_png"]


def export_masks(
    masks: Iterable[NamedMask],
    classes: Sequence[str],
    folder: Path,
    format: str = "png",  # the word of the command line
    *,
    rle: bool = False,
    files: Mapping[str, str] | None = None,
    instances: Callable[[str], Instances | None] = lambda name: None,
) -> Path:
    """Write (name, uint8 (H, W)) ``masks`` under ``folder`` and return what to open: the folder or the COCO file.

    Masks are taken one at a time, so any number of them costs the memory of one. ``classes[0]`` is the background.
    ``rle``, ``files`` (image name -> file name) and ``instances`` (image name -> its instances, where there are any)
    concern COCO only, see `write_coco`. Raises OptionError for an unknown format, DataError for a mask that the format
    cannot hold.
    """
    if format == "png":
        return write_png(masks, classes, folder)
    if format == "coco":
        return write_coco(masks, classes, folder, rle=rle, files=files, instances=instances)
    raise OptionError(
        f"no export format {format!r}{did_you_mean(format, FORMATS)}; expected one of: {', '.join(FORMATS)}."
    )
