"""Measure the methods on real photos and write docs/results.json and docs/results.md from what the runs left.

    python benchmarks/results.py --data DIR --weights FILE [--protocol desk] [--rows full cam sec]

Rows that are finished are kept, unfinished ones go on where they stopped; every number comes from a run's files.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SEVEN = ("background", "cat", "cow", "dog", "horse", "person", "sheep")
COLUMNS = (
    "method", "options", "protocol", "data", "backbone", "device", "seed", "minutes", "peak_mb", "extra_supervision",
    "train_mask_miou7", "val_miou7", "val_miou", "val_iou", "threshold", "threshold_oracle", "commit",
)  # fmt: skip
SEGMENTER = {"epochs": 5.0, "crop": 224, "zoom": (0.75, 1.5), "width": 128}
TAGS = {"tag_epochs": 4.0, "tag_crop": 224, "scales": (0.5, 1.0, 1.5)}
CUES = {
    "size": 321, "output_stride": 16, "one_cue_network": True, "cue_convs": 0, "cue_epochs": 4.0, "cue_rate": 0.01,
    "epochs": 4.0, "rate": 0.005, "width": 256,
}  # fmt: skip


@dataclass(frozen=True)
class Protocol:
    """What is the same for all methods of a table; ``options`` are the changes to a recipe's defaults."""

    what: str
    train_split: str
    backbone: dict[str, Any]
    seeds: tuple[int, ...]
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
