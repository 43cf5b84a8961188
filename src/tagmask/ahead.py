"""Images worked on by threads, in order, with a few under way and never more than that in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

Name = TypeVar("Name")
MOST_WORKERS = 8  # images in memory at a time; more than a GPU needs to be kept busy  # ours


def computed(names: Sequence[Name], compute: Callable[[Name], Any]) -> Iterator[Name]:
    """Yield each name once ``compute(name)`` is done; as many images at a time as torch has threads.

    One thread an image beats all threads on one image: nothing waits for the slowest part of each layer, and reading,
    resizing and writing of one image go on beside the network on another. What is computed must release the GIL.
    """
    threads = torch.get_num_threads()
    workers = min(MOST_WORKERS, threads)
    pending: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
        try:
            for done, name in enumerate(names):
                pending.extend(pool.submit(compute, ahead) for ahead in names[done + len(pending) : done + 2 * workers])
                pending.popleft().result()
                yield name
        finally:
            for future in pending:
                future.cancel()
            torch.set_num_threads(threads)  # what a worker says holds for part of torch's libraries everywhere
