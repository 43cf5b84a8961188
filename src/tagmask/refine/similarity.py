"""Which of many things look alike: a sparse graph of nearest neighbours, and groups of things that hang together in it.

Memory grows with the number of things times the neighbours of each, never with its square.
"""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array

from tagmask.errors import OptionError

CELLS = 2**23  # similarities held at a time: 32 MiB  # ours


def neighbour_graph(
    features: NDArray[np.floating], neighbours: int, *, mutual: bool = False, cells: int = CELLS
) -> csr_array:
    """Return the cosine of each thing and its nearest others, where it is positive: symmetric float32 (n, n), diagonal 0.

    ``features`` (n, D) of any length; two things are joined where one is among the ``neighbours`` most similar of the
    other, with ``mutual`` where both are. A feature of zeros is like none. ``cells`` similarities are held at a time. Raises
    ``OptionError`` for less than one neighbour.
    """
    if neighbours < 1:
        raise OptionError(f"neighbours is {neighbours}; expected 1 or more.")
    n = len(features)
    most = min(neighbours, n - 1)
    if most < 1:
        return csr_array((n, n), dtype=np.float32)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = torch.from_numpy((features / np.where(lengths > 0, lengths, 1)).astype(np.float32))  # (n, D)
    step = max(1, cells // n)
    value = np.empty((n, most), dtype=np.float32)
    place = np.empty((n, most), dtype=np.int32)
    for start in range(0, n, step):
        alike = unit[start : start + step] @ unit.T  # (step, n)
        own = torch.arange(len(alike))
        alike[own, start + own] = -torch.inf
        best = alike.topk(most)
        value[start : start + step], place[start : start + step] = best.values.numpy(), best.indices.numpy()
    starts = np.arange(n + 1, dtype=np.int32) * most
    graph = csr_array((value.clip(min=0).ravel(), place.ravel(), starts), shape=(n, n))
    graph.eliminate_zeros()
    both = csr_array(graph.minimum(graph.T) if mutual else graph.maximum(graph.T))
    both.eliminate_zeros()
    both.sort_indices()
    return both


def alike_groups(graph: csr_array, size: int) -> list[NDArray[np.int64]]:
    """Share out the n nodes of a symmetric graph over groups of at most ``size``, so that much of its weight is inside.

    A group starts from the first node that is left, and takes in turn the node with the most weight to what it holds (the
    first of equal ones), until it is full; where none is left around, it goes on from the first that is left. All groups
    are about as large, each in ascending order. Source: ours.
    """
    n = graph.shape[0]
    starts, ends, weights = graph.indptr.tolist(), graph.indices.tolist(), graph.data.tolist()
    left, first, groups = [True] * n, 0, []
    for full in _sizes(n, size):
        group: list[int] = []
        gain: dict[int, float] = {}
        waiting: list[tuple[float, int]] = []  # old gains stay in it, and are passed over
        while len(group) < full:
            node = -1
            while waiting and node < 0:
                minus, candidate = heappop(waiting)
                node = candidate if left[candidate] and -minus == gain[candidate] else -1
            if node < 0:
                while not left[first]:
                    first += 1
                node = first
            left[node] = False
            group.append(node)
            for edge in range(starts[node], starts[node + 1]):
                other = ends[edge]
                if left[other]:
                    gain[other] = gain.get(other, 0.0) + weights[edge]
                    heappush(waiting, (-gain[other], other))
        groups.append(np.sort(np.array(group, dtype=np.int64)))
    return groups


def shuffled_groups(n: int, size: int, random: np.random.Generator) -> list[NDArray[np.int64]]:
    """Share out n nodes by lot over groups of at most ``size``, all about as large, each in ascending order."""
    order, ends = random.permutation(n), np.cumsum(_sizes(n, size), dtype=np.int64)
    return [np.sort(part) for part in np.split(order, ends[:-1])] if n else []


def inside_share(graph: csr_array, groups: list[NDArray[np.int64]]) -> float:
    """Return the share of the graph's weight that joins nodes of one group, in [0, 1]; 1 for a graph without edges."""
    owner = np.empty(graph.shape[0], dtype=np.int64)
    for number, group in enumerate(groups):
        owner[group] = number
    rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
    total = float(graph.data.sum(dtype=np.float64))
    kept = float(graph.data[owner[rows] == owner[graph.indices]].sum(dtype=np.float64))
    return kept / total if total else 1.0


def _sizes(n: int, size: int) -> list[int]:
    """Return the sizes of as few groups as hold n nodes, no two further apart than one.

    >>> _sizes(10, 4), _sizes(8, 4), _sizes(0, 4)
    ([4, 3, 3], [4, 4], [])
    """
    if size < 1:
        raise OptionError(f"a group holds {size} instances; expected 1 or more.")
    count = -(-n // size)
    return [n // count + (number < n % count) for number in range(count)]
