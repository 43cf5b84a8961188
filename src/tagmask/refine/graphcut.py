"""The cheapest labelling in two of a graph, exactly, by a minimal cut."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

SCALE = 2**20  # scipy's capacities are int32: costs are rounded to this share of their total  # ours


def graph_cut(
    costs: NDArray[np.floating], pairs: NDArray[np.integer], weights: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Return the x in {0, 1}^N, as bool (N,), that minimises sum costs[i, x_i] + sum weights[e] [x_i != x_j].

    ``costs`` (N, 2), any finite numbers; ``pairs`` int (E, 2), i != j; ``weights`` (E,), not negative. Of equal labellings
    it is the one with most zeros. Costs are rounded to a millionth of the largest, so that a worse labelling by less than
    N + E of these may be returned. Raises ``ValueError`` for what does not fit.
    """
    n = len(costs)
    if costs.shape != (n, 2) or pairs.shape != (len(weights), 2) or not np.isfinite(costs).all():
        raise ValueError(f"expected finite costs (N, 2), pairs (E, 2), weights (E,); got {costs.shape}, {pairs.shape}")
    if len(weights) and (
        not (weights >= 0).all() or pairs.min() < 0 or pairs.max() >= n or (pairs.T[0] == pairs.T[1]).any()
    ):
        raise ValueError("weights must not be negative, and pairs must join two different nodes of 0..N-1")
    lift = costs[:, 1] - costs[:, 0]  # what it costs to be 1 rather than 0
    largest = max(np.abs(lift).max(initial=0), np.max(weights, initial=0))
    if not largest:
        return np.zeros(n, dtype=bool)
    # Node n is the side of the ones, node n+1 that of the zeros.
    here, there = np.arange(n), np.full(n, n)
    ends = [
        (there, here, np.maximum(-lift, 0)),
        (here, there + 1, np.maximum(lift, 0)),
        (pairs[:, 0], pairs[:, 1], weights),
        (pairs[:, 1], pairs[:, 0], weights),
    ]
    rows, columns, values = (np.concatenate(part) for part in zip(*ends, strict=True))
    capacities = csr_array((np.rint(values / largest * SCALE).astype(np.int32), (rows, columns)), shape=(n + 2, n + 2))
    capacities.sum_duplicates()
    flow = maximum_flow(capacities, source=n, sink=n + 1).flow
    left = csr_array(capacities - flow)
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    ones = np.zeros(n + 2, dtype=bool)
    ones[breadth_first_order(left, n, directed=True, return_predecessors=False)] = True
    return ones[:n]
