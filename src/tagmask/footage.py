"""Chosen frames of a clip and what was found in them, in one file, of which a picture at a time is in memory."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import cv2
import numpy as np
from numpy.typing import NDArray

from tagmask.errors import RunError

QUALITY = 95  # of the JPEGs that colour frames are kept as; clips are no better  # ours
FACTS = "facts.json"


class Footage:
    """A zip file of pictures ``KIND/NUMBER`` (colour as JPEG, grey as PNG) and of ``facts``, which are JSON types.

    Its law: it holds the path and the facts; pictures are read when asked for. A file that is ``temporary`` goes with the
    last use of the object.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any], *, temporary: bool = False):
        self.path, self.facts = path, dict(facts)
        if temporary:
            weakref.finalize(self, path.unlink, missing_ok=True)

    def picture(self, kind: str, number: int) -> NDArray[np.uint8]:
        """Return one picture, uint8 RGB (H, W, 3) or grey (H, W). Raises RunError where there is none."""
        try:
            with ZipFile(self.path) as held:
                content = held.read(_member(kind, number))
        except (OSError, KeyError, BadZipFile) as error:
            raise RunError(
                f"{self.path}: {kind} {number} cannot be read ({error}); remove it and run again."
            ) from error
        picture = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
        if picture is None:
            raise RunError(f"{self.path}: {kind} {number} is damaged; remove it and run again.")
        return np.ascontiguousarray(picture[..., ::-1] if picture.ndim == 3 else picture, dtype=np.uint8)

    def stack(self, kind: str, numbers: list[int]) -> NDArray[np.uint8]:
        """Return several pictures of one kind, uint8 (T, H, W) or (T, H, W, 3)."""
        return np.stack([self.picture(kind, number) for number in numbers])


class Recorder:
    """Writes footage picture by picture; ``done`` returns it, and nothing can be added then."""

    def __init__(self) -> None:
        handle, name = tempfile.mkstemp(suffix=".zip", prefix="tagmask-")
        os.close(handle)
        self.path = Path(name)
        self._drop = weakref.finalize(self, self.path.unlink, missing_ok=True)
        self._zip = ZipFile(self.path, "w", ZIP_STORED)

    def add(self, kind: str, number: int, picture: NDArray[np.uint8]) -> None:
        """Add the picture ``number`` of a kind: uint8 RGB (H, W, 3), which loses a little, or grey (H, W)."""
        if picture.ndim == 3:
            _, content = cv2.imencode(
                ".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
            )
        else:
            _, content = cv2.imencode(".png", picture)
        self._zip.writestr(ZipInfo(_member(kind, number)), content.tobytes())

    def done(self, facts: Mapping[str, Any]) -> Footage:
        """Write the facts and hand over the file."""
        self._zip.writestr(ZipInfo(FACTS), json.dumps(dict(facts)))
        self._zip.close()
        self._drop.detach()
        return Footage(self.path, facts, temporary=True)

    def drop(self) -> None:
        """Forget all that was added."""
        self._zip.close()
        self._drop()


def save_footage(path: Path, value: Footage) -> None:
    """Write it to ``path``."""
    shutil.copyfile(value.path, path)


def open_footage(path: Path) -> Footage:
    """Open what ``save_footage`` wrote; raises RunError for a file that is none."""
    try:
        with ZipFile(path) as held:
            return Footage(path, json.loads(held.read(FACTS)))
    except (OSError, KeyError, BadZipFile, ValueError) as error:
        raise RunError(f"{path}: holds no footage ({error}); remove it and run the same command again.") from error


def _member(kind: str, number: int) -> str:
    return f"{kind}/{number:06d}"
