"""`tagmask evaluate-video`: its flags, and its scores as a table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tagmask.flags import Verb


def add_verbs(verb: Verb) -> None:
    """Register the verb."""
    made = verb(
        "evaluate-video", _evaluate, "Score masks of clips: objects that are followed, or frames that are labelled."
    )
    made.add_argument(
        "predictions", type=Path, metavar="PREDICTIONS", help="a folder of PNGs for each clip, or one clip's PNGs"
    )
    made.add_argument("truth", type=Path, metavar="TRUTH", help="the same, with what is right")
    made.add_argument(
        "--task",
        choices=("follow", "label"),
        default="follow",
        help="follow: J and F of objects; label: IoU of classes, and how steady they are (follow)",
    )
    made.add_argument("--frames", type=Path, metavar="CLIPS", help="label: the clips (folders or videos), for TC")
    made.add_argument("--classes", type=Path, metavar="FILE", help="label: names of the ids from 0 on, one a line")
    made.add_argument("--flow", default="medium", help="label: DIS flow of TC, ultrafast, fast or medium (medium)")
    made.add_argument("--occlusion", action="store_true", help="label: TC without pixels that one of both frames hides")
    made.add_argument("--json", action="store_true", help="as JSON")


def _evaluate(given: argparse.Namespace) -> None:
    from tagmask.errors import OptionError
    from tagmask.video.evaluate import score_follow, score_label

    if given.task == "follow":
        useless = [f"--{name}" for name in ("frames", "classes", "occlusion") if getattr(given, name)]
        if useless:
            raise OptionError(f"{useless[0]} says nothing of followed objects; add --task label, or leave it out.")
        scores = score_follow(given.predictions, given.truth, quiet=given.json)
    else:
        scores = score_label(
            given.predictions, given.truth, frames=given.frames, classes=_names(given.classes), preset=given.flow,
            occlusion=given.occlusion, quiet=given.json,
        )  # fmt: skip
    if given.json:
        print(json.dumps(scores, indent=1, ensure_ascii=False))
    else:
        print(render_follow(scores) if given.task == "follow" else render_label(scores), end="")


def _names(path: Path | None) -> list[str] | None:
    from tagmask.data.listing import read_lines
    from tagmask.errors import DataError
    from tagmask.types import UNKNOWN

    if path is None:
        return None
    names = read_lines(path)
    if not 1 <= len(names) <= UNKNOWN:
        raise DataError(f"{path}: names {len(names)} classes; expected 1 to {UNKNOWN}, one a line.")
    return names


def render_follow(scores: dict[str, Any]) -> str:
    """Return the scores of followed objects as a table for a terminal, in percent."""
    lines = [_row(("clip", "object", "J&F", "J", "recall", "decay", "F", "recall", "decay"), scores)]
    for name, clip in scores["clips"].items():
        lines += [_row((name, known, *_percent(one)), scores) for known, one in clip["objects"].items()]
        if len(clip["objects"]) > 1:
            lines.append(_row((name, "mean", *_percent(clip["mean"])), scores))
    clips = len(scores["clips"])
    lines.append(_row(("all", "mean", *_percent(scores["mean"])), scores))
    lines.append(f"J&F {100 * scores['mean']['jf']:.1f}, mean over {scores['objects']} objects in {clips} clips")
    if scores["objects"] > clips > 1:
        lines.append(f"J&F {100 * scores['mean_of_clips']['jf']:.1f}, mean over the means of clips")
    return "\n".join(lines + _lacking(scores)) + "\n"


def _row(cells: tuple[str, ...], scores: dict[str, Any]) -> str:
    width = max(len(name) for name in ("clip", *scores["clips"]))
    return f"{cells[0]:<{width}}" + "".join(f" {cell:>7}" for cell in cells[1:])


def _percent(one: dict[str, Any]) -> tuple[str, ...]:
    values = [one["jf"], *one["j"].values(), *one["f"].values()]
    return tuple(f"{100 * value:.1f}" for value in values)


def render_label(scores: dict[str, Any]) -> str:
    """Return the scores of labelled frames as a table for a terminal, in percent."""
    width = max(len(name) for name in ("class", *scores["classes"]))
    lines = [f"{'class':<{width}}    IoU  precision  recall" + ("     TC" if scores["tc"] else "")]
    consistent = scores["tc"]["iou"] if scores["tc"] else [None] * len(scores["classes"])
    columns = zip(scores["classes"], scores["iou"], scores["precision"], scores["recall"], consistent, strict=True)
    for name, *values in columns:
        if values[0] is not None:
            iou, precision, recall, steady = ("   -" if value is None else f"{100 * value:4.1f}" for value in values)
            row = f"{name:<{width}}   {iou}       {precision}    {recall}"
            lines.append(row + (f"   {steady}" if scores["tc"] else ""))
    lines.append(f"mIoU {_shown(scores['miou'])} over {scores['averaged']} classes, {scores['frames']} frames")
    if scores["tc"]:
        tc, truth = scores["tc"], scores["tc_of_truth"]
        most = f"; the truth itself has {_shown(truth['tc'])}" if truth else ""
        what = f"{tc['classes']} classes, {tc['pairs']} pairs of frames, flow {scores['flow']}"
        lines.append(f"TC {_shown(tc['tc'])} over {what}{most}")
    lines += [
        f"{name.upper().replace('_', '')} {_shown(value)}: labelled right in {name[3:]} frames in a row, where the truth stays"
        for name, value in scores.items()
        if name.startswith("vc_") and value is not None
    ]
    return "\n".join(lines + _lacking(scores)) + "\n"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _lacking(scores: dict[str, Any]) -> list[str]:
    lacking = scores["without_prediction"]
    if not lacking:
        return []
    few = ", ".join(lacking[:3]) + (" ..." if len(lacking) > 3 else "")
    return [f"{len(lacking)} clips have a truth but no prediction here ({few}); they are not counted."]
