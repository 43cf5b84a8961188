"""Boxes that may hold an object, whatever it is: selective search, as OpenCV has it; and the segments in them.

Uijlings, van de Sande, Gevers, Smeulders. Selective Search for Object Recognition. IJCV 2013.
Alexe, Deselaers, Ferrari. What is an object? CVPR 2010 (superpixels that straddle a box).
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tagmask.errors import OptionError
from tagmask.refine.boxes import box_of, packed
from tagmask.refine.superpixels import felzenszwalb

SMALLEST_IMAGE = 20  # pixels a side below which the whole image is the only box  # ours


def selective_search(
    pixels: NDArray[np.uint8], *, quality: bool = False, smallest: int = 20, most: int = 2000
) -> NDArray[np.int32]:
    """Return boxes int32 (n, 4) as x0, y0, x1, y1 (the ends excluded) of an RGB image uint8 (H, W, 3), the largest first.

    Boxes with a side below ``smallest`` pixels are left out, then all but the ``most`` largest; the whole image is always
    among them. The paper draws the ranks at random; the size is the same in every run. ``quality`` looks at more colour
    spaces and takes some five times as long. Raises ``OptionError`` for less than one pixel or box.
    """
    if smallest < 1 or most < 1:
        raise OptionError(f"selective search needs smallest >= 1 and most >= 1, got {smallest} and {most}.")
    height, width = pixels.shape[:2]
    whole = np.array([[0, 0, width, height]], dtype=np.int32)
    if min(height, width) < SMALLEST_IMAGE:
        return whole
    search: Any = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(pixels[..., ::-1]))
    if quality:
        search.switchToSelectiveSearchQuality()
    else:
        search.switchToSelectiveSearchFast()
    found = np.asarray(search.process(), dtype=np.int32).reshape(-1, 4)  # x, y, width, height
    found = found[(found[:, 2:] >= smallest).all(axis=1)]
    boxes = np.unique(np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1), axis=0)
    boxes = boxes[~(boxes == whole).all(axis=1)]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return np.concatenate([whole, boxes[np.argsort(-areas, kind="stable")][: most - 1]])


def segments(
    pixels: NDArray[np.uint8],
    boxes: NDArray[np.integer],
    *,
    scale: float = 150.0,
    sigma: float = 0.8,
    inside: float = 0.9,
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Return what in boxes (n, 4) of an RGB image uint8 (H, W, 3) may be the object: boxes (m, 4) and masks, bits (m, -1).

    The segment of a box is made of the graph segmentation's regions of which at least the share ``inside`` lies in it:
    what straddles the border, as sky and grass do, is left out. Empty segments and later ones of equal segments are left
    out, m <= n; the boxes are those around the segments. Selective search groups such regions, and what it grouped is in
    the segment of its box, but OpenCV tells only the box. Sources: Alexe et al.; OpenCV's scale and sigma; the rest ours.
    """
    ids = felzenszwalb(pixels, scale=scale, sigma=sigma)
    total = np.bincount(ids.ravel())
    found: dict[bytes, NDArray[np.bool_]] = {}
    for x0, y0, x1, y1 in boxes:
        part = ids[y0:y1, x0:x1]
        whole = np.bincount(part.ravel(), minlength=len(total)) >= inside * total
        if whole.any():
            found.setdefault(whole.tobytes(), whole)
    # One mask at a time: hundreds of a large photo do not fit into memory until they are bits.
    around = [box_of(whole[ids]) for whole in found.values()]
    return np.array(around, dtype=np.int32).reshape(-1, 4), packed(whole[ids] for whole in found.values())
