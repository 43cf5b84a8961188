"""Base and novel classes: masks may be learned from for the ones, the others have tags only (weak-shot segmentation).

Zhou et al. (RETAB). BMVC 2022. https://arxiv.org/abs/2110.01519
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tagmask.errors import OptionError, did_you_mean
from tagmask.types import BACKGROUND, Dataset, Sample

FOLDS = {  # PASCAL-5i: VOC's classes in alphabetical order, five a fold; source
    "pascal-5i-0": ("aeroplane", "bicycle", "bird", "boat", "bottle"),
    "pascal-5i-1": ("bus", "car", "cat", "chair", "cow"),
    "pascal-5i-2": ("diningtable", "dog", "horse", "motorbike", "person"),
    "pascal-5i-3": ("pottedplant", "sheep", "sofa", "train", "tvmonitor"),
}


def with_novel(data: Dataset, names: str | Sequence[str]) -> Dataset:
    """Declare classes as novel: names, or several in one word with commas between, or a fold of PASCAL-5i.

    Raises OptionError for a name that is no class of the data, for the background, and where no class stays base.
    """
    words = [word for part in ([names] if isinstance(names, str) else names) for word in part.split(",") if word]
    wanted = [name for word in words for name in FOLDS.get(word, (word,))]
    for name in wanted:
        if name not in data.classes[1:]:
            hint = did_you_mean(name, [*data.classes[1:], *FOLDS])
            raise OptionError(
                f"novel class {name!r} is no class of {data.root}{hint}; it has: {', '.join(data.classes[1:])}; "
                f"the folds are {', '.join(FOLDS)}."
            )
    novel = tuple(sorted({data.classes.index(name) for name in wanted}))
    if len(novel) == len(data.classes) - 1:
        raise OptionError("every class is novel; leave at least one class whose masks may be learned from.")
    return replace(data, novel=novel)


def guarded(data: Dataset, supervision: str) -> Dataset:
    """Return what a method that needs ``supervision`` may see; masks and boxes of all other samples are not there at all.

    "none" sees no mask and no box. "masks of the base classes" sees those of the samples without a novel tag, and what
    novel pixels and boxes these hold all the same are read as unknown (``Sample.hidden``). "masks" sees all, and nothing
    of val in any case.
    """
    keep = {"none": _nothing, "masks of the base classes": _base, "masks": _all}[supervision]
    held_out = {sample.name for sample in data.val}
    return data.only(tuple(_nothing(s, data) if s.name in held_out else keep(s, data) for s in data.samples))


def _nothing(sample: Sample, data: Dataset) -> Sample:
    return replace(sample, mask=None, boxes=())


def _all(sample: Sample, data: Dataset) -> Sample:
    return sample


def _base(sample: Sample, data: Dataset) -> Sample:
    """Hide a mask where the tags name a novel class or are not known, for then it may show one."""
    if sample.tags is None or set(sample.tags) & set(data.novel):
        return _nothing(sample, data)
    return replace(sample, hidden=data.novel)


def groups(data: Dataset) -> dict[str, list[int]]:
    """Return the class ids of ``base`` (with the background) and ``novel``, or nothing where no class is novel."""
    if not data.novel:
        return {}
    base = [c for c in range(BACKGROUND, len(data.classes)) if c not in data.novel]
    return {"base": base, "novel": list(data.novel)}
