"""Boxes learned at a pace of their own: classifiers, labels and how far to believe in photos and instances, in turns.

Zhang, Han, Zhao, Meng (C-SPCL). IJCV 2019. The closed forms are in ``refine.paced``.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC
from torchvision.ops import roi_align

from tagmask.data.photos import PerImage, Photos
from tagmask.errors import OptionError, did_you_mean
from tagmask.files import link, read_json, write_json
from tagmask.keys import digest
from tagmask.masked import prior_of
from tagmask.nets.classifier import Classifier
from tagmask.nets.folded import as_image, folded
from tagmask.refine.boxes import areas, strongest_apart
from tagmask.refine.paced import (
    NOTHING,
    Floats,
    Owner,
    Pace,
    cheapest_labels,
    first_labels,
    hinge,
    instance_weights,
    photo_objective,
    shown,
    spread,
)
from tagmask.types import Boxes
from tagmask.work import Job

PACING = ("both", "instance", "image", "none")  # what has weights of its own
MOST_ITERATIONS = 10_000  # of an SVM  # ours
APART = 0.3  # boxes of one tag overlap less; source


class BoxFeatures(PerImage[NDArray[np.float32]]):
    """``features[name]`` are those of a photo's boxes, float32 (n, D), read from one file that is never in memory whole."""

    def __init__(self, file: Path, first: Mapping[str, Sequence[int]], key: str = ""):
        super().__init__(list(first))
        self.file, self._first, self._key = file, first, key
        self._rows = np.load(file, mmap_mode="r", allow_pickle=False)

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        begin, end = self._first[name]
        return np.asarray(self._rows[begin:end])

    def key_of(self, name: str) -> str:
        """The key of one photo's features, which follows from that of the whole."""
        return digest([self._key, name])

    def save(self, folder: Path) -> None:
        """Write the file, and which of its rows are whose."""
        link(self.file, folder / "features.npy")
        write_json(folder / "rows.json", self._first)

    @classmethod
    def load(cls, folder: Path, *, device: str, key: str) -> BoxFeatures:
        """Open what ``save`` wrote."""
        return cls(folder / "features.npy", read_json(folder / "rows.json"), key)


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


@torch.no_grad()
def box_features(
    classifier: Classifier, photos: Photos, prior: PerImage[Boxes], *, cells: int, job: Job
) -> BoxFeatures:
    """Return what the classifier's last map shows in each box that ``masked_prior`` kept, of length 1, and a 1 behind it.

    The box is averaged in ``cells`` x ``cells`` parts (RoIAlign). The last column is the bias of the SVMs.
    """
    first: dict[str, list[int]] = {}
    total = 0
    for name in photos.names:
        count = len(prior_of(prior[name])[0])
        first[name] = [total, total + count]
        total += count
    width = classifier.trunk.channels[-1] * cells * cells
    file = job.folder / "features.npy"
    rows = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(total, width + 1))
    with job.narrator.stage(job.name, len(photos)) as counter:
        for name in photos.names:
            begin, end = first[name]
            rows[begin:end, :width] = pooled_boxes(classifier, photos[name].pixels, prior_of(prior[name])[0], cells)
            rows[begin:end, width] = 1
            counter.advance()
    rows.flush()
    return BoxFeatures(file, first)


def pooled_boxes(
    classifier: Classifier, pixels: NDArray[np.uint8], boxes: NDArray[np.integer], cells: int
) -> NDArray[np.float32]:
    """Return the last feature map averaged in ``cells`` x ``cells`` parts of each box, of length 1: (n, D cells cells)."""
    features = folded(classifier).features(as_image(pixels, classifier))[-1].float()  # (1, D, h, w)
    (height, width), (h, w) = pixels.shape[:2], features.shape[2:]
    to_grid = np.array([w / width, h / height] * 2)
    rois = torch.from_numpy((boxes * to_grid).astype(np.float32)).to(features.device)
    cut = roi_align(input=features, boxes=[rois], output_size=cells, spatial_scale=1.0, aligned=True)
    return torch.nn.functional.normalize(cut.flatten(start_dim=1), dim=1).cpu().numpy()


@dataclass
class Learner:
    """One tagged photo on the way: what is thought of its boxes (n, 4), and how far that is believed.

    ``prior``, ``margins`` and ``weights`` are (n, K), ``owner`` (n,) as in ``refine.paced``; ``easy`` is 1 where the photo
    is thought to be simple, ``weight`` that of the photo.
    """

    name: str
    tags: tuple[int, ...]
    boxes: NDArray[np.int32]
    prior: Floats
    easy: float
    owner: Owner
    weights: Floats
    margins: Floats
    weight: float
    size: tuple[int, int]


class Curriculum:
    """Classifiers, labels and weights of a whole data set, changed in turns by the four steps of C-SPCL.

    Its law: every tag of a photo shows in a box, as long as there are boxes enough, and a box shows one tag at most. With
    ``exact`` no step makes ``objective`` larger at a given ``Pace``, as far as SVMs are solved exactly. That lets boxes
    and photos in which nobody believes end up with any label, and never come back; so without it (ours) labels and weights
    of boxes are found as if all were believed, and a photo is judged by the mean loss of its boxes, not by the sum.
    """

    def __init__(
        self,
        features: PerImage[NDArray[np.float32]],
        learners: Sequence[Learner],
        others: Mapping[int, NDArray[np.float32]],
        *,
        pacing: str = "both",
        exact: bool = False,
        cost: float = 1.0,
        hysteresis: float = 0.0,
        seed: int = 0,
    ):
        if pacing not in PACING:
            raise OptionError(f"pacing is {pacing!r}{did_you_mean(pacing, PACING)}; expected {', '.join(PACING)}.")
        self.features, self.learners, self.others = features, learners, others
        self.of_instances, self.of_photos = pacing in ("both", "instance"), pacing in ("both", "image")
        self.exact, self.cost, self.hysteresis, self.seed = exact, cost, hysteresis, seed
        self.planes = {tag: np.zeros(0) for tag in others}  # of each tag, (D,)

    def learn(self) -> None:
        """Step A: train the SVM of each tag, and see on which side of it the boxes lie."""
        for tag, others in self.others.items():
            rows, positive, weights = [others], [np.zeros(len(others), dtype=bool)], [np.ones(len(others))]
            for learner in self.learners:
                if tag in learner.tags and learner.weight > 0:
                    place = learner.tags.index(tag)
                    its = learner.weight * learner.weights[:, place]
                    counted = its > 0
                    rows.append(self.features[learner.name][counted])
                    positive.append((learner.owner == place)[counted])
                    weights.append(its[counted])
            self.planes[tag] = separating_plane(
                np.concatenate(rows), np.concatenate(positive), np.concatenate(weights), cost=self.cost, seed=self.seed
            )
        for learner in self.learners:
            planes = np.stack([self.planes[tag] for tag in learner.tags], axis=1)  # (D, K)
            learner.margins = self.features[learner.name].astype(np.float64) @ planes

    def label(self) -> None:
        """Step B: the cheapest labels."""
        for learner in self.learners:
            weights = learner.weight * learner.weights if self.exact else np.ones_like(learner.weights)
            learner.owner = cheapest_labels(learner.margins, weights, learner.owner, hysteresis=self.hysteresis)

    def weigh_instances(self, pace: Pace) -> None:
        """Step C: how far to believe in each box."""
        for learner in self.learners if self.of_instances else ():
            photo = learner.weight if self.exact else 1.0
            losses = pace.instance_losses(learner.margins, learner.owner, learner.prior, learner.tags, photo)
            learner.weights = np.stack([instance_weights(column, pace.diversity) for column in losses.T], axis=1)

    def weigh_photos(self, pace: Pace) -> None:
        """Step D: in which photos to believe."""
        for learner in self.learners if self.of_photos else ():
            learner.weight = float(pace.photo_loss(self.loss(learner), learner.easy, learner.tags) <= 0)

    def loss(self, learner: Learner) -> float:
        """Return the weighted hinge loss of a photo: the sum over its boxes, or their mean."""
        total = float((learner.weights * hinge(learner.margins, shown(learner.owner, len(learner.tags)))).sum())
        return total if self.exact else total / max(float(learner.weights.sum()), 1e-12)

    def pace_instances(self, pace: Pace, share: float) -> Pace:
        """Return the pace at which that share of the boxes thought to show a tag is believed: a quantile, by tag."""  # ours
        losses: dict[int, list[Floats]] = {tag: [] for tag in self.others}
        for learner in self.learners:
            values = self.cost * hinge(learner.margins, shown(learner.owner, len(learner.tags)))
            for place, tag in enumerate(learner.tags):
                losses[tag].append(values[learner.owner == place, place])
        return replace(pace, instances=_quantiles(losses, share))

    def pace_photos(self, pace: Pace, share: float) -> Pace:
        """Return the pace at which that share of the photos of each tag is believed."""  # ours
        losses: dict[int, list[Floats]] = {tag: [] for tag in self.others}
        for learner in self.learners:
            for tag in learner.tags:
                losses[tag].append(np.array([self.cost * self.loss(learner)]))
        return replace(pace, photos=_quantiles(losses, share))

    def objective(self, pace: Pace) -> float:
        """Return what the steps make smaller."""
        total = 0.0
        for tag, plane in self.planes.items():
            others = self.others[tag].astype(np.float64) @ plane
            total += float(plane @ plane) / 2 + self.cost * float(hinge(others, np.array(False)).sum())
        for x in self.learners:
            total += photo_objective(x.margins, x.owner, x.weights, x.weight, x.prior, x.easy, x.tags, pace)
        return total


def separating_plane(
    rows: NDArray[np.float32], positive: NDArray[np.bool_], weights: Floats, *, cost: float, seed: int
) -> Floats:
    """Return w (D,) of least |w|^2 / 2 + cost sum(weights hinge); where all rows are of one side, one that says so.

    The last column of ``rows`` (n, D) is 1, and takes the place of a bias.
    """
    if positive.all() or not positive.any():
        plane = np.zeros(rows.shape[1])
        plane[-1] = (1 if len(positive) and positive[0] else -1) * min(1.0, cost * float(weights.sum()))
        return plane
    svm = LinearSVC(C=cost, loss="hinge", dual=True, fit_intercept=False, random_state=seed, max_iter=MOST_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=ConvergenceWarning)
        svm.fit(X=rows, y=positive, sample_weight=weights)
    return np.asarray(svm.coef_[0], dtype=np.float64)


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
    """Return of each tag the boxes that are believed to show it, the strongest ``most`` that lie apart.

    Where no such box is believed in, all with that label count, and where there is none the one of the largest margin.
    The score is the margin, squashed to 0..1.
    """
    chosen: list[int] = []
    classes: list[int] = []
    for place, tag in enumerate(learner.tags):
        mine = np.flatnonzero(learner.owner == place)
        believed = mine[learner.weights[mine, place] > 0]
        mine = believed if len(believed) else mine if len(mine) else learner.margins[:, [place]].argmax(axis=0)
        kept = mine[strongest_apart(learner.boxes[mine], learner.margins[mine, place], overlap=APART, most=most)]
        chosen += kept.tolist()
        classes += [tag] * len(kept)
    places = [learner.tags.index(tag) for tag in classes]
    scores = expit(learner.margins[chosen, places]).astype(np.float32)
    return Boxes(learner.boxes[chosen], scores, tuple(classes), learner.size)


def _quantiles(losses: Mapping[int, Sequence[Floats]], share: float) -> Floats:
    """Return the quantile of the losses of each tag, (C-1,), 0 where there is none."""
    found = np.zeros(max(losses, default=0))
    for tag, parts in losses.items():
        if sum(map(len, parts)):
            found[tag - 1] = np.quantile(np.concatenate(parts), share)
    return found


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
