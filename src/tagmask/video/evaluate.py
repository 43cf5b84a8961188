"""Score folders of masks of clips: how well objects are followed, how right and how steady labels are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tagmask.data.pixels import read_mask
from tagmask.data.video import Clip
from tagmask.errors import DataError
from tagmask.evaluate import Confusion
from tagmask.progress import Counter, Narrator
from tagmask.types import UNKNOWN
from tagmask.video.consistency import WINDOW, TemporalConsistency, VideoConsistency, flow_name, motions
from tagmask.video.folders import IdReader, MaskClip, find_masks, frames_of, pair_up
from tagmask.video.metrics import ClipScores, ObjectScores, inner

LEAST = 3  # frames of a clip of which one counts
MOST_WORKERS = 8  # clips read at a time  # ours

Labels = NDArray[np.uint8]


def score_follow(predictions: Path, truth: Path, *, quiet: bool = False) -> dict[str, Any]:
    """Score followed objects, as JSON types: J and F of every object of every clip, and their means.

    Both are folders as `find_masks` takes them. ``mean`` averages objects (as DAVIS 2017 does; with one object a clip, as
    in DAVIS 2016, that is the mean over clips), ``mean_of_clips`` the means of clips. Raises DataError.
    """
    pairs, lacking = pair_up(find_masks(predictions), find_masks(truth))
    workers, frames = min(MOST_WORKERS, os.cpu_count() or 1), sum(len(theirs.masks) for _, theirs in pairs)
    with ThreadPoolExecutor(workers) as pool, Narrator(quiet=quiet).stage("evaluate", frames, unit="frames") as counter:
        found = list(pool.map(lambda pair: _follow_clip(pair[0], pair[1], counter), pairs))
    scores = {theirs.name: objects for (_, theirs), objects in zip(pairs, found, strict=True)}
    everything = [one for objects in scores.values() for one in objects.values()]
    by_clip = {name: ObjectScores.mean_of(objects.values()) for name, objects in scores.items()}
    return {
        "task": "follow",
        "clips": {
            name: {
                "objects": {str(known): _as_json(one) for known, one in objects.items()},
                "mean": _as_json(by_clip[name]),
            }
            for name, objects in scores.items()
        },
        "objects": len(everything),
        "mean": _as_json(ObjectScores.mean_of(everything)),
        "mean_of_clips": _as_json(ObjectScores.mean_of(by_clip.values())),
        "without_prediction": lacking,
    }


def _follow_clip(ours: MaskClip, theirs: MaskClip, counter: Counter) -> dict[int, ObjectScores]:
    names = list(theirs.masks)
    if len(names) < LEAST:
        raise DataError(
            f"{theirs.folder}: has {len(names)} masks; expected {LEAST} or more, for the first and the last do not count."
        )
    paths = [(ours.of(name), theirs.masks[name]) for name in inner(names)]  # what lacks is told before all the work
    given, predicted, scores = IdReader(), IdReader(), ClipScores()
    for name in (names[0], names[-1]):
        given.read(theirs.masks[name])
    for mine, right in paths:
        prediction, true = predicted.read(mine), given.read(right)
        _same_size(mine, prediction, true)
        scores.add(prediction, true)
        counter.advance()
    counter.advance(2)
    known = given.objects()
    predicted.agree_with(known)
    if not scores.objects():
        raise DataError(f"{theirs.folder}: shows no object in the frames that count (all but the first and the last).")
    return scores.objects()


def _as_json(scores: ObjectScores) -> dict[str, Any]:
    return {"jf": scores.both, "j": asdict(scores.region), "f": asdict(scores.boundary)}


def _same_size(path: Path, labels: Labels, other: NDArray[Any], what: str = "its truth") -> None:
    if labels.shape != other.shape[:2]:
        raise DataError(
            f"{path}: has {labels.shape[1]}x{labels.shape[0]} pixels, {what} {other.shape[1]}x{other.shape[0]}; "
            "bring predictions to the full size (nearest pixel, or logits before the best class is taken)."
        )


def score_label(
    predictions: Path,
    truth: Path,
    *,
    frames: Path | None = None,
    classes: Sequence[str] | None = None,
    preset: str = "medium",
    occlusion: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Score labelled frames, as JSON types: IoU of every class, VC over 8 frames, and with ``frames`` TC.

    ``classes`` are the names of the ids from 0 on; without them every id below 255 may occur, and its name is its number.
    Truth may be sparse; VC needs runs of frames that all have it. ``tc_of_truth`` is what labels without a mistake would
    get, where consecutive frames have truth. ``occlusion`` leaves out pixels that one of both frames hides. Raises
    DataError, OptionError for an unknown preset.
    """
    held = find_masks(truth)
    pairs, lacking = pair_up(find_masks(predictions), held)
    names = list(classes or map(str, range(UNKNOWN)))
    tally = _Tally(len(names))
    only = len(pairs) == 1
    clips = [frames_of(frames, theirs.name, only=only) if frames is not None else None for _, theirs in pairs]
    count = sum(len(ours.masks) for ours, _ in pairs)
    with Narrator(quiet=quiet).stage("evaluate", count, unit="frames") as counter:
        for (ours, theirs), clip in zip(pairs, clips, strict=True):
            tally.clip(ours, theirs, clip, preset, occlusion, counter)
    scores = tally.confusion.scores().to_json()
    occurring = [c for c in range(len(names)) if classes is not None or scores["iou"][c] is not None]
    result: dict[str, Any] = {
        "task": "label",
        "classes": [names[c] for c in occurring],
        "frames": tally.frames,
        "without_prediction": lacking,
        **{name: [v[c] for c in occurring] if isinstance(v, list) else v for name, v in scores.items()},
        f"vc_{WINDOW}": tally.steady.score if tally.steady.windows else None,
        "flow": None,
        "tc": None,
        "tc_of_truth": None,
    }
    if frames is not None:
        result["flow"] = flow_name(preset) + (", without what is hidden in one of both frames" if occlusion else "")
        for name, counted in (("tc", tally.ours), ("tc_of_truth", tally.theirs)):
            found = counted.scores().to_json()
            result[name] = found | {"iou": [found["iou"][c] for c in occurring]} if counted.pairs else None
    return result


class _Tally:
    """What is counted of labelled clips, in one pass over each: two frames are in memory."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.frames = 0  # with truth
        self.confusion, self.steady = Confusion(classes), VideoConsistency()
        self.ours, self.theirs = TemporalConsistency(classes), TemporalConsistency(classes)

    def clip(
        self, ours: MaskClip, theirs: MaskClip, frames: Clip | None, preset: str, occlusion: bool, counter: Counter
    ) -> None:
        """Count one clip."""
        for name in theirs.masks:
            ours.of(name)
        self.steady.cut()
        moved = motions(_matched(frames, ours), preset, occlusion=occlusion) if frames is not None else None
        before: tuple[Labels, Labels | None] | None = None
        for name, path in ours.masks.items():
            labels = read_mask(path, classes=self.classes)
            true = read_mask(theirs.masks[name], classes=self.classes) if name in theirs.masks else None
            if true is not None:
                _same_size(path, labels, true)
            if before is not None:
                _same_size(path, labels, before[0], what="the mask before")
            self._frame(labels, true)
            if moved is not None and before is not None:
                flow, visible = next(moved)
                _same_size(path, labels, flow, what="its frame")
                self.ours.add(before[0], labels, flow, visible)
                if true is not None and before[1] is not None:
                    self.theirs.add(before[1], true, flow, visible)
            before = labels, true
            counter.advance()
        if moved is not None:
            next(moved, None)  # finds frames without a mask

    def _frame(self, labels: Labels, true: Labels | None) -> None:
        """Count what one frame says by itself."""
        if true is None:
            self.steady.cut()
            return
        self.confusion.add(true, labels)
        self.steady.add(labels, true)
        self.frames += 1


def _matched(clip: Clip, ours: MaskClip) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of the predictions: by name where they are pictures, else in order. Raises DataError for a gap."""
    if clip.pictures:
        number = {path.stem: place for place, path in enumerate(clip.pictures)}
        lacking = [name for name in ours.masks if name not in number]
        if lacking:
            raise DataError(f"{clip.path}: has no frame {lacking[0]}, of which {ours.folder} has a mask.")
        places = [number[name] for name in ours.masks]
        run = clip.pictures[min(places) : max(places) + 1]
        for path in run:
            ours.of(path.stem)
        clip = replace(clip, pictures=run, frames=len(run))
    count = 0
    for frame in clip:
        count += 1
        if count <= len(ours.masks):
            yield frame
    if count != len(ours.masks):
        raise DataError(
            f"{clip.path}: has {count} frames, {ours.folder} {len(ours.masks)} masks; expected one a frame."
        )
