"""Files that appear whole or not at all, and how each value is written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tagmask.data.opening import opened
from tagmask.data.pixels import palette, write_mask
from tagmask.errors import RunError
from tagmask.footage import Footage, open_footage, save_footage
from tagmask.types import Activation, Boxes, BoxScores, Instances, LabelMap, Regions, Saliency

_INSTANCES = "instances"  # the keyword of the text in a PNG of instances


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it takes that name when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{id(path):x}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON, atomically; NaN is refused, for no reader of JSON need know it."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON; raises RunError naming the file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path}: cannot be read as JSON ({error}); remove it and run the same command again."
        ) from error


def read_json_lines(path: Path) -> list[Any]:
    """Return the value of each line of a file, such as the points of a training curve."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def link(source: Path, target: Path) -> None:
    """Make ``target`` the same file (or folder of files) as ``source``: a hard link, or a copy on another disk."""
    if source.is_dir():
        for part in source.iterdir():
            link(part, target / part.name)
        return
    with whole(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def _write_activation(path: Path, value: Activation) -> None:
    # Half precision on disk: 2^-11 of the range, a quarter of a label's rounding, at half the space.
    with path.open("wb") as file:
        np.savez_compressed(file, maps=value.maps.astype(np.float16), classes=np.asarray(value.classes, dtype=np.uint8))


def _read_activation(path: Path) -> Activation:
    with np.load(path, allow_pickle=False) as held:
        return Activation(maps=held["maps"].astype(np.float32), classes=tuple(int(c) for c in held["classes"]))


def _write_labels(path: Path, value: LabelMap) -> None:
    write_mask(path, value.labels)


def _read_labels(path: Path) -> LabelMap:
    with opened(path) as image:
        return LabelMap(labels=np.array(image))


def _write_saliency(path: Path, value: Saliency) -> None:
    Image.fromarray(value.values).save(path, format="PNG", compress_level=6)


def _read_saliency(path: Path) -> Saliency:
    with opened(path) as image:
        return Saliency(np.array(image))


def _write_boxes(path: Path, value: Boxes) -> None:
    with path.open("wb") as file:
        np.savez_compressed(
            file, boxes=value.boxes, scores=value.scores, classes=np.asarray(value.classes, dtype=np.uint8),
            size=np.asarray(value.size), masks=value.masks,
        )  # fmt: skip


def _read_boxes(path: Path) -> Boxes:
    with np.load(path, allow_pickle=False) as held:
        height, width = held["size"].tolist()
        return Boxes(held["boxes"], held["scores"], tuple(held["classes"].tolist()), (height, width), held["masks"])


def _write_box_scores(path: Path, value: BoxScores) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, values=value.values, classes=np.asarray(value.classes, dtype=np.uint8))


def _read_box_scores(path: Path) -> BoxScores:
    with np.load(path, allow_pickle=False) as held:
        return BoxScores(held["values"], tuple(held["classes"].tolist()))


def _write_regions(path: Path, value: Regions) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, ids=value.ids.astype(np.min_scalar_type(max(value.count - 1, 0))))


def _read_regions(path: Path) -> Regions:
    with np.load(path, allow_pickle=False) as held:
        return Regions(ids=held["ids"].astype(np.int32))


def _write_instances(path: Path, value: Instances) -> None:
    """Write a PNG of the ids, in colours, that tells the class and score of each in a text of its own."""
    picture, text = Image.fromarray(value.ids), PngInfo()
    picture.putpalette(palette().tobytes())
    text.add_text(_INSTANCES, json.dumps({"classes": value.classes, "scores": value.scores}))
    picture.save(path, format="PNG", pnginfo=text, compress_level=6)


def read_instances(path: Path) -> Instances:
    """Read a PNG of instance ids with their classes and scores; raises RunError for a file that is none."""
    with opened(path) as image:
        ids = np.array(image)
        told = image.info.get(_INSTANCES, "")
    try:
        known = json.loads(told)
        return Instances(ids=ids, classes=tuple(known["classes"]), scores=tuple(known["scores"]))
    except (TypeError, KeyError, ValueError) as error:
        raise RunError(f"{path}: holds no instances ({error}); run the command that made it again.") from error


def _write_array(path: Path, value: NDArray[Any]) -> None:
    with path.open("wb") as file:
        np.save(file, value, allow_pickle=False)


def _read_array(path: Path) -> NDArray[Any]:
    return np.asarray(np.load(path, allow_pickle=False))


def _write_value(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


KINDS: dict[type, tuple[str, Callable[[Path, Any], None], Callable[[Path], Any]]] = {
    Activation: (".npz", _write_activation, _read_activation),
    LabelMap: (".png", _write_labels, _read_labels),
    Boxes: (".npz", _write_boxes, _read_boxes),
    BoxScores: (".npz", _write_box_scores, _read_box_scores),
    Saliency: (".png", _write_saliency, _read_saliency),
    Regions: (".npz", _write_regions, _read_regions),
    Instances: (".png", _write_instances, read_instances),
    np.ndarray: (".npy", _write_array, _read_array),
    Footage: (".zip", save_footage, open_footage),
    dict: (".json", _write_value, read_json),
    float: (".json", _write_value, read_json),
}


def label_maps(folder: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Yield (name, labels uint8 (H, W)) of every label image under ``folder``, one at a time, by name."""
    for path in sorted(folder.rglob("*.png")):
        yield path.relative_to(folder).with_suffix("").as_posix(), _read_labels(path).labels
