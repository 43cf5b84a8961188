"""Learn from sure pixels which pixels belong together, and let activations walk along what was learned.

Ahn, Kwak. Learning Pixel-level Semantic Affinity with Image-level Supervision (psa). CVPR 2018.
https://arxiv.org/abs/1803.10464
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tagmask.classify import mean_colour
from tagmask.data.photos import PerImage, Photos
from tagmask.errors import OptionError
from tagmask.fit import Schedule, fit
from tagmask.label import background_power, labels_from_scores
from tagmask.nets.affinity import AffinityNet, pair_affinity
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.folded import as_image, folded
from tagmask.pairs import affinity_loss, pair_kinds
from tagmask.refine.crf import CrfOptions, mean_field, unary_from_probabilities
from tagmask.refine.walk import Transition, half_disc, transition, walk_where
from tagmask.segment import LabelledViews
from tagmask.types import BACKGROUND, UNKNOWN, Activation, LabelMap, Photo
from tagmask.work import Job


def calibrated(activation: Activation, *, threshold: float, target: float) -> Activation:
    """Return the maps raised to the power that moves ``threshold`` to ``target``, both between 0 and 1.

    The published powers of the background suit maps that are cut best near 0.2. Maps of another network or other scales
    are cut elsewhere, and would leave no background; 0, 1 and the order of values stay. Source: ours; psa takes the root
    of its VGG16's maps for the same purpose. Raises ``OptionError`` for values that are not between 0 and 1.
    """
    if not (0 < threshold < 1 and 0 < target < 1):
        raise OptionError(f"maps are calibrated between 0 and 1, got threshold {threshold} and target {target}.")
    return Activation(activation.maps ** np.float32(log(target) / log(threshold)), activation.classes)


def affinity_labels(
    activation: Activation, photo: Photo, *, low: float, high: float, stride: int, crf: CrfOptions
) -> LabelMap:
    """Return the labels of the sure pixels, 255 elsewhere, at the photo's size.

    Backgrounds (1 - max)^``low``, a large one, and (1 - max)^``high``, a small one, are each refined with the maps by the
    CRF. What is an object against the large background is one surely, what is background in spite of the small one is
    background surely. A pixel speaks for the cell around it: both are averaged over the ``stride`` x ``stride`` pixels of
    which it is the centre (as the author code does for the cells of a crop, wherever it lies). A photo without tags is
    background. Raises ``OptionError`` where ``low`` exceeds ``high``.
    """
    if low > high:
        raise OptionError(f"the low power of the background is {low} and the high one {high}; give low <= high.")
    if not activation.classes:
        return LabelMap(np.full(photo.size, BACKGROUND, dtype=np.uint8))
    large, small = (_refined_labels(activation, photo, power, stride, crf) for power in (low, high))
    objects = np.where(large == BACKGROUND, np.uint8(UNKNOWN), large)
    return LabelMap(np.where(small == BACKGROUND, np.uint8(BACKGROUND), objects))


def _refined_labels(
    activation: Activation, photo: Photo, power: float, stride: int, crf: CrfOptions
) -> NDArray[np.uint8]:
    """Return the best label of the cell around each pixel against one background, after the CRF."""
    q = mean_field(unary_from_probabilities(background_power(activation, power)), photo.pixels, crf)  # (K+1, H, W)
    cell: dict[str, Any] = {"ksize": (stride, stride), "anchor": (stride // 2, stride // 2)}
    means = [cv2.blur(src=plane, borderType=cv2.BORDER_CONSTANT, **cell) for plane in q]  # what lies outside is silent
    return labels_from_scores(np.stack(means), activation.classes).labels


def labels_of_cells(labels: Tensor, stride: int) -> Tensor:
    """Return the label at the centre of each cell: (B, H, W) -> (B, h, w), 255 where that lies outside of the image."""
    down, across = (-side % stride for side in labels.shape[1:])
    whole = functional.pad(labels, pad=(0, across, 0, down), value=UNKNOWN)
    return whole[:, stride // 2 :: stride, stride // 2 :: stride]


def fit_affinity(
    photos: Photos,
    labels: PerImage[LabelMap],
    backbone: Backbone,
    *,
    stride: int,
    radius: int,
    crop: int,
    learn_trunk: bool,
    schedule: Schedule,
    seed: int,
    job: Job,
) -> AffinityNet:
    """Train a network to give pairs of cells nearer than ``radius`` the affinity that ``labels``, 255 unknown, say they have.

    Views of ``crop`` pixels are cut at the photos' own scale (author code).
    """
    torch.manual_seed(seed)
    network = AffinityNet(build_backbone(backbone), stride=stride, learn_trunk=learn_trunk)
    views = LabelledViews(photos, labels, crop, scales=(1.0, 1.0), fill=mean_colour(network))
    offsets = half_disc(radius)

    def loss(network: nn.Module, images: Tensor, truth: Tensor) -> Mapping[str, Tensor]:
        affinity = pair_affinity(network(images.float() / 255), offsets)  # (B, P, h, w)
        return {"affinity": affinity_loss(affinity, pair_kinds(labels_of_cells(truth, stride), offsets))}

    return fit(network, views, loss, schedule, seed=seed, job=job)


def affinity_planes(network: AffinityNet, photo: Photo, *, radius: int) -> NDArray[np.float32]:
    """Return the affinities float32 (P, h, w) in [0, 1] of each cell of the photo and those at ``half_disc(radius)``.

    h, w are the photo's sides over the network's stride, rounded up. Pairs that leave the grid are 0.
    """
    with torch.no_grad():
        features = folded(network)(as_image(photo.pixels, network))  # (1, D, h, w)
        return pair_affinity(features, half_disc(radius))[0].cpu().numpy()


def propagate(
    network: AffinityNet,
    photo: Photo,
    activation: Activation,
    *,
    alpha: float,
    beta: float,
    radius: int,
    steps: int,
    crf: CrfOptions | None = None,
) -> LabelMap:
    """Return the labels of a photo after its maps and their background (1 - max)^``alpha`` have walked together.

    A step goes to cells nearer than ``radius`` by the affinities to the power of ``beta``; there are ``steps`` of them.
    ``crf`` refines the walked scores, which like psa's need not sum to one. A photo without tags is background. Raises
    ``OptionError`` for a power that is out of range.
    """
    if not activation.classes:
        return LabelMap(np.full(photo.size, BACKGROUND, dtype=np.uint8))
    step = transition(affinity_planes(network, photo, radius=radius), half_disc(radius), beta=beta)
    device = next(network.parameters()).device
    scores = carried(background_power(activation, alpha), step, steps=steps, stride=network.stride, device=device)
    if crf is not None:
        scores = mean_field(unary_from_probabilities(scores), photo.pixels, crf)
    return labels_from_scores(scores, activation.classes)


def carried(
    maps: NDArray[np.float32], step: Transition, *, steps: int, stride: int, device: torch.device
) -> NDArray[np.float32]:
    """Return maps float32 (K, H, W) after a walk over cells of ``stride`` pixels, from cell means and back bilinearly.

    The mean of a cell at the border is that of its part inside the photo. ``device`` is where the walk is computed.
    """
    height, width = maps.shape[1:]
    pixels = torch.from_numpy(maps)[None]  # (1, K, H, W)
    means = functional.avg_pool2d(pixels, kernel_size=stride, ceil_mode=True)[0]  # (K, h, w)
    walked = torch.from_numpy(walk_where(device, means.numpy(), step, steps))
    whole = functional.interpolate(walked[None], scale_factor=stride, mode="bilinear", align_corners=False)[0]
    return whole[:, :height, :width].contiguous().numpy()
