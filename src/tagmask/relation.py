"""Learn where objects end and where their centres lie, carry activations up to there, and cut them into instances.

Ahn, Cho, Kwak (irn). CVPR 2019. Nothing here sees a mask: what teaches are the activations' own sure regions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tagmask.classify import mean_colour
from tagmask.data.photos import PerImage, Photos
from tagmask.errors import OptionError
from tagmask.fit import Schedule, fit
from tagmask.label import threshold_labels
from tagmask.losses import resize_labels
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.folded import as_image, folded
from tagmask.nets.relation import RelationNet
from tagmask.pairs import affinity_loss, pair_kinds
from tagmask.paths import displacement_loss, path_affinity
from tagmask.refine.crf import CrfOptions
from tagmask.refine.instances import cut_labels, group_cells, split_maps
from tagmask.refine.sharpen import sharpen
from tagmask.refine.walk import half_disc, transition, walk_where
from tagmask.segment import LabelledViews
from tagmask.types import BACKGROUND, UNKNOWN, Activation, Instances, LabelMap, Photo
from tagmask.work import Job


def check_choices(options: Any) -> None:
    """Raise OptionError for options of a recipe that would fail after an hour of training."""
    least = {"relation_radius": 2, "walk_radius": 2, "relation_crop": 1, "relation_batch": 1, "relation_width": 8}
    for name, bound in least.items():
        if getattr(options, name) < bound:
            raise OptionError(f"{name} is {getattr(options, name)}; expected {bound} or more.")
    for name in ("threshold", "calibrate", "sure_object", "walk_threshold", "least_instance", "relation_momentum"):
        if getattr(options, name) >= 1:
            raise OptionError(f"{name} is {getattr(options, name)}; expected a number below 1.")
    if options.relation_width % 8:
        raise OptionError(f"relation_width is {options.relation_width}; expected a multiple of 8.")
    if options.sure_background > options.sure_object:
        given = f"sure_background is {options.sure_background} and sure_object {options.sure_object}"
        raise OptionError(f"{given}; expected the first to be no higher than the second.")


def sure_labels(
    activation: Activation, photo: Photo, *, above: float, below: float, crf: CrfOptions, confidence: float
) -> LabelMap:
    """Label the pixels that are surely an object or surely background, 255 elsewhere.

    An object is what the CRF leaves of the labels over the threshold ``above``; background is what it leaves background at
    ``above`` and at ``below`` too. Raises ``OptionError`` for thresholds outside of [0, 1]. Source: irn, author code.
    """
    objects, ground = (
        sharpen(threshold_labels(activation, level), photo, crf=crf, confidence=confidence).labels
        for level in (above, below)
    )
    unsure = np.where(ground == BACKGROUND, np.uint8(BACKGROUND), np.uint8(UNKNOWN))
    return LabelMap(np.where(objects == BACKGROUND, unsure, objects))


def fit_relation(
    photos: Photos,
    labels: PerImage[LabelMap],
    backbone: Backbone,
    *,
    width: int,
    radius: int,
    crop: int,
    scales: tuple[float, float],
    schedule: Schedule,
    seed: int,
    job: Job,
) -> RelationNet:
    """Train boundaries and displacements on pairs of cells nearer than ``radius``, whose labels are sure.

    ``labels`` are as ``sure_labels`` gives them. The network's mean displacement is that over all photos.
    """
    torch.manual_seed(seed)
    network = RelationNet(build_backbone(backbone), width=width)
    views = LabelledViews(photos, labels, crop, scales, fill=mean_colour(network))
    offsets = half_disc(radius)

    def loss(network: nn.Module, images: Tensor, truth: Tensor) -> Mapping[str, Tensor]:
        relations = network(images.float() / 255).float()  # (B, 3, h, w)
        kinds = pair_kinds(resize_labels(truth, size=(relations.shape[2], relations.shape[3])), offsets)
        affinity = path_affinity(relations[:, 0].sigmoid(), offsets)  # (B, P, h, w)
        return {
            "affinity": affinity_loss(affinity, kinds),
            "displacement": displacement_loss(relations[:, 1:], kinds, offsets),
        }

    network = fit(network, views, loss, schedule, seed=seed, job=job)
    network.mean_displacement.copy_(_mean_displacement(network, photos, job))
    return network


def _mean_displacement(network: RelationNet, photos: Photos, job: Job) -> Tensor:
    """Return the mean (2,) over all photos, each of which counts the same."""
    total = torch.zeros(2, device=network.mean_displacement.device)
    with job.narrator.stage(f"{job.name} (mean displacement)", len(photos)) as counter:
        for name in photos.names:
            total += _seen(network, photos[name], mirrored=False)[0, 1:].mean(dim=(1, 2))
            counter.advance()
    return total / len(photos)


def relations_of(network: RelationNet, photo: Photo) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the boundary (h, w) in [0, 1] and the displacement (2, h, w), dy, dx in cells, at stride 4.

    The boundary is that of the mean logit of the photo and its mirror image. Source: irn, author code.
    """
    plain, mirrored = _seen(network, photo, mirrored=True)  # (3, h, w) each
    boundary = ((plain[0] + mirrored[0].flip(1)) / 2).sigmoid()
    return boundary.cpu().numpy(), plain[1:].cpu().numpy()


@torch.no_grad()
def _seen(network: RelationNet, photo: Photo, *, mirrored: bool) -> Tensor:
    """Return what the network says of a photo (1, 3, h, w), or of it and its mirror image (2, 3, h, w)."""
    image = as_image(photo.pixels, network)
    both = torch.cat([image, image.flip(3)]) if mirrored else image
    return folded(network)(both.contiguous(memory_format=torch.channels_last)).float()


def walk_activation(
    network: RelationNet, photo: Photo, activation: Activation, *, radius: int, beta: float, steps: int
) -> Activation:
    """Carry the maps by a random walk that boundaries stop, at stride 4; the highest value of all classes becomes 1.

    What lies on a boundary itself counts for little. Affinities reach cells nearer than ``radius`` and are raised to
    ``beta``. Source: irn, author code, which pads the grid with boundary: a step outwards then has the affinity 0, as it
    has here.
    """
    boundary, _ = relations_of(network, photo)
    maps = _on_grid(activation.maps, boundary.shape) * (1 - boundary)  # (K, h, w)
    return Activation(_walked(maps, boundary, network, radius, beta, steps), activation.classes)


def labels_on_photo(activation: Activation, photo: Photo, *, threshold: float) -> LabelMap:
    """Label the photo's pixels from maps of another size: the strongest class above ``threshold``, else background."""
    return threshold_labels(activation, threshold, size=photo.size)


def cut_instances(
    network: RelationNet,
    photo: Photo,
    activation: Activation,
    labels: LabelMap,
    *,
    radius: int,
    beta: float,
    steps: int,
    least: float,
) -> Instances:
    """Cut the labels of a photo into instances: activations are split by the centre that cells point to, then walk.

    Pieces below the share ``least`` of the photo are left out.
    """
    boundary, displacement = relations_of(network, photo)
    maps = _on_grid(activation.maps, boundary.shape) * (1 - boundary)  # (K, h, w)
    parts, owners = split_maps(maps, group_cells(displacement))  # (R, h, w), (R,)
    walked = _walked(parts, boundary, network, radius, beta, steps)
    return cut_labels(labels, walked, [activation.classes[owner] for owner in owners], least=least)


def _walked(
    maps: NDArray[np.float32], boundary: NDArray[np.float32], network: RelationNet, radius: int, beta: float, steps: int
) -> NDArray[np.float32]:
    """Walk the maps (K, h, w) where the network is, and divide by the highest value of all."""
    offsets, device = half_disc(radius), network.mean_displacement.device
    affinity = path_affinity(torch.from_numpy(boundary)[None], offsets)[0].numpy()  # (P, h, w)
    step = transition(affinity, offsets, beta=beta)
    walked = walk_where(device, maps, step, steps)
    return np.clip(walked / max(walked.max(initial=0), np.finfo(np.float32).tiny), 0, 1)


def _on_grid(maps: NDArray[np.float32], grid: tuple[int, ...]) -> NDArray[np.float32]:
    """Return maps (K, H, W) at a grid (h, w), by the mean of each cell."""
    size = (grid[1], grid[0])
    shrunk = [cv2.resize(src=m, dsize=size, interpolation=cv2.INTER_AREA) for m in maps]
    return np.stack(shrunk).astype(np.float32) if shrunk else np.zeros((0, *grid), dtype=np.float32)
