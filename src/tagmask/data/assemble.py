"""From what a reader found to a `Dataset`: words become ids, files are looked at, splits and limits applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tagmask.data.listing import Found, Listing, Problem
from tagmask.data.tags import folded, name_classes
from tagmask.data.verify import LEAST_SIDE, Verifier
from tagmask.errors import DataError, OptionError, did_you_mean
from tagmask.types import Dataset, Sample


@dataclass(frozen=True)
class Choice:
    """What the user asks of a data set; the fields are the keywords of `load_data`."""

    train_split: str = "train"
    val_split: str = "val"
    limit: int | None = None
    least_side: int = LEAST_SIDE
    difficult: bool = True
    deep: bool = False

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise OptionError(f"limit {self.limit} leaves no image; expected 1 or more.")


def assemble(listing: Listing, choice: Choice) -> tuple[Dataset | None, tuple[Problem, ...]]:
    """Make the data set, or ``None`` where a problem is refused. Raises DataError for what stops at once."""
    if not listing.found:
        raise DataError(f"{listing.root}: no image found (read as {listing.reader}).")
    names, ids = name_classes(listing)
    if any(problem.effect == "refused" for problem in listing.problems):
        return None, tuple(listing.problems)
    classes = ("background", *names)
    splits = _splits(listing, choice)
    known = {folded(name): number for number, name in enumerate(names, start=1)}
    samples = [_sample(listing, found, ids, known) for found in sorted(listing.found, key=lambda found: found.name)]
    _require_something_to_do(listing, samples)
    _wonder_about_ids(listing, samples)
    samples = _of_chosen_splits(samples, splits, choice)
    usable = []
    annotated = {found.name: found.annotated for found in listing.found if found.annotated and found.boxes}
    verifier = Verifier(listing.root, classes, least_side=choice.least_side, deep=choice.deep, annotated=annotated)
    for sample, problems in verifier.all(samples):
        listing.problems.extend(problems)
        if sample is not None:
            usable.append(sample)
    if not usable:
        raise DataError(f"{listing.root}: none of its {len(samples)} images can be used; see tagmask check.")
    dataset = Dataset(
        root=listing.root,
        classes=classes,
        samples=tuple(usable),
        splits=splits,
        train_split=choice.train_split,
        val_split=choice.val_split,
        reader=listing.reader,
    )
    return _limited(dataset, choice.limit), tuple(listing.problems)


def _sample(listing: Listing, found: Found, ids: dict[str, int], known: dict[str, int]) -> Sample:
    """Turn words into ids; ``known`` has those of the folded names, for a box may spell its class as it likes."""
    tags = None if found.tags is None else tuple(sorted({ids[word] for word in found.tags} - {0}))
    boxes = tuple((known.get(folded(word), 0), x0, y0, x1, y1) for word, x0, y0, x1, y1 in found.boxes)
    for (word, *_), (number, *_) in zip(found.boxes, boxes, strict=True):
        if word and not number:
            message = f"a box is of {word!r}, which is no class{did_you_mean(word, known)}; taken as of something"
            listing.note("box", found.image, message, "warning")
        elif number and tags is not None and number not in tags:
            listing.note("box and tags", found.image, f"has a box of {word!r}, and no such tag", "warning")
    return Sample(name=found.name, image=found.image, tags=tags, mask=found.mask, boxes=boxes)


def _splits(listing: Listing, choice: Choice) -> dict[str, tuple[str, ...]]:
    """The splits by name; those asked for must be there, and what validates is never trained on."""
    splits = {name: tuple(dict.fromkeys(members)) for name, members in listing.splits.items()}
    for asked, default in ((choice.train_split, "train"), (choice.val_split, "val")):
        if asked != default and asked not in splits:
            there = ", ".join(sorted(splits)) or "none"
            raise DataError(f"{listing.root}: no split {asked!r}{did_you_mean(asked, splits)}; there are: {there}.")
    if choice.train_split == choice.val_split:
        raise DataError(f"{listing.root}: the split {choice.val_split!r} cannot both train and validate; name another.")
    held_out = set(splits.get(choice.val_split, ()))
    both = [name for name in splits.get(choice.train_split, ()) if name in held_out]
    if both:
        message = f"{len(both)} of its images are in {choice.val_split!r} too ({both[0]}, ...): not trained on"
        listing.note("split", choice.train_split, message, "skipped")
        splits[choice.train_split] = tuple(name for name in splits[choice.train_split] if name not in held_out)
    return splits


def _of_chosen_splits(samples: Sequence[Sample], splits: dict[str, tuple[str, ...]], choice: Choice) -> list[Sample]:
    """With a train split of the user's choosing, leave out what only other splits name; what none names stays."""
    if choice.train_split == "train":
        return list(samples)
    chosen = {name for split in (choice.train_split, choice.val_split) for name in splits.get(split, ())}
    others = {name for members in splits.values() for name in members} - chosen
    return [sample for sample in samples if sample.name not in others]


def _limited(dataset: Dataset, limit: int | None) -> Dataset:
    """Keep ``limit`` samples of train and of val, spread evenly."""
    if limit is None:
        return dataset
    kept = {sample.name for part in (dataset.train, dataset.val) for sample in _spread(part, limit)}
    return dataset.only(tuple(sample for sample in dataset.samples if sample.name in kept))


def _spread(samples: tuple[Sample, ...], count: int) -> list[Sample]:
    count = min(count, len(samples))
    return [samples[index * len(samples) // count] for index in range(count)]


def _require_something_to_do(listing: Listing, samples: Sequence[Sample]) -> None:
    if all(sample.tags is None and sample.mask is None for sample in samples):
        raise DataError(f"{listing.root}: {len(samples)} images but no tag for any; write tags.csv (image,tags).")


def _wonder_about_ids(listing: Listing, samples: Sequence[Sample]) -> None:
    if listing.classes is None and any(sample.mask for sample in samples):
        message = "there is no classes.txt: ids in masks are taken to follow the names in sorted order"
        listing.note("class order", "masks", message, "warning")
