"""What every reader hands over: the files it found with the words said of them, and what was odd on the way."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tagmask.data.pixels import ENDINGS
from tagmask.errors import DataError

Effect = Literal["refused", "skipped", "warning"]
SPLIT_NAMES = {"training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test"}  # ours
_FOREIGN = ".heic .heif .avif .jxl .svg .psd .cr2 .nef .arw .dng .exr .dcm"  # ours: pictures that we do not read
FOREIGN = frozenset(_FOREIGN.split())
Corners = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, the ends excluded


@dataclass(frozen=True)
class Problem:
    """One odd thing: its ``kind``, ``where`` it is, what about it, and whether we refused, skipped or only warn."""

    kind: str
    where: str
    message: str
    effect: Effect


@dataclass(frozen=True)
class Findings:
    """Everything odd that was found in a data set, in the order it was found."""

    problems: tuple[Problem, ...] = ()

    def of(self, effect: Effect) -> tuple[Problem, ...]:
        """The problems with this effect."""
        return tuple(problem for problem in self.problems if problem.effect == effect)


@dataclass
class Found:
    """One image as its reader found it: ``tags`` are still words, ``None`` where nobody said anything.

    ``boxes`` are a word, empty where nobody said, and four corners; ``annotated`` is the size (H, W) that their file states.
    """

    name: str
    image: Path
    tags: tuple[str, ...] | None = None
    mask: Path | None = None
    boxes: tuple[tuple[str, int, int, int, int], ...] = ()
    annotated: tuple[int, int] | None = None


@dataclass
class Listing:
    """All that a reader found; ``classes`` (without background) is the user's own order, ``None`` without one."""

    reader: str
    root: Path
    found: list[Found] = field(default_factory=list)
    classes: tuple[str, ...] | None = None
    splits: dict[str, list[str]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def note(self, kind: str, where: Path | str, message: str, effect: Effect) -> None:
        """Write down a problem; a path is shown relative to the data set."""
        self.problems.append(Problem(kind, shown(where, self.root), message, effect))


class Pictures:
    """The pictures below a folder by name; a name is the path below it, with ``/``, without the ending.

    Names are compared in NFC, so that a file copied from a Mac is found under the name typed on Linux.
    """

    def __init__(self, folder: Path, *, strip: str = "images/") -> None:
        self.by_name: dict[str, Path] = {}
        self.same_name: list[tuple[Path, Path]] = []
        self.foreign: list[Path] = []
        self._strip = strip
        for text, path in walk(folder):
            ending = ending_of(text)
            if ending in FOREIGN:
                self.foreign.append(path)
            if ending not in ENDINGS:
                continue
            name = self._name(text)
            if name in self.by_name:
                self.same_name.append((self.by_name[name], path))
            else:
                self.by_name[name] = path
        self._by_base: dict[str, list[str]] = {}
        for name in self.by_name:
            self._by_base.setdefault(name.rpartition("/")[2], []).append(name)

    def find(self, text: str) -> str | None:
        """The name that a row means, with or without ending and sub-folder; ``None`` when there is none or several."""
        name = self._name(text.strip().replace("\\", "/").removeprefix("./"))
        if "/" not in name:
            named = self._by_base.get(name, [])
            return name if name in self.by_name else named[0] if len(named) == 1 else None
        while name:  # photos/cat/1 may be listed as cat/1 or 1 here, never dog/1
            if name in self.by_name:
                return name
            name = name.partition("/")[2]
        return None

    def report(self, listing: Listing) -> None:
        """Note the pictures that share a name, and those in formats that nobody here can read."""
        for first, second in self.same_name:
            message = f"shares its name with {shown(first, listing.root)}, and so would their results; rename one"
            listing.note("same name", second, message, "refused")
        for path in self.foreign:
            listing.note("format", path, f"{path.suffix} files cannot be read; convert it to JPEG or PNG", "skipped")

    def _name(self, text: str) -> str:
        name = nfc(without_ending(text))
        return name.removeprefix(self._strip) if self._strip else name


def walk(folder: Path) -> list[tuple[str, Path]]:
    """All files below a folder with their path in it, sorted; no hidden ones; links followed, never in a circle."""
    seen: set[tuple[int, int]] = set()
    files: list[tuple[str, Path]] = []
    for here, folders, names in os.walk(folder, followlinks=True):
        base = Path(here)
        stat = base.stat()
        if (stat.st_dev, stat.st_ino) in seen:
            folders.clear()
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        inner = "" if base == folder else f"{base.relative_to(folder).as_posix()}/"
        files.extend((inner + name, base / name) for name in names if not name.startswith("."))
    return sorted(files, key=lambda file: file[0])


def nfc(text: str) -> str:
    """One spelling for letters that Unicode can write in two ways."""
    return unicodedata.normalize("NFC", text)


def ending_of(text: str) -> str:
    """The ending of a path in small letters, with its dot, or the empty string."""
    stem, dot, ending = text.rpartition("/")[2].rpartition(".")
    return f".{ending.lower()}" if stem and dot else ""


def without_ending(text: str) -> str:
    """Drop the ending of a picture, and only that.

    >>> without_ending("a/cat.v2"), without_ending("a/cat.v2.JPG")
    ('a/cat.v2', 'a/cat.v2')
    """
    ending = ending_of(text)
    return text[: -len(ending)] if ending in ENDINGS else text


def shown(where: Path | str, root: Path) -> str:
    """A path as messages show it: relative to the data set where it lies inside."""
    if isinstance(where, Path) and where.is_relative_to(root):
        return where.relative_to(root).as_posix()
    return str(where)


def split_name(text: str) -> str:
    """The plain name of a split: ``valid`` and ``val2017`` are ``val``.

    >>> split_name("valid"), split_name("train2017"), split_name("fold3")
    ('val', 'train', 'fold3')
    """
    word = text.strip().lower()
    bare = word.rstrip("0123456789")
    return SPLIT_NAMES.get(bare, bare if bare in ("train", "val", "test") else text.strip())


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark. Raises DataError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that hold something, stripped. Raises DataError."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_splits(listing: Listing, files: Iterable[Path], pictures: Pictures) -> None:
    """Read text files of one image a line as splits of the listing; lines without an image are noted."""
    for path in files:
        members: dict[str, None] = {}
        for line in read_lines(path):
            # Lists of the field also come as "/JPEGImages/a.jpg /SegmentationClass/a.png".
            name = pictures.find(line) or pictures.find(line.split()[0].lstrip("/"))
            if name is None:
                listing.note("split", path, f"lists {line!r}, and there is no such image", "skipped")
            else:
                members[name] = None
        listing.splits[path.stem] = list(members)
