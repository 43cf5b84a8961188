"""Use a finished run: label new photos, score folders of masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tagmask.boxes import FILE, boxes_of_run, score_boxes
from tagmask.data.listing import walk, without_ending
from tagmask.data.photos import Photos, Truth
from tagmask.data.pixels import ENDINGS, image_size, read_mask, write_mask
from tagmask.errors import DataError, OptionError, RunError, TagmaskError, did_you_mean
from tagmask.evaluate import Confusion
from tagmask.files import whole
from tagmask.nets.folded import look_in
from tagmask.nets.segmenter import Segmenter
from tagmask.nets.storage import load_network, read_extra
from tagmask.progress import Narrator
from tagmask.refine.crf import CrfOptions
from tagmask.segment import fit_to_photo, predict_labels
from tagmask.summary import group_scores
from tagmask.types import Dataset, LabelMap, Sample


@dataclass(frozen=True)
class Predictor:
    """From an image file to its labels, with the network of a finished run."""

    segmenter: Segmenter
    options: dict[str, Any]
    longest: int

    @classmethod
    def load(
        cls, folder: Path, *, device: str = "cpu", longest: int | None = None, crf: bool | None = None
    ) -> Predictor:
        """Open the run in ``folder``; ``longest`` and ``crf`` override what the run chose. Raises RunError."""
        segmenter = load_network(folder, device=device)
        if not isinstance(segmenter, Segmenter):
            raise RunError(f"{folder}: holds a {type(segmenter).__name__}; expected the folder of a finished run.")
        extra = read_extra(folder)
        look_in(segmenter, extra["looking"])
        options = dict(extra["predict"])
        if options.get("crf"):
            options["crf"] = CrfOptions(**{name: value for name, value in options["crf"].items() if name != "type"})
        if crf is not None:
            options["crf"] = (options.get("crf") or CrfOptions()) if crf else None
        return cls(segmenter, options, int(extra["longest"]) if longest is None else longest)

    def __call__(self, image: Path) -> LabelMap:
        """Return the labels of one file, at the photo's own size; raises DataError for a file that is no photo."""
        photo = Photos([Sample(name=image.stem, image=image, tags=None)], longest=self.longest)[image.stem]
        return predict_labels(self.segmenter, photo, size=image_size(image), **self.options)


def predict_files(
    folder: Path, images: Sequence[Path], out: Path, *, device: str, longest: int | None = None, crf: bool | None = None
) -> list[str]:
    """Write a mask for every image, and return what could not be read; the rest is done all the same."""
    from tagmask.runs import choose_device

    predictor = Predictor.load(folder, device=choose_device(device), longest=longest, crf=crf)
    files = list(_named(images))
    if not files:
        raise DataError(f"no image in {', '.join(map(str, images))}; expected files or folders of photos.")
    failed = []
    with Narrator().stage("predict", len(files)) as counter:
        for name, file in files:
            try:
                labels = predictor(file)
            except TagmaskError as error:
                failed.append(str(error))
            else:
                with whole(out / f"{name}.png") as temporary:
                    write_mask(temporary, labels.labels)
            counter.advance()
    return failed


def _named(images: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Yield (name, file): files under their own name, folders with the names of their sub-folders kept."""
    for path in images:
        if path.is_dir():
            for name, file in walk(path):
                if file.suffix.lower() in ENDINGS:
                    yield without_ending(name), file
        elif path.exists():
            yield path.stem, path
        else:
            raise DataError(f"{path}: no such file or folder.")


def evaluate_folder(
    masks: Path, data: Dataset, *, split: str | None = None, only: Sequence[str] | None = None
) -> dict[str, Any]:
    """Score ``NAME.png`` under ``masks`` (or ``masks/masks``, a run's) against the masks of ``data``, as JSON types.

    Where the run has boxes (``masks/boxes.json``) and the data boxes or masks to compare them with, ``boxes`` scores these;
    without a mask to compare it is all that is scored.

    Raises DataError where nothing can be compared and OptionError for an unknown split or class.
    """
    folder = masks / "masks" if (masks / "masks").is_dir() else masks
    samples = list(data.samples)
    if split is not None:
        if split not in data.splits:
            raise OptionError(
                f"no split {split!r}{did_you_mean(split, data.splits)}; expected: {', '.join(data.splits)}."
            )
        samples = [sample for sample in samples if sample.name in set(data.splits[split])]
    everything = samples
    samples = [sample for sample in samples if sample.mask is not None]
    found = [sample for sample in samples if (folder / f"{sample.name}.png").exists()]
    unknown = [name for name in only or () if name not in data.classes]
    if unknown:
        raise OptionError(f"no class {unknown[0]!r}{did_you_mean(unknown[0], data.classes)} in {data.root}.")
    ids = [data.classes.index(name) for name in only] if only else None
    boxes = _scored_boxes(masks / FILE, data, everything, ids)
    if not found and boxes:
        return {"classes": list(data.classes), **boxes}
    if not found:
        raise DataError(f"{folder}: holds no NAME.png for any of the {len(samples)} images with a mask in {data.root}.")
    truth, confusion = Truth(found, len(data.classes)), Confusion(len(data.classes))
    for sample in found:
        labels = LabelMap(read_mask(folder / f"{sample.name}.png", classes=len(data.classes)))
        known = truth[sample.name].labels
        confusion.add(known, fit_to_photo(labels, known.shape).labels)
    scores = confusion.scores(only=ids)
    return {
        "classes": list(data.classes),
        "images": len(found),
        "without_prediction": len(samples) - len(found),
        **scores.to_json(),
        "groups": group_scores(confusion, data),
        **boxes,
    }


def _scored_boxes(file: Path, data: Dataset, samples: Sequence[Sample], only: Sequence[int] | None) -> dict[str, Any]:
    """Return ``boxes`` with their scores where there is such a file and something to compare it with, else nothing."""
    scores = score_boxes(samples, len(data.classes), boxes_of_run(file, data).get, only) if file.is_file() else None
    return {} if scores is None else {"boxes": scores}


def render_scores(scores: dict[str, Any]) -> str:
    """Return the scores as a table for a terminal."""
    lines = _mask_lines(scores) if "iou" in scores else []
    if "boxes" in scores:
        boxes = scores["boxes"]
        corloc, ap50 = ("-" if boxes[key] is None else f"{100 * boxes[key]:.1f}" for key in ("corloc", "ap50"))
        against = "boxes" if boxes["truth"] == "boxes" else "the parts of masks"
        lines.append(f"CorLoc {corloc}, AP50 {ap50} of the boxes in {boxes['images']} images, against {against}")
    return "\n".join(lines) + "\n"


def _mask_lines(scores: dict[str, Any]) -> list[str]:
    width = max(len(name) for name in scores["classes"])
    lines = [f"{'class':<{width}}    IoU  precision  recall"]
    for name, *values in zip(scores["classes"], scores["iou"], scores["precision"], scores["recall"], strict=True):
        if values[0] is not None:
            shown = ["   -" if value is None else f"{100 * value:4.1f}" for value in values]
            lines.append(f"{name:<{width}}   {shown[0]}       {shown[1]}    {shown[2]}")
    lines.append(f"mIoU {100 * scores['miou']:.1f} over {scores['averaged']} classes, {scores['images']} images")
    lines += [
        f"mIoU {100 * value:.1f} over the {name} classes"
        for name, value in scores["groups"].items()
        if value is not None
    ]
    if scores["without_prediction"]:
        lines.append(
            f"{scores['without_prediction']} images have a mask in the data but none here; they are not counted."
        )
    return lines
