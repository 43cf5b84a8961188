"""The report: one HTML page about one run, self-contained, so that it opens offline and can be sent by mail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from numpy.typing import NDArray

from tagmask.data.pixels import palette
from tagmask.files import whole
from tagmask.report import pictures, tables
from tagmask.types import BACKGROUND, UNKNOWN

# ours: every group of image rows, what it shows where the truth is known, and what where it is not
GROUPS = {
    "best": (
        "The masks that agree most with the truth.",
        "The images that the method is surest of; without masks this is its own opinion.",
    ),
    "middle": (
        "Around the median: what to expect of an ordinary image.",
        "The middle of the method's own ranking: what to expect of an ordinary image.",
    ),
    "worst": (
        "The masks that agree least with the truth: where the method fails, and how.",
        "The lowest in the method's own ranking.",
    ),
    "doubtful": (
        "The masks that the method itself doubts most. Look at these first; no truth is needed to find them.",
        "The masks that the method itself doubts most. Look at these first.",
    ),
}
PICTURE_BYTES = 4_200_000  # ours: for all pictures together, so that a page stays under 5 MB
PICTURE_AT_MOST = 48_000  # ours: bytes of one picture, also on a page with few


@dataclass(frozen=True)
class ImageRow:
    """One image on the page and what the run made of it.

    ``group`` is best, middle, worst or doubtful; ``tags`` are class names; ``photo`` uint8 (H, W, 3); ``activation``
    holds (class name, float32 (H, W) in [0, 1]) pairs; ``seeds``, ``mask`` and ``truth`` uint8 (H, W), 0 background,
    255 unknown. ``boxes`` are (class id, x0, y0, x1, y1) in pixels of the photo, the surest first. ``score`` is the IoU with
    the truth, ``doubt`` the method's own; both in [0, 1].
    """

    group: str
    name: str
    tags: Sequence[str]
    photo: NDArray[np.uint8]
    activation: Sequence[tuple[str, NDArray[np.float32]]]
    seeds: NDArray[np.uint8] | None
    mask: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None = None
    score: float | None = None
    doubt: float | None = None
    boxes: Sequence[tuple[int, int, int, int, int]] | None = None

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise ValueError(f"group of {self.name!r} must be one of {', '.join(GROUPS)}, got {self.group!r}")
        if self.photo.dtype != np.uint8 or self.photo.ndim != 3 or self.photo.shape[2] != 3:
            raise ValueError(f"photo must be uint8 (H, W, 3), got {self.photo.dtype} {self.photo.shape}")
        for what, labels in (("seeds", self.seeds), ("mask", self.mask), ("truth", self.truth)):
            if labels is not None and (labels.dtype != np.uint8 or labels.ndim != 2):
                raise ValueError(f"{what} must be uint8 (H, W), got {labels.dtype} {labels.shape}")


@dataclass(frozen=True)
class Report:
    """All that the page says of a run: ``metrics`` is the content of ``metrics.json``, any key of it may be missing.

    ``classes[0]`` is the background. ``curves`` holds, for each trained stage, records with ``step``, the learning rate
    ``lr`` and any number of named losses.
    """

    title: str
    method_summary: str
    data: str
    classes: tuple[str, ...]
    metrics: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    rows: Sequence[ImageRow] = ()
    warnings: Sequence[str] = ()


def write_report(path: Path, report: Report) -> None:
    """Write ``report`` to ``path`` as one HTML file without a single external address; replaces it in one step."""
    # backslashreplace: a file name that is not valid Unicode reaches us as lone surrogates
    page = render(report).encode("utf-8", errors="backslashreplace")
    with whole(path) as temporary:
        temporary.write_bytes(page)


def render(report: Report) -> str:
    """Return the page as text."""
    metrics = report.metrics
    shown = _columns(report.rows)
    return _template().render(
        report=report,
        verdict=tables.verdict(metrics),
        facts=tables.facts(metrics),
        command=metrics.get("command"),
        versions=tables.part(metrics, "versions"),
        table=tables.class_table(report.classes, metrics),
        threshold=tables.threshold(metrics),
        steps=tables.step_table(metrics),
        boxes=tables.box_table(metrics),
        seed_facts=tables.seed_facts(metrics),
        saliency_facts=tables.saliency_facts(metrics),
        charts=tables.training_charts(report.curves),
        stages=tables.stage_table(metrics),
        shown=shown,
        groups=_groups(report.rows, shown),
        legend=_legend(report),
        colours=[_css(colour) for colour in palette()[: len(report.classes)]],
        heat=", ".join(_css(colour) for colour in pictures.heat_ramp()[::15]),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


def _columns(rows: Sequence[ImageRow]) -> list[str]:
    """Return the pictures that at least one row has, in the order of the method's work."""
    has = {
        "photo": True,
        "activation": any(row.activation for row in rows),
        "seeds": any(row.seeds is not None for row in rows),
        "boxes": any(row.boxes is not None for row in rows),
        "mask": True,
        "truth": any(row.truth is not None for row in rows),
    }
    return [column for column, there in has.items() if there]


def _groups(rows: Sequence[ImageRow], shown: Sequence[str]) -> list[dict[str, Any]]:
    """Return the groups that have rows, in the order of ``GROUPS``, with every picture drawn, a photo in two of them once."""
    count = sum(len(shown) + max(len(row.activation) - 1, 0) for row in rows)
    budget = min(PICTURE_BYTES // max(count, 1), PICTURE_AT_MOST)
    drawn: dict[str, dict[str, Any]] = {}
    groups = []
    for name, (with_truth, without) in GROUPS.items():
        members = [row for row in rows if row.group == name]
        if members:
            sentence = with_truth if any(row.score is not None for row in members) else without
            for row in members:
                if row.name not in drawn:
                    drawn[row.name] = _draw(row, shown, budget)
            groups.append({"name": name, "sentence": sentence, "rows": [drawn[row.name] for row in members]})
    return groups


def _draw(row: ImageRow, shown: Sequence[str], budget: int) -> dict[str, Any]:
    """Return the words of one row and, for each column, its (label, data URI) tiles."""
    small = pictures.thumbnail(row.photo)

    def painted(labels: NDArray[np.uint8] | None) -> list[tuple[str, str]]:
        return [] if labels is None else [("", pictures.data_uri(pictures.paint(small, labels), budget))]

    def framed(boxes: Sequence[tuple[int, int, int, int, int]]) -> NDArray[np.uint8]:
        return pictures.frame(small, boxes, small.shape[0] / row.photo.shape[0])

    tiles = {
        "photo": [("", pictures.data_uri(small, budget))],
        "activation": [
            (tag, pictures.data_uri(pictures.heat(small, values), budget)) for tag, values in row.activation
        ],
        "seeds": painted(row.seeds),
        "boxes": [] if row.boxes is None else [("", pictures.data_uri(framed(row.boxes), budget))],
        "mask": painted(row.mask),
        "truth": painted(row.truth),
    }
    doubt = tables.number(row.doubt)
    return {
        "name": row.name,
        "tags": list(row.tags),
        "iou": None if tables.number(row.score) is None else tables.percent(row.score, " %"),
        "doubt": None if doubt is None else f"{doubt:.2f}",
        "cells": [(column, tiles[column]) for column in shown],
    }


def _legend(report: Report) -> list[tuple[int, str]]:
    """Return (class id, name) of the classes that any picture on the page shows, without the background."""
    maps = [labels for row in report.rows for labels in (row.seeds, row.mask, row.truth) if labels is not None]
    framed = {box[0] for row in report.rows for box in row.boxes or ()}
    shown = sorted(framed.union(*(np.unique(labels).tolist() for labels in maps)) - {BACKGROUND, UNKNOWN})
    return [(index, report.classes[index]) for index in shown if index < len(report.classes)]


def _css(colour: NDArray[np.uint8]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour.tolist())
