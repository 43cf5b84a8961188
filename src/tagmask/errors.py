"""What a user can get wrong, said in one line: what was given, what was expected, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class TagmaskError(Exception):
    """The base of every error that is the user's to mend; the command line prints it and exits with 2."""


class DataError(TagmaskError):
    """The images, tags or masks cannot be used as they are."""


class OptionError(TagmaskError):
    """A name or a value that no method, network or option knows."""


class RunError(TagmaskError):
    """A run folder or a result in it cannot be used."""


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest known name, or the empty string.

    >>> did_you_mean("cta", ["cat", "dog"])
    " (did you mean 'cat'?)"
    >>> did_you_mean("zebra", ["cat", "dog"])
    ''
    """
    close = get_close_matches(given, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
