"""Boxes learned at a pace of their own: from what the prior says, over the rounds of a curriculum, to boxes that teach.

Zhang, Han, Zhao, Meng (C-SPCL). IJCV 2019.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from tagmask.box_features import BoxFeatures
from tagmask.curriculum import Curriculum, Learner
from tagmask.data.photos import PerImage, Photos
from tagmask.files import read_json
from tagmask.keys import digest
from tagmask.masked import prior_of
from tagmask.refine.boxes import areas, overlaps, strongest_apart
from tagmask.refine.paced import NOTHING, Pace, first_labels, spread
from tagmask.types import Boxes
from tagmask.work import Job

REVISION = 2
APART = 0.3  # boxes of one tag overlap less; source
LEAST = 0.01  # margin that a box speaks with for others at least  # ours


class KeptBoxes(PerImage[Boxes]):
    """A few boxes of every photo, in one JSON file."""

    def __init__(self, found: Mapping[str, Boxes], key: str = ""):
        super().__init__(list(found))
        self._found, self._key = found, key

    def __getitem__(self, name: str) -> Boxes:
        return self._found[name]

    def key_of(self, name: str) -> str:
        """The key of one photo's boxes, which depend on all photos."""
        return digest([self._key, name])

    def save(self, folder: Path) -> None:
        """Write ``boxes.json``."""
        content = {
            name: {
                "size": held.size,
                "classes": held.classes,
                "boxes": held.boxes.tolist(),
                "scores": held.scores.tolist(),
            }
            for name, held in self._found.items()
        }
        (folder / "boxes.json").write_text(json.dumps(content), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, *, device: str, key: str) -> KeptBoxes:
        """Open what ``save`` wrote."""
        found = {}
        for name, held in read_json(folder / "boxes.json").items():
            boxes = np.array(held["boxes"], dtype=np.int32).reshape(-1, 4)
            height, width = held["size"]
            scores = np.array(held["scores"], dtype=np.float32)
            found[name] = Boxes(boxes, scores, tuple(held["classes"]), (height, width))
        return cls(found, key)


def learn_boxes(
    photos: Photos,
    prior: PerImage[Boxes],
    features: BoxFeatures,
    *,
    rounds: int,
    share: tuple[float, float],
    pace: Mapping[str, float],
    use_prior: bool,
    fade: float,
    easy_overlap: float,
    pacing: str,
    exact: bool,
    hysteresis: float,
    negatives: int,
    most: int,
    seed: int,
    job: Job,
) -> KeptBoxes:
    """Return the boxes that the curriculum ends with: of each tag at most ``most``, scored by their SVM.

    In each of the ``rounds`` the share of what is believed grows from the one end of ``share`` to the other, and the
    priors count ``fade`` times as much as before. Without ``use_prior`` they only give the first labels. Each SVM learns
    against ``negatives`` boxes of photos without its tag, drawn once.
    """
    learners = [started(name, prior[name], easy_overlap) for name in photos.names if photos.tags(name)]
    with_all_tags(learners)
    for learner in learners:
        learner.weights = (
            learner.prior.copy() if use_prior and pacing in ("both", "instance") else learner.prior * 0 + 1
        )
        learner.weight = learner.easy if use_prior and pacing in ("both", "image") else 1.0
    tags = sorted({tag for learner in learners for tag in learner.tags})
    others = {tag: boxes_without(tag, photos, features, negatives, seed) for tag in tags}
    curriculum = Curriculum(
        features, learners, others,
        pacing=pacing, exact=exact, cost=pace["cost"], hysteresis=hysteresis, seed=seed,
    )  # fmt: skip
    now = Pace(np.zeros(0), np.zeros(0), **(pace if use_prior else {**pace, "instance_prior": 0.0, "photo_prior": 0.0}))
    (job.folder / "curve.jsonl").unlink(missing_ok=True)
    with job.narrator.stage(job.name, rounds, 0, "rounds") as counter:
        for turn in range(rounds):
            curriculum.learn()
            part = turn / max(rounds - 1, 1)
            believed = share[0] + part * (share[1] - share[0])
            now = curriculum.pace_instances(now, believed)
            curriculum.label()
            curriculum.weigh_instances(now)
            now = curriculum.pace_photos(now, believed)
            curriculum.weigh_photos(now)
            _note(job.folder, turn + 1, curriculum)
            now = replace(now, instance_prior=now.instance_prior * fade, photo_prior=now.photo_prior * fade)
            counter.advance()
        curriculum.learn()
    found = {learner.name: chosen_boxes(learner, most) for learner in learners}
    nothing = np.zeros((0, 4), dtype=np.int32), np.zeros(0, dtype=np.float32), ()
    return KeptBoxes({n: found[n] if n in found else Boxes(*nothing, prior[n].size) for n in photos.names})


def started(name: str, held: Boxes, easy_overlap: float) -> Learner:
    """Return a photo as the prior has it: easy where it has one tag and its best boxes agree by ``easy_overlap``."""
    boxes, prior, tags = prior_of(held)
    owner = first_labels(prior, boxes)
    easy = float(len(tags) == 1 and spread(boxes, prior[:, 0]) > easy_overlap)
    return Learner(name, tags, boxes, prior, easy, owner, np.ones_like(prior), np.zeros_like(prior), 1.0, held.size)


def with_all_tags(learners: Sequence[Learner]) -> None:
    """Call the photos of a tag easy where none of them is, so that every tag has something to start from."""  # ours
    known = {tag for learner in learners if learner.easy for tag in learner.tags}
    for learner in learners:
        if not known.issuperset(learner.tags):
            learner.easy = 1.0


def boxes_without(tag: int, photos: Photos, features: BoxFeatures, most: int, seed: int) -> NDArray[np.float32]:
    """Return the features of at most ``most`` boxes of photos without the tag, as many of one photo as of the next."""
    random = np.random.default_rng([seed, tag])
    names = [name for name in photos.names if tag not in (photos.tags(name) or ())]
    names = [names[place] for place in random.permutation(len(names))[:most]]
    each, rows = -(-most // max(len(names), 1)), [np.zeros((0, features[photos.names[0]].shape[1]), dtype=np.float32)]
    for name in names:
        its = features[name]
        rows.append(its[np.sort(random.permutation(len(its))[:each])])
    return np.concatenate(rows)[:most]


def chosen_boxes(learner: Learner, most: int) -> Boxes:
    """Return of each tag the boxes that are believed to show it, the ``most`` that others agree with best and that lie apart.

    Where no such box is believed in, all with that label count, and where there is none the one of the largest margin.
    The score is the margin, squashed to 0..1.
    """
    chosen: list[int] = []
    classes: list[int] = []
    for place, tag in enumerate(learner.tags):
        mine = np.flatnonzero(learner.owner == place)
        believed = mine[learner.weights[mine, place] > 0]
        mine = believed if len(believed) else mine if len(mine) else learner.margins[:, [place]].argmax(axis=0)
        support = agreement(learner.boxes[mine], learner.margins[mine, place])
        kept = mine[strongest_apart(learner.boxes[mine], support, overlap=APART, most=most)]
        chosen += kept.tolist()
        classes += [tag] * len(kept)
    places = [learner.tags.index(tag) for tag in classes]
    scores = expit(learner.margins[chosen, places]).astype(np.float32)
    return Boxes(learner.boxes[chosen], scores, tuple(classes), learner.size)


def agreement(boxes: NDArray[np.integer], margins: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return how far each box (n, 4) overlaps with all of them, by how clear these are: sum of IoU times positive margin.

    The clearest box alone is the most telling part of the object; what all agree on is the object.  # ours
    """
    return (overlaps(boxes, boxes) @ margins.clip(min=LEAST)).astype(np.float32)


def _note(folder: Path, turn: int, curriculum: Curriculum) -> None:
    """Add to the curve which share of photos and positive boxes is believed, and how large those boxes are."""
    believed, positive, sizes = 0.0, 0, []
    for learner in curriculum.learners:
        mine = np.flatnonzero(learner.owner != NOTHING)
        weights = learner.weights[mine, learner.owner[mine]]
        believed += float(weights.sum())
        positive += len(mine)
        sizes.append(
            (areas(learner.boxes[mine])[weights > 0] / (learner.size[0] * learner.size[1])).mean()
            if (weights > 0).any()
            else np.nan
        )
    values: dict[str, Any] = {
        "photos believed": float(np.mean([learner.weight for learner in curriculum.learners])),
        "boxes believed": believed / max(positive, 1),
        "their share of the photo": float(np.nanmean(sizes)) if np.isfinite(sizes).any() else 0.0,
    }
    with (folder / "curve.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": turn, **{name: round(value, 5) for name, value in values.items()}}) + "\n")
