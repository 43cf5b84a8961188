"""Learn from the masks of some classes where objects of any class end, and let activations walk in two stages around it.

Zhou et al. Weak-shot Semantic Segmentation by Transferring Semantic Affinity and Boundary (RETAB). BMVC 2022.
https://arxiv.org/abs/2110.01519
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tagmask.affinity import affinity_planes, carried
from tagmask.augment import resize_labels
from tagmask.classify import mean_colour
from tagmask.data.photos import PerImage, Photos
from tagmask.fit import Schedule, fit
from tagmask.label import background_power, labels_from_scores
from tagmask.nets.affinity import AffinityNet
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.boundary import BoundaryNet
from tagmask.nets.folded import as_image, folded
from tagmask.pairs import mean_where
from tagmask.refine.walk import half_disc, transition
from tagmask.segment import LabelledViews
from tagmask.types import BACKGROUND, UNKNOWN, Activation, LabelMap, Photo
from tagmask.work import Job

EDGE, INSIDE = 1, 2  # labels of pixels on a boundary, and off it in an object  # ours


def boundary_labels(labels: LabelMap, *, band: int) -> LabelMap:
    """Return 1 (EDGE) where masks have a boundary, 2 (INSIDE) in objects off it, 0 in the background off it.

    The boundary is where masks are 255, which in VOC's own is a seam of about five pixels around each object (author
    code). Masks without a seam have none of these; so with ``band`` above 0 the pixels at most so far (in rows and
    columns) from one of another label, 255 aside, are boundary too (ours).
    """
    pixels = labels.labels
    void = pixels == UNKNOWN
    edge = void
    if band:
        window = np.ones((2 * band + 1, 2 * band + 1), dtype=np.uint8)
        known = pixels.astype(np.int16)
        high = cv2.dilate(src=np.where(void, np.int16(-1), known), kernel=window)  # the largest label around
        low = cv2.erode(src=np.where(void, np.int16(256), known), kernel=window)  # and the smallest
        edge = void | (high > low)
    return LabelMap(np.where(edge, EDGE, np.where(pixels == BACKGROUND, BACKGROUND, INSIDE)).astype(np.uint8))


def boundary_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of boundary pixels, plus half of the background's and half of the objects'.

    ``logits`` float (B, H, W), ``labels`` those of ``boundary_labels`` (B, H, W); 255, which lies outside of the photo,
    counts for nothing. Each mean is over its own pixels in the batch; one without a pixel is 0. Source: author code.
    """
    missed, invented = functional.softplus(-logits.float()), functional.softplus(logits.float())
    ground, objects = (mean_where(invented, labels == label) for label in (BACKGROUND, INSIDE))
    return mean_where(missed, labels == EDGE) + 0.5 * ground + 0.5 * objects


def fit_boundary(
    photos: Photos,
    labels: PerImage[LabelMap],
    backbone: Backbone,
    *,
    stride: int,
    crop: int,
    schedule: Schedule,
    seed: int,
    job: Job,
) -> BoundaryNet:
    """Train a network to tell the boundary pixels, by the labels of ``boundary_labels``.

    Views of ``crop`` pixels are cut at the photos' own scale.
    """
    torch.manual_seed(seed)
    network = BoundaryNet(build_backbone(backbone), stride=stride)
    views = LabelledViews(photos, labels, crop, scales=(1.0, 1.0), fill=mean_colour(network))

    def loss(network: nn.Module, images: Tensor, truth: Tensor) -> Mapping[str, Tensor]:
        return {"boundary": boundary_loss(network(images.float() / 255)[:, 0], truth)}

    return fit(network, views, loss, schedule, seed=seed, job=job)


def find_edges(network: BoundaryNet, photo: Photo) -> LabelMap:
    """Return 1 at the boundary pixels of a photo, where the network is surer than one half, and 0 elsewhere."""
    with torch.no_grad():
        logits = folded(network)(as_image(photo.pixels, network))[0, 0]
    return LabelMap((logits > 0).to(torch.uint8).cpu().numpy())


def off_edges(labels: LabelMap, edges: LabelMap) -> LabelMap:
    """Return the labels with 255 where ``edges`` of the same size is boundary. Source: author code."""
    return LabelMap(np.where(edges.labels == EDGE, np.uint8(UNKNOWN), labels.labels))


def propagate_around(
    network: AffinityNet,
    photo: Photo,
    activation: Activation,
    edges: LabelMap,
    *,
    alpha: float,
    beta: float,
    radius: int,
    steps: int,
) -> LabelMap:
    """Return the labels of a photo after its maps and their background (1 - max)^``alpha`` have walked in two stages.

    First only from cell to cell off the boundary, so that nothing crosses it; then only into the cells of the boundary,
    from all around, while the others keep what they have. A photo without tags is background.
    """
    if not activation.classes:
        return LabelMap(np.full(photo.size, BACKGROUND, dtype=np.uint8))
    affinity, offsets = affinity_planes(network, photo, radius=radius), half_disc(radius)
    inner = cells(edges, affinity.shape[1:]) != EDGE  # (h, w)
    scores = background_power(activation, alpha)
    for sources, targets in ((inner, inner), (None, ~inner)):
        step = transition(affinity, offsets, beta=beta, sources=sources, targets=targets)
        device = next(network.parameters()).device
        scores = carried(scores, step, steps=steps, stride=network.stride, device=device)
    return labels_from_scores(scores, activation.classes)


def cells(labels: LabelMap, grid: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the labels, uint8 (H, W), at the nearest pixel of each cell of a grid (h, w). Source: author code."""
    return resize_labels(labels.labels, grid[0], grid[1])
