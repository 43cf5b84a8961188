"""Measure networks that label the frames of a video on CamVid's val clip (15 Hz, every frame labelled).

    python -m benchmarks.video_label --data DIR --weights FILE [--rows stt control] [--seeds 0 1 2] [--runs local]

All rows share stages through one store. They learn from the train split without the 31 frames of the drive 0016E5 numbered
07500 to 08640, between which the clip lies. mIoU and VC8 count the frames from the 8th on, whose past is full for every
row; TC counts all pairs. What every frame and pair counts is kept in RUNS/video-label/counts, for intervals by blocks of
consecutive frames, which are printed for the difference of each row to the control.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.results import ROOT, _commit
from numpy.typing import NDArray

import tagmask
from tagmask.allocator import keep_memory
from tagmask.data.photos import Truth
from tagmask.data.pixels import read_image
from tagmask.evaluate import Confusion
from tagmask.files import read_json, whole, write_json
from tagmask.types import Dataset
from tagmask.video.baselines import averaged
from tagmask.video.bootstrap import Interval, difference, miou, over_blocks
from tagmask.video.consistency import TemporalConsistency, VideoConsistency, flow_name, motions
from tagmask.video.fit_video import class_names, labelled
from tagmask.video.label import FrameLabeller
from tagmask.video.speed import measure as measured

LEAK = ("0016E5", 7500, 8640)  # source: video_data
FULL = 7  # frames at the beginning that do not count, for they have fewer before them


@dataclass(frozen=True)
class Row:
    """One way to label the clip; ``average`` is the weight of the newest logits where they are averaged over time."""

    method: str = "stt"
    options: Mapping[str, Any] = field(default_factory=dict)
    average: float = 0.0


# Sized for 2 CPU cores: about a quarter of an hour for the image network, the clips, and some minutes for each row.
DESK: dict[str, Any] = {"epochs": 60.0, "radius": 2, "clips": 1500, "clip_epochs": 8.0}
ROWS = {
    "image": Row("frame"),
    "control": Row("frame", {"extra": True}),  # T = 0, with the same further steps
    "stt": Row(),
    "stt 25 %": Row(options={"share": 0.25}),
    "stt 75 %": Row(options={"share": 0.75}),
    "stt 100 %": Row(options={"share": 1.0}),
    "random 50 %": Row(options={"choice": "random"}),
    "lowest 50 %": Row(options={"choice": "lowest"}),
    "control, made clips alone": Row("frame", {"extra": True, "real": 0.0}),
    "stt, made clips alone": Row(options={"real": 0.0}),
    "control, logits averaged": Row("frame", {"extra": True}, average=0.5),
}


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="CamVid: images, masks, classes.txt and splits")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights of the backbone, timm's names")
    parser.add_argument("--backbone", default="mobilenetv2_035")
    parser.add_argument("--freeze", type=int, default=2)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "local", help="where runs and their store are kept")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="other options, as JSON, for all rows"
    )
    given = parser.parse_args()
    keep_memory()
    given.common = {**DESK, **{name: _value(text) for name, _, text in (word.partition("=") for word in given.set)}}
    data = without_leak(tagmask.load_data(given.data))
    clip = Clip(data)
    folder = given.runs / "video-label"
    for seed in given.seeds:
        for name in given.rows:
            keep(folder, measure(given, data, clip, name, seed))
            print(table(folder), flush=True)


def without_leak(data: Dataset) -> Dataset:
    """Return the data with the frames around the val clip taken from its train split."""
    drive, first, last = LEAK
    train = [
        name
        for name in data.splits["train"]
        if not (name.startswith(f"{drive}_") and first <= int(name.rpartition("_")[2]) <= last)
    ]
    return replace(data, splits={**data.splits, "train": tuple(train)})


class Clip:
    """The val clip: its frames' files, its truth, and the flow between its frames, computed once."""

    def __init__(self, data: Dataset) -> None:
        self.samples = sorted(labelled(data, "val"), key=lambda sample: sample.name)
        self.classes = class_names(data)
        self.truth = Truth(self.samples, len(self.classes))
        self.flows = [flow.astype(np.float16) for flow, _ in motions(self.frames())]

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames."""
        for sample in self.samples:
            yield read_image(sample.image)

    def score(self, labels: Iterator[NDArray[np.uint8]]) -> tuple[dict[str, Any], dict[str, NDArray[np.int64]]]:
        """Return the scores of labels of every frame, and what each frame and each pair of frames counts."""
        frames, pairs, steady = [], [], VideoConsistency()
        before = None
        for number, (sample, one) in enumerate(zip(self.samples, labels, strict=True)):
            if number >= FULL:
                counted = Confusion(len(self.classes))
                counted.add(self.truth[sample.name].labels, one)
                frames.append(counted.matrix)
                steady.add(one, self.truth[sample.name].labels)
            if before is not None:
                pair = TemporalConsistency(len(self.classes))
                pair.add(before, one, self.flows[number - 1].astype(np.float32))
                pairs.append(pair.counts.matrix)
            before = one
        counts = {"frames": np.stack(frames), "pairs": np.stack(pairs)}
        whole_clip = Confusion(len(self.classes))
        whole_clip.matrix += counts["frames"].sum(axis=0)
        scores = whole_clip.scores().to_json()
        return {
            "miou": scores["miou"],
            "iou": dict(zip(self.classes, scores["iou"], strict=True)),
            "tc": float(miou(counts["pairs"].sum(axis=0)[None].astype(np.float64))[0]),
            "vc_8": steady.score,
            "flow": flow_name(),
        }, counts


def measure(given: argparse.Namespace, data: Dataset, clip: Clip, name: str, seed: int) -> dict[str, Any]:
    """Train one row, label the clip with it, and return the row with its scores."""
    row = ROWS[name]
    options = {**given.common, **row.options}
    folder = given.runs / "video-label"
    out = folder / f"{row.method}-{'-'.join(f'{key}-{value}' for key, value in row.options.items()) or 'plain'}-{seed}"
    backbone = tagmask.Backbone(given.backbone, weights=str(given.weights), freeze=given.freeze)
    command = f"python -m benchmarks.video_label --data DIR --weights FILE --rows {name!r} --seeds {seed}"
    command += f" --set {' '.join(given.set)}" if given.set else ""
    done = tagmask.fit_video(
        data, out, method=row.method, backbone=backbone, store=folder / "store", seed=seed, command=command, **options
    )
    labeller = done.labeller()
    scores, counts = clip.score(labels_of(labeller, clip, row.average))
    speed = None if row.average else measured(labeller.step, list(clip.frames()), start=labeller.reset)
    place = folder / "counts" / f"{name}-{seed}.npz"
    with whole(place) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **counts)
    metrics = done.metrics
    stages = {stage["name"]: round(stage["seconds"] / 60, 2) for stage in metrics["stages"]}
    return {
        "row": name, "method": row.method, "options": options, "average": row.average, "seed": seed,
        "backbone": given.backbone, "device": metrics["device"], "minutes": metrics["minutes"], "stages": stages,
        "peak_mb": metrics["peak_mb"], "commit": _commit(), "command": command, "train_frames": metrics["train_frames"],
        "frames": len(counts["frames"]), "pairs": len(counts["pairs"]), "counts": place.name,
        "speed": speed and speed.to_json(), **scores,
    }  # fmt: skip


def labels_of(labeller: FrameLabeller, clip: Clip, average: float) -> Iterator[NDArray[np.uint8]]:
    """Yield the labels of the clip's frames; with ``average`` of the exponential average of their logits."""
    if not average:
        yield from map(labeller.step, clip.frames())
        return
    sizes = (read_image(sample.image).shape[:2] for sample in clip.samples)
    for scores, size in zip(averaged(map(labeller.scores, clip.frames()), average), sizes, strict=True):
        yield labeller.labels_of(scores, size)


def keep(folder: Path, row: dict[str, Any]) -> None:
    """Put a row into rows.json, in the place of an older one of the same name and seed."""
    path = folder / "rows.json"
    rows = read_json(path) if path.exists() else []
    rows = [other for other in rows if (other["row"], other["seed"]) != (row["row"], row["seed"])]
    write_json(path, sorted([*rows, row], key=lambda one: (list(ROWS).index(one["row"]), one["seed"])))


def table(folder: Path, against: str = "control") -> str:
    """Return all rows as text, with their differences to the row ``against`` of the same seed and the intervals of these."""
    lines = [f"{'row':<26} seed   mIoU     TC    VC8  minutes   mIoU less {against}      TC less {against}"]
    for row in read_json(folder / "rows.json"):
        there = folder / "counts" / f"{against}-{row['seed']}.npz"
        shown = [f"{100 * row[name]:6.1f}" for name in ("miou", "tc", "vc_8")]
        lines.append(f"{row['row']:<26} {row['seed']:>4} {' '.join(shown)} {row['minutes']:>8.1f}")
        if there.exists() and row["row"] != against:
            lines[-1] += "".join(
                f"   {_told(one)}" for one in differences([there], [folder / "counts" / row["counts"]]).values()
            )
    return "\n".join(lines)


def differences(first: Sequence[Path], second: Sequence[Path]) -> dict[str, Interval]:
    """Return by how much the second row is above the first, with intervals by blocks of consecutive frames.

    Both are files of counts, one a seed, in the same order: the mean of the seeds' differences, on the same frames.
    """
    sides = [[read_arrays(path) for path in side] for side in (first, second)]
    return {
        name: over_blocks(
            np.stack([np.stack([seed[part] for seed in side], axis=1) for side in sides], axis=1),
            difference(lambda sums: np.stack([miou(sums[:, seed]) for seed in range(len(first))]).mean(axis=0)),
        )
        for name, part in (("miou", "frames"), ("tc", "pairs"))
    }


def read_arrays(path: Path) -> dict[str, NDArray[np.int64]]:
    """Return what `measure` kept of one row and seed."""
    with np.load(path) as held:
        return dict(held)


def _told(one: Interval) -> str:
    return f"{100 * one.value:+5.1f} ({100 * one.low:+5.1f}..{100 * one.high:+5.1f})"


def _value(text: str) -> Any:
    value = json.loads(text)
    return tuple(value) if isinstance(value, list) else value


if __name__ == "__main__":
    main()
