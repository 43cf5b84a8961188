"""Train a network that says what stands out, whatever it is, from masks or boxes of some classes; use it as saliency.

Guided labelling (Oh et al. CVPR 2017) learns one from boxes of other photos without their classes: GrabCut makes masks of
them, as in Khoreva et al. (Simple does it), CVPR 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tagmask.data.novel import guarded
from tagmask.data.photos import DrawnBoxes, Truth
from tagmask.errors import DataError, OptionError
from tagmask.fit import Schedule
from tagmask.nets.backbones import Backbone
from tagmask.nets.segmenter import build_segmenter
from tagmask.nets.storage import read_extra, save_network
from tagmask.proposals import fitted
from tagmask.refine.grabcut import object_in_box
from tagmask.runs import LONGEST, choose_device, known_options, open_work
from tagmask.saliency import network_saliency
from tagmask.segment import fit_segmenter
from tagmask.summary import saliency_quality
from tagmask.types import BACKGROUND, UNKNOWN, Boxes, Dataset, LabelMap, Photo, Sample

METHOD = "fit-saliency"
MOST_NAMED = 8  # classes that a network's description names  # ours


@dataclass(frozen=True)
class Options:
    """Every choice of the training: what it is, and after the semicolon where its value comes from."""

    output_stride: int = 16  # pixels a cell of the network's grid; paper (DeepLab v3)
    segmenter: str = "deeplab-v3"  # deeplab-v1, deeplab-v2 or deeplab-v3; ours (guided labelling: v2)
    epochs: float = 20.0  # epochs of the network; ours
    rate: float = 0.002  # learning rate of the network; ours
    head_rate: float = 10.0  # its new layers learn so many times as fast; paper (DeepLab v1)
    crop: int = 513  # side of the training crops in pixels; paper (DeepLab v3)
    zoom: tuple[float, float] = (0.5, 2.0)  # range of the random scale of training photos; paper (DeepLab v3)
    width: int = 256  # channels of the network's head; paper (DeepLab v3)
    batch: int = 16  # photos in a training step; paper (DeepLab v3)
    box_cuts: int = 5  # rounds of GrabCut in a box; source
    box_least: float = 0.5  # a box of which GrabCut leaves less is an object as a whole; recalled (Simple does it)

    def __post_init__(self) -> None:
        if self.box_cuts < 1 or self.box_least > 1:
            raise OptionError(
                f"box_cuts is {self.box_cuts} and box_least {self.box_least}; expected 1 or more, and a share up to 1."
            )


@dataclass(frozen=True)
class SaliencyNetwork:
    """The folder of a trained network: give it to a method as ``saliency``."""

    folder: Path

    @property
    def facts(self) -> dict[str, Any]:
        """What it learned from (``supervision``, ``photos``) and, where val has masks, how good it is there (``val``)."""
        return read_extra(self.folder)

    def verdict(self) -> str:
        """Return where it is, what it is worth and how to use it, in a few lines."""
        facts = self.facts
        lines = [f"network  {self.folder}", f"learned  from {facts['supervision']}, {facts['photos']} photos"]
        if "val" in facts:
            named = (("precision", "precision"), ("recall", "recall"), ("best_f", "best F"))
            said = [f"{name} {100 * facts['val'][key]:.1f}" for key, name in named if facts["val"][key] is not None]
            lines.append(f"on val   {', '.join(said)} ({facts['val']['images']} masks)")
        return "\n".join([*lines, f"use it   tagmask run guided_labelling DATA --saliency {self.folder}"])


def fit_saliency(
    data: Dataset,
    out: str | Path,
    *,
    boxes: bool = False,
    options: Options | None = None,
    backbone: Backbone | None = None,
    store: str | Path | None = None,
    device: str = "auto",
    precision: str = "32-true",
    seed: int = 0,
    longest: int = LONGEST,
    quiet: bool = False,
    command: str = "",
    **changes: Any,
) -> SaliencyNetwork:
    """Train a network of two classes, background and object, on the masks of ``data`` (or its ``boxes``), into ``out``.

    Photos that show a novel class teach nothing, and those of val neither (see ``data.novel``). A training that was
    interrupted goes on when this is called again. Fields of ``options`` may be given by name instead. Raises DataError
    where there is nothing to learn from, OptionError for an unknown or impossible option.
    """
    options = replace(options or Options(), **known_options(METHOD, Options, changes))
    schedule = Schedule(options.epochs, options.batch, options.rate, head_rate=options.head_rate)
    learned = taught_by(data, boxes=boxes)
    device, backbone = choose_device(device), backbone or Backbone()
    trunk = replace(backbone, output_stride=options.output_stride)
    build_segmenter(options.segmenter, trunk, 2, width=options.width)  # refuses before the hour of GrabCut
    work, _ = open_work(
        METHOD, data, out, options, backbone=backbone, store=store, device=device, precision=precision, seed=seed,
        longest=longest, quiet=quiet, command=command or "tagmask.fit_saliency(...)",
        boxes=boxes, train_split=data.train_split, novel=[data.classes[tag] for tag in data.novel],
    )  # fmt: skip
    work.narrator.say(f"{METHOD} on {data.root}: {len(learned)} photos with {'boxes' if boxes else 'masks'}")
    if boxes:
        cuts = {"iterations": options.box_cuts, "least": options.box_least}
        labels = work.each("objects", cut_out, DrawnBoxes(learned), learned, **cuts)
    else:
        labels = work.each("objects", any_object, Truth(learned, len(data.classes), longest))
    network = work.once(
        "network", fit_segmenter, learned, labels, trunk,
        segmenter=options.segmenter, classes=2, crop=options.crop, scales=options.zoom, width=options.width,
        schedule=schedule, seed=seed,
    )  # fmt: skip
    extra: dict[str, Any] = {
        "supervision": _told(data, learned, boxes), "photos": len(learned),
        "classes": ["background", "object"], "predict": {}, "longest": longest, "looking": "float32",
    }  # fmt: skip
    masked = [sample for sample in data.val if sample.mask is not None]
    if masked:
        maps = work.each("val-saliency", network_saliency, network, masked)
        quality = saliency_quality(Truth(masked, len(data.classes), longest), maps)
        extra["val"] = {**quality, "images": len(masked)}
    save_network(network, work.out, extra=extra)
    return SaliencyNetwork(work.out)


def taught_by(data: Dataset, *, boxes: bool) -> tuple[Sample, ...]:
    """Return the samples whose masks (or ``boxes``) may be learned from; raises DataError where there is none."""
    seen = guarded(data, "masks of the base classes" if data.novel else "masks").train
    learned = tuple(sample for sample in seen if (sample.boxes if boxes else sample.mask is not None))
    if learned:
        return learned
    what = "boxes" if boxes else "masks"
    where = "boxes.csv, VOC's XML or COCO's json" if boxes else "masks/NAME.png"
    others = any(sample.mask is not None if boxes else sample.boxes for sample in seen)
    instead = (
        f", {'leave out --boxes (there are masks)' if boxes else 'add --boxes (there are boxes)'}" if others else ""
    )
    allowed = " that may be learned from" if data.novel else ""
    raise DataError(
        f"{data.root}: none of the {len(seen)} photos to learn from has {what}{allowed}; give {where} (docs/data.md)"
        f"{instead}, or take --saliency mbd, which learns nothing."
    )


def any_object(labels: LabelMap) -> LabelMap:
    """Return 1 for every class of the mask; background and unknown pixels stay."""
    known = np.where(labels.labels == UNKNOWN, np.uint8(UNKNOWN), (labels.labels != BACKGROUND).astype(np.uint8))
    return LabelMap(known)


def cut_out(drawn: Boxes, photo: Photo, *, iterations: int, least: float) -> LabelMap:
    """Return 1 for what GrabCut finds in the boxes; outside of all boxes is background, a box of class 255 unknown."""
    boxes = fitted(drawn, photo, most=len(drawn))
    labels = np.zeros(photo.size, dtype=np.uint8)
    places = [(int(x0), int(y0), int(x1), int(y1)) for x0, y0, x1, y1 in boxes.boxes]
    for place, c in zip(places, boxes.classes, strict=True):
        if c != UNKNOWN:
            labels[object_in_box(photo.pixels, place, least=least, iterations=iterations)] = 1
    for (x0, y0, x1, y1), c in zip(places, boxes.classes, strict=True):
        if c == UNKNOWN:
            labels[y0:y1, x0:x1] = UNKNOWN
    return LabelMap(labels)


def _told(data: Dataset, learned: Sequence[Sample], boxes: bool) -> str:
    """Return in a few words what people drew: "masks of cat, dog (photos)"."""
    numbers = {n for sample in learned for n in ([box[0] for box in sample.boxes] if boxes else sample.tags or ())}
    names = [data.classes[number] for number in sorted(numbers - {0, *data.novel})]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    what = f"{'boxes' if boxes else 'masks'} of {', '.join(names[:MOST_NAMED]) or 'anything'}{more}"
    return f"{what} ({data.root.resolve().name})"
