"""What stands out in a photo, whatever it is, without training: minimum barriers and background connectivity.

MBD: Zhang, Sclaroff, Lin, Shen, Price, Mech. Minimum Barrier Salient Object Detection at 80 FPS. ICCV 2015.
RBD: Zhu, Liang, Wei, Sun. Saliency Optimization from Robust Background Detection. CVPR 2014.
Both take what touches the border of the photo for ground. Constants marked recalled were not checked against the papers.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array
from scipy.sparse.csgraph import dijkstra
from scipy.sparse.linalg import spsolve

from tagmask.refine.lattice import compiled
from tagmask.refine.superpixels import adjacency, region_means, slic

PASSES = 3  # paper (MBD)
BORDER = 0.1  # share of the photo's sides whose colours are ground  # recalled (MBD)
CONTRAST = 10.0  # slope of the sigmoid at the end  # recalled (MBD)
REGIONS = 200  # recalled (RBD)
COLOUR, SPACE, CONNECTED = 10.0, 0.25, 1.0  # the three sigmas  # recalled (RBD)
SMOOTH = 0.1  # recalled (RBD): what even unlike neighbours pull at each other


def minimum_barrier(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return saliency float32 (H, W) in [0, 1] of an RGB image uint8 (H, W, 3), by the method MB+ of the paper.

    Barrier distances to the border, summed over CIELAB, plus how unlike the colours of the border a pixel is, smoothed,
    weighted towards the middle, and with their contrast raised. A photo of one colour has no saliency.
    """
    lab = _lab(pixels)
    barrier = sum(barrier_distance(np.ascontiguousarray(plane)) for plane in lab.transpose(2, 0, 1))
    both = _unit(np.asarray(barrier)) + _unit(_unlike_border(lab))
    smooth = cv2.medianBlur(src=(255 * _unit(both)).astype(np.uint8), ksize=5).astype(np.float32)  # (H, W)
    height, width = smooth.shape
    y, x = np.mgrid[:height, :width]
    off_middle = np.hypot((y + 0.5) / height - 0.5, (x + 0.5) / width - 0.5)
    centred = _unit(smooth * (1 - off_middle))
    if not centred.any():
        return centred
    return (1 / (1 + np.exp(-CONTRAST * (centred - 0.5)))).astype(np.float32)


def barrier_distance(plane: NDArray[np.float32], passes: int = PASSES) -> NDArray[np.float32]:
    """Return how far values must range on the best path to the border, float32 (H, W), of one plane (H, W).

    The barrier of a path is its largest value less its smallest. Raster scans there and back never find it too small, but
    often too large: the best path to a pixel need not go on from the best path to its neighbour.
    """
    distance = np.full(plane.shape, np.inf, dtype=np.float32)
    distance[[0, -1]] = 0
    distance[:, [0, -1]] = 0
    highest, lowest = plane.copy(), plane.copy()
    for turn in range(passes):
        back = -1 if turn % 2 else 1
        _scan(*(array[::back, ::back] for array in (plane, distance, highest, lowest)))
    return distance


@compiled()
def _scan(
    plane: NDArray[np.float32],
    distance: NDArray[np.float32],
    highest: NDArray[np.float32],
    lowest: NDArray[np.float32],
) -> None:
    """Let every pixel continue the path of the pixel above or to the left where that is a lower barrier."""
    height, width = plane.shape
    for y in range(height):
        for x in range(width):
            for b, a in ((y - 1, x), (y, x - 1)):
                if b < 0 or a < 0:
                    continue
                top, bottom = max(highest[b, a], plane[y, x]), min(lowest[b, a], plane[y, x])
                if top - bottom < distance[y, x]:
                    distance[y, x], highest[y, x], lowest[y, x] = top - bottom, top, bottom


def _unlike_border(lab: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return Mahalanobis distances to the colours of the four sides, the largest of the four left out: (H, W)."""
    height, width = lab.shape[:2]
    tall, wide = max(1, round(BORDER * height)), max(1, round(BORDER * width))
    distances = []
    for side in (lab[:tall], lab[-tall:], lab[:, :wide], lab[:, -wide:]):
        colours = side.reshape(-1, 3).astype(np.float64)
        mean = colours.mean(axis=0)
        spread = (colours - mean).T @ (colours - mean) / len(colours) + np.eye(3)
        away = lab - mean  # (H, W, 3)
        distances.append(_unit(np.sqrt(np.einsum("hwi,ij,hwj->hw", away, np.linalg.inv(spread), away))))
    return np.sum(distances, axis=0) - np.max(distances, axis=0)


def background_connectivity(pixels: NDArray[np.uint8], regions: int = REGIONS) -> NDArray[np.float32]:
    """Return saliency float32 (H, W) in [0, 1] of an RGB image uint8 (H, W, 3), by the paper's optimisation (RBD).

    Superpixels that reach far along the border for their size are ground; those unlike near ground stand out; the result
    is the compromise of both with likeness to one's neighbours. The author code's adaptive cut of small colour distances
    is left out.
    """
    labels = slic(pixels, regions=regions)
    colours = region_means(_lab(pixels), labels)  # (n, 3)
    height, width = labels.shape
    places = region_means(np.moveaxis(np.mgrid[:height, :width], 0, 2) / max(height, width), labels)  # (n, 2)
    n, pairs = len(colours), adjacency(labels)
    border = np.zeros(n, dtype=bool)
    border[np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = True
    unlike = _distances(colours)  # (n, n)
    ground = background_probability(unlike, pairs, border)
    near = np.exp(-(_distances(places) ** 2) / (2 * SPACE**2))
    contrast = _unit((unlike * near) @ ground)
    return _unit(compromise(unlike, pairs, ground, contrast))[labels].astype(np.float32)


def background_probability(
    unlike: NDArray[np.float64], pairs: NDArray[np.integer], border: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return how surely each region is ground, float64 (n,), from colour distances (n, n), neighbours and the border.

    A region's area is soft: how much can be reached through like colours. So is the length of border that it reaches;
    all regions at the border are neighbours of each other.
    """
    rim = np.flatnonzero(border)
    first, second = np.meshgrid(rim, rim, indexing="ij")
    rows = np.concatenate([pairs[:, 0], first[first < second]])
    columns = np.concatenate([pairs[:, 1], second[first < second]])
    # A distance of 0 would be no edge to scipy.
    edges = csr_array((unlike[rows, columns] + 1e-9, (rows, columns)), shape=unlike.shape)
    edges.data = np.minimum(edges.data, unlike[edges.nonzero()] + 1e-9)  # pairs that were named twice
    reach = np.exp(-(dijkstra(edges, directed=False) ** 2) / (2 * COLOUR**2))  # (n, n)
    connectivity = reach[:, border].sum(axis=1) / np.sqrt(reach.sum(axis=1))
    return 1 - np.exp(-(connectivity**2) / (2 * CONNECTED**2))


def compromise(
    unlike: NDArray[np.float64],
    pairs: NDArray[np.integer],
    ground: NDArray[np.floating],
    contrast: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Return the s (n,) with least sum ground s^2 + contrast (s - 1)^2 + sum over pairs w (s_i - s_j)^2."""
    n = len(ground)
    alike = np.exp(-(unlike[pairs[:, 0], pairs[:, 1]] ** 2) / (2 * COLOUR**2)) + SMOOTH
    links = csr_array((alike, (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    links = links + links.T
    laplacian = diags_array(links.sum(axis=1)) - links
    return np.atleast_1d(spsolve((laplacian + diags_array(ground + contrast + 1e-9)).tocsc(), contrast))


DETECTORS = {"mbd": minimum_barrier, "rbd": background_connectivity}


def _lab(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return CIELAB float32 (H, W, 3), L in 0..100."""
    return np.asarray(cv2.cvtColor(pixels.astype(np.float32) / 255, code=cv2.COLOR_RGB2LAB), dtype=np.float32)


def _distances(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.linalg.norm(points[:, None] - points[None], axis=2)


def _unit(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Bring values to 0..1; all to 0 where they are the same."""
    low, high = float(values.min()), float(values.max())
    return ((values - low) / (high - low) if high - low > 1e-6 else np.zeros_like(values)).astype(np.float32)
