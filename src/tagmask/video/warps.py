"""Random warps that make three frames of one photo, objects to follow, and masks as a tracker gets them wrong.

RANet (Wang et al. ICCV 2019): thin plate splines, rotation, scale and crop of static photos. Arrays in, arrays out; all that
is random comes from the generator handed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from tagmask.types import UNKNOWN

Size = tuple[int, int]  # height, width
Pixels = NDArray[np.uint8]
CONTROLS = 4  # control points a side: 16 together; paper (RANet)
NO_WARP: NDArray[np.float64] = np.zeros(4 + 2 * CONTROLS**2)
CELL = 8  # pixels: splines are smooth, so that they are computed on cells of so many and enlarged  # ours


@dataclass(frozen=True)
class Limits:
    """How far a frame may be warped; shares are of the frame's sides."""

    bend: float = 0.15  # of the control points of the spline; paper
    turn: float = 30.0  # degrees; paper
    zoom: float = 0.25  # above or below 1; paper
    shift: float = 0.15  # ours: what "random crop" moves

    def draw(self, random: np.random.Generator) -> NDArray[np.float64]:
        """Return a random warp: angle in radians, logarithm of the scale, shift (2) and control points (32), all of 0 mean."""
        turn, zoom, *shift = random.uniform(-1, 1, size=4)
        points = random.uniform(-1, 1, size=2 * CONTROLS**2) * self.bend * random.uniform()
        scale = np.log1p(self.zoom) if zoom > 0 else -np.log1p(-self.zoom)
        head = [np.deg2rad(self.turn) * turn, scale * zoom, *(self.shift * np.array(shift))]
        return np.concatenate([head, points])


def warp_map(warp: NDArray[np.float64], size: Size, middle: NDArray[np.float64], scale: float) -> NDArray[np.float32]:
    """Return where each pixel of a frame of ``size`` comes from, float32 (h, w, 2) as x, y of the photo.

    Without a warp the photo is enlarged ``scale`` times and its point ``middle`` (row, column) is in the frame's middle.
    """
    angle, log_zoom = warp[:2]
    y, x = _cells(size)
    bent = (_spline(size) @ warp[4:].reshape(-1, 2)).reshape(*y.shape, 2)
    dy = (y + bent[..., 0] - warp[2]) * size[0]
    dx = (x + bent[..., 1] - warp[3]) * size[1]
    cosine, sine = np.cos(angle) / scale / np.exp(log_zoom), np.sin(angle) / scale / np.exp(log_zoom)
    coarse = np.stack([middle[1] + cosine * dx + sine * dy, middle[0] - sine * dx + cosine * dy], axis=-1)
    rows, columns = y.shape
    fine = cv2.resize(
        src=coarse.astype(np.float32), dsize=(columns * CELL, rows * CELL), interpolation=cv2.INTER_LINEAR
    )  # one cell more than the frame on each side
    return np.ascontiguousarray(fine[CELL : CELL + size[0], CELL : CELL + size[1]])


def warped(values: Pixels, places: NDArray[np.float32], fill: Pixels | int, *, nearest: bool = False) -> Pixels:
    """Return uint8 ``values`` (H, W) or (H, W, 3) at the places of ``warp_map``; ``fill`` where there is no photo."""
    moved = cv2.remap(
        src=values, map1=places, map2=None,  # type: ignore[call-overload]
        interpolation=cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT, borderValue=fill if isinstance(fill, int) else fill.tolist(),
    )  # fmt: skip
    return np.asarray(moved, dtype=np.uint8)


def _cells(size: Size) -> list[NDArray[np.float64]]:
    """Return row and column of the middles of cells that cover a frame and one more on each side, in shares of its sides.

    The frame's middle is 0.
    """
    sides = [((np.arange(-1, -(-side // CELL) + 1) + 0.5) * CELL) / side - 0.5 for side in size]
    return list(np.meshgrid(*sides, indexing="ij"))


@cache
def _spline(size: Size) -> NDArray[np.float64]:
    """Return (cells, 16): how much each control point's move moves each cell; a thin plate's, of unit sides.

    The plate through the moved control points bends least; its moves are linear in theirs (Bookstein 1989).
    """
    side = np.linspace(-0.5, 0.5, CONTROLS)
    points = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)  # (16, 2)

    def system(at: NDArray[np.float64]) -> NDArray[np.float64]:
        squared = ((at[:, None] - points[None]) ** 2).sum(axis=-1)
        return np.hstack([squared * np.log(np.maximum(squared, 1e-12)), np.ones((len(at), 1)), at])

    count = len(points)
    matrix = np.zeros((count + 3, count + 3))
    matrix[:count] = system(points)
    matrix[count:, :count] = matrix[:count, count:].T
    cells = np.stack(_cells(size), axis=-1).reshape(-1, 2)
    return system(cells) @ np.linalg.inv(matrix)[:, :count]


def objects_of(labels: Pixels, least: float = 0.01) -> list[NDArray[np.bool_]]:
    """Return what can be followed in a label map (H, W): connected parts of one class, of ``least`` of the photo or more.

    In the order of their classes and then of their first pixels. The default is the source's.
    """
    found = []
    for label in np.unique(labels):
        if label in (0, UNKNOWN):
            continue
        count, parts, told, _ = cv2.connectedComponentsWithStats((labels == label).view(np.uint8), connectivity=8)
        found += [parts == n for n in range(1, count) if told[n, cv2.CC_STAT_AREA] >= max(1, least * labels.size)]
    return found


def corrupted(
    mask: NDArray[np.bool_],
    random: np.random.Generator,
    *,
    drop: float = 0.1,  # source
    reach: float = 0.1,  # of the root of the area; ours
) -> NDArray[np.bool_]:
    """Return a mask (H, W) as a tracker may get it wrong: dilated or eroded, shifted, or gone with the chance ``drop``.

    ``reach`` times the root of the area is how far, at most. An object that would be eroded away is not eroded.
    """
    kind, amount, gone = random.integers(3), random.uniform(), random.uniform()
    shift = random.uniform(-1, 1, size=2)
    if gone < drop:
        return np.zeros_like(mask)
    most = reach * np.sqrt(np.count_nonzero(mask))
    radius = round(amount * most)
    changed = mask
    if radius and kind:
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        change = cv2.dilate if kind == 1 else cv2.erode
        other = change(src=mask.view(np.uint8), kernel=disc) > 0
        changed = other if other.any() else mask
    down, right = (round(float(value) * most) for value in shift)
    moved = np.zeros_like(mask)
    height, width = mask.shape
    rows, columns = slice(max(0, down), height + min(0, down)), slice(max(0, right), width + min(0, right))
    from_rows = slice(max(0, -down), height + min(0, -down))
    from_columns = slice(max(0, -right), width + min(0, -right))
    moved[rows, columns] = changed[from_rows, from_columns]
    return moved
