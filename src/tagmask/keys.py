"""What a result depends on, as one short name: the key under which it is kept and found again."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Keyed(Protocol):
    """A value that knows its own key, such as the results of an earlier stage."""

    @property
    def key(self) -> str:
        """The key."""
        ...


def digest(value: Any) -> str:
    """Return 32 hexadecimal digits for a value made of JSON types.

    >>> digest({"a": 1, "b": [2.0]}) == digest({"b": [2.0], "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def plain(value: Any) -> Any:
    """Turn an option into JSON types; raises TypeError for a value that has no lasting name."""
    if isinstance(value, Keyed):
        return {"key": value.key}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.integer | np.floating):
        return value.item()
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        values = {part.name: plain(getattr(value, part.name)) for part in fields(value)}
        return {"type": type(value).__name__, **values}
    if callable(value):
        return name_of(value)
    raise TypeError(f"a {type(value).__name__} cannot be part of a key; pass a plain value or an earlier result")


def name_of(function: Callable[..., Any]) -> str:
    """Return the function's lasting name: module, name, and the module's ``REVISION`` where it has one.

    A module raises its ``REVISION`` when its results change, so that older results in a store are not taken for new.
    """
    revision = getattr(sys.modules[function.__module__], "REVISION", 1)
    return f"{function.__module__}.{function.__qualname__}#{revision}"
