"""Time the whole job, from tags to masks, split by stage, and what quick looking costs in mIoU; write docs/speed-job.json.

    python -m benchmarks.job --data DIR --weights FILE [--runs local/job]

One run of `cam` with the options of the desk protocol (see `benchmarks.results`) in an empty store. Then its trained
classifier looks at the photos of val in several ways, in turns, and each way's activations are scored.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cases import cam_on_threads, cam_serial
from benchmarks.protocols import PROTOCOLS
from benchmarks.results import SEVEN
from benchmarks.speed import ROOT, machine, render

import tagmask
from tagmask.allocator import keep_memory
from tagmask.data.photos import Photos, Truth
from tagmask.files import write_json
from tagmask.nets.classifier import Classifier
from tagmask.nets.folded import look_in
from tagmask.nets.storage import load_network
from tagmask.quality import ThresholdCurve
from tagmask.types import Activation, Dataset, Photo

GROUP = 64  # photos in memory at a time


def main() -> None:
    """Run, compare, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="as `benchmarks.results` takes it")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights of the backbone, timm's names")
    parser.add_argument("--backbone", default="mobilenetv2_100")
    parser.add_argument("--runs", type=Path, default=ROOT / "local" / "job", help="emptied before")
    given = parser.parse_args()
    keep_memory()
    protocol = PROTOCOLS["desk"]
    data = tagmask.load_data(given.data, train_split=protocol.train_split)
    shutil.rmtree(given.runs, ignore_errors=True)
    start = time.monotonic()
    done = tagmask.run(
        "cam", data, given.runs, backbone=tagmask.Backbone(given.backbone, weights=str(given.weights), freeze=protocol.freeze),
        **protocol.rows["cam"].options,
    )  # fmt: skip
    seconds = time.monotonic() - start
    stages = [
        {
            "stage": stage["name"],
            "items": stage["items"],
            "seconds": round(stage["seconds"], 2),
            "share": round(stage["seconds"] / seconds, 4),
            "waited": round(stage["waited"] / max(stage["seconds"], 1e-9), 4),
        }
        for stage in done.metrics["stages"]
    ]
    counted = sum(stage["seconds"] for stage in stages)
    stages.append({"stage": "scores and report", "items": len(data.train) + len(data.val),
                   "seconds": round(seconds - counted, 2),
                   "share": round(1 - counted / seconds, 4), "waited": None})  # fmt: skip
    row = {
        "backbone": given.backbone,
        "photos": len(data.train),
        "seconds": round(seconds, 1),
        "photos_per_minute": round(60 * len(data.train) / seconds, 1),
        "waited": round(sum(stage["waited"] for stage in done.metrics["stages"]) / seconds, 4),
        "stages": stages,
        "looking": compare(given.runs / "classifier", data),
    }
    write_json(ROOT / "docs" / "speed-job.json", machine() | row)
    render()


def compare(classifier: Path, data: Dataset) -> list[dict[str, Any]]:
    """Return for each way of looking at the photos of val: seconds, and the best mIoU of its activations."""
    network = load_network(classifier)
    assert isinstance(network, Classifier)
    ways: dict[str, tuple[str, Callable[..., Any]]] = {
        "plain serial float32": ("float32", cam_serial),
        "float32": ("float32", cam_on_threads),
        "bfloat16": ("bfloat16", cam_on_threads),
    }
    tagged = [sample for sample in data.val if sample.tags]
    photos, truth = Photos(tagged), Truth(tagged, classes=len(data.classes))
    seven = [data.classes.index(name) for name in SEVEN]
    spent, curves = dict.fromkeys(ways, 0.0), {name: ThresholdCurve(len(data.classes)) for name in ways}
    for first in range(0, len(tagged), GROUP):
        part: dict[str, Photo] = {name: photos[name] for name in photos.names[first : first + GROUP]}
        for way, (precision, function) in ways.items():
            look_in(network, precision)
            function(network, dict(list(part.items())[:2]))  # warms up
            start = time.monotonic()
            maps = function(network, part)
            spent[way] += time.monotonic() - start
            for name, found in zip(part, maps, strict=True):
                curves[way].add(truth[name].labels, Activation(found, part[name].tags or ()))
    return [
        {"way": way, "photos": len(tagged), "seconds": round(spent[way], 2), "threshold": curves[way].best(seven)[0],
         "miou7": curves[way].best(seven)[1]}
        for way in ways
    ]  # fmt: skip


if __name__ == "__main__":
    main()
