"""Classifiers, labels and how far to believe in photos and boxes, each found while the others stay (C-SPCL).

Zhang, Han, Zhao, Meng. IJCV 2019. The closed forms are in ``refine.paced``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from tagmask.data.photos import PerImage
from tagmask.errors import OptionError, did_you_mean
from tagmask.refine.boxes import overlaps
from tagmask.refine.paced import Floats, Owner, Pace, cheapest_labels, hinge, instance_weights, photo_objective, shown

PACING = ("both", "instance", "image", "none")  # what has weights of its own
MOST_ITERATIONS = 10_000  # of an SVM  # ours
NEAR = 0.3  # what overlaps a box with the tag by more, without having it, is no example of either  # recalled (R-CNN)


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
    ``exact`` no step makes ``objective`` larger at a given ``Pace``, as far as SVMs are solved exactly. That lets boxes in
    which nobody believes have any label, and a photo without a box that is believed teach that its tag is nowhere. Without
    it (ours) labels and weights of boxes are found as if all were believed, a photo is judged by the boxes that show
    its tags, and what is no clear example teaches nothing (``examples``).
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
                    if not self.exact:
                        its = its * examples(learner, place)
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
        """Return the hinge loss of a photo: the weighted sum over its boxes, or the mean over those that show a tag."""
        positive = shown(learner.owner, len(learner.tags))
        losses = hinge(learner.margins, positive)
        return float((learner.weights * losses).sum() if self.exact else losses[positive].mean())

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


def examples(learner: Learner, place: int) -> NDArray[np.bool_]:
    """Return which boxes of a photo teach its tag at ``place``: those that show it, and what hardly overlaps with them.

    None do where no box that shows it is believed.
    """
    positive = learner.owner == place
    if not (learner.weights[positive, place] > 0).any():
        return np.zeros(len(positive), dtype=bool)
    return positive | (overlaps(learner.boxes, learner.boxes[positive]).max(axis=1) <= NEAR)


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


def _quantiles(losses: Mapping[int, Sequence[Floats]], share: float) -> Floats:
    """Return the quantile of the losses of each tag, (C-1,), 0 where there is none."""
    found = np.zeros(max(losses, default=0))
    for tag, parts in losses.items():
        if sum(map(len, parts)):
            found[tag - 1] = np.quantile(np.concatenate(parts), share)
    return found
