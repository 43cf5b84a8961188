"""Self-paced learning in closed form: how far to believe in each instance and photo, and which labels cost least.

Zhang, Han, Zhao, Meng. Leveraging Prior-Knowledge for Weakly Supervised Object Detection Under a Collaborative Self-Paced
Curriculum Learning Framework. IJCV 2019. Its equations were not to be had: the objective is ours, with every property that
is told of it. Of one photo with n instances and K tags, ``owner`` int (n,) is the place of the tag that an instance shows,
or ``NOTHING``: so it shows one at most. ``margins`` and ``weights`` are (n, K).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from tagmask.errors import OptionError
from tagmask.refine.boxes import overlaps

NOTHING = -1
AT_ALL = 1e-9  # what a change of label must gain at least, so that equals stay as they are  # ours
Floats = NDArray[np.float64]
Owner = NDArray[np.int64]


@dataclass(frozen=True)
class Pace:
    """How much is believed: instances pay off up to a loss of ``instances`` (C-1,), by tag, photos up to ``photos`` (C-1,).

    (The mean over its tags.) A prior in [0, 1] raises that by its ``instance_prior`` or ``photo_prior``; ``diversity`` is
    the gain, shrinking with their number, of believing in instances of a photo at all; ``cost`` is that of the SVM.
    """

    instances: Floats
    photos: Floats
    instance_prior: float = 0.5  # ours
    photo_prior: float = 0.2  # ours
    diversity: float = 0.5  # ours
    cost: float = 1.0  # ours

    def __post_init__(self) -> None:
        for name in ("instance_prior", "photo_prior", "diversity"):
            if getattr(self, name) < 0:
                raise OptionError(f"{name} is {getattr(self, name)}; expected 0 or more.")
        if self.cost <= 0:
            raise OptionError(f"the cost of the SVM is {self.cost}; expected a positive number.")

    def instance_losses(
        self, margins: Floats, owner: Owner, prior: Floats, tags: Sequence[int], photo: float
    ) -> Floats:
        """Return what a full weight of each instance costs, (n, K), in a photo of weight ``photo``."""
        paid = self.instances[[tag - 1 for tag in tags]] + self.instance_prior * prior
        return self.cost * photo * hinge(margins, shown(owner, len(tags))) - paid

    def photo_loss(self, loss: float, easy: float, tags: Sequence[int]) -> float:
        """Return what a full weight of a photo costs, whose instances lose ``loss`` by their weights."""
        return self.cost * loss - self.paid(easy, tags)

    def paid(self, easy: float, tags: Sequence[int]) -> float:
        """Return what believing in a photo is worth, whatever it loses."""
        return float(self.photos[[tag - 1 for tag in tags]].mean()) + self.photo_prior * easy


def hinge(margins: Floats, positive: NDArray[np.bool_]) -> Floats:
    """Return max(0, 1 - y g) with y = 1 where ``positive``, else -1; any shape."""
    return np.maximum(0.0, 1.0 - np.where(positive, margins, -margins))


def shown(owner: Owner, tags: int) -> NDArray[np.bool_]:
    """Return which instance shows which tag, bool (n, K).

    >>> shown(np.array([1, NOTHING]), 2)
    array([[False,  True],
           [False, False]])
    """
    return owner[:, None] == np.arange(tags)


def instance_weights(losses: Floats, diversity: float) -> Floats:
    """Return the v in [0, 1] (n,) of least sum(losses v) - diversity sqrt(sum v), for any losses (n,).

    What pays off counts in full; of the others the cheapest do as long as the square root still gains more, and at most
    one counts in part.

    >>> instance_weights(np.array([0.5, -1.0, 0.2]), diversity=0.6)
    array([0., 1., 1.])
    """
    order = np.argsort(losses, kind="stable")
    ranked, before = losses[order], np.arange(len(losses))
    wanted = (diversity / (2 * np.where(ranked > 0, ranked, 1.0))) ** 2  # the sum at which this one gains nothing more
    weights = np.empty(len(losses))
    weights[order] = np.where(ranked <= 0, 1.0, np.clip(wanted - before, 0.0, 1.0))
    return weights


def cheapest_labels(margins: Floats, weights: Floats, before: Owner, *, hysteresis: float = 0.0) -> Owner:
    """Return the owners of least weighted hinge loss where every tag shows somewhere and an instance shows one at most.

    Exact: the instances that the tags must have are an assignment, and all others take what is cheapest. A change from
    ``before`` must gain more than ``hysteresis``. With fewer instances than tags some tags show nowhere.
    """
    count, tags = margins.shape
    costs = np.zeros((count, tags + 1))  # of each tag, and of nothing
    costs[:, :tags] = weights * (hinge(margins, np.array(True)) - hinge(margins, np.array(False)))
    old = np.where(before == NOTHING, tags, before)
    costs += max(hysteresis, AT_ALL)
    costs[np.arange(count), old] -= max(hysteresis, AT_ALL)
    best = costs.argmin(axis=1)
    more = costs[:, :tags] - costs.min(axis=1, keepdims=True)  # what it costs that the instance must show this tag
    place, tag = linear_sum_assignment(more)
    best[place] = tag
    return np.where(best == tags, NOTHING, best)


def first_labels(
    prior: Floats, boxes: NDArray[np.integer], *, share: float = 0.5, overlap: float = 0.5
) -> NDArray[np.int64]:
    """Return owners by the prior (n, K) in [0, 1]: of each tag its best box, and what is like it.

    That is what has at least ``share`` of the best prior and overlaps the best box by ``overlap``. Two tags never have
    the same best box, as long as there are boxes enough.
    """
    owner = np.full(len(boxes), NOTHING)
    place, tag = linear_sum_assignment(-prior)
    close = overlaps(boxes, boxes[place]) >= overlap  # (n, K')
    like = close & (prior[:, tag] >= share * prior[place, tag]) & (prior[:, tag] > 0)
    values = np.where(like, prior[:, tag], -1.0)
    found = like.any(axis=1)
    owner[found] = tag[values[found].argmax(axis=1)]
    owner[place] = tag
    return owner


def spread(boxes: NDArray[np.integer], prior: Floats, *, top: int = 10) -> float:
    """Return how alike the ``top`` boxes of the largest prior (n,) are: the mean IoU of two of them, 1 for one box."""
    chosen = boxes[np.argsort(-prior, kind="stable")[:top]]
    if len(chosen) < 2:
        return 1.0
    return float(overlaps(chosen, chosen)[np.triu_indices(len(chosen), k=1)].mean())


def photo_objective(
    margins: Floats,
    owner: Owner,
    weights: Floats,
    photo: float,
    prior: Floats,
    easy: float,
    tags: Sequence[int],
    pace: Pace,
) -> float:
    """Return what one photo of weight ``photo`` adds to the objective that the four steps make smaller."""
    loss = float((weights * hinge(margins, shown(owner, len(tags)))).sum())
    paid = pace.instances[[tag - 1 for tag in tags]] + pace.instance_prior * prior
    gain = float((paid * weights).sum() + pace.diversity * np.sqrt(weights.sum(axis=0)).sum())
    return pace.cost * photo * loss - gain - pace.paid(easy, tags) * photo
