"""What a run says while it works: one line a stage with the rate and the time left, and the same in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as RichTask
from rich.text import Text

SPEAK_EVERY = 20.0  # seconds between lines where the output is no terminal  # ours


class _Rate(ProgressColumn):
    """Items a second, counting only the items of this session."""

    def render(self, task: RichTask) -> Text:
        """Return the rate as text."""
        return Text(f"{task.speed:.1f} {task.fields['unit']}/s" if task.speed else "")


class Counter:
    """Counts the finished items of one stage. ``advance`` may be called from any thread."""

    def __init__(self, narrator: Narrator, name: str, total: int, done: int, unit: str):
        self.narrator, self.name, self.total, self.done, self.unit = narrator, name, total, done, unit
        self.start, self.first, self.spoken = time.monotonic(), done, time.monotonic()
        bar = narrator.bar
        self.task = bar.add_task(name, total=total, completed=done, unit=unit) if bar else None

    def advance(self, count: int = 1, note: str = "") -> None:
        """Say that ``count`` more items are done."""
        self.done += count
        if self.narrator.bar is not None and self.task is not None:
            self.narrator.bar.update(self.task, advance=count, description=f"{self.name} {note}".rstrip())
        elif time.monotonic() - self.spoken > SPEAK_EVERY:
            self.spoken = time.monotonic()
            rate = (self.done - self.first) / (self.spoken - self.start)
            left = (self.total - self.done) / rate if rate else 0
            self.narrator.say(
                f"{self.name} {self.done}/{self.total} {self.unit}, {rate:.1f}/s, {_clock(left)} left {note}"
            )


class Narrator:
    """Speaks to the terminal (unless ``quiet``) and to ``log.txt``, never to standard output."""

    def __init__(self, log: Path | None = None, quiet: bool = False):
        self.console = Console(file=sys.stderr, quiet=quiet, highlight=False, soft_wrap=True)
        self.log = log
        self.bar: Progress | None = None

    def say(self, text: str) -> None:
        """One line, with the time of day in the log file."""
        self.console.print(text, markup=False)
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {text}\n")

    @contextmanager
    def stage(self, name: str, total: int, done: int = 0, unit: str = "images") -> Iterator[Counter]:
        """A stage of ``total`` items of which ``done`` were finished before."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        start = time.monotonic()
        if self.console.is_terminal and not self.console.quiet:
            with Progress(*columns, console=self.console, transient=True) as bar:
                self.bar = bar
                counter = Counter(self, name, total, done, unit)
                try:
                    yield counter
                finally:
                    self.bar = None
        else:
            counter = Counter(self, name, total, done, unit)
            yield counter
        reused = f" ({done} reused)" if done else ""
        self.say(f"{name}: {total} {unit}{reused} in {_clock(time.monotonic() - start)}")


def _clock(seconds: float) -> str:
    """Return ``m:ss`` or ``h:mm:ss``.

    >>> _clock(75), _clock(3700)
    ('1:15', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
