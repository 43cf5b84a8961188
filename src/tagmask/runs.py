"""Run a recipe from tags to masks, a network and a report; open a finished run again."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tagmask.boxes import lay_boxes
from tagmask.data.novel import guarded
from tagmask.data.photos import Joined, PerImage, Sizes
from tagmask.errors import OptionError, RunError, did_you_mean
from tagmask.files import read_json, write_json
from tagmask.instances import lay_instances
from tagmask.keys import plain
from tagmask.nets.backbones import Backbone
from tagmask.nets.folded import PRECISIONS
from tagmask.nets.storage import save_network
from tagmask.outcome import Outcome
from tagmask.predict import Predictor
from tagmask.progress import Narrator
from tagmask.registry import find_method
from tagmask.segment import fit_to_photo, predict_labels
from tagmask.summary import summarise
from tagmask.types import Dataset, LabelMap
from tagmask.work import Work

LONGEST = 640  # pixels: the working size of larger photos; VOC's photos, on which every paper works, have 500  # ours


SIZES = (
    "crop",
    "tag_crop",
    "tag_width",
    "size",
    "width",
    "batch",
    "rounds",
)  # options that cannot be 0, in whatever recipe has them


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its masks and its network."""

    folder: Path

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of ``metrics.json``."""
        return dict(read_json(self.folder / "metrics.json"))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; 0 is the background."""
        return tuple(self.metrics["classes"])

    def predict(self, image: str | Path, *, device: str = "cpu") -> LabelMap:
        """Return the labels of a photo that the run has not seen, at the photo's size.

        Every call opens the network anew; for many photos keep ``predictor()``.
        """
        return self.predictor(device=device)(Path(image))

    def predictor(self, *, device: str = "cpu") -> Predictor:
        """Return a function from an image file to its labels."""
        return Predictor.load(self.folder, device=device)

    def verdict(self) -> str:
        """Return what the run is worth in a line or two."""
        metrics, lines = self.metrics, [f"masks   {self.folder / 'masks'}", f"report  {self.folder / 'report.html'}"]
        for part, what in (("train_masks", "training masks"), ("val", "predictions on val")):
            if part in metrics:
                groups = [f"{name} {100 * v:.1f}" for name, v in metrics[part]["groups"].items() if v is not None]
                lines.append(
                    f"mIoU    {100 * metrics[part]['miou']:.1f} of the {what} ({metrics[part]['images']} images)"
                    + (f": {', '.join(groups)}" if groups else "")
                )
        if "boxes" in metrics:
            known = {key: metrics["boxes"][key] for key in ("corloc", "ap50")}
            corloc, ap50 = ("-" if value is None else f"{100 * value:.1f}" for value in known.values())
            lines.append(
                f"boxes   CorLoc {corloc}, AP50 {ap50} of the training photos ({metrics['boxes']['images']} images)"
            )
        return "\n".join(lines)


def load_run(folder: str | Path) -> Run:
    """Open a finished run; raises RunError where there is none."""
    folder = Path(folder)
    if not (folder / "metrics.json").exists():
        raise RunError(f"{folder}: holds no finished run (metrics.json is missing); give the folder of `run --out`.")
    return Run(folder)


def run(
    method: str,
    data: Dataset,
    out: str | Path,
    *,
    options: Any = None,
    backbone: Backbone | None = None,
    store: str | Path | None = None,
    device: str = "auto",
    precision: str = "32-true",
    looking: str = "float32",
    seed: int = 0,
    longest: int = LONGEST,
    quiet: bool = False,
    command: str = "",
    warnings: Sequence[str] = (),
    **changes: Any,
) -> Run:
    """Run ``method`` on ``data`` and leave masks, a network, numbers and a report in the folder ``out``.

    ``options`` is the recipe's ``Options``; single fields may be given by name instead. A run that was interrupted goes
    on where it stopped when it is called again. ``store`` shares finished stages between runs. Raises OptionError for an
    unknown method or option, DataError where the data cannot be used.
    """
    if looking not in PRECISIONS:
        raise OptionError(f"looking is {looking!r}; expected one of {', '.join(PRECISIONS)}.")
    recipe = find_method(method)
    options_type, run_recipe = recipe.load()
    options = replace(options or options_type(), **known_options(method, options_type, changes))
    work, settings = open_work(
        method, data, out, options, backbone=backbone or Backbone(), store=store, device=choose_device(device),
        precision=precision, looking=looking, seed=seed, longest=longest, quiet=quiet,
        command=command or f"tagmask.run({method!r}, ...)",
        classes=list(data.classes), train_split=data.train_split, novel=[data.classes[tag] for tag in data.novel],
    )  # fmt: skip
    work.narrator.say(f"{method} on {data.root}: {len(data.train)} photos to learn from, {len(data.val)} to validate")
    outcome = run_recipe(guarded(data, recipe.extra_supervision), work, options)
    predictions = finish(data, work, outcome)
    extra = {"classes": list(data.classes), "predict": plain(outcome.predict), "longest": longest, "looking": looking}
    save_network(outcome.segmenter, work.out, extra=extra)
    summarise(
        data, work, outcome, predictions, method=recipe, settings=settings, warnings=[*warnings, *outcome.warnings]
    )
    return Run(work.out)


def open_work(
    method: str,
    data: Dataset,
    out: str | Path,
    options: Any,
    *,
    backbone: Backbone,
    store: str | Path | None,
    device: str,
    precision: str,
    seed: int,
    longest: int,
    quiet: bool,
    command: str,
    looking: str = "float32",
    **facts: Any,
) -> tuple[Work, dict[str, Any]]:
    """Claim the folder ``out``, write ``options.json`` into it, and return where to work and what was written.

    ``facts`` are what else the file is to say of this kind of run. Raises what ``claim`` raises.
    """
    out = Path(out)
    settings = {
        "method": method, "data": str(data.root.resolve()), "options": plain(asdict(options)), "backbone": asdict(backbone),
        "seed": seed, "device": device_name(device), "precision": precision, "looking": looking, "longest": longest,
        **facts, "command": command, "versions": versions(),
    }  # fmt: skip
    claim(out, method, data.root)
    write_json(out / "options.json", settings)
    work = Work(
        out=out, backbone=backbone, store=Path(store) if store else out / ".store", seed=seed, device=device,
        precision=precision, looking=looking, longest=longest, narrator=Narrator(log=out / "log.txt", quiet=quiet),
    )  # fmt: skip
    return work, settings


def known_options(method: str, options: type[Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return ``changes``; raises OptionError for a name that the method does not know, and for impossible numbers."""
    names = [field.name for field in fields(options)]
    for name in changes:
        if name not in names:
            raise OptionError(
                f"{method} has no option {name!r}{did_you_mean(name, names)}; it has: {', '.join(names)}."
            )
    for name, value in changes.items():
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(number, int | float) and number < 0 for number in numbers):
            raise OptionError(f"{name} is {value}; expected no negative number.")
        if value == () or (name in SIZES and min(numbers) < 1):
            raise OptionError(f"{name} is {value}; expected a positive number, 1 or more.")
    return changes


def finish(data: Dataset, work: Work, outcome: Outcome) -> PerImage[LabelMap] | None:
    """Lay a mask for every image of the user's under ``RUN/masks``; return the predictions of the validation photos.

    Training photos get the recipe's masks. The rest are predicted: with their tags where these are known, so that no
    mask shows an absent class, and for the validation score without.
    """
    rest = tuple(sample for sample in data.samples if sample.name not in outcome.masks)
    masks: PerImage[LabelMap] = outcome.masks
    if rest:
        looks = {"use_tags": True, **outcome.predict}
        masks = Joined(masks, work.each("others", predict_labels, outcome.segmenter, rest, **looks))
    shown = work.each("masks", fit_to_photo, masks, Sizes([sample for sample in data.samples if sample.name in masks]))
    lay_instances(data, work, shown, outcome.instances)
    lay_boxes(data, work.out, outcome.all_boxes)
    if not data.val:
        return None
    return work.each("predictions", predict_labels, outcome.segmenter, data.val, **outcome.predict)


def choose_device(wanted: str) -> str:
    """Return ``wanted``, or for ``auto`` the GPU where there is one; raises OptionError for a device that is not there."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"device {wanted!r} cannot be used here; expected auto, cpu, cuda or mps.") from error
    return wanted


def device_name(device: str) -> str:
    """Return the name that a results table shows: the GPU's, or the number of CPU threads."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else f"{torch.get_num_threads()} CPU threads"


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on."""
    packages = (
        "tagmask",
        "torch",
        "torchvision",
        "timm",
        "numpy",
        "numba",
        "opencv-contrib-python-headless",
        "pillow",
        "scikit-learn",
    )
    return {"python": platform.python_version(), **{package: metadata.version(package) for package in packages}}


def claim(out: Path, method: str, data: Path | None = None) -> None:
    """Refuse, with a RunError, a folder that holds another run than of ``method`` (on ``data``), or things that are no run."""
    if not out.exists() or all(part.name == ".store" for part in out.iterdir()):
        return
    if not (out / "options.json").exists():
        raise RunError(f"{out}: is not empty and holds no run of tagmask; choose another folder for --out.")
    before = read_json(out / "options.json")
    if before["method"] != method or (data is not None and before["data"] != str(data.resolve())):
        raise RunError(
            f"{out}: holds a run of {before['method']} on {before['data']}; choose another folder for --out "
            "(--store shares what is finished)."
        )
