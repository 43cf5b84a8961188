r"""Measure following objects: train every row of the ablation on photos with masks, run it on clips with masks, score J and F.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.video_follow --photos DIR --clips DIR --weights FILE \
        [--rows base all] [--seeds 0 1] [--runs local]

A row that is finished is kept, an unfinished one goes on where it stopped. docs/results-video.json gets a row for each. The row
of folds goes on with the tracker "all" on the frames of the other clips, fold by fold: it has seen clips of the same set.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.results import ROOT, _commit, _flags
from numpy.typing import NDArray

import tagmask
from tagmask.allocator import keep_memory
from tagmask.data import load_photo, read_mask
from tagmask.files import read_json, read_json_lines, write_json
from tagmask.runs import choose_device, device_name
from tagmask.types import Dataset, Sample
from tagmask.video.baselines import copied, propagated
from tagmask.video.fit_tracker import fit_tracker
from tagmask.video.metrics import ObjectScores, score_clip
from tagmask.video.track import Tracker
from tagmask.video.triplets import clips_of

OUT = ROOT / "docs" / "results-video.json"
NAME = ("task", "method", "protocol", "data", "clips", "backbone", "seed")  # what tells one row from another

# Each row changes so much of the whole tracker (all).
ROWS: dict[str, dict[str, Any]] = {
    "base": {"isometric": False, "local": 0, "centre": False},
    "+LC": {"isometric": False, "centre": False},
    "+LC+CO": {"isometric": False},
    "+LC+SVB": {"centre": False},
    "all": {},
    "all, no previous mask": {"previous": False},
    "all, eps 0.2": {"eps": 0.2},
    "all, ranked": {"select": "rank"},
}
# How long and how fast: desk is some ten minutes a row on two cores, full what the specification says.
PROTOCOLS: dict[str, dict[str, Any]] = {
    "desk": {"epochs": 4.0, "batch": 8, "rate": 3e-4, "head_rate": 10.0},
    "full": {"epochs": 48.0, "batch": 8, "rate": 1e-4, "head_rate": 10.0},
}
FOLDS = 5  # clip n of the sorted ones is in fold n mod 5; source: video_data
TUNED = "all, then on clips of other folds"
TUNING: dict[str, Any] = {
    "clips": True,
    "epochs": 2.0,
    "rate": 1e-4,
    "head_rate": 3.0,
}  # fixed before it was run  # ours
FREEZE = {"desk": 3, "full": 0}  # first stages of the trunk that do not learn
Labels = NDArray[np.uint8]
Follow = Callable[[Iterable[Labels], Labels], Iterator[Labels]]
BASELINES: dict[str, Follow] = {"copy of the first mask": copied, "flow": propagated}


def main() -> None:
    """Run what is missing, and write a row for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--photos", type=Path, required=True, help="photos with masks, classes.txt and splits")
    parser.add_argument("--photos-split", default="train1000", help="the photos to learn from (train1000)")
    parser.add_argument(
        "--clips", type=Path, required=True, help="images/CLIP/FRAME and masks/CLIP/FRAME, in a split val"
    )
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights of the backbone, timm's names")
    parser.add_argument("--backbone", default="mobilenetv2_035")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="desk")
    parser.add_argument("--rows", nargs="+", help="only these rows", choices=[*ROWS, TUNED, *BASELINES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=Path, default=ROOT / "local", help="where runs are kept")
    parser.add_argument("--out", type=Path, default=OUT, help="the table (docs/results-video.json)")
    given = parser.parse_args()
    keep_memory()
    clips = tagmask.load_data(given.clips)
    for name in given.rows or [*BASELINES, *ROWS, TUNED]:
        for seed in given.seeds if name not in BASELINES else [0]:
            if name == TUNED:
                keep(given.out, tuned(given, seed, clips))
            else:
                keep(given.out, trained(given, name, seed, clips) if name in ROWS else untrained(given, name, clips))


def trained(given: argparse.Namespace, name: str, seed: int, clips: Dataset) -> dict[str, Any]:
    """Train and run one row of the ablation."""
    options = {**PROTOCOLS[given.protocol], **ROWS[name]}
    out = folder(given, name, seed)
    command = (
        f"tagmask fit-tracker DIR --out RUN --train-split {given.photos_split} --backbone {given.backbone} --weights FILE "
        f"--freeze {FREEZE[given.protocol]} --seed {seed} {_flags(options)}"
    )
    if (out / "row.json").exists():
        return dict(read_json(out / "row.json"))
    photos = tagmask.load_data(given.photos, train_split=given.photos_split)
    backbone = tagmask.Backbone(given.backbone, weights=str(given.weights), freeze=FREEZE[given.protocol])
    tracker = fit_tracker(photos, out, backbone=backbone, seed=seed, device=given.device, command=command, **options)
    found = scored(clips.val, lambda frames, mask: _steps(tracker, frames, mask))
    row = {
        **_head(given, name, seed), "options": _flags(ROWS[name]), "command": command,
        "minutes": round(read_json(out / "tracker" / "cost.json")["seconds"] / 60, 2),
        "parameters": sum(value.numel() for value in tracker.network.parameters()), "photo_loss": photo_loss(out), **found,
    }  # fmt: skip
    write_json(out / "row.json", row)
    return row


def photo_loss(out: Path) -> float:
    """Return pixels and overlap of the loss on the photos, the mean over the last fifth of the training: lower is better."""
    points = read_json_lines(out / "tracker" / "curve.jsonl")
    last = [one["pixels"] + one["overlap"] for one in points if one["step"] >= 0.8 * points[-1]["step"]]
    return round(float(np.mean(last)), 4)


def tuned(given: argparse.Namespace, seed: int, clips: Dataset) -> dict[str, Any]:
    """Go on with the tracker "all" on the clips of the other folds, and run each fold's tracker on its own clips."""
    trained(given, "all", seed, clips)
    start, out = folder(given, "all", seed), folder(given, TUNED, seed)
    command = (
        f"tagmask fit-tracker CLIPS_OF_OTHER_FOLDS --out TUNED --start RUN --freeze 3 --seed {seed} {_flags(TUNING)}"
    )
    if (out / "row.json").exists():
        return dict(read_json(out / "row.json"))
    parts, minutes = [], 0.0
    frames = clips_of([sample.name for sample in clips.val])
    for fold in range(FOLDS):
        own = [name for number, clip in enumerate(frames) if number % FOLDS == fold for name in frames[clip]]
        others = [sample.name for sample in clips.val if sample.name not in own]
        part = replace(clips, splits={"train": tuple(others), "val": tuple(own)})
        backbone = tagmask.Backbone(given.backbone, weights=str(given.weights), freeze=FREEZE[given.protocol])
        tracker = fit_tracker(
            part,
            out / str(fold),
            start=start,
            backbone=backbone,
            seed=seed,
            device=given.device,
            command=command,
            **TUNING,
        )
        parts.append(scored(part.val, lambda frames, mask, tracker=tracker: _steps(tracker, frames, mask)))
        minutes += read_json(out / str(fold) / "tracker" / "cost.json")["seconds"] / 60
    row = {
        **_head(given, TUNED, seed), "options": _flags(TUNING), "command": command, "minutes": round(minutes, 2),
        **together(parts),
    }  # fmt: skip
    write_json(out / "row.json", row)
    return row


def folder(given: argparse.Namespace, name: str, seed: int) -> Path:
    """Return where a row keeps its run."""
    slug = re.sub("[^a-z0-9.]+", "-", name.lower()).strip("-")
    return Path(given.runs) / "video" / given.protocol / f"{given.photos_split}-{slug}-{seed}"


def together(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the scores of all clips of several parts, and their means.

    >>> clip = {"j": 0.5, "f": 0.7, "jf": 0.6}
    >>> parts = [{"by_clip": {"a": clip}, "milliseconds": 3.0}, {"by_clip": {"b": clip}, "milliseconds": 5.0}]
    >>> together(parts)["mean"]["jf"], together(parts)["milliseconds"]
    (0.6, 4.0)
    """
    found = {clip: scores for part in parts for clip, scores in part["by_clip"].items()}
    mean = {name: float(np.mean([one[name] for one in found.values()])) for name in ("j", "f", "jf")}
    return {"by_clip": found, "mean": mean, "milliseconds": float(np.median([part["milliseconds"] for part in parts]))}


def untrained(given: argparse.Namespace, name: str, clips: Dataset) -> dict[str, Any]:
    """Run what needs no training."""
    row = {**_head(given, name, 0), "options": "", "command": "python -m benchmarks.video_follow", "minutes": 0.0}
    return {**row, "backbone": "", "data": "", **scored(clips.val, BASELINES[name])}


def scored(samples: Sequence[Sample], follow: Follow) -> dict[str, Any]:
    """Follow the objects of every clip from its first mask; return J and F by clip, their means, and milliseconds a frame."""
    by_name = {sample.name: sample for sample in samples if sample.mask is not None}
    found, times = {}, []
    for clip, names in clips_of(list(by_name)).items():
        masks = [read_mask(Path(str(by_name[name].mask)), classes=255) for name in names]
        frames = (load_photo(by_name[name]).pixels for name in names)
        predicted, clock = [], time.perf_counter()
        for labels in follow(frames, masks[0]):
            times.append(time.perf_counter() - clock)
            predicted.append(labels)
            clock = time.perf_counter()
        objects = score_clip(zip(predicted, masks, strict=True))
        found[clip] = _numbers(ObjectScores.mean_of(objects.values()))
        print(f"{clip:<20} J {100 * found[clip]['j']:5.1f}  F {100 * found[clip]['f']:5.1f}", flush=True)
    scores = together([{"by_clip": found, "milliseconds": round(1000 * float(np.median(times)), 1)}])
    mean = scores["mean"]
    print(f"{'mean':<20} J {100 * mean['j']:5.1f}  F {100 * mean['f']:5.1f}  J&F {100 * mean['jf']:5.1f}", flush=True)
    return scores


def _steps(tracker: Tracker, frames: Iterable[Labels], mask: Labels) -> Iterator[Labels]:
    """Yield the first mask, then what the tracker sees."""
    for number, frame in enumerate(frames):
        if number == 0:
            tracker.start(frame, mask)
            yield mask
        else:
            yield tracker.step(frame)


def _numbers(scores: ObjectScores) -> dict[str, float]:
    return {
        "j": scores.region.mean, "f": scores.boundary.mean, "jf": scores.both,
        "j_recall": scores.region.recall, "f_recall": scores.boundary.recall,
        "j_decay": scores.region.decay, "f_decay": scores.boundary.decay,
    }  # fmt: skip


def _head(given: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    return {
        "task": "follow", "method": name, "protocol": given.protocol,
        "data": f"{given.photos.resolve().name}/{given.photos_split}", "clips": given.clips.resolve().name,
        "backbone": given.backbone, "seed": seed, "device": device_name(choose_device(given.device)), "commit": _commit(),
    }  # fmt: skip


def keep(path: Path, row: Mapping[str, Any]) -> None:
    """Put a row into the table, in the place of an older one of the same name."""
    rows = read_json(path) if path.exists() else []
    rows = [other for other in rows if any(other.get(part) != row[part] for part in NAME if part in row)]
    write_json(path, sorted([*rows, row], key=lambda r: [str(r.get(part)) for part in NAME]))


if __name__ == "__main__":
    main()
