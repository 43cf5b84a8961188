"""Which tag each of many instances shows: those that look alike agree, each is seen by an attention, some are noise.

Fan, Hou, Cheng, Yu, Martin, Hu. Associating Inter-Image Salient Instances for Weakly Supervised Semantic Segmentation.
ECCV 2018. https://doi.org/10.1007/978-3-030-01240-3_23

With x_ij in {0, 1} saying that instance j shows tag i, and x_0j that it is noise, it maximises

    sum_{i>0} x_i' W x_i + lam sum_{i>0} sum_j p_ij x_ij

where each instance has one tag among those of its photo, or is noise, and exactly ``kept`` of the n are not noise. Everywhere
``scores`` (n, C) are p, column i of tag i, -inf where the photo has no such tag (and in column 0); every instance may have
some tag. ``graph`` is W, a symmetric sparse (n, n), not negative, of diagonal 0. Answers are int64 (n,), 0 for noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array, triu

SWEEPS = 50  # over all instances, at most; a handful is enough  # ours
GAP = 1e-6  # share of the value at which the programme counts as solved  # ours (HiGHS: 1e-4)


@dataclass(frozen=True)
class Answer:
    """The tags of n instances, their value, and the share by which a better one may exceed it: 0 for none, None unknown."""

    tags: NDArray[np.int64]
    value: float
    gap: float | None


def objective(tags: NDArray[np.integer], scores: NDArray[np.floating], graph: csr_array, lam: float) -> float:
    """Return the value of an answer; a pair that agrees counts twice, as in x' W x."""
    rows = np.repeat(np.arange(len(tags)), np.diff(graph.indptr))
    same = (tags[rows] == tags[graph.indices]) & (tags[rows] > 0)
    shown = np.flatnonzero(tags)
    return float(graph.data[same].sum(dtype=np.float64) + lam * scores[shown, tags[shown]].sum(dtype=np.float64))


def best_tags(scores: NDArray[np.floating], kept: int) -> NDArray[np.int64]:
    """Return each instance's tag of the largest score; but for the ``kept`` with the largest all are noise (attention only).

    Of equal ones the first counts.
    """
    return _kept_only(scores.argmax(axis=1), scores.max(axis=1, initial=-np.inf), kept)


def iterated_tags(scores: NDArray[np.floating], graph: csr_array, lam: float, kept: int) -> NDArray[np.int64]:
    """Return an answer that is at least as good as ``best_tags``, found by iterated conditional modes.

    From there each instance in turn takes the tag of which it gains most; then those that gain least are noise; again, as
    long as the value rises. Source: ours.
    """
    alone = np.where(np.isfinite(scores), lam * np.where(np.isfinite(scores), scores, 0), -np.inf)  # (n, C)
    tags = best_tags(scores, kept)
    best, value = tags, objective(tags, scores, graph, lam)
    for _ in range(SWEEPS):
        tags = _swept(tags, alone, graph, kept)
        new = objective(tags, scores, graph, lam)
        if new <= value:
            break
        best, value = tags, new
    return best


def solved_tags(
    scores: NDArray[np.floating], graph: csr_array, lam: float, kept: int, *, seconds: float = 60.0
) -> Answer:
    """Return the best answer, as a mixed-integer linear programme solved by HiGHS, or the best found in so many ``seconds``.

    As W is not negative, a product x_ij x_ik may be a variable z_ijk in [0, 1] with z <= x_ij and z <= x_ik, which there is
    only for edges and the tags that both their ends may have. It is never worse than ``iterated_tags``. An answer that
    the clock ended depends on the machine; its gap says so.
    """
    plain = iterated_tags(scores, graph, lam, kept)
    value = objective(plain, scores, graph, lam)
    if not kept:
        return Answer(plain, value, 0.0)
    owner, tag = np.nonzero(np.isfinite(scores))  # (m,) of each x
    cost, rows = _programme(scores, graph, lam, kept, owner, tag)
    integral = np.zeros(len(cost))
    integral[: len(owner)] = 1
    found = milp(
        c=cost, integrality=integral, bounds=Bounds(lb=0, ub=1), constraints=rows,
        options={"time_limit": seconds, "mip_rel_gap": GAP},
    )  # fmt: skip
    tags = np.zeros(len(scores), dtype=np.int64)
    if found.x is not None:
        chosen = found.x[: len(owner)] > 0.5
        tags[owner[chosen]] = tag[chosen]
    bound = _bound(found, cost)
    better = objective(tags, scores, graph, lam) if np.count_nonzero(tags) == kept else -np.inf
    if better > value:
        plain, value = tags, better
    return Answer(plain, value, 0.0 if found.status == 0 else max(0.0, bound - value) / max(abs(value), 1e-12))


def rescaled(lam: float, graph: csr_array, reference: float) -> float:
    """Return ``lam`` times the mean degree of the graph over ``reference``: both terms then keep their balance.

    Source: ours. The paper's value belongs to its own graph, whose degrees are not known.
    """
    return lam * float(graph.sum()) / max(1, graph.shape[0]) / reference


def _kept_only(tags: NDArray[np.int64], gains: NDArray[np.floating], kept: int) -> NDArray[np.int64]:
    """Return the tags with 0 for all but the ``kept`` of the largest gains, the first of equal ones."""
    chosen = np.argsort(-gains, kind="stable")[:kept]
    answer = np.zeros(len(tags), dtype=np.int64)
    answer[chosen] = tags[chosen]
    return answer


def _swept(tags: NDArray[np.int64], alone: NDArray[np.floating], graph: csr_array, kept: int) -> NDArray[np.int64]:
    """Let each instance take its best tag in turn, given those of the others, and make noise of what gains least."""
    n, classes = alone.shape
    said = csr_array((np.ones(n), tags, np.arange(n + 1)), shape=(n, classes))  # one tag a row; 0 is never asked for
    around = 2 * (graph @ said).toarray()  # (n, C)
    tags = tags.copy()
    for j in range(n):
        new = int((alone[j] + around[j]).argmax())
        if new != tags[j]:
            edges = slice(graph.indptr[j], graph.indptr[j + 1])
            others, weights = graph.indices[edges], 2 * graph.data[edges]
            around[others, tags[j]] -= weights
            around[others, new] += weights
            tags[j] = new
    return _kept_only(tags, (alone + around)[np.arange(n), tags], kept)


def _programme(
    scores: NDArray[np.floating],
    graph: csr_array,
    lam: float,
    kept: int,
    owner: NDArray[np.int64],
    tag: NDArray[np.int64],
) -> tuple[NDArray[np.float64], LinearConstraint]:
    """Return what is minimised, and the rows, of m variables x (``owner`` and ``tag`` of each) and then q variables z."""
    n, m = len(scores), len(owner)
    number = np.full(scores.shape, -1)
    number[owner, tag] = np.arange(m)
    edges = coo_array(triu(graph, k=1))
    first, second = (number[ends] for ends in (edges.row, edges.col))  # (E, C)
    edge, common = np.nonzero((first >= 0) & (second >= 0))  # (q,)
    q = len(edge)
    z = m + np.arange(q)
    entries = [  # rows, columns, values: one tag each; kept in all; z <= x at either end
        (owner, np.arange(m), np.ones(m)),
        (np.full(m, n), np.arange(m), np.ones(m)),
        *((n + 1 + side * q + np.arange(q), z, np.ones(q)) for side in (0, 1)),
        *((n + 1 + side * q + np.arange(q), x[edge, common], -np.ones(q)) for side, x in enumerate((first, second))),
    ]
    row, column, value = (np.concatenate(part) for part in zip(*entries, strict=True))
    matrix = csr_array(coo_array((value, (row, column)), shape=(n + 1 + 2 * q, m + q)))
    low = np.concatenate([np.zeros(n), [kept], np.full(2 * q, -np.inf)])
    high = np.concatenate([np.ones(n), [kept], np.zeros(2 * q)])
    cost = -np.concatenate([lam * scores[owner, tag], 2 * edges.data[edge]]).astype(np.float64)
    return cost, LinearConstraint(A=matrix, lb=low, ub=high)


def _bound(found: object, cost: NDArray[np.float64]) -> float:
    """Return the value that no answer exceeds: the solver's, or where it has none that of all variables at 1."""
    bound = getattr(found, "mip_dual_bound", None)
    return float(-cost.sum() if bound is None or not np.isfinite(bound) else -bound)
