"""Write docs/results-video.md from docs/results-video.json, after gathering what `benchmarks.video_label` left.

    python -m benchmarks.results_video [--runs local]

Rows of followed objects are there already: `benchmarks.video_follow` writes them. Every number is read from files of runs;
the intervals are computed here, by the bootstrap of `tagmask.video.bootstrap`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import video_follow, video_label
from jinja2 import Environment, FileSystemLoader

from tagmask.files import read_json, write_json
from tagmask.video.bootstrap import Interval, paired

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "results-video.json"
# What each row of followed objects is compared with: the row that lacks one module.
AGAINST = {
    "flow": "copy of the first mask", "base": "flow", "+LC": "base", "+LC+CO": "+LC", "+LC+SVB": "+LC", "all": "+LC+CO",
    video_follow.TUNED: "all", "all, no previous mask": "all", "all, eps 0.2": "all", "all, ranked": "all",
}  # fmt: skip
COMPARED = ("random 50 %", "lowest 50 %", "stt 25 %", "stt 75 %", "stt 100 %")  # with the row stt, beside the control
CONTROLS = {"stt, made clips alone": "control, made clips alone"}  # of rows whose control is one of their own


def main() -> None:
    """Gather the rows of labelled frames, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "local", help="where the runs are kept")
    folder = parser.parse_args().runs / "video-label"
    rows = read_json(TABLE) if TABLE.exists() else []
    if (folder / "rows.json").exists():
        rows = [row for row in rows if not row["task"].startswith("label")] + labelled(folder)
        write_json(TABLE, rows)
    render(rows)


def labelled(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of labelled frames, and for rows of several seeds one of their means.

    Each has its differences to the control, and to ``stt`` those that are compared with it, of the same seeds.
    """
    rows = [{"task": "label", **row} for row in read_json(folder / "rows.json")]
    for name in dict.fromkeys(row["row"] for row in rows):
        same = [row for row in rows if row["row"] == name]
        if len(same) > 1:
            means = {key: sum(row[key] for row in same) / len(same) for key in ("miou", "tc", "vc_8")}
            rows.append({"task": "label over seeds", "row": name, "seed": [row["seed"] for row in same], **means})
    return [{**row, "against": against(folder / "counts", row["row"], row["seed"])} for row in rows]


def against(folder: Path, name: str, seed: int | Sequence[int]) -> dict[str, Any]:
    """Return by how much a row is above the control and, where it is compared with it, above ``stt``, with intervals."""
    seeds = [seed] if isinstance(seed, int) else seed
    found = {}
    for other, called in (("control", CONTROLS.get(name, "control")), *([("stt", "stt")] if name in COMPARED else [])):
        theirs, own = ([folder / f"{row}-{one}.npz" for one in seeds] for row in (called, name))
        if called != name and all(path.exists() for path in theirs):
            differences = video_label.differences(theirs, own)
            found[other] = {key: [one.value, one.low, one.high] for key, one in differences.items()}
    return found


def followed(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of followed objects in the order of the ablation, each with its difference to the row before it."""
    order = [*video_follow.BASELINES, *video_follow.ROWS, video_follow.TUNED]
    known = {(row["method"], row["seed"]): row for row in rows}
    shown = []
    for row in sorted(rows, key=lambda row: (order.index(row["method"]), row["seed"])):
        name = AGAINST.get(row["method"], "")
        other = known.get((name, 0 if name in video_follow.BASELINES else row["seed"]))
        shown.append({**row, "against": other and other["method"], "difference": other and difference(other, row)})
    return shown


def followed_over_seeds(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each row of several seeds their means, clip by clip, and the difference to the same seeds of another."""
    by_row = {name: {row["seed"]: row for row in rows if row["method"] == name} for name in video_follow.ROWS}
    shown = []
    for name, seeds in by_row.items():
        other = by_row.get(AGAINST[name], {})
        if len(seeds) > 1:
            own, theirs = ([runs[seed] for seed in sorted(seeds) if seed in runs] for runs in (seeds, other))
            comparable = len(theirs) == len(own)
            shown.append({
                "method": name, "seeds": sorted(seeds), "runs": own, "mean": mean_of(own)["mean"],
                "against": AGAINST[name] if comparable else None,
                "difference": difference(mean_of(theirs), mean_of(own)) if comparable else None,
            })  # fmt: skip
    return shown


def mean_of(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the J&F of several runs of a row, the mean of each clip, and over clips."""
    clips = {clip: {"jf": sum(run["by_clip"][clip]["jf"] for run in runs) / len(runs)} for clip in runs[0]["by_clip"]}
    return {"by_clip": clips, "mean": sum(one["jf"] for one in clips.values()) / len(clips)}


def above(rows: Sequence[dict[str, Any]], method: str, other: str) -> list[tuple[int, Interval]]:
    """Return of each seed of a row by how much it is above another row, which has no seeds."""
    known = next((row for row in rows if row["method"] == other), None)
    return [(row["seed"], difference(known, row)) for row in rows if known and row["method"] == method]


def difference(first: dict[str, Any], second: dict[str, Any]) -> Interval:
    """Return by how much J&F of the second row is above the first's, with its interval over sequences."""
    clips = sorted(first["by_clip"])
    return paired([first["by_clip"][clip]["jf"] for clip in clips], [second["by_clip"][clip]["jf"] for clip in clips])


def told(value: float, low: float, high: float) -> str:
    """Return a difference in points with its interval, and whether it leaves out 0."""
    text = f"{100 * value:+.1f} ({100 * low:+.1f} .. {100 * high:+.1f})"
    return text if low > 0 or high < 0 else f"{text}, not resolved"


def render(rows: Sequence[dict[str, Any]]) -> None:
    """Write the page."""
    environment = Environment(loader=FileSystemLoader(ROOT / "benchmarks"), trim_blocks=True, lstrip_blocks=True)
    environment.filters["points"] = lambda value: "-" if value is None else f"{100 * value:.1f}"
    follow = [row for row in rows if row["task"] == "follow"]
    page = environment.get_template("results_video.md.j2").render(
        follow=followed(follow),
        follow_seeds=followed_over_seeds(follow),
        above_flow=above(follow, "all", "flow"),
        label=[row for row in rows if row["task"] == "label"],
        seeds=[row for row in rows if row["task"] == "label over seeds"],
        attention=sorted(
            (row for row in rows if row["task"] == "attention"),
            key=lambda row: ("frames" in row, row.get("cells", 0), row.get("frames", 0)),
        ),
        long=sorted((row for row in rows if row["task"] == "length"), key=lambda row: row["frames"]),
        told=told,
    )
    (ROOT / "docs" / "results-video.md").write_text(page + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
