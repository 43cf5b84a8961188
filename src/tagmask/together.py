"""Photos of one size looked at together: what threads ask of a network at the same time goes through it as one batch.

Each thread computes one photo, as if alone. Where it runs the trunk of a network it waits until all others of its group
have come there too or are done; then one batch is made of what they brought. What is in a batch so depends on the photos
alone and never on the clock, and a run that was killed ends with the same bytes. For GPUs, which one photo at a time
does not keep busy; on a CPU batches of whole photos are slower than photo after photo (they leave the caches).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

MOST_TOGETHER = 8  # photos in a batch  # ours

_own = threading.local()
Name = TypeVar("Name")


@dataclass
class Group:
    """The threads of one group. Its law: nothing runs while a thread that is not done has yet to come."""

    active: int
    _arrived: dict[int, tuple[nn.Module, Tensor]] = field(default_factory=dict)
    _answers: dict[int, list[Tensor] | BaseException] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def run(self, body: nn.Module, images: Tensor, place: int) -> list[Tensor]:
        """Return the maps of ``images`` by ``body``, for the thread in ``place``."""
        with self._changed:
            self._arrived[place] = body, images
            self._go()
            while place not in self._answers:
                self._changed.wait()
            answer = self._answers.pop(place)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def leave(self) -> None:
        """Say that a thread is done."""
        with self._changed:
            self.active -= 1
            self._go()

    def _go(self) -> None:
        """Run all that has arrived, once everybody has."""
        if len(self._arrived) < self.active:
            return
        alike: dict[tuple[int, torch.Size], list[int]] = {}
        for place in sorted(self._arrived):
            body, images = self._arrived[place]
            alike.setdefault((id(body), images.shape), []).append(place)
        for places in alike.values():
            self._answers |= _answers([self._arrived[place] for place in places], places)
        self._arrived.clear()
        self._changed.notify_all()


def _answers(asked: Sequence[tuple[nn.Module, Tensor]], places: Sequence[int]) -> dict[int, Any]:
    """Run one batch; an error is everybody's."""
    body, first = asked[0]
    try:
        with torch.no_grad():
            maps = body(torch.cat([images for _, images in asked]))
    except Exception as error:
        return dict.fromkeys(places, error)
    return {place: [m[n * len(first) : (n + 1) * len(first)] for m in maps] for n, place in enumerate(places)}


class Together(nn.Module):
    """The body of a trunk, run with the images of all threads of the calling thread's group, if it is in one."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the maps of images (B, 3, H, W), from shallow to deep."""
        group = getattr(_own, "group", None)
        return list(self.body(x)) if group is None else group.run(self.body, x, _own.place)


def together(names: Sequence[Name], compute: Callable[[Name], Any]) -> None:
    """Call ``compute`` for every name, each on a thread of its own, as one group; the first error is raised."""
    if len(names) == 1:
        compute(names[0])
        return
    group, errors = Group(active=len(names)), dict[int, BaseException]()

    def work(place: int, name: Name) -> None:
        _own.group, _own.place = group, place
        try:
            compute(name)
        except BaseException as error:
            errors[place] = error
        finally:
            group.leave()

    threads = [threading.Thread(target=work, args=part) for part in enumerate(names)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[min(errors)]


def groups_of(names: Sequence[Name], sizes: Callable[[Name], Any], most: int = MOST_TOGETHER) -> list[list[Name]]:
    """Return the names in groups of at most ``most`` with one size, in the order in which a size first occurs.

    >>> groups_of(["a", "b", "c", "d"], {"a": 1, "b": 2, "c": 1, "d": 1}.get, most=2)
    [['a', 'c'], ['d'], ['b']]
    """
    by_size: dict[Any, list[Name]] = {}
    for name in names:
        by_size.setdefault(sizes(name), []).append(name)
    return [same[start : start + most] for same in by_size.values() for start in range(0, len(same), most)]
