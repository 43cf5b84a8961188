"""Tags of the instances of a whole data set, however large: shared out over groups, each assigned by itself (AISI).

Fan, Hou, Cheng, Yu, Martin, Hu. Associating Inter-Image Salient Instances for Weakly Supervised Semantic Segmentation.
ECCV 2018. https://doi.org/10.1007/978-3-030-01240-3_23
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from tagmask.errors import OptionError, did_you_mean
from tagmask.refine.assignment import Answer, iterated_tags, objective, rescaled, solved_tags
from tagmask.refine.similarity import alike_groups, inside_share, neighbour_graph, shuffled_groups

SOLVERS = ("milp", "icm")
GROUPINGS = ("alike", "shuffled")
DEGREE = 5.0  # of a graph to which the paper's balance of both terms is taken to belong: five alike neighbours  # ours
Group = tuple[NDArray[np.int64], csr_array, int]  # instances, their graph, how many of them get a tag


@dataclass(frozen=True)
class Rule:
    """How tags are assigned (see ``refine.assignment``).

    Without ``graph`` attention alone decides, and with ``lam`` 0 too, lots do. ``keep`` is the share that is not noise.
    ``grouping`` "alike" searches the ``neighbours`` of each instance among all, and shares out the graph so that much of
    it stays inside of a ``group`` (ours); "shuffled" makes the groups by lot, and in each a graph of its own (paper).
    ``rescale`` multiplies ``lam`` by the mean degree of the group's graph over ``DEGREE``. ``seconds`` is the time of one
    group's programme.
    """

    graph: bool = True
    lam: float = 30.0  # paper
    rescale: bool = False
    neighbours: int = 5  # ours
    mutual: bool = False
    keep: float = 0.8  # ours
    solver: str = "milp"
    seconds: float = 60.0  # ours
    group: int = 400  # paper
    grouping: str = "alike"

    def __post_init__(self) -> None:
        for name, known in {"solver": SOLVERS, "grouping": GROUPINGS}.items():
            if (given := getattr(self, name)) not in known:
                raise OptionError(f"{name} is {given!r}{did_you_mean(given, known)}; expected {' or '.join(known)}.")
        for name in ("neighbours", "seconds", "group"):
            if getattr(self, name) <= 0:
                raise OptionError(f"{name} is {getattr(self, name)}; expected a positive number.")
        if not (0 < self.keep <= 1 and self.lam >= 0):
            raise OptionError(
                f"keep is {self.keep} and lam {self.lam}; expected a share above 0 and up to 1, and no negative number."
            )

    def lam_for(self, graph: csr_array) -> float:
        """Return the weight of attention beside a graph."""
        return rescaled(self.lam, graph, DEGREE) if self.rescale else self.lam

    def kept_of(self, count: int) -> int:
        """Return how many of ``count`` instances get a tag: the share, rounded down (paper), but one at least (ours)."""
        return max(1, int(self.keep * count + 1e-9))  # 0.29 of 100 are 29, though floats say 28.999..


ATTENTION_ALONE = Rule(graph=False, keep=1.0)


@dataclass(frozen=True)
class Candidates:
    """The tags that each of n instances may have, as m entries: ``owner`` (m,) may be ``tag`` (m,), as ``score`` (m,) says.

    Owners ascend from 0 without a gap; of one instance the tags ascend.
    """

    owner: NDArray[np.int64]
    tag: NDArray[np.int64]
    score: NDArray[np.float64]

    @property
    def count(self) -> int:
        """The number of instances, n."""
        return int(self.owner.max(initial=-1)) + 1

    def scores(self, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the scores of some instances, in ascending order, as (len, C), -inf where there is no entry."""
        table = np.full((len(chosen), int(self.tag.max(initial=0)) + 1), -np.inf)
        first = np.searchsorted(self.owner, chosen, side="left")
        lengths = np.searchsorted(self.owner, chosen, side="right") - first
        rows = np.repeat(np.arange(len(chosen)), lengths)
        entries = np.arange(len(rows)) + (first - (np.cumsum(lengths) - lengths))[rows]
        table[rows, self.tag[entries]] = self.score[entries]
        return table

    def best(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the tag of the largest score of each instance (n,), the first of equal ones, and that score (n,)."""
        order = np.lexsort((self.tag, -self.score, self.owner))
        first = order[np.searchsorted(self.owner[order], np.arange(self.count))]
        return self.tag[first], self.score[first]


def associate(
    candidates: Candidates, features: NDArray[np.floating] | None, *, rule: Rule, seed: int
) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Return the tag of each of n instances, int64 (n,), 0 for noise, and facts: plain numbers.

    Memory grows with n times D and the neighbours, and with the square of a group. ``features`` are (n, D). The facts are
    the number of ``instances``, of those that are ``noise``, and of ``groups``, the share of the graph's weight ``inside``
    of these, the ``value`` of the answer (see ``objective``; weight between groups does not count) and the largest ``gap``
    (see ``Answer``; None with "icm", which knows none). Raises ``ValueError`` where the graph has no features.
    """
    n, random = candidates.count, np.random.default_rng(seed)
    tags = np.zeros(n, dtype=np.int64)
    facts: dict[str, Any] = {"instances": n, "groups": 0, "inside": 1.0, "value": 0.0, "gap": None}
    if n and not rule.graph:
        if not rule.lam:
            candidates = replace(candidates, score=random.random(len(candidates.tag)))
        best, score = candidates.best()
        chosen = np.argsort(-score, kind="stable")[: rule.kept_of(n)]
        tags[chosen] = best[chosen]
        facts["value"] = round(rule.lam * float(score[chosen].sum()), 6)
    elif n:
        if features is None or len(features) != n:
            raise ValueError(f"the graph needs the features of {n} instances")
        alike = rule.grouping == "alike"
        for group, graph, kept in (
            _alike(candidates, features, rule, facts) if alike else _by_lot(features, rule, random)
        ):
            answer = _answer(candidates.scores(group), graph, kept, rule)
            tags[group] = answer.tags
            facts["groups"] += 1
            facts["value"] = round(facts["value"] + answer.value, 6)
            if answer.gap is not None:
                facts["gap"] = max(facts["gap"] or 0.0, round(answer.gap, 6))
    return tags, {**facts, "noise": int(n - np.count_nonzero(tags))}


def _by_lot(features: NDArray[np.floating], rule: Rule, random: np.random.Generator) -> Iterator[Group]:
    """Yield groups made by lot, each with a graph of its own, and of each the same share is kept."""
    for group in shuffled_groups(len(features), rule.group, random):
        graph = neighbour_graph(features[group], rule.neighbours, mutual=rule.mutual)
        yield group, graph, rule.kept_of(len(group))


def _alike(
    candidates: Candidates, features: NDArray[np.floating], rule: Rule, facts: dict[str, Any]
) -> Iterator[Group]:
    """Yield groups of what is joined in the graph of all, and add to the facts how much of it lies ``inside``."""
    whole = _comparable(neighbour_graph(features, rule.neighbours, mutual=rule.mutual), candidates)
    groups = alike_groups(whole, rule.group)
    facts["inside"] = round(inside_share(whole, groups), 4)
    for group, kept in zip(groups, _shares_of(groups, whole, candidates, rule), strict=True):
        yield group, csr_array(whole[group][:, group]), kept


def _answer(scores: NDArray[np.float64], graph: csr_array, kept: int, rule: Rule) -> Answer:
    """Return the tags of one group."""
    lam = rule.lam_for(graph)
    if rule.solver == "milp":
        return solved_tags(scores, graph, lam, kept, seconds=rule.seconds)
    tags = iterated_tags(scores, graph, lam, kept)
    return Answer(tags, objective(tags, scores, graph, lam), gap=None)


def _comparable(graph: csr_array, candidates: Candidates) -> csr_array:
    """Return the graph without the edges whose ends have no tag in common: these never count."""
    words = int(candidates.tag.max()) // 64 + 1  # bit b of word w stands for the tag 64 w + b
    sets = np.zeros((candidates.count, words), dtype=np.uint64)
    bits = np.left_shift(np.uint64(1), (candidates.tag % 64).astype(np.uint64))
    np.bitwise_or.at(sets, (candidates.owner, candidates.tag // 64), bits)
    rows = np.repeat(np.arange(candidates.count), np.diff(graph.indptr))
    common = (sets[rows] & sets[graph.indices]).any(axis=1)
    kept = csr_array((np.where(common, graph.data, 0), graph.indices, graph.indptr), shape=graph.shape)
    kept.eliminate_zeros()
    return kept


def _shares_of(groups: Sequence[NDArray[np.int64]], graph: csr_array, candidates: Candidates, rule: Rule) -> list[int]:
    """Return how many of each group are kept: what looks alike may be noise alike, so groups are not cut by the same share.

    It is the number of its instances among those of all that gain most while each has the tag that attention sees. Source:
    ours; groups by lot have no need of it.
    """
    best, score = candidates.best()
    rows = np.repeat(np.arange(len(best)), np.diff(graph.indptr))
    agreed = np.bincount(rows, weights=graph.data * (best[rows] == best[graph.indices]), minlength=len(best))
    gains = rule.lam_for(graph) * score + 2 * agreed
    chosen = np.zeros(len(best), dtype=bool)
    chosen[np.argsort(-gains, kind="stable")[: rule.kept_of(len(best))]] = True
    return [int(chosen[group].sum()) for group in groups]
