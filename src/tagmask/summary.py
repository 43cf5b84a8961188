"""What a run is worth: numbers where the user has masks, and a page with pictures in any case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tagmask.augment import resize_labels
from tagmask.boxes import score_boxes
from tagmask.data.novel import groups
from tagmask.data.photos import PerImage, Photos, Truth
from tagmask.evaluate import Confusion, image_iou
from tagmask.files import read_json_lines, write_json
from tagmask.outcome import Outcome
from tagmask.quality import SaliencyQuality, SeedQuality, ThresholdCurve, seed_precision
from tagmask.registry import Method
from tagmask.report import ImageRow, Report, write_report
from tagmask.segment import fit_to_photo
from tagmask.types import UNKNOWN, Activation, Boxes, Dataset, LabelMap, Saliency
from tagmask.work import Work

ROWS = 6  # images shown of each group  # ours
SURE = 0.5  # boxes of this probability are shown, and the surest of each class  # ours
KEPT = (  # settings that metrics.json repeats
    "method", "data", "command", "seed", "device", "precision", "looking", "longest", "novel", "options", "backbone",
    "versions",
)  # fmt: skip


def summarise(
    data: Dataset,
    work: Work,
    outcome: Outcome,
    predictions: PerImage[LabelMap] | None,
    *,
    method: Method,
    settings: Mapping[str, Any],
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Write ``RUN/metrics.json`` and ``RUN/report.html``; return the content of the former."""
    classes = len(data.classes)
    train = Truth([s for s in data.train if s.mask is not None], classes, work.longest)
    val = Truth([s for s in data.val if s.mask is not None], classes, work.longest)
    metrics: dict[str, Any] = {name: settings[name] for name in KEPT}
    metrics |= {
        "reader": data.reader,
        "train_images": len(data.train),
        "val_images": len(data.val),
        "extra_supervision": _supervision(method, outcome),
        "stages": [asdict(cost) for cost in work.costs],
        "minutes": round(sum(cost.seconds for cost in work.costs) / 60, 2),
        "peak_mb": round(max(cost.peak_mb for cost in work.costs)),
        "classes": list(data.classes),
        "counts": _counts(data),
    }
    with work.narrator.stage("evaluation", len(train) * (len(outcome.steps) + 1) + len(val)) as counter:
        if len(train):
            metrics["train_masks"] = score(train, outcome.masks, data, counter.advance)
            metrics["steps"] = {n: score(train, m, data, counter.advance) for n, m in outcome.steps.items()}
            if outcome.seeds is not None:
                metrics["seeds"] = _seed_quality(train, outcome.seeds, classes)
            if outcome.activation is not None:
                metrics["seed_precision"] = _seed_precision(train, outcome.activation, classes)
            if outcome.saliency is not None:
                metrics["saliency"] = saliency_quality(train, outcome.saliency)
        if len(val) and predictions is not None:
            metrics["val"] = score(val, predictions, data, counter.advance)
            metrics["val_steps"] = {n: score(val, m, data) for n, m in outcome.val_steps.items()}
        metrics |= _box_scores(data, outcome)
    if outcome.threshold is not None:
        metrics["threshold_choice"] = outcome.threshold
        if outcome.activation is not None and len(train):
            metrics["activation"] = _price(train, outcome, classes)
    write_json(work.out / "metrics.json", metrics)
    rows = _rows(data, work, outcome, train)
    write_report(
        work.out / "report.html",
        Report(method.name, method.title, str(data.root), data.classes, metrics, _curves(work), rows, list(warnings)),
    )
    return metrics


def score(
    truth: PerImage[LabelMap], masks: PerImage[LabelMap], data: Dataset, advance: Any = lambda: None
) -> dict[str, Any]:
    """Return the scores of ``masks`` over the images that ``truth`` knows, as JSON types; by group where some are novel.

    The truth is brought to the grid of masks of another size; where masks leave pixels unknown, ``seeds`` scores what
    they do label. ``one_tag`` and ``several_tags`` are the mIoU over the images with up to one tag and with more.
    """
    tags = {sample.name: sample.tags or () for sample in data.samples}
    quality, several = SeedQuality(len(data.classes)), Confusion(len(data.classes))
    for name in truth.names:
        labels = masks[name].labels
        counts = several if len(tags[name]) > 1 else quality.confusion
        counts.add(fit_to_photo(truth[name], labels.shape).labels, labels)
        advance()
    confusion = quality.confusion
    parts = {n: c.scores().to_json()["miou"] for n, c in (("one_tag", confusion), ("several_tags", several))}
    confusion.merge(several)
    scores = {**confusion.scores().to_json(), **parts, "images": len(truth), "groups": group_scores(confusion, data)}
    return {**scores, "seeds": quality.scores().to_json()} if confusion.matrix[:, -1].any() else scores


def group_scores(confusion: Confusion, data: Dataset) -> dict[str, float | None]:
    """Return the mIoU over the ``base`` classes, with the background, and over the ``novel`` ones; {} without such."""
    return {name: confusion.scores(only=ids).to_json()["miou"] for name, ids in groups(data).items()}


def _box_scores(data: Dataset, outcome: Outcome) -> dict[str, Any]:
    """Return ``boxes``, ``box_steps`` and ``val_boxes``, each scored where there is something to compare with."""
    if outcome.boxes is None:
        return {}
    classes, steps = len(data.classes), outcome.box_steps
    scored = {"boxes": score_boxes(data.train, classes, outcome.boxes.__getitem__)}
    if outcome.val_boxes is not None:
        scored["val_boxes"] = score_boxes(data.val, classes, outcome.val_boxes.__getitem__)
    on_the_way = {name: score_boxes(data.train, classes, boxes.__getitem__) for name, boxes in steps.items()}
    return {
        **{name: scores for name, scores in scored.items() if scores is not None},
        **({"box_steps": on_the_way} if scored["boxes"] is not None else {}),
    }


def _supervision(method: Method, outcome: Outcome) -> str:
    """Return what people had to draw besides tags: for the method, and for a source that the user brought in."""
    wanted = [what for what in (method.extra_supervision, outcome.supervision) if what != "none"]
    return "; ".join(wanted) or "none"


def saliency_quality(truth: Truth, saliency: PerImage[Saliency]) -> dict[str, Any]:
    """Score saliency against all tagged objects."""
    quality = SaliencyQuality()
    for name in truth.names:
        found = saliency[name]
        quality.add(fit_to_photo(truth[name], found.values.shape).labels, found)
    return quality.scores().to_json()


def _seed_quality(truth: Truth, seeds: PerImage[LabelMap], classes: int) -> dict[str, Any]:
    """Score seeds on the grid on which they were made: the truth is resized to it where they differ."""
    quality = SeedQuality(classes)
    for name in truth.names:
        labels = seeds[name].labels
        quality.add(fit_to_photo(truth[name], labels.shape).labels, labels)
    return quality.scores().to_json()


def _seed_precision(truth: Truth, activation: PerImage[Activation], classes: int) -> dict[str, float | None]:
    """Score how well the activations localise, at whatever threshold that is asked."""
    curve = ThresholdCurve(classes, thresholds=np.arange(100) / 100)
    for name in truth.names:
        curve.add(truth[name].labels, activation[name])
    return seed_precision(curve)


def _price(truth: Truth, outcome: Outcome, classes: int) -> dict[str, Any]:
    """Return what the threshold chosen without masks costs against the best one that masks can find."""
    assert outcome.activation is not None
    assert outcome.threshold is not None
    curve, chosen = ThresholdCurve(classes), float(outcome.threshold["threshold"])
    exact = ThresholdCurve(classes, thresholds=np.array([chosen]))
    for name in truth.names:
        labels, activation = truth[name].labels, outcome.activation[name]
        curve.add(labels, activation)
        exact.add(labels, activation)
    oracle, best = curve.best()
    ours = float(exact.miou()[0])
    return {
        "threshold": chosen,
        "miou_chosen": ours,
        "threshold_oracle": oracle,
        "miou_oracle": best,
        "price": best - ours,
        "oracle_at_the_end": curve.at_the_end,
        "curve": {"thresholds": curve.thresholds.tolist(), "miou": curve.miou().tolist()},
    }


def _rows(data: Dataset, work: Work, outcome: Outcome, truth: Truth) -> list[ImageRow]:
    """Choose the images to show: best, middle and worst by truth (else by doubt), and the most doubtful."""
    photos = work.photos([sample for sample in data.train if sample.name in outcome.masks])
    doubts = {name: doubt(outcome, name) for name in photos.names}
    tagged = [name for name in photos.names if photos.tags(name)] or list(photos.names)  # a negative is no achievement
    scores: dict[str, float] = {}
    for name in (name for name in tagged if name in truth):
        iou = image_iou(truth[name].labels, outcome.masks[name].labels, len(data.classes))
        if np.isfinite(iou):
            scores[name] = iou
    by_doubt = sorted(tagged, key=lambda name: (doubts[name], name))
    order = sorted(scores, key=lambda name: (-scores[name], name)) or by_doubt
    middle = max(0, len(order) // 2 - ROWS // 2)
    groups = {
        "best": order[:ROWS],
        "middle": order[middle : middle + ROWS],
        "worst": order[::-1][:ROWS],
        "doubtful": by_doubt[::-1][:ROWS],
    }
    return [
        _row(group, data, photos, outcome, truth, name, scores.get(name), doubts[name])
        for group, names in groups.items()
        for name in names
    ]


def _row(
    group: str,
    data: Dataset,
    photos: Photos,
    outcome: Outcome,
    truth: Truth,
    name: str,
    iou: float | None,
    unsure: float,
) -> ImageRow:
    photo, activation = photos[name], outcome.activation
    shown = activation[name] if activation is not None else None
    maps = [(data.classes[c], m) for c, m in zip(shown.classes, shown.maps, strict=True)] if shown else []
    if outcome.saliency is not None:
        maps.append(("saliency", outcome.saliency[name].unit))
    return ImageRow(
        group=group,
        name=name,
        tags=[data.classes[tag] for tag in photo.tags or ()],
        photo=photo.pixels,
        activation=maps,
        seeds=outcome.seeds[name].labels if outcome.seeds is not None else None,
        mask=outcome.masks[name].labels,
        truth=truth[name].labels if name in truth else None,
        score=iou,
        doubt=unsure,
        boxes=None if outcome.boxes is None else shown_boxes(outcome.boxes[name]),
    )


def shown_boxes(boxes: Boxes) -> list[tuple[int, int, int, int, int]]:
    """Return (class id, x0, y0, x1, y1) of the surest box of every class, and of those of ``SURE`` probability; in order."""
    order = np.argsort(-boxes.scores, kind="stable").tolist()
    first = {boxes.classes[index]: index for index in reversed(order)}
    shown = [index for index in order if boxes.scores[index] >= SURE or first[boxes.classes[index]] == index]
    return [(boxes.classes[index], *boxes.boxes[index].tolist()) for index in shown]


def doubt(outcome: Outcome, name: str) -> float:
    """Return in [0, 1] how much the last two label maps of an image disagree: 1 - IoU of what is no background.

    Where a recipe has one step only, a mask without any object counts as full doubt and any other as none.  # ours
    """
    last = outcome.masks[name].labels
    earlier = [step for step in outcome.steps.values() if step is not outcome.masks] or (
        [outcome.seeds] if outcome.seeds is not None else []
    )
    if not earlier:
        return float(not last.any())
    before = earlier[-1][name].labels
    if before.shape != last.shape:
        before = resize_labels(before, *last.shape)
    known = before != UNKNOWN
    union = ((before > 0) | (last > 0)) & known
    same = ((before == last) & (last > 0)) & known
    return 1 - float(same.sum() / union.sum()) if union.any() else 0.0


def _counts(data: Dataset) -> dict[str, int]:
    counts = np.bincount([tag for sample in data.train for tag in sample.tags or ()], minlength=len(data.classes))
    return {name: int(count) for name, count in zip(data.classes[1:], counts[1:], strict=True)}


def _curves(work: Work) -> dict[str, list[dict[str, float]]]:
    """Return the training curves that the stages of this run left."""
    curves = {}
    for cost in work.costs:
        path = work.out / cost.name / "curve.jsonl"
        if path.exists():
            curves[cost.name] = read_json_lines(path)
    return curves
