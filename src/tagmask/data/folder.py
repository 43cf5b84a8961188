"""A folder for each class (``cat/1.jpg``, ``none/7.jpg``), or two levels of them (``train/cat/1.jpg``)."""

from __future__ import annotations

from collections import defaultdict
from hashlib import blake2b
from pathlib import Path

from tagmask.data.listing import Found, Listing, Pictures, split_name
from tagmask.data.tags import NEGATIVE_WORDS, clean, folded, read_classes
from tagmask.errors import DataError

READER = "folder per class"


def is_folder_per_class(path: Path) -> bool:
    """Whether a sub-folder that could be a class holds pictures."""
    return any("/" in name for name in Pictures(path, strip="").by_name)


def read_folder(path: Path) -> Listing:
    """Read a folder for each class; pictures beside the folders have unknown tags. Raises DataError.

    Files of the same name and the same bytes in several classes are one image with several tags.
    """
    listing = Listing(reader=READER, root=path)
    pictures = Pictures(path, strip="")
    pictures.report(listing)
    if (path / "classes.txt").is_file():
        listing.classes = read_classes(path / "classes.txt")
    tops = {name.partition("/")[0] for name in pictures.by_name if "/" in name}
    nested = all(split_name(top) in ("train", "val", "test") for top in tops)
    if nested and not any(name.count("/") >= 2 for name in pictures.by_name):
        raise DataError(f"{path}: {', '.join(sorted(tops))} hold images but no folder for each class.")
    alike: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for name, image in pictures.by_name.items():
        split, _, rest = name.partition("/") if nested else ("", "", name)
        if "/" not in rest:
            message = "lies in no class folder: its tags are unknown, so it is not learned from"
            listing.note("image without class", image, message, "warning")
            listing.found.append(Found(name, image))
            continue
        word, _, own = rest.partition("/")
        negative = folded(word) in NEGATIVE_WORDS
        alike[split, own].append(Found(name, image, tags=() if negative else (clean(word),)))
    for (split, _), group in alike.items():
        merged = _merge(listing, group)
        listing.found.extend(merged)
        if split:
            listing.splits.setdefault(split_name(split), []).extend(found.name for found in merged)
    return listing


def _merge(listing: Listing, group: list[Found]) -> list[Found]:
    """Make one image with several tags of those that are equal byte by byte; the rest stay apart."""
    if len(group) == 1:
        return group
    by_size: dict[int, list[Found]] = defaultdict(list)
    for found in group:
        by_size[found.image.stat().st_size].append(found)
    kept: dict[tuple[int, bytes], Found] = {}
    for size, same_size in by_size.items():
        for index, found in enumerate(same_size):
            content = (
                _digest(found.image) if len(same_size) > 1 and size else bytes([index % 256]) + found.name.encode()
            )
            first = kept.setdefault((size, content), found)
            if first is found:
                continue
            if not (first.tags and found.tags):
                message = (
                    f"is the same picture as {first.name}, once with a tag and once as a negative; the tag is taken"
                )
                listing.note("contradiction", found.image, message, "warning")
            first.tags = tuple(dict.fromkeys((*(first.tags or ()), *(found.tags or ()))))
    return list(kept.values())


def _digest(path: Path) -> bytes:
    try:
        return blake2b(path.read_bytes(), digest_size=16).digest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
