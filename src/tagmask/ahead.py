"""Images worked on by threads, in order, with a few read ahead and never more than that in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

AHEAD = 4  # images read ahead of the computation  # ours


def computed(
    names: list[str], load: Callable[[str], list[Any]], compute: Callable[[list[Any], str], None], workers: int
) -> Iterator[str]:
    """Yield each name once its value is on disk: one thread reads ahead, or ``workers`` threads do all of it."""
    if workers == 1:
        with ThreadPoolExecutor(max_workers=1) as pool:
            for name, arguments in zip(names, _ahead(pool, load, names, AHEAD), strict=True):
                compute(arguments, name)
                yield name
    else:
        with ThreadPoolExecutor(max_workers=workers) as pool:
            both = _ahead(pool, lambda name: compute(load(name), name), names, 2 * workers)
            for name, _ in zip(names, both, strict=True):
                yield name


def _ahead(pool: ThreadPoolExecutor, function: Callable[[str], Any], names: list[str], ahead: int) -> Iterator[Any]:
    pending: deque[Any] = deque()
    try:
        for name in names:
            pending.append(pool.submit(function, name))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
