"""Time of the sparse attention beside dense keys, and how it grows with pixels and with frames.

    python -m benchmarks.video_attention [--grid 64 128] [--channels 128] [--heads 8] [--frames 7]

The peer is torch's scaled_dot_product_attention, which is fast and holds no scores: with the same cells asking (what the
windows save), and with all cells asking (what windows and choice save). What the choice of cells (NSM) costs is told apart.
All take turns. docs/results-video.json gets a row for each case.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from benchmarks.results import _commit
from benchmarks.video_follow import OUT, keep
from torch import Tensor
from torch.nn import functional

from tagmask.nets.sparse import chosen_cells, dissimilarity, key_radii, keys_of, window_attention

SHARE, RADIUS = 0.5, 5  # paper


def main() -> None:
    """Measure, print, and keep the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--grid", type=int, nargs=2, default=(64, 128))
    parser.add_argument(
        "--channels", type=int, default=128, help="of keys; the map that cells are chosen by has 4 times as many"
    )
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--frames", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    for row in (against_dense(given), *growth(given)):
        print(json.dumps(row, indent=1))
        keep(OUT, {"task": "attention", **row, "commit": _commit()})


def against_dense(given: argparse.Namespace) -> dict[str, Any]:
    """Return one row: milliseconds of ours, of the peer with the same and with all cells asking, and their ratios."""
    case = _case(tuple(given.grid), given.frames, given)
    cells = torch.rand(1, *given.grid, 4 * given.channels, device=given.device)

    def choose() -> Tensor:
        return chosen_cells(dissimilarity(cells, RADIUS), SHARE)

    def split(queries: Tensor) -> list[Tensor]:
        parts = (queries, case["keys"], case["values"])
        return [x.flatten(1, -2).unflatten(2, (given.heads, -1)).transpose(1, 2) for x in parts]

    def dense(queries: Tensor) -> Callable[[], Tensor]:
        q, k, v = split(queries)
        return lambda: functional.scaled_dot_product_attention(q, k, v)

    times = _turns(
        {
            "ours": case["attend"],
            "dense_same_cells": dense(case["queries"]),
            "dense_all_cells": dense(case["all"]),
            "choice_of_cells": choose,
        },
        given.rounds,
        given.device,
    )
    return {
        "method": "against dense keys", **_told(given), "keys": keys_of(key_radii(given.frames)),
        "dense_keys": given.frames * given.grid[0] * given.grid[1],
        **{f"ms_{name}": round(1000 * median(values), 2) for name, values in times.items()},
        **{
            f"ratio_{name}": round(median(t / o for t, o in zip(times[name], times["ours"], strict=True)), 1)
            for name in ("dense_same_cells", "dense_all_cells")
        },
    }  # fmt: skip


def growth(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Return rows of milliseconds over the number of cells (at all frames) and over the keys of 1 to all frames."""
    height, width = given.grid
    grids = [(height // 2, width // 2), (height // 2, width), (height, width), (height, 2 * width)]
    by_grid = {grid: _case(grid, given.frames, given)["attend"] for grid in grids}
    by_frames = {frames: _case((height, width), frames, given)["attend"] for frames in range(1, given.frames + 1)}
    rows = []
    for grid, times in _turns(by_grid, given.rounds, given.device).items():
        cells = grid[0] * grid[1]
        ms = 1000 * median(times)
        rows.append(
            {"method": f"{cells} cells", "cells": cells, "ms": round(ms, 2), "us_a_cell": round(1000 * ms / cells, 3)}
        )
    for frames, times in _turns(by_frames, given.rounds, given.device).items():
        keys, ms = keys_of(key_radii(frames)), 1000 * median(times)
        each = round(1e6 * ms / keys / (height * width * SHARE), 3)
        rows.append(
            {
                "method": f"{frames} frames",
                "frames": frames,
                "keys": keys,
                "ms": round(ms, 2),
                "ns_a_key_of_a_cell": each,
            }
        )
    return rows


def _case(grid: tuple[int, int], frames: int, given: argparse.Namespace) -> dict[str, Any]:
    random = torch.Generator().manual_seed(0)
    shape = (1, frames, *grid, given.channels)
    keys, values = (torch.randn(shape, generator=random).to(given.device) for _ in range(2))
    everything = torch.randn(1, grid[0] * grid[1], given.channels, generator=random).to(given.device)
    where = chosen_cells(torch.rand(1, *grid, generator=random), SHARE).to(given.device)
    queries = everything[:, where[0]].contiguous()
    radii = key_radii(frames)
    return {
        "keys": keys, "values": values, "all": everything, "queries": queries,
        "attend": lambda: window_attention(queries, where, keys, values, radii, heads=given.heads),
    }  # fmt: skip


@torch.no_grad()
def _turns(sides: dict[Any, Callable[[], Any]], rounds: int, device: str) -> dict[Any, list[float]]:
    """Return seconds of each, in rounds, after one that does not count."""
    times: dict[Any, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            _wait(device)
            start = time.perf_counter()
            side()
            _wait(device)
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _told(given: argparse.Namespace) -> dict[str, Any]:
    return {
        "grid": list(given.grid), "channels": given.channels, "heads": given.heads, "frames": given.frames,
        "share": SHARE, "threads": torch.get_num_threads(), "rounds": given.rounds,
        "device": torch.cuda.get_device_name() if given.device.startswith("cuda") else "cpu",
    }  # fmt: skip


if __name__ == "__main__":
    main()
