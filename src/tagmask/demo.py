"""The demo: a drawn sample set, the upper bound and the plain method on it, and what they are worth."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tagmask.data import load_data, make_toy
from tagmask.data.pixels import palette
from tagmask.nets.backbones import Backbone
from tagmask.run import run

SCRATCH = Backbone(name="test_resnet", weights="none", output_stride=8)  # timm's tiny network, learned from nothing
SMALL: dict[str, Any] = {"epochs": 12.0, "crop": 96, "rate": 0.05, "head_rate": 1.0, "width": 64, "batch": 16}
TAGS: dict[str, Any] = {"tag_epochs": 20.0, "tag_rate": 0.05, "tag_crop": 96}


def demo(out: Path, *, images: int = 400, quiet: bool = False) -> str:
    """Draw photos into ``out``, run ``full`` and ``cam`` on them, and return a table of what they reach.

    Also writes ``example.png``: one photo and its mask side by side.
    """
    data = load_data(make_toy(out / "photos", images=images))
    shared: dict[str, Any] = {
        "backbone": SCRATCH,
        "store": out / "store",
        "longest": 0,
        "quiet": quiet,
        "device": "cpu",
    }
    full = run("full", data, out / "full", **shared, **SMALL)
    cam = run("cam", data, out / "cam", **shared, **SMALL, **TAGS)
    example = picture(out, data.train[0].name)
    plain = cam.metrics["steps"]["thresholded activation"]
    lines = ["", "                             training masks    new photos (val)"]
    for what, train, val in (
        ("thresholded activation", plain, None),
        ("cam (tags only)", cam.metrics["train_masks"]["miou"], cam.metrics["val"]["miou"]),
        ("full (masks)", full.metrics["train_masks"]["miou"], full.metrics["val"]["miou"]),
    ):
        shown = "-" if val is None else f"{100 * val:.1f}"
        lines.append(f"  {what:<26} {100 * train:>9.1f} mIoU    {shown:>9}{' mIoU' if val is not None else ''}")
    lines += [
        "",
        f"  report   {cam.folder / 'report.html'}",
        f"  masks    {cam.folder / 'masks'}",
        f"  picture  {example}",
    ]
    return "\n".join(lines)
