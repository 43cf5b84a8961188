"""Time, memory and worth of assigning tags to instances: 400 at once, and a data set of any size in groups.

    python -m benchmarks.assignment [--cases group exact ablation all] [--count 100000] [--out docs/assignment.json]

The instances are drawn: each is of one of 20 classes or of none, has one to three tags, attention that prefers the right tag,
mostly, and features around the centre of its class (a fifth around another's, those of none around nothing). Shares are such
that neither attention nor likeness is enough. What is measured:

    exact      the programme against all answers there are, 8 instances at a time
    group      400 instances: seconds of the programme, of iteration and of attention alone, and what each is worth
    ablation   precision and recall of the tags that are right, part after part
    all        a whole data set: seconds, and the peak memory of a process of its own
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from tagmask.cost import Meter, resident_mb
from tagmask.files import read_json, write_json
from tagmask.refine.assignment import best_tags, iterated_tags, objective, solved_tags
from tagmask.refine.association import ATTENTION_ALONE, Candidates, Rule, associate
from tagmask.refine.similarity import neighbour_graph

CLASSES, WIDTH = 20, 128  # and features
NONE, CONFUSED = 0.15, 0.2  # shares: of instances that show none of the tags, of those that look like another class
KEY = ("case", "instances", "what")


def main() -> None:
    """Measure the cases that were asked for, print a table, and put the rows into the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--count", type=int, default=100_000, help="instances of the case all")
    parser.add_argument("--solver", default="milp", help="of the case all")
    parser.add_argument("--grouping", default="alike", help="of the case all")
    parser.add_argument("--out", type=Path, help="a json file, in which other rows are kept")
    given = parser.parse_args()
    for name in given.cases:
        for row in CASES[name](given):
            print(json.dumps(row), flush=True)
            if given.out:
                rows = read_json(given.out) if given.out.exists() else []
                kept = [other for other in rows if any(other[part] != row[part] for part in KEY)]
                write_json(given.out, sorted([*kept, row], key=lambda row: [str(row[part]) for part in KEY]))


def drawn(n: int, seed: int = 0, spread: float = 0.06) -> tuple[Candidates, np.ndarray, np.ndarray]:
    """Return what n instances may be, their features float32 (n, D), and what they are, 0 for none of their tags."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(CLASSES, WIDTH))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    truth = random.integers(1, CLASSES + 1, n)
    nothing = random.random(n) < NONE
    features = random.normal(0, spread, (n, WIDTH)).astype(np.float32)
    looks = np.where(random.random(n) < CONFUSED, random.integers(1, CLASSES + 1, n), truth)
    features[~nothing] += centres[looks[~nothing] - 1].astype(np.float32)
    others = np.where(random.random((n, 2)) < 0.4, random.integers(1, CLASSES + 1, (n, 2)), truth[:, None])
    tags = np.sort(np.column_stack([truth, others]), axis=1)  # the same tag twice counts once
    fresh = np.column_stack([np.ones(n, dtype=bool), np.diff(tags, axis=1) > 0])
    owner, place = np.nonzero(fresh)
    tag = tags[owner, place]
    right = (tag == truth[owner]) & ~nothing[owner]
    score = np.clip(random.normal(np.where(right, 0.5, 0.35), 0.15), 0, 1)
    return Candidates(owner, tag, score), features, np.where(nothing, 0, truth)


def exact(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row: in how many of 40 cases the programme found the best of all answers."""
    hits, cases = 0, 40
    for seed in range(cases):
        candidates, features, _ = drawn(8, seed)
        scores, graph = candidates.scores(np.arange(8)), neighbour_graph(features, 3)
        choices = [[0, *np.flatnonzero(np.isfinite(row)).tolist()] for row in scores]
        answers = (np.array(tags) for tags in product(*choices) if sum(tag > 0 for tag in tags) == 6)
        best = max(objective(tags, scores, graph, 30.0) for tags in answers)
        hits += bool(solved_tags(scores, graph, 30.0, 6).value >= best - 1e-5 * abs(best))
    return [{"case": "exact", "instances": 8, "what": "milp", "cases": cases, "equal": hits}]


def group(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the median seconds and value of each way to assign 400 instances, over five data sets."""
    rows = []
    for what in ("milp", "icm", "attention"):
        seconds, values, gaps = [], [], []
        for seed in range(5):
            candidates, features, _ = drawn(400, seed)
            scores, graph = candidates.scores(np.arange(400)), neighbour_graph(features, 5)
            start = time.perf_counter()
            if what == "milp":
                answer = solved_tags(scores, graph, 30.0, 320)
                value, gap = answer.value, answer.gap or 0.0
            else:
                tags = iterated_tags(scores, graph, 30.0, 320) if what == "icm" else best_tags(scores, 320)
                value, gap = objective(tags, scores, graph, 30.0), None
            seconds.append(time.perf_counter() - start)
            values.append(value)
            gaps.append(gap)
        row = {"case": "group", "instances": 400, "what": what, "seconds": round(float(np.median(seconds)), 3)}
        rows.append(row | {"seconds_most": round(max(seconds), 3), "value": round(float(np.mean(values)), 2)})
    return rows


def ablation(given: argparse.Namespace, count: int = 2000) -> list[dict[str, Any]]:
    """Return precision and recall of the right tags among those given, from lots to the whole method."""
    candidates, features, truth = drawn(count)
    ways = {
        "1 lots": replace(ATTENTION_ALONE, lam=0.0),
        "2 attention": ATTENTION_ALONE,
        "3 graph": Rule(lam=0.0, keep=1.0),
        "4 graph and attention": Rule(keep=1.0),
        "5 with noise": Rule(),
        "5 with noise, groups by lot": Rule(grouping="shuffled"),
        "5 with noise, icm": Rule(solver="icm"),
        "5 with noise, rescaled": Rule(rescale=True),
        "attention with noise": replace(ATTENTION_ALONE, keep=0.8),
    }
    rows = []
    for what, rule in ways.items():
        start = time.perf_counter()
        tags, facts = associate(candidates, features, rule=rule, seed=0)
        right = (tags == truth) & (tags > 0)
        row = {"case": "ablation", "instances": count, "what": what, "seconds": round(time.perf_counter() - start, 2)}
        shares = {"precision": right.sum() / (tags > 0).sum(), "recall": right.sum() / (truth > 0).sum()}
        rows.append(
            row | {name: round(float(value), 4) for name, value in shares.items()} | {"inside": facts["inside"]}
        )
    return rows


def everything(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row: a whole data set in a process of its own, so that its peak memory is told."""
    receive, send = get_context("spawn").Pipe(duplex=False)
    process = get_context("spawn").Process(
        target=_everything, args=(given.count, Rule(solver=given.solver, grouping=given.grouping), send)
    )
    process.start()
    send.close()
    row = receive.recv()
    process.join()
    return [row]


def _everything(count: int, rule: Rule, send: Any) -> None:
    start_mb = resident_mb()
    candidates, features, truth = drawn(count)
    held = resident_mb()
    with Meter() as meter:
        tags, facts = associate(candidates, features, rule=rule, seed=0)
    right = (tags == truth) & (tags > 0)
    send.send(
        {
            "case": "all", "instances": count, "what": f"{rule.solver}, {rule.grouping}", "seconds": round(meter.seconds, 1),
            "peak_mb": round(meter.peak_mb, 1), "mb_before_the_data": round(start_mb, 1), "mb_with_the_data": round(held, 1),
            "groups": facts["groups"], "inside": facts["inside"], "gap": facts["gap"],
            "precision": round(float(right.sum() / (tags > 0).sum()), 4),
        }
    )  # fmt: skip


CASES = {"exact": exact, "group": group, "ablation": ablation, "all": everything}


if __name__ == "__main__":
    main()
