"""Measure every shared kernel beside what a user would run instead, and write docs/speed.json and docs/speed.md.

    python -m benchmarks.speed [--cases crf walk ...] [--rounds 5] [--photos DIR]

Ours and the peer take turns in one process, so that a noisy machine disturbs both alike; what counts is the ratio of
their times, round by round. Each case checks first that both give the same result. A case whose peer is not installed
is left out with a word. Without ``--photos`` the pictures are drawn.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, FileSystemLoader

from tagmask.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Case:
    """Two ways to the same result. ``agree`` returns the largest difference and the share of equal decisions.

    ``times_peer`` stretches the peer's time where it was run on a smaller problem; ``note`` says how.
    """

    kernel: str
    case: str
    peer: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    agree: Callable[[Any, Any], tuple[float | None, float | None]] = lambda ours, theirs: (None, None)
    threads: int = 1
    times_peer: float = 1.0
    note: str = ""
    most_rounds: int = 99
    weigh: bool = True  # measure memory too; not where a forked process could not go on (torch)


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Run both sides in turns and return the row."""
    difference, agreement = case.agree(case.ours(), case.theirs())  # also warms up and compiles
    pairs = [(seconds(case.ours), seconds(case.theirs) * case.times_peer) for _ in range(min(rounds, case.most_rounds))]
    ratios = [theirs / ours for ours, theirs in pairs]
    return {
        "kernel": case.kernel,
        "case": case.case,
        "peer": case.peer,
        "ratio_median": round(median(ratios), 2),
        "ratio_min": round(min(ratios), 2),
        "ratio_max": round(max(ratios), 2),
        "ours_ms": round(1000 * median(ours for ours, _ in pairs), 2),
        "peer_ms": round(1000 * median(theirs for _, theirs in pairs), 2),
        "max_abs_diff": difference,
        "agreement": agreement,
        "ours_mb": memory(case.ours) if case.weigh else None,
        "peer_mb": memory(case.theirs) if case.weigh else None,
        "threads": case.threads,
        "note": case.note,
    }


def seconds(function: Callable[[], Any]) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def memory(function: Callable[[], Any]) -> float:
    """Return by how many MB one call raises the peak memory of a forked process."""
    receive, send = get_context("fork").Pipe(duplex=False)

    def inside() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        function()
        send.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)

    process = get_context("fork").Process(target=inside)
    process.start()
    raised = receive.recv() if receive.poll(600) else float("nan")
    process.join()
    return round(raised, 1)


def main() -> None:
    """Measure the cases that were asked for, keep the rows of the others, write the page."""
    from benchmarks.cases import CASES

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="only these groups")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--photos", type=Path, help="a folder of photos instead of drawn pictures")
    given = parser.parse_args()
    for name in given.cases:
        try:
            cases: Iterator[Case] = CASES[name](given.photos)
            drop_others([keep(machine() | measure(case, given.rounds)) for case in cases])
        except ImportError as missing:
            print(f"{name}: left out, {missing}; pip install 'tagmask[bench]'", file=sys.stderr)
        render()


def machine() -> dict[str, Any]:
    """Return what was measured where."""
    told = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True)
    return {"commit": told.stdout.strip() or None, "cores": os.cpu_count()}


def keep(row: dict[str, Any]) -> dict[str, Any]:
    """Put a row into docs/speed.json, in the place of an older one of the same kernel, case and peer; return it."""
    path = ROOT / "docs" / "speed.json"
    rows = read_json(path) if path.exists() else []
    name = ("kernel", "case", "peer")
    rows = [other for other in rows if any(other[part] != row[part] for part in name)] + [row]
    write_json(path, sorted(rows, key=lambda row: [row[part] for part in name]))
    print(f"{row['kernel']}, {row['case']}: {row['ratio_median']} x {row['peer']}", flush=True)
    return row


def drop_others(measured: list[dict[str, Any]]) -> None:
    """Remove rows of the kernels just measured whose cases are no more."""
    path = ROOT / "docs" / "speed.json"
    kernels = {row["kernel"] for row in measured}
    write_json(path, [row for row in read_json(path) if row["kernel"] not in kernels or row in measured])


def render() -> None:
    """Write docs/speed.md from docs/speed.json and docs/speed-job.json."""
    path, job = ROOT / "docs" / "speed.json", ROOT / "docs" / "speed-job.json"
    if path.exists():
        environment = Environment(
            loader=FileSystemLoader(ROOT / "benchmarks"), trim_blocks=True, lstrip_blocks=True, autoescape=False
        )
        page = environment.get_template("speed.md.j2").render(
            rows=read_json(path), job=read_json(job) if job.exists() else None
        )
        (ROOT / "docs" / "speed.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
