"""The cheapest labelling in two of a graph, exactly, by a minimal cut."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

SCALE = 2**29  # of the largest capacity: scipy's are int32, and the way back of an edge may come on top  # ours


def graph_cut(
    costs: NDArray[np.floating], pairs: NDArray[np.integer], weights: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Return the x in {0, 1}^N, as bool (N,), that minimises sum costs[i, x_i] + sum weights[e] [x_i != x_j].

    ``costs`` (N, 2), any finite numbers; ``pairs`` int (E, 2), i != j; ``weights`` (E,), not negative. Of equal labellings
    it is the one with most zeros. Numbers are rounded to 2e-9 of the largest that matters (a cost counts up to where it
    outweighs all edges of its node, so that a huge one simply fixes the node): what is returned may be worse than the best
    by N + E of these. Raises ``ValueError`` for what does not fit.
    """
    _check(costs, pairs, weights)
    n = len(costs)
    lift = costs[:, 1] - costs[:, 0]  # what it costs to be 1 rather than 0
    settled = np.bincount(pairs.ravel(), weights=np.repeat(weights, 2), minlength=n) + (np.max(weights, initial=0) or 1)
    lift = np.clip(lift, -settled, settled)  # more changes nothing, and would leave the weights no digits
    # Node n is the side of the ones, node n+1 that of the zeros.
    here, there = np.arange(n), np.full(n, n)
    ends = [
        (there, here, np.maximum(-lift, 0)),
        (here, there + 1, np.maximum(lift, 0)),
        (pairs[:, 0], pairs[:, 1], weights),
        (pairs[:, 1], pairs[:, 0], weights),
    ]
    rows, columns, values = (np.concatenate(part) for part in zip(*ends, strict=True))
    capacities = csr_array((values, (rows, columns)), shape=(n + 2, n + 2), dtype=float)  # the same pair twice adds up
    largest = capacities.data.max(initial=0)
    if not largest:
        return np.zeros(n, dtype=bool)
    capacities = csr_array(np.rint(capacities * (SCALE / largest)).astype(np.int32))
    flow = maximum_flow(capacities, source=n, sink=n + 1).flow
    left = csr_array(capacities - flow)
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    ones = np.zeros(n + 2, dtype=bool)
    ones[breadth_first_order(left, n, directed=True, return_predecessors=False)] = True
    return ones[:n]


def _check(costs: NDArray[np.floating], pairs: NDArray[np.integer], weights: NDArray[np.floating]) -> None:
    """Raise ``ValueError`` for a graph that is none, or that a cut cannot solve."""
    n = len(costs)
    if costs.shape != (n, 2) or pairs.shape != (len(weights), 2) or not np.isfinite(costs).all():
        raise ValueError(f"expected finite costs (N, 2), pairs (E, 2), weights (E,); got {costs.shape}, {pairs.shape}")
    if not ((weights >= 0) & (weights < np.inf)).all():
        raise ValueError("weights must be finite and not negative: others have no minimal cut")
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= n or (pairs[:, 0] == pairs[:, 1]).any()):
        raise ValueError(f"pairs must join two different nodes of 0..{n - 1}")
