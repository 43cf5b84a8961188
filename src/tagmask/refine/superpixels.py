"""Superpixels: small regions of one colour, as labels (H, W) from 0 without a gap, and what one asks about them."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tagmask.errors import OptionError


def slic(pixels: NDArray[np.uint8], regions: int = 200, compactness: float = 10.0) -> NDArray[np.int32]:
    """Return about ``regions`` compact superpixels of an RGB image uint8 (H, W, 3): int32 (H, W), 0..n-1.

    ``compactness`` weighs position against colour (CIELAB). An image too small for such regions is cut into rectangles.
    Raises ``OptionError`` for less than one region or a ``compactness`` that is not positive. Source: Achanta et al.,
    PAMI 2012, as OpenCV has it.
    """
    if regions < 1 or not compactness > 0:
        raise OptionError(f"superpixels need regions >= 1 and compactness > 0, got {regions} and {compactness}.")
    height, width = pixels.shape[:2]
    side = round((height * width / regions) ** 0.5)
    if side < 2 or min(height, width) <= 2 * side:  # there OpenCV makes none, or reads outside the image
        return _blocks(height, width, regions)
    lab = cv2.cvtColor(pixels, code=cv2.COLOR_RGB2LAB)
    found: Any = cv2.ximgproc.createSuperpixelSLIC(
        image=lab, algorithm=cv2.ximgproc.SLIC, region_size=side, ruler=float(compactness)
    )
    found.iterate(10)
    found.enforceLabelConnectivity(min_element_size=25)  # per cent of a region  # OpenCV's own choice
    return without_gaps(found.getLabels())


def felzenszwalb(
    pixels: NDArray[np.uint8], scale: float = 300.0, sigma: float = 0.5, smallest: int = 100
) -> NDArray[np.int32]:
    """Return the regions of Felzenszwalb and Huttenlocher's graph segmentation: int32 (H, W), 0..n-1.

    A larger ``scale`` gives larger regions, of at least ``smallest`` pixels; ``sigma`` smooths before, in pixels. Raises
    ``OptionError`` where one is not positive. Source: IJCV 2004, as OpenCV has it.
    """
    if not (scale > 0 and sigma > 0 and smallest > 0):
        raise OptionError(f"graph segmentation needs positive options, got {scale=}, {sigma=}, {smallest=}.")
    graph: Any = cv2.ximgproc.segmentation.createGraphSegmentation(sigma=sigma, k=scale, min_size=smallest)
    return without_gaps(graph.processImage(np.ascontiguousarray(pixels)))


def without_gaps(labels: NDArray[np.integer]) -> NDArray[np.int32]:
    """Number labels that are not negative anew, 0..n-1, in their order."""
    used = np.bincount(labels.ravel()) > 0
    return (np.cumsum(used, dtype=np.int32) - 1)[labels]


def adjacency(labels: NDArray[np.integer]) -> NDArray[np.int32]:
    """Return the pairs of regions that touch by an edge, int32 (E, 2), the smaller first, each once, in order."""
    count = int(labels.max()) + 1
    beside = [(labels[:, :-1], labels[:, 1:]), (labels[:-1], labels[1:])]
    first, second = (np.concatenate([pair[side].ravel() for pair in beside]) for side in (0, 1))
    first, second = first[first != second], second[first != second]
    low, high = np.minimum(first, second).astype(np.int64), np.maximum(first, second)
    pairs = np.unique(low * count + high)  # one number each: seven times quicker than unique rows
    return np.stack([pairs // count, pairs % count], axis=1).astype(np.int32)


def region_means(values: NDArray[Any], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the mean of values (H, W) or (H, W, D) in each region, float64 (n,) or (n, D)."""
    flat = labels.ravel()
    sizes = np.bincount(flat)
    planes = values.reshape(flat.size, -1).T  # (D, N)
    means = np.stack([np.bincount(flat, weights=plane) / sizes for plane in planes], axis=1)  # (n, D)
    return means.reshape(len(sizes), *values.shape[2:])


def _blocks(height: int, width: int, regions: int) -> NDArray[np.int32]:
    """Cut an image that is too small for SLIC into about ``regions`` rectangles, none empty."""
    short, long = sorted((height, width))
    few = min(max(round(short * (regions / (height * width)) ** 0.5), 1), short)
    many = min(max(round(regions / few), 1), long)
    down, across = (few, many) if height <= width else (many, few)
    rows, columns = np.arange(height) * down // height, np.arange(width) * across // width
    return (rows[:, None] * across + columns).astype(np.int32)
