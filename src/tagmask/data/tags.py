"""Words become tags: cells are split, spellings merged, names given their ids."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tagmask.data.listing import Listing, Problem, nfc, read_lines
from tagmask.errors import DataError, did_you_mean

BACKGROUND_WORDS = frozenset(
    ("background", "_background_", "__background__")
)  # ours; the last two are labelme's, LVIS'
NEGATIVE_WORDS = BACKGROUND_WORDS | {"none", "negative", "negatives"}  # ours: said where nothing is to be seen


def clean(word: str) -> str:
    """A tag as we keep it: NFC, no spaces around, single ones inside."""
    return " ".join(nfc(word).split())


def folded(word: str) -> str:
    """What two spellings of one tag share."""
    return clean(word).casefold()


def is_background(word: str) -> bool:
    """Whether the word names the background and not a class."""
    return folded(word) in BACKGROUND_WORDS


def split_cells(cells: Sequence[str], known: Iterable[str] = ()) -> list[tuple[str, ...]]:
    """Split each cell of a tags column into words, by one separator for the whole column.

    ``;`` and ``|`` go first, as names may then hold spaces and commas; next come commas; otherwise spaces split,
    except in a cell that as a whole is a ``known`` name.

    >>> split_cells(["traffic light; car", "traffic light"])
    [('traffic light', 'car'), ('traffic light',)]
    >>> split_cells(["cat dog", "sea lion", ""], known=["sea lion"])
    [('cat', 'dog'), ('sea lion',), ()]
    """
    strong = next((mark for mark in (r"[;|]", r",") if any(re.search(mark, cell) for cell in cells)), None)
    whole = {folded(name) for name in known}

    def split(cell: str) -> tuple[str, ...]:
        words = re.split(strong, cell) if strong else [cell] if folded(cell) in whole else cell.split()
        return tuple(dict.fromkeys(word for word in map(clean, words) if word))

    return [split(cell) for cell in cells]


def read_classes(path: Path) -> tuple[str, ...]:
    """The names of a ``classes.txt`` in its order, without a leading background. Raises DataError."""
    names = [clean(line) for line in read_lines(path)]
    names = names[1:] if names and is_background(names[0]) else names
    twice = [name for name, count in Counter(map(folded, names)).items() if count > 1]
    if twice:
        raise DataError(f"{path}: names {twice[0]!r} twice; expected each class once.")
    return tuple(names)


def name_classes(listing: Listing) -> tuple[tuple[str, ...], dict[str, int]]:
    """The names of the classes without background, and the id of every word said (0 for words of nothing).

    Spellings that differ in case only are one tag; the user's ``classes`` decide how it is written, otherwise the
    most frequent spelling. Words that a fixed list of classes lacks are noted as refused.
    """
    counts = Counter(word for found in listing.found for word in found.tags or ())
    spellings: dict[str, list[str]] = {}
    for word, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
        spellings.setdefault(folded(word), []).append(word)
    fixed = {folded(name): name for name in listing.classes or ()}
    nothing = {word for word in spellings if word in NEGATIVE_WORDS and word not in fixed}
    for word in nothing:
        spellings.pop(word)
    written = {word: fixed.get(word, ways[0]) for word, ways in spellings.items()}
    for word, ways in sorted(spellings.items()):
        others = [way for way in ways if way != written[word]]
        if others:
            both = ", ".join(f"{way!r} ({counts[way]} images)" for way in ways)
            message = f"the tag is spelt {both}; taken as one, {written[word]!r}"
            listing.problems.append(Problem("spelling", written[word], message, "warning"))
    if listing.classes is None:
        names = tuple(sorted(written.values()))
    else:
        names = listing.classes
        for word in sorted(set(written) - set(fixed)):
            message = f"the tag is not in the list of classes{did_you_mean(written[word], names)}; add it or mend it"
            listing.problems.append(Problem("unknown class", written[word], message, "refused"))
    ids = {folded(name): index for index, name in enumerate(names, start=1)}
    return names, {word: ids.get(folded(word), 0) for word in counts}
