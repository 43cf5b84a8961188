"""The folder that the masks of one clip go to: what they are called, and that it holds those of no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tagmask.data.pixels import fingerprint
from tagmask.data.video import Clip
from tagmask.errors import RunError
from tagmask.files import read_json, write_json
from tagmask.nets.storage import DESCRIPTION


def frame_names(clip: Clip) -> Iterator[str]:
    """Yield the name of each frame's mask: that of its picture, or its number."""
    if clip.pictures:
        yield from (picture.stem for picture in clip.pictures)
        return
    number = 0
    while True:
        yield f"{number:06d}"
        number += 1


def claim_clip(out: Path, clip: Clip, model: Path, how: dict[str, Any]) -> None:
    """Refuse a folder that holds masks of another clip, by another network or made in another way; else say what it holds."""
    settings = {
        "clip": str(clip.path.resolve()), "size": list(clip.size),
        "content": fingerprint(clip.pictures[0] if clip.pictures else clip.path),
        "model": fingerprint(model / DESCRIPTION), **how,
    }  # fmt: skip
    path = out / "options.json"
    if path.exists():
        before = read_json(path)
        other = [name for name, value in settings.items() if before.get(name) != value]
        if other:
            raise RunError(
                f"{out}: holds masks made with another {other[0]} ({before.get(other[0])}, now {settings[other[0]]}); "
                "choose another folder for --out."
            )
        return
    if out.exists() and any(out.iterdir()):
        raise RunError(f"{out}: is not empty and holds no masks of a clip; choose another folder for --out.")
    write_json(path, settings)
