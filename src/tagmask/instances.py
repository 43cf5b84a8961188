"""The single objects of a run: laid into its folder at the size of the user's photos, and found there again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tagmask.augment import resize_labels
from tagmask.data.photos import PerImage, Sizes
from tagmask.export.coco import write_coco
from tagmask.files import read_instances
from tagmask.types import Dataset, Instances, LabelMap
from tagmask.work import Work

FOLDER, FILE = "instances", "instances.json"


def lay_instances(data: Dataset, work: Work, masks: PerImage[LabelMap], instances: PerImage[Instances] | None) -> None:
    """Leave ``RUN/instances/NAME.png`` and ``RUN/instances.json`` (COCO, with scores); None takes earlier ones away.

    ``masks`` are those at the size of the user's photos.
    """
    if instances is None:
        shutil.rmtree(work.out / FOLDER, ignore_errors=True)
        (work.out / FILE).unlink(missing_ok=True)
        return
    samples = [sample for sample in data.samples if sample.name in instances]
    shown = work.each(FOLDER, instances_on_photo, instances, Sizes(samples))
    files = {sample.name: sample.name + sample.image.suffix for sample in samples}
    listed = ((name, masks[name].labels) for name in shown.names)
    write_coco(listed, data.classes, work.out, rle=True, files=files, instances=shown.__getitem__, file=FILE)


def instances_on_photo(instances: Instances, size: tuple[int, int]) -> Instances:
    """Return the instances at ``size`` (height, width), by the nearest pixel."""
    return replace(instances, ids=resize_labels(instances.ids, *size))


def instances_of_run(folder: Path) -> Callable[[str], Instances | None]:
    """Return what finds the instances of one image of a finished run; None where there are none."""

    def find(name: str) -> Instances | None:
        path = folder / FOLDER / f"{name}.png"
        return read_instances(path) if path.exists() else None

    return find
