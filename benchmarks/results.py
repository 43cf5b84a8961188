"""Measure the methods on real photos, and write docs/results.json and docs/results.md from what the runs left.

    python benchmarks/results.py --data DIR --weights FILE [--protocol desk|full] [--rows full cam sec] [--runs local]

A row that is finished is kept, an unfinished one goes on where it stopped. Every number is read from a run's files.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

import tagmask
from tagmask.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
SEVEN = ("background", "cat", "cow", "dog", "horse", "person", "sheep")


@dataclass(frozen=True)
class Protocol:
    """What is the same for every row of a table. ``options`` are changes to the recipes' defaults."""

    what: str
    train_split: str
    freeze: int
    seeds: tuple[int, ...]
    options: Mapping[str, Mapping[str, Any]]


DESK_SEGMENTER = {"epochs": 4.0, "crop": 192, "zoom": (0.6, 1.3), "width": 128}
DESK_TAGS = {"tag_epochs": 4.0, "tag_crop": 224, "scales": (0.5, 1.0, 1.5)}
DESK_CUES = {"output_stride": 16, "one_cue_network": True, "cue_convs": 0, "cue_epochs": 4.0, "cue_rate": 0.01}
DESK_SEC = {
    **DESK_CUES,
    "size": 257,
    "fraction": 0.0,
    "segmenter": "deeplab-v3",
    "epochs": 4.0,
    "rate": 0.0005,
    "policy": "poly",
    "width": 256,
}
LARGE_SEGMENTER = {"epochs": 30.0, "crop": 257, "zoom": (0.5, 2.0)}
LARGE_TAGS = {"tag_epochs": 5.0, "tag_crop": 256}
PROTOCOLS = {
    "desk": Protocol(
        what="1000 photos with the classes balanced; sized for 2 CPU cores",
        train_split="train1000",
        freeze=2,
        seeds=(0,),
        options={"full": DESK_SEGMENTER, "cam": {**DESK_SEGMENTER, **DESK_TAGS}, "sec": DESK_SEC},
    ),
    "full": Protocol(
        what="all photos, three seeds; wants a GPU",
        train_split="train",
        freeze=2,
        seeds=(0, 1, 2),
        options={
            "full": LARGE_SEGMENTER,
            "cam": {**LARGE_SEGMENTER, **LARGE_TAGS},
            "sec": {"rate": 0.005, "cue_rate": 0.005},
        },
    ),
}


def main() -> None:
    """Run what is missing, then write the table of all rows there are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="photos, tags.csv, masks, classes.txt and splits")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights of the backbone, timm's names")
    parser.add_argument("--backbone", default="mobilenetv2_100")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="desk")
    parser.add_argument("--rows", nargs="+", help="only these methods")
    parser.add_argument("--runs", type=Path, default=ROOT / "local", help="where runs and the shared store are kept")
    given = parser.parse_args()
    protocol = PROTOCOLS[given.protocol]
    for seed in protocol.seeds:
        for method in given.rows or protocol.options:
            for row in measure(given, protocol, method, seed):
                keep(row)
                render()


def measure(given: argparse.Namespace, protocol: Protocol, method: str, seed: int) -> list[dict[str, Any]]:
    """Run one method and return its rows; `cam` also gives the row of its plain activations."""
    data = tagmask.load_data(given.data, train_split=protocol.train_split)
    backbone = tagmask.Backbone(given.backbone, weights=str(given.weights), freeze=protocol.freeze)
    out = given.runs / "runs" / given.protocol / f"{method}-{seed}"
    options = dict(protocol.options[method])
    shown = _flags(options)
    command = (
        f"tagmask run {method} DIR --train-split {protocol.train_split} --backbone {given.backbone} --weights FILE "
        f"--freeze {protocol.freeze} --seed {seed} {shown}"
    )
    done = tagmask.run(
        method, data, out, backbone=backbone, store=given.runs / "store", seed=seed, command=command, **options
    )
    metrics, seven = done.metrics, [data.classes.index(name) for name in SEVEN]
    common = {
        "options": shown,
        "protocol": given.protocol,
        "data": f"{given.data.resolve().name}/{protocol.train_split}",
        "backbone": given.backbone,
        "device": metrics["device"],
        "seed": seed,
        "extra_supervision": metrics["extra_supervision"],
        "commit": _commit(),
        "command": command,
    }
    price = metrics.get("activation", {})
    row = {
        "method": method,
        **common,
        "minutes": metrics["minutes"],
        "peak_mb": metrics["peak_mb"],
        "train_mask_miou7": _mean(metrics["train_masks"]["iou"], seven),
        "val_miou7": _mean(metrics["val"]["iou"], seven),
        "val_miou": metrics["val"]["miou"],
        "val_iou": dict(zip(data.classes, metrics["val"]["iou"], strict=True)),
        "threshold": price.get("threshold"),
        "threshold_oracle": price.get("threshold_oracle"),
        "threshold_price": price.get("price"),
        "steps_train_miou7": {n: _mean(scores["iou"], seven) for n, scores in metrics.get("steps", {}).items()},
        "cues": metrics.get("seeds"),
    }
    rows = [row]
    for name, scores in metrics.get("val_steps", {}).items():
        done_by_then = ("classifier", "activation", "threshold", "seeds")
        seconds = sum(stage["seconds"] for stage in metrics["stages"] if stage["name"] in done_by_then)
        rows.append(
            {
                **row,
                "method": f"{method}: {name}",
                "minutes": round(seconds / 60, 2),
                "train_mask_miou7": _mean(metrics["steps"][name]["iou"], seven),
                "val_miou7": _mean(scores["iou"], seven),
                "val_miou": scores["miou"],
                "val_iou": dict(zip(data.classes, scores["iou"], strict=True)),
                "steps_train_miou7": {},
            }
        )
    return rows


def keep(row: dict[str, Any]) -> None:
    """Put a row into docs/results.json, in the place of an older one of the same method, protocol and seed."""
    path = ROOT / "docs" / "results.json"
    rows = read_json(path) if path.exists() else []
    name = ("method", "protocol", "data", "backbone", "seed")
    rows = [other for other in rows if any(other[part] != row[part] for part in name)]
    write_json(
        path, sorted([*rows, row], key=lambda r: [str(r[part]) for part in ("protocol", "data", "seed", "method")])
    )


def render() -> None:
    """Write docs/results.md from docs/results.json."""
    rows = read_json(ROOT / "docs" / "results.json")
    environment = Environment(loader=FileSystemLoader(ROOT / "benchmarks"), trim_blocks=True, lstrip_blocks=True)
    environment.filters["points"] = lambda value: "-" if value is None else f"{100 * value:.1f}"
    environment.filters["number"] = lambda value: "-" if value is None else f"{value:.2f}"
    page = environment.get_template("results.md.j2").render(rows=rows, protocols=PROTOCOLS, seven=SEVEN[1:])
    (ROOT / "docs" / "results.md").write_text(page + "\n", encoding="utf-8")


def _mean(values: list[float | None], chosen: list[int]) -> float:
    """Return the mean of the chosen classes' IoU; a class that is nowhere counts as no class."""
    known = [value for index in chosen if (value := values[index]) is not None]
    return sum(known) / len(known)


def _words(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value)


def _flags(options: Mapping[str, Any]) -> str:
    """Return the options as the command line takes them."""
    flags = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        flags.append(f"--{'' if value else 'no-'}{flag}" if isinstance(value, bool) else f"--{flag} {_words(value)}")
    return " ".join(flags)


def _commit() -> str:
    """Return the commit of the code, with a + where the working tree differs from it."""
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    changed = subprocess.run(
        ["git", "status", "--porcelain", "src"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


if __name__ == "__main__":
    main()
