"""The demo: a drawn sample set, the plain method and the upper bound on it, and what they are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from tagmask.data import load_data, load_photo, make_toy, read_mask
from tagmask.nets.backbones import Backbone
from tagmask.report.example import example_picture
from tagmask.runs import Run, run
from tagmask.types import Dataset

SCRATCH = Backbone(name="test_resnet", weights="none")  # timm's tiny network, learned from nothing
# What a tiny network needs to learn drawn textures from nothing.  # ours
SMALL: dict[str, Any] = {
    "epochs": 18.0, "batch": 8, "crop": 96, "zoom": (0.9, 1.1), "rate": 0.2, "head_rate": 1.0, "width": 32, "output_stride": 8,
}  # fmt: skip
TAGS: dict[str, Any] = {"tag_epochs": 16.0, "tag_rate": 0.05, "tag_crop": 96, "rounds": 1}
COLUMNS = 5  # photos in the example picture


def demo(out: Path, *, images: int = 320, quiet: bool = False) -> str:
    """Draw photos into ``out``, run ``full`` and ``cam`` on them, and return a table of what they reach.

    Also writes ``example.png``: photos, their tags, and the masks that `cam` found.
    """
    data = load_data(make_toy(out / "photos", images=images))
    shared: dict[str, Any] = {"backbone": SCRATCH, "store": out / "store", "quiet": quiet, "device": "cpu"}
    cam = run("cam", data, out / "cam", **shared, **SMALL, **TAGS)
    full = run("full", data, out / "full", **shared, **SMALL)
    picture = _picture(data, cam, out / "example.png")
    plain = "thresholded activation"
    rows = [("cam: its activations, thresholded", cam.metrics["steps"][plain], cam.metrics["val_steps"][plain])]
    for what, done in (("cam, from tags alone", cam), ("full, from painted masks", full)):
        rows.append((what, done.metrics["train_masks"], done.metrics["val"]))
    lines = ["", f"{'mIoU':<36} masks of the tagged photos    predictions on new photos"]
    for what, train, val in rows:
        lines.append(f"  {what:<34} {100 * train['miou']:>26.1f}    {100 * val['miou']:>25.1f}")
    lines += [
        "",
        f"  look at  {cam.folder / 'report.html'}",
        f"  masks    {cam.folder / 'masks'}",
        f"  picture  {picture}",
    ]
    return "\n".join(lines)


def _picture(data: Dataset, done: Run, path: Path) -> Path:
    """Draw the first photos that have a tag, with their tags and masks."""
    shown = [sample for sample in data.train if sample.tags][:COLUMNS]
    examples = [
        (
            load_photo(sample).pixels,
            [data.classes[tag] for tag in sample.tags or ()],
            read_mask(done.folder / "masks" / f"{sample.name}.png", classes=len(data.classes)),
        )
        for sample in shown
    ]
    Image.fromarray(example_picture(examples)).save(path, optimize=True)
    return path
