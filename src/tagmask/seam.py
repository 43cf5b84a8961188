"""Train SEAM's classifier: tags of two views of each photo, and that both views show the same.

Wang, Zhang, Kan, Shan, Chen (SEAM). CVPR 2020. https://arxiv.org/abs/2004.04581
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tagmask.classify import TaggedViews, mean_colour, needed_tags
from tagmask.data.photos import Photos
from tagmask.equivariance import equivariance_terms, grown
from tagmask.errors import OptionError
from tagmask.fit import Schedule, fit
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.seam import SeamClassifier
from tagmask.work import Job

LONG_SIDE = (1.0, 768 / 448)  # of the crop; author code


def fit_seam(
    photos: Photos,
    backbone: Backbone,
    *,
    classes: int,
    crop: int,
    schedule: Schedule,
    seed: int,
    job: Job,
    pcm: bool = True,
    rescale: float = 0.3,
    er_weight: float = 1.0,
    ecr_weight: float = 1.0,
    hardest: float = 0.2,
) -> SeamClassifier:
    """Train on tags and on the likeness of each view with the view ``rescale`` times as large.

    ``classes`` is C-1. ``pcm`` refines the maps by pixel correlation; the weights count against the loss of the tags, and
    ``hardest`` is the share of the differences between refined maps that counts (see ``equivariance_terms``). Raises
    OptionError unless ``rescale`` and ``hardest`` lie above 0 and up to 1, DataError where nothing can be learned.
    """
    for name, value in (("rescale", rescale), ("hardest", hardest)):
        if not 0 < value <= 1:
            raise OptionError(f"{name} is {value}; expected a number above 0 and up to 1.")
    needed_tags(photos, classes)
    torch.manual_seed(seed)
    network = SeamClassifier(build_backbone(backbone), classes=classes, pcm=pcm)
    views = TaggedViews(photos, classes, crop, mean_colour(network), long_side=LONG_SIDE)
    side = max(1, int(rescale * crop))

    def loss(network: nn.Module, images: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
        assert isinstance(network, SeamClassifier)
        whole = images.float() / 255
        answers = [network.answers(view) for view in (whole, grown(whole, (side, side)))]
        maps, *refined = zip(*answers, strict=True)
        return equivariance_terms(
            maps, refined[0] if refined else (), targets, ((crop, crop), (side, side)),
            er_weight=er_weight, ecr_weight=ecr_weight, hardest=hardest,
        )  # fmt: skip

    return fit(network, views, loss, schedule, seed=seed, job=job)
