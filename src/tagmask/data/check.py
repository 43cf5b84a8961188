"""What ``tagmask check`` says of a data set: what was understood, what is odd, what it would train on."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import groupby, permutations
from typing import Any

from tagmask.data.listing import Findings, Problem
from tagmask.data.novel import guarded
from tagmask.types import Dataset, Sample

ALWAYS = 0.95  # ours: a tag that comes with another one more often than this cannot be told from it
ENOUGH_TO_SAY = 5  # ours: fewer images say nothing about which tags go together
FEW = 10  # ours: with fewer images a class is hardly learned
MOST_SHOWN = 20  # ours: problems of one kind that fit on a screen; the JSON has all
_WIDTH = 100
_BAR = 30


def render_check(dataset: Dataset | None, findings: Findings) -> str:
    """Say it in plain text for a terminal of 100 columns; ``dataset`` is ``None`` where the data is refused."""
    parts = [] if dataset is None else [_overview(dataset), _class_table(dataset), _advice(dataset)]
    parts += [_problem_list(findings.problems), _verdict(dataset)]
    return "\n\n".join(part for part in parts if part) + "\n"


def check_as_json(dataset: Dataset | None, findings: Findings) -> str:
    """Say the same as one JSON object, with every problem listed."""
    content: dict[str, Any] = {"usable": dataset is not None}
    if dataset is not None:
        content |= {
            "root": str(dataset.root),
            "reader": dataset.reader,
            **_counts(dataset),
            "classes": list(dataset.classes),
            "train_images_per_class": _per_class(dataset, dataset.train),
            "val_images_per_class": _per_class(dataset, dataset.val),
            "tags_per_image": {str(count): images for count, images in _tags_per_image(dataset).items()},
            "advice": _worth_a_warning(dataset),
        }
    content["problems"] = [asdict(problem) for problem in findings.problems]
    return json.dumps(content, indent=2, ensure_ascii=False)


def _counts(dataset: Dataset) -> dict[str, int]:
    samples = dataset.samples
    return {
        "images": len(samples),
        "train": len(dataset.train),
        "val": len(dataset.val),
        "negatives": sum(sample.tags == () for sample in samples),
        "unknown": sum(sample.tags is None for sample in samples),
        "masks": sum(sample.mask is not None for sample in samples),
        "boxes": sum(len(sample.boxes) for sample in samples),
    }


def _per_class(dataset: Dataset, samples: Sequence[Sample]) -> dict[str, int]:
    counts = Counter(tag for sample in samples for tag in sample.tags or ())
    return {name: counts[index] for index, name in enumerate(dataset.classes) if index}


def _tags_per_image(dataset: Dataset) -> dict[int, int]:
    return dict(sorted(Counter(len(sample.tags) for sample in dataset.samples if sample.tags is not None).items()))


def _overview(dataset: Dataset) -> str:
    counts = _counts(dataset)
    tags = ", ".join(f"{count}: {images}" for count, images in _tags_per_image(dataset).items())
    splits = ", ".join(f"{name} {len(members)}" for name, members in sorted(dataset.splits.items()))
    rows = [
        ("read as", dataset.reader),
        ("images", str(counts["images"])),
        ("classes", f"{len(dataset.classes) - 1} and the background"),
        ("tags an image", tags or "none known"),
        ("negatives", f"{counts['negatives']} (surely none of the classes)"),
        ("unknown tags", f"{counts['unknown']} (not learned from)"),
        ("masks", f"{counts['masks']} of {counts['images']} images have one"),
        ("boxes", f"{counts['boxes']} in {sum(bool(sample.boxes) for sample in dataset.samples)} images"),
        ("splits", splits or "none"),
        ("to train on", f"{counts['train']}"),
        ("to validate on", f"{counts['val']}"),
    ]
    if dataset.novel:
        named = ", ".join(dataset.classes[tag] for tag in dataset.novel)
        base = guarded(dataset, "masks of the base classes")
        masks = sum(sample.mask is not None for sample in base.train)
        rows.append(("novel classes", f"{named}; {masks} masks of the others may be learned from"))
    return "\n".join([str(dataset.root), *(f"  {label:<16}{value}" for label, value in rows)])


def _class_table(dataset: Dataset) -> str:
    train, val = _per_class(dataset, dataset.train), _per_class(dataset, dataset.val)
    wide = min(40, max(16, *(len(name) + 2 for name in train)))
    most = max(1, *train.values())
    lines = [f"  {'class':<{wide}}{'train':>8}{'val':>8}"]
    for name in train:
        bar = "#" * round(_BAR * train[name] / most)
        lines.append(f"  {_cut(name, wide - 1):<{wide}}{train[name]:>8}{val[name]:>8}   {bar}".rstrip())
    return "\n".join(lines)


def _worth_a_warning(dataset: Dataset) -> list[str]:
    """What tags alone cannot teach: classes that are rare, always there, or never seen without another."""
    train = dataset.train
    if not train:
        return ["no image can be trained on: none outside of the validation split has known tags"]
    alone = Counter(tag for sample in train for tag in sample.tags or ())
    pairs = Counter(pair for sample in train for pair in permutations(sample.tags or (), 2))
    names = dataset.classes
    advice = []
    for tag in range(1, len(names)):
        if alone[tag] < FEW:
            advice.append(f"{names[tag]!r} is in {alone[tag]} training images; below {FEW} it is hardly learned")
        elif alone[tag] == len(train):
            advice.append(f"{names[tag]!r} is in every training image; without others nothing shows what it is not")
    for (tag, other), both in sorted(pairs.items()):
        if alone[tag] >= ENOUGH_TO_SAY and both > ALWAYS * alone[tag] and alone[other] < len(train):
            seen = f"{both} of {alone[tag]} images with {names[tag]!r} have {names[other]!r} too"
            advice.append(f"{seen}; tags cannot tell them apart: add images of {names[tag]!r} alone")
    return advice


def _advice(dataset: Dataset) -> str:
    return "\n".join(["Worth a look", *_wrapped(_worth_a_warning(dataset))]) if _worth_a_warning(dataset) else ""


def _problem_list(problems: Sequence[Problem]) -> str:
    if not problems:
        return "No file is odd."
    order = {"refused": 0, "skipped": 1, "warning": 2}
    ranked = sorted(problems, key=lambda problem: (order[problem.effect], problem.kind))
    lines = []
    for (effect, kind), same in groupby(ranked, key=lambda problem: (problem.effect, problem.kind)):
        group = list(same)
        lines.append(f"{effect.upper()}  {kind} ({len(group)})")
        lines += _wrapped(f"{one.where}: {one.message}" if one.where else one.message for one in group[:MOST_SHOWN])
        if len(group) > MOST_SHOWN:
            lines.append(f"  ... and {len(group) - MOST_SHOWN} more; --json lists all")
    return "\n".join(lines)


def _verdict(dataset: Dataset | None) -> str:
    if dataset is None:
        return "This data cannot be used until what is REFUSED above is mended."
    counts = _counts(dataset)
    what = f"Would train on {counts['train']} images of {len(dataset.classes) - 1} classes"
    return f"{what}, validate on {counts['val']}, and make masks for all {counts['images']}."


def _wrapped(texts: Iterable[str]) -> list[str]:
    """Each text as an item of at most 100 columns; long paths are never cut."""
    return [
        line
        for text in texts
        for line in textwrap.wrap(
            text,
            width=_WIDTH,
            initial_indent="  ",
            subsequent_indent="      ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    ]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."
