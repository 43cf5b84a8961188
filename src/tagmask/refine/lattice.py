"""The permutohedral lattice: Gaussian filtering of N points in d dimensions, in time and memory linear in N.

Adams, Baek, Davis. Fast High-Dimensional Filtering Using the Permutohedral Lattice. Eurographics 2010.

Each point lies in one simplex of the lattice and gives a share of its value to each of the d+1 corners (*splat*); the
corners are blurred along the d+1 axes of the lattice (*blur*); each point reads its corners back (*slice*). Splat and
slice use the same shares, so one array serves both. Conventions, including ties of rounding (which decide what
vertices exist), are those of pydensecrf, so that the dense CRF equals it.

A lattice key is a vector of d integers. It is stored packed in one int64 (mixed radix, wide enough that no neighbour
of a vertex can alias another), so that a step along an axis is the addition of a constant.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod, sqrt
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tagmask.errors import OptionError
from tagmask.refine.lanes import fill, lanes, load, store

_LARGEST_CODE = 2**62  # ours: leaves room for the steps of the blur inside an int64
_MOST_VERTICES = 2**31 - 2  # ours: vertices are numbered in int32, 0 is taken
_FIRST_TABLE_BITS = 13  # ours: 4096 vertices before the hash table grows for the first time


def compiled(**options: Any) -> Any:
    """Return ``numba.njit(nogil=True, **options)``, cached on disk wherever numba finds a folder it may write to."""

    def compile_function(function: Any) -> Any:
        try:
            return njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # neither the package, the home nor NUMBA_CACHE_DIR is writable: compile in each process
            return njit(nogil=True, **options)(function)

    return compile_function


@dataclass(frozen=True)
class Lattice:
    """Where N points lie in a lattice of M vertices; vertex 0 is nowhere and always holds zero.

    ``vertices`` int32 (N, d+1) in 1..M, the corners of each point's simplex; ``shares`` float32 (N, d+1), what the
    point gives to and takes from each corner; ``neighbours`` int32 (d+1, M+1, 2) in 0..M, both sides along each axis.
    The arrays are read-only: a lattice may be shared between threads.
    """

    vertices: NDArray[np.int32]
    shares: NDArray[np.float32]
    neighbours: NDArray[np.int32]

    def __post_init__(self) -> None:
        for array in (self.vertices, self.shares, self.neighbours):
            array.setflags(write=False)

    @property
    def size(self) -> int:
        """The number of rows that a table of vertex values needs: M + 1."""
        return self.neighbours.shape[1]

    def filter(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Splat, blur and slice the values of all points (N, K); float32 (N, K).

        It serves set-up and tests; the dense CRF fuses these steps with its softmax.
        """
        values = np.zeros((self.size, points.shape[1]), dtype=np.float32)
        _splat(points, self.vertices, self.shares, values)
        blur(values, np.zeros_like(values), self.neighbours, np.float32(1), lanes(1))
        return _slice(values, self.vertices, self.shares)


def build_lattice(features: NDArray[np.float32]) -> Lattice:
    """Place points ``features`` float32 (N, d), in units of the Gaussian's standard deviation, in a lattice.

    The shares carry the symmetric normalisation: filtering computes diag(n) K diag(n) with n = 1 / sqrt(K 1 + 1e-20),
    where K is the Gaussian kernel exp(-|f_i - f_j|^2 / 2), each point with itself included.
    Raises ``OptionError`` where the features spread over more standard deviations than a key can hold.
    """
    n, d = features.shape
    if n * (d + 1) > _MOST_VERTICES:
        raise OptionError(f"An image of {n} pixels is too large for the dense CRF; give a smaller image.")
    scale = _elevation(d)
    least, most = _bounds(features)
    low, extent = _key_ranges(least, most, scale)
    if prod(extent) >= _LARGEST_CODE:
        raise OptionError(
            "The dense CRF's standard deviations are too small for this image: it would span "
            f"{' x '.join(map(str, extent))} lattice cells; give larger spatial_xy, bilateral_xy or bilateral_rgb."
        )
    strides = np.array([prod(extent[:i]) for i in range(d)] + [0], dtype=np.int64)  # the last coordinate is implied
    vertices = np.empty((n, d + 1), dtype=np.int32)
    shares = np.empty((n, d + 1), dtype=np.float32)
    codes, table = _place(features, tuple(scale), np.array(low, dtype=np.int64), strides, vertices, shares)
    plain = Lattice(vertices=vertices, shares=shares, neighbours=_find_neighbours(codes, table, strides))
    gain = 1 / (1 + 2.0**-d)  # source: pydensecrf; makes up for the mass that the taps of the blur add
    mass = np.float32(gain) * plain.filter(np.ones((n, 1), dtype=np.float32))  # K 1 (N, 1)
    return replace(plain, shares=shares * (np.float32(sqrt(gain)) / np.sqrt(mass + np.float32(1e-20))))


def _elevation(d: int) -> NDArray[np.float32]:
    """Return the scale of each feature, float32 (d,), that makes the blur a Gaussian of standard deviation one."""
    deviation = np.float32(sqrt(2 / 3) * (d + 1))  # paper, p. 6
    return np.array([1 / sqrt((i + 2) * (i + 1)) * float(deviation) for i in range(d)], dtype=np.float32)


@compiled()
def _bounds(features: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the smallest and the largest value of each feature, both (d,)."""
    least, most = features[0].copy(), features[0].copy()
    for feature in features:
        for j in range(len(least)):
            least[j] = min(least[j], feature[j])
            most[j] = max(most[j], feature[j])
    return least, most


def _key_ranges(
    least: NDArray[np.float32], most: NDArray[np.float32], scale: NDArray[np.float32]
) -> tuple[list[int], list[int]]:
    """Return the lowest value and the number of values of each of the d stored key coordinates, neighbours included."""
    d = len(scale)
    bottom = least.astype(np.float64) * scale
    top = most.astype(np.float64) * scale
    margin = 3 * (d + 1)  # rounding, the way around the simplex and one step of the blur each stay within d + 1
    low, extent = [], []
    for j in range(d):  # coordinate j is sum of the scaled features from j on, minus j times the one before
        from_here = bottom[j:].sum() - (j * top[j - 1] if j else 0)
        to_here = top[j:].sum() - (j * bottom[j - 1] if j else 0)
        low.append(int(np.floor(from_here)) - margin)
        extent.append(int(np.ceil(to_here)) + margin - low[-1] + 1)
    return low, extent


@compiled()
def _slot(code: int, table: NDArray[np.int32], codes: NDArray[np.int64]) -> np.int64:
    """Return the slot of the hash table that holds ``code``, or the empty one where it belongs (linear probing)."""
    mask = np.uint64(len(table) - 1)
    mixed = np.uint64(code) * np.uint64(0x9E3779B97F4A7C15)  # source: Knuth's multiplicative hashing, 2^64 / golden
    slot = (mixed >> np.uint64(32)) & mask
    while table[slot] != 0 and codes[table[slot]] != code:
        slot = (slot + np.uint64(1)) & mask
    return np.int64(slot)


@compiled()
def _grown(table: NDArray[np.int32], codes: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return table and codes of twice the size; the table is always twice as long as the codes, so never full."""
    more_codes = np.zeros(2 * len(codes), dtype=np.int64)
    more_table = np.zeros(2 * len(table), dtype=np.int32)
    for vertex in range(1, len(codes)):
        more_codes[vertex] = codes[vertex]
        more_table[_slot(codes[vertex], more_table, more_codes)] = vertex
    return more_table, more_codes


@compiled()
def _place(
    features: NDArray[np.float32],
    scale: tuple[np.float32, ...],
    low: NDArray[np.int64],
    strides: NDArray[np.int64],
    vertices: NDArray[np.int32],
    shares: NDArray[np.float32],
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Fill the vertices and barycentric shares of all points; return the codes (M+1,) and their hash table.

    A point is lifted onto the plane of vectors with sum zero, rounded to the nearest point whose coordinates are
    multiples of d+1, and the order of the residuals tells the simplex (paper, section 3). Neighbours in the image often
    share their simplex, so the last one is remembered. The scales are a tuple: its length is known to the compiler.
    """
    d = len(scale)
    table = np.zeros(1 << _FIRST_TABLE_BITS, dtype=np.int32)
    codes = np.zeros(1 << (_FIRST_TABLE_BITS - 1), dtype=np.int64)
    count = 1
    lifted, residual = np.empty(d + 1, dtype=np.float32), np.empty(d + 1, dtype=np.float32)
    multiple, rank = np.empty(d + 1, dtype=np.int64), np.empty(d + 1, dtype=np.int64)
    coordinate_of = np.empty(d + 1, dtype=np.int64)  # the inverse of rank
    share = np.empty(d + 2, dtype=np.float32)
    up, down = np.float32(d + 1), np.float32(1) / np.float32(d + 1)
    last_code, last_order = np.int64(-1), np.int64(-1)
    for p in range(len(features)):
        _lift(features[p], scale, lifted)
        off_plane = np.int64(0)
        for i in range(d + 1):
            multiple[i] = np.int64(np.rint(down * lifted[i]))
            off_plane += multiple[i]
            residual[i] = lifted[i] - np.float32(multiple[i]) * up
            share[i] = 0
        share[d + 1] = 0
        _ranks(residual, rank, d)
        code, order = np.int64(0), np.int64(0)
        for i in range(d + 1):
            ranked = rank[i] + off_plane  # a sum other than zero: move the coordinates that were rounded furthest
            moved = np.int64(ranked < 0) - np.int64(ranked > d)
            ranked += moved * (d + 1)
            coordinate_of[ranked] = i
            order = order * (d + 1) + ranked
            anchor = np.float32(multiple[i] + moved) * up
            portion = (lifted[i] - anchor) * down
            share[d - ranked] += portion
            share[d - ranked + 1] -= portion
            if i < d:
                code += (np.int64(anchor) - low[i]) * strides[i]
        share[0] += np.float32(1) + share[d + 1]
        for corner in range(d + 1):
            shares[p, corner] = share[corner]
        if code == last_code and order == last_order:
            for corner in range(d + 1):
                vertices[p, corner] = vertices[p - 1, corner]
            continue
        last_code, last_order = code, order
        step = strides.sum()
        for corner in range(d + 1):
            slot = _slot(code, table, codes)
            if table[slot] == 0:
                if count == len(codes):
                    table, codes = _grown(table, codes)
                    slot = _slot(code, table, codes)
                table[slot] = count
                codes[count] = code
                count += 1
            vertices[p, corner] = table[slot]
            code += step - (d + 1) * strides[coordinate_of[d - corner]]
    return codes[:count], table


@compiled()
def _lift(feature: NDArray[np.float32], scale: tuple[np.float32, ...], lifted: NDArray[np.float32]) -> None:
    """Lift a point (d,) onto the plane of vectors (d+1,) with sum zero."""
    total = np.float32(0)
    for j in range(len(scale), 0, -1):
        scaled = feature[j - 1] * scale[j - 1]
        lifted[j] = total - np.float32(j) * scaled
        total += scaled
    lifted[0] = total


@compiled()
def _ranks(residual: NDArray[np.float32], rank: NDArray[np.int64], d: int) -> None:
    """Fill the place of each residual in their order, largest first, of equals the earlier; without a branch."""
    for i in range(d + 1):
        rank[i] = i
    for i in range(d):
        for j in range(i + 1, d + 1):
            behind = np.int64(residual[i] < residual[j])
            rank[i] += behind
            rank[j] -= behind


@compiled()
def _find_neighbours(
    codes: NDArray[np.int64], table: NDArray[np.int32], strides: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Return the vertices on both sides of each vertex along each axis, int32 (d+1, M+1, 2); 0 where there is none."""
    axes = len(strides)
    neighbours = np.zeros((axes, len(codes), 2), dtype=np.int32)
    for axis in range(axes):
        step = np.int64(axes) * strides[axis]
        for stride in strides:
            step -= stride
        for vertex in range(1, len(codes)):
            other = table[_slot(codes[vertex] + step, table, codes)]
            neighbours[axis, vertex, 0] = other
            if other:
                neighbours[axis, other, 1] = vertex  # who is on my one side has me on its other
    return neighbours


@compiled()
def _splat(
    points: NDArray[np.float32], vertices: NDArray[np.int32], shares: NDArray[np.float32], values: NDArray[np.float32]
) -> None:
    """Add the values of points (N, K), by their shares, to those of the vertices (M+1, K) around them."""
    for p in range(len(points)):
        for corner in range(vertices.shape[1]):
            for k in range(points.shape[1]):
                values[vertices[p, corner], k] += shares[p, corner] * points[p, k]


@compiled()
def _slice(
    values: NDArray[np.float32], vertices: NDArray[np.int32], shares: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the values (N, K) that points read back from the vertices (M+1, K) around them."""
    points = np.zeros((len(vertices), values.shape[1]), dtype=np.float32)
    for p in range(len(points)):
        for corner in range(vertices.shape[1]):
            for k in range(points.shape[1]):
                points[p, k] += shares[p, corner] * values[vertices[p, corner], k]
    return points


@compiled()
def blur(
    values: NDArray[np.float32],
    spare: NDArray[np.float32],
    neighbours: NDArray[np.int32],
    gain: np.float32,
    across: tuple[np.float32, ...],
) -> None:
    """Blur vertex values (M+1, K) in place with taps 1/2, 1, 1/2 along each axis in turn, and multiply by ``gain``.

    ``spare`` of the same shape is overwritten; row 0 of both must be zero and stays so. A row is worked on in pieces of
    as many lanes as ``across`` is long, and K must be a multiple of that.
    """
    axes, rows, _ = neighbours.shape
    half = fill(np.float32(0.5), across)
    source, target = values, spare
    for axis in range(axes):
        scale = fill(gain if axis == axes - 1 else np.float32(1), across)
        for row in range(1, rows):
            left, right = neighbours[axis, row, 0], neighbours[axis, row, 1]
            for k in range(0, values.shape[1], len(across)):
                sides = load(source, left, k, across) + load(source, right, k, across)
                store(target, row, k, scale * (load(source, row, k, across) + half * sides))
        source, target = target, source
    if axes % 2:
        values[:] = spare
