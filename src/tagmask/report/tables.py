"""From ``metrics.json`` to the words, facts and tables of the page.

A run may lack any key (no masks, an interrupted stage, an older version): what is not there is left out.
Scores are fractions in [0, 1] in ``metrics`` and percent on the page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tagmask.report.curves import line_chart

Metrics = Mapping[str, Any]

UNMEASURED = "No masks were given, so nothing here is measured against truth."
SCORED = {"train_masks": "Training masks", "val": "Network on val"}  # what is scored, and its name on the page
SEED_NAMES = {
    "miou_labelled": "mIoU where labelled",
    "miou_unknown_as_background": "mIoU, unknown as background",
    "coverage": "Pixels labelled",
    "foreground_recall": "Object pixels found",
    "missed": "Object pixels labelled background",
}
SALIENCY_NAMES = {
    "precision": "Objects: precision",
    "recall": "Objects: recall",
    "ground_precision": "Background below 6 %: precision",
    "ground_recall": "Background below 6 %: recall",
    "best_f": "Best F measure of all cuts (oracle)",
    "overlapping": "Photos with IoU over 60 %",
}
MISSING = "-"


def number(value: object) -> float | None:
    """Return ``value`` as a finite float, or None where it is missing, not a number or not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def percent(value: object, unit: str = "") -> str:
    """Return a fraction as percent with one decimal.

    >>> percent(0.6127), percent(0.5, " %"), percent(None)
    ('61.3', '50.0 %', '-')
    """
    known = number(value)
    return MISSING if known is None else f"{100 * known:.1f}{unit}"


def duration(seconds: object) -> str:
    """Return a time in the unit a person would say.

    >>> duration(4.21), duration(61), duration(7_300)
    ('4.2 s', '1 min 01 s', '2 h 01 min')
    """
    known = number(seconds)
    if known is None:
        return MISSING
    if known < 59.95:
        return f"{known:.1f} s"
    whole = round(known)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory(megabytes: object) -> str:
    """Return an amount of memory.

    >>> memory(310.4), memory(2_480)
    ('310 MB', '2.5 GB')
    """
    known = number(megabytes)
    if known is None:
        return MISSING
    return f"{known:.0f} MB" if known < 1000 else f"{known / 1000:.1f} GB"


def verdict(metrics: Metrics) -> str:
    """Return the one sentence that a person reads first."""
    masks, val = (number(part(metrics, key).get("miou")) for key in SCORED)
    said = []
    if masks is not None:
        said.append(f"the masks of the training images reach {percent(masks)} % mIoU")
    if val is not None:
        said.append(f"the network reaches {percent(val)} % mIoU on the validation images")
    sentence = " and ".join(said)
    return f"{sentence[0].upper()}{sentence[1:]}." if said else UNMEASURED


def facts(metrics: Metrics) -> list[tuple[str, str]]:
    """Return the (label, value) pairs under the verdict."""
    supervision = metrics.get("extra_supervision")
    minutes = number(metrics.get("minutes"))
    found = [
        ("Extra supervision", str(supervision) if supervision else None),
        ("Time", duration(60 * minutes) if minutes is not None else None),
        ("Peak memory", memory(metrics["peak_mb"]) if number(metrics.get("peak_mb")) is not None else None),
        ("Device", metrics.get("device")),
        ("Seed", metrics.get("seed")),
        ("Read as", metrics.get("reader")),
    ]
    return [(label, str(value)) for label, value in found if value not in (None, "")]


def class_table(classes: Sequence[str], metrics: Metrics) -> dict[str, Any]:
    """Return ``groups`` (the names of what is scored), ``rows`` (one a class) and ``means`` (mIoUs of each group)."""
    counts = part(metrics, "counts")
    scored = {name: part(metrics, key) for key, name in SCORED.items() if part(metrics, key)}

    def scores(index: int, group: Metrics) -> dict[str, Any]:
        iou, precision, recall = (_at(group.get(key), index) for key in ("iou", "precision", "recall"))
        width = None if iou is None else 100 * min(max(iou, 0), 1)
        return {"iou": percent(iou), "width": width, "precision": percent(precision), "recall": percent(recall)}

    rows = [
        {
            "index": index,
            "name": name,
            "novel": name in (metrics.get("novel") or ()),
            "images": counts.get(name, MISSING),
            "scores": [scores(index, group) for group in scored.values()],
        }
        for index, name in enumerate(classes)
    ]
    means = {"mean": [percent(group.get("miou")) for group in scored.values()]}
    for name in ("base", "novel"):
        if any(part(group, "groups") for group in scored.values()):
            means[f"mean of the {name} classes"] = [
                percent(part(group, "groups").get(name)) for group in scored.values()
            ]
    return {"groups": list(scored), "rows": rows, "means": means}


def stage_table(metrics: Metrics) -> list[dict[str, Any]]:
    """Return a row for each stage: name, items, computed, reused, seconds and memory as words, width of its bar."""
    stages = [stage for stage in metrics.get("stages") or () if isinstance(stage, Mapping)]
    longest = max((number(stage.get("seconds")) or 0 for stage in stages), default=0) or 1
    return [
        {
            "name": stage.get("name", MISSING),
            **{key: stage.get(key, MISSING) for key in ("items", "computed", "reused")},
            "seconds": duration(stage.get("seconds")),
            "width": 100 * (number(stage.get("seconds")) or 0) / longest,
            "memory": memory(stage.get("peak_mb")),
        }
        for stage in stages
    ]


def step_table(metrics: Metrics) -> list[dict[str, Any]]:
    """Return a row for each label map on the way to the masks: name, mIoU, what it labels and how well, width of its bar.

    ``labelled`` is the share of the pixels that have a label, ``where_labelled`` the mIoU over these alone.
    """
    steps: dict[str, Metrics] = {
        name: step for name, step in part(metrics, "steps").items() if isinstance(step, Mapping)
    }
    if not steps:
        return []
    steps["final masks"] = part(metrics, "train_masks")
    return [
        {
            "name": name,
            "miou": percent(step.get("miou")),
            "width": 100 * min(max(number(step.get("miou")) or 0, 0), 1),
            "labelled": percent(part(step, "seeds").get("coverage", 1.0)),
            "where_labelled": percent(part(step, "seeds").get("miou_labelled", step.get("miou"))),
        }
        for name, step in steps.items()
    ]


def box_table(metrics: Metrics) -> dict[str, Any] | None:
    """Return ``truth`` and ``rows`` (name, CorLoc, AP50, width of its bar), one for each set of boxes; None without such."""
    final = part(metrics, "boxes")
    if not final:
        return None
    known = {**part(metrics, "box_steps"), "final boxes": final, "on val, without tags": part(metrics, "val_boxes")}
    scored: dict[str, Metrics] = {
        name: scores for name, scores in known.items() if isinstance(scores, Mapping) and scores
    }
    rows = [
        {
            "name": name,
            "corloc": percent(scores.get("corloc")),
            "width": 100 * min(max(number(scores.get("corloc")) or 0, 0), 1),
            "ap50": percent(scores.get("ap50")),
        }
        for name, scores in scored.items()
    ]
    return {"truth": "boxes" if final.get("truth") == "boxes" else "the connected parts of masks", "rows": rows}


def saliency_facts(metrics: Metrics) -> list[tuple[str, str]]:
    """Return the scores of the saliency as (label, percent) pairs."""
    known = part(metrics, "saliency")
    return [
        (name, percent(known[key], " %")) for key, name in SALIENCY_NAMES.items() if number(known.get(key)) is not None
    ]


def seed_facts(metrics: Metrics) -> list[tuple[str, str]]:
    """Return the scores of the seeds as (label, percent) pairs."""
    known = {key: value for key, value in part(metrics, "seeds").items() if number(value) is not None}
    return [
        (SEED_NAMES.get(key, key.replace("_", " ").capitalize()), percent(value, " %")) for key, value in known.items()
    ]


def threshold(metrics: Metrics) -> dict[str, Any] | None:
    """Return ``criterion``, ``facts``, ``price`` and ``charts`` of the background threshold; None if all is unknown."""
    choice, truth = part(metrics, "threshold_choice"), part(metrics, "activation")
    chosen, oracle = number(truth.get("threshold")), number(truth.get("threshold_oracle"))
    if chosen is None:
        chosen = number(choice.get("threshold"))
    marks = {name: x for name, x in (("chosen", chosen), ("oracle", oracle)) if x is not None}
    charts = []
    if criterion := _points(part(choice, "curve"), "values"):
        charts.append(line_chart("What the method saw: its criterion", criterion, x_label="threshold", marks=marks))
    if miou := _points(part(truth, "curve"), "miou"):
        charts.append(line_chart("What the masks say: mIoU", miou, x_label="threshold", marks=marks))
    if not (marks or charts):
        return None
    found = [
        ("Chosen", chosen, truth.get("miou_chosen")),
        ("Oracle, chosen with the masks", oracle, truth.get("miou_oracle")),
    ]
    cards = [
        (name, f"{x:.3g}", f"{percent(miou)} % mIoU" if number(miou) is not None else "")
        for name, x, miou in found
        if x is not None
    ]
    return {"criterion": choice.get("criterion"), "facts": cards, "price": _price(truth), "charts": charts}


def training_charts(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Markup]:
    """Return a chart for each stage that was trained: every named number over ``step``, the learning rate in words."""
    charts = []
    for stage, records in curves.items():
        steps = [record for record in records if number(record.get("step")) is not None]
        names = dict.fromkeys(key for record in steps for key in record if key not in ("step", "lr"))
        lines = {
            name: [
                (float(record["step"]), float(value))
                for record in steps
                if (value := number(record.get(name))) is not None
            ]
            for name in names
        }
        rates = [rate for record in steps if (rate := number(record.get("lr"))) is not None]
        note = f"learning rate {rates[0]:.3g} to {rates[-1]:.3g}" if rates else ""
        charts.append(line_chart(stage, lines, x_label="step", note=note))
    return charts


def part(metrics: Metrics, key: str) -> Metrics:
    """Return the mapping under ``key``, or an empty one."""
    found = metrics.get(key)
    return found if isinstance(found, Mapping) else {}


def _price(truth: Metrics) -> str:
    """Say what it costs to choose without masks."""
    price, best, got = (number(truth.get(key)) for key in ("price", "miou_oracle", "miou_chosen"))
    if price is None and best is not None and got is not None:
        price = best - got
    return "" if price is None else f"The price of choosing without masks: {100 * price:.1f} points of mIoU."


def _points(curve: Metrics, values: str) -> dict[str, list[tuple[float, float]]]:
    pairs = zip(curve.get("thresholds") or (), curve.get(values) or (), strict=False)
    known = [(float(x), float(y)) for x, y in pairs if number(x) is not None and number(y) is not None]
    return {values: known} if known else {}


def _at(values: object, index: int) -> float | None:
    return number(values[index]) if isinstance(values, Sequence) and index < len(values) else None
