"""Measure the methods on real photos, and write docs/results.json and docs/results.md from what the runs left.

    python -m benchmarks.results --data DIR --weights FILE [--protocol desk|full] [--rows full cam sec] [--runs local]

A row that is finished is kept, an unfinished one goes on where it stopped. Every number is read from a run's files.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.protocols import PROTOCOLS, Protocol, Row
from jinja2 import Environment, FileSystemLoader
from PIL import Image

import tagmask
from tagmask.allocator import keep_memory
from tagmask.data.pixels import read_mask
from tagmask.files import read_json, write_json
from tagmask.saliency import NOTE
from tagmask.types import UNKNOWN
from tagmask.video.evaluate import score_follow

ROOT = Path(__file__).resolve().parents[1]
CUES = ("coverage", "miou_labelled", "miou_unknown_as_background", "foreground_recall", "missed")
CLIP_STEPS = {"thresholded attention": "clip-cam", "graph cut": "clip-masks"}
SEVEN = ("background", "cat", "cow", "dog", "horse", "person", "sheep")


def main() -> None:
    """Run what is missing, then write the table of all rows there are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="photos, tags.csv, masks, classes.txt and splits")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights of the backbone, timm's names")
    parser.add_argument("--backbone", default="mobilenetv2_100")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="desk")
    parser.add_argument("--rows", nargs="+", help="only these rows of the protocol")
    parser.add_argument(
        "--clips", type=Path, help="images/CLIP/, masks/CLIP/ and sequences.csv, for rows of clips with truth"
    )
    parser.add_argument("--runs", type=Path, default=ROOT / "local", help="where runs and the shared store are kept")
    given = parser.parse_args()
    keep_memory()
    protocol = PROTOCOLS[given.protocol]
    unknown = [name for name in given.rows or () if name not in protocol.rows]
    if unknown:
        parser.error(f"no row {unknown[0]!r} in protocol {given.protocol}; expected: {', '.join(protocol.rows)}")
    chosen = given.rows or [name for name, row in protocol.rows.items() if given.clips or not row.clips]
    if lacking := [name for name in chosen if protocol.rows[name].clips and not given.clips]:
        parser.error(f"row {lacking[0]!r} works on clips with truth; give --clips DIR")
    for seed in protocol.seeds:
        for name in chosen:
            for row in measure(given, protocol, name, seed):
                keep(row)
                render()


def measure(given: argparse.Namespace, protocol: Protocol, name: str, seed: int) -> list[dict[str, Any]]:
    """Run one row's method and return it; where simpler means than the segmenter label val too, also a row of each."""
    wanted = protocol.rows[name]
    data = tagmask.load_data(given.data, train_split=protocol.train_split, novel=wanted.novel)
    backbone = tagmask.Backbone(given.backbone, weights=str(given.weights), freeze=protocol.freeze)
    out = given.runs / "runs" / given.protocol / f"{re.sub('[^a-z0-9]+', '-', name.lower())}-{seed}"
    options = {**wanted.options, **_saliency(given, protocol, wanted, backbone, seed)}
    named = {"saliency": "SALIENCY"} if wanted.saliency else {}
    if wanted.clips:
        options["clips"], named["clips"] = str(_clips_by_class(given, data.classes)), "CLIPS"
    shown = _flags({**options, **named})
    command = (
        f"tagmask run {wanted.method} DIR --train-split {protocol.train_split} "
        + (f"--novel {wanted.novel} " if wanted.novel else "")
        + f"--backbone {given.backbone} --weights FILE --freeze {protocol.freeze} --seed {seed} {shown}"
    )
    store = given.runs / "store"
    done = tagmask.run(wanted.method, data, out, backbone=backbone, store=store, seed=seed, command=command, **options)
    metrics, seven = done.metrics, [data.classes.index(label) for label in SEVEN]
    groups = {
        "base": [c for c in seven if c not in data.novel],
        "novel": list(data.novel),
    } if wanted.novel else {}  # fmt: skip

    def scored(scores: dict[str, Any]) -> dict[str, float | None]:
        return {group: _mean(scores["iou"], ids) for group, ids in groups.items()}

    steps = metrics.get("steps", {})
    price = metrics.get("activation", {})
    row = {
        "method": name,
        "novel": wanted.novel,
        "options": shown,
        "protocol": given.protocol,
        "data": f"{given.data.resolve().name}/{protocol.train_split}",
        "backbone": given.backbone,
        "device": metrics["device"],
        "seed": seed,
        "extra_supervision": metrics["extra_supervision"],
        "commit": _commit(),
        "command": command,
        "minutes": metrics["minutes"],
        "peak_mb": metrics["peak_mb"],
        "train_mask_miou7": _mean(metrics["train_masks"]["iou"], seven),
        "val_miou7": _mean(metrics["val"]["iou"], seven),
        "val_miou": metrics["val"]["miou"],
        "val_iou": dict(zip(data.classes, metrics["val"]["iou"], strict=True)),
        "val_groups": scored(metrics["val"]),
        "threshold": price.get("threshold"),
        "threshold_oracle": price.get("threshold_oracle"),
        "threshold_price": price.get("price"),
        "steps_train_miou7": {step: _mean(scores["iou"], seven) for step, scores in steps.items()},
        "steps_train_groups": {step: scored(scores) for step, scores in steps.items()},
        "steps_train_objects": {
            step: {part: _mean(scores[part], seven[1:]) for part in ("precision", "recall")}
            for step, scores in {**steps, "final": metrics["train_masks"]}.items()
        },
        "cues": metrics.get("seeds"),
        "steps_train_cues": {
            step: {**{part: scores["seeds"][part] for part in CUES}, "miou7": _mean(scores["iou"], seven)}
            for step, scores in steps.items()
            if "seeds" in scores
        },
        "tags_train_miou": {
            step: [scores.get("one_tag"), scores.get("several_tags")]
            for step, scores in {**steps, "final": metrics["train_masks"]}.items()
        },
        "saliency": metrics.get("saliency"),
        "boxes": {
            step: {part: _mean(scores[f"{part}_by_class"], seven[1:]) for part in ("corloc", "ap50")}
            for step, scores in _box_steps(metrics).items()
        },
        "clips": _clip_scores(out, given.clips / "masks") if wanted.clips else {},
    }
    rows = [row]
    for step, scores in metrics.get("val_steps", {}).items():
        done_by_then = ("classifier", "activation", "threshold", "seeds")
        seconds = sum(stage["seconds"] for stage in metrics["stages"] if stage["name"] in done_by_then)
        rows.append(
            {
                **row,
                "method": f"{name}: {step}",
                "minutes": round(seconds / 60, 2),
                "train_mask_miou7": _mean(steps[step]["iou"], seven),
                "val_miou7": _mean(scores["iou"], seven),
                "val_miou": scores["miou"],
                "val_iou": dict(zip(data.classes, scores["iou"], strict=True)),
                "val_groups": scored(scores),
                "steps_train_miou7": {},
                "steps_train_groups": {},
                "steps_train_objects": {},
                "steps_train_cues": {},
                "tags_train_miou": {},
                "saliency": None,
                "boxes": {},
                "clips": {},
            }
        )
    return rows


def _saliency(
    given: argparse.Namespace, protocol: Protocol, wanted: Row, backbone: tagmask.Backbone, seed: int
) -> dict[str, Any]:
    """Make the saliency that a row asks for, where it does, and return it as an option."""
    if not wanted.saliency:
        return {}
    data = tagmask.load_data(given.data, train_split=protocol.train_split, novel=wanted.novel)
    folder = given.runs / "runs" / given.protocol / f"saliency-{wanted.saliency}-{seed}"
    if wanted.saliency == "learned":
        options = protocol.saliency
        tagmask.fit_saliency(data, folder, backbone=backbone, store=given.runs / "store", seed=seed, **options)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / NOTE).write_text("true masks of the training photos (an oracle)\n", encoding="utf-8")
        for sample in data.train:
            assert sample.mask is not None
            truth = read_mask(sample.mask, classes=len(data.classes))
            Image.fromarray(np.where((truth > 0) & (truth < UNKNOWN), np.uint8(255), np.uint8(0))).save(
                folder / f"{sample.name}.png"
            )
    return {"saliency": str(folder)}


def _clips_by_class(given: argparse.Namespace, classes: Sequence[str]) -> Path:
    """Return a folder CLASS/CLIP of the clips with truth, each under the first of its tags that the photos know."""
    folder: Path = given.runs / "clips"
    with (given.clips / "sequences.csv").open(encoding="utf-8", newline="") as file:
        tags = {row["sequence"]: row["tags"].split() for row in csv.DictReader(file)}
    for clip, shown in tags.items():
        known = next((tag for tag in shown if tag in classes), None)
        if known is None:
            raise SystemExit(
                f"{given.clips / 'sequences.csv'}: {clip} has the tags {shown}; none of {', '.join(classes)}."
            )
        place = folder / known / clip
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.symlink_to((given.clips / "images" / clip).resolve())
    return folder


def _clip_scores(out: Path, truth: Path) -> dict[str, dict[str, float]]:
    """Return J of every clip of what a run cut out of clips, and of its thresholded attention."""
    scored = {name: score_follow(out / folder, truth, quiet=True)["clips"] for name, folder in CLIP_STEPS.items()}
    return {name: {clip: one["mean"]["j"]["mean"] for clip, one in clips.items()} for name, clips in scored.items()}


def _box_steps(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scores of all boxes of a run, by what they are; {} for a method without boxes."""
    if "boxes" not in metrics:
        return {}
    return {**metrics["box_steps"], "detector": metrics["boxes"], "detector, new photos": metrics["val_boxes"]}


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
    rows = sorted(read_json(ROOT / "docs" / "results.json"), key=_place)
    environment = Environment(loader=FileSystemLoader(ROOT / "benchmarks"), trim_blocks=True, lstrip_blocks=True)
    environment.filters["points"] = lambda value: "-" if value is None else f"{100 * value:.1f}"
    environment.filters["number"] = lambda value: "-" if value is None else f"{value:.2f}"
    page = environment.get_template("results.md.j2").render(rows=rows, protocols=PROTOCOLS, seven=SEVEN[1:])
    (ROOT / "docs" / "results.md").write_text(page + "\n", encoding="utf-8")


def _place(row: dict[str, Any]) -> tuple[str, int, int, str]:
    """Return where a row stands in the page: as in its protocol, what simpler means give behind it."""
    names = list(PROTOCOLS[row["protocol"]].rows)
    name = row["method"].partition(": ")[0]
    return row["protocol"], row["seed"], names.index(name) if name in names else len(names), row["method"]


def _mean(values: list[float | None], chosen: list[int]) -> float | None:
    """Return the mean of what is known of the chosen classes: a class that is nowhere counts as no class."""
    known = [value for index in chosen if (value := values[index]) is not None]
    return sum(known) / len(known) if known else None


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
