"""Where a classifier sees each tag: CAM, multi-scale CAM, Grad-CAM, gradient saliency, mask-out.

Zhou et al. CVPR 2016; Selvaraju et al. ICCV 2017; Simonyan et al. 2013; Li et al. CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tagmask.nets.classifier import Classifier
from tagmask.nets.folded import as_image, folded
from tagmask.nets.multi_dilated import MultiDilated
from tagmask.nets.seam import SeamClassifier
from tagmask.types import Activation, Photo

EPSILON = 1e-5  # author code (psa, irn): a class whose map is all zero stays zero
Looking = Classifier | SeamClassifier | MultiDilated  # networks with class maps


def multi_scale_cam(
    classifier: Classifier | SeamClassifier,
    photo: Photo,
    *,
    scales: Sequence[float] = (0.5, 1.0, 1.5, 2.0),
    flip: bool = True,
    predicted: bool = False,
    minmax: bool = False,
) -> Activation:
    """Return class activation maps summed over scales and mirror images, each divided by its own maximum.

    The maps have the photo's size and the photo's tags, or with ``predicted`` the tags that the classifier believes in
    (probability over one half). ``scales=(1.0,), flip=False`` is the plain CAM. Source: psa, author code. ``minmax``
    takes the minimum of each map off first, as SEAM's author code does.
    """
    tags = predicted_tags(classifier, photo) if predicted else photo.tags or ()
    total = _summed(classifier, photo, [tag - 1 for tag in tags], scales, flip)
    if minmax and tags:
        total = (total - total.amin(dim=(1, 2), keepdim=True) - EPSILON).relu()
    return Activation(maps=_scaled(total), classes=tags)


def highest_cam(
    classifier: Classifier, photo: Photo, *, scales: Sequence[float] = (0.5, 1.0, 1.5, 2.0), flip: bool = False,
    predicted: bool = False,
) -> Activation:  # fmt: skip
    """Return class activation maps that are the highest of all scales and mirror images, each divided by its own maximum.

    So that small things count as much as large ones. The rest is as in ``multi_scale_cam``. Source: web_videos.
    """
    tags = predicted_tags(classifier, photo) if predicted else photo.tags or ()
    highest = torch.zeros(len(tags), *photo.size)
    for maps in _looks(classifier, photo, [tag - 1 for tag in tags], scales, flip):
        highest = torch.maximum(highest, maps)
    return Activation(maps=_scaled(highest), classes=tags)


def multi_rate_cam(
    classifier: MultiDilated,
    photo: Photo,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    predicted: bool = False,
    plain: bool = False,
) -> Activation:
    """Return the dense localisation maps of RDC: those of all rates by ``fused_rates``, divided by their maximum.

    The maps of each rate are summed over scales and mirror images before; the rest is as in ``multi_scale_cam``.
    """
    tags, rates = predicted_tags(classifier, photo) if predicted else photo.tags or (), len(classifier.rates)
    channels = [rate * classifier.classes + tag - 1 for rate in range(rates) for tag in tags]
    total = _summed(classifier, photo, channels, scales, flip).view(rates, len(tags), *photo.size)
    return Activation(maps=_scaled(fused_rates(total, plain=plain)), classes=tags)


def fused_rates(maps: Tensor, *, plain: bool = False) -> Tensor:
    """Return what several dilations show, (R, K, H, W) raw -> (K, H, W) in [0, 2], not scaled.

    Each map counts by its own maximum. The first rate's stays whole, for it is precise; what the others add is averaged:
    where they are wrong they differ. ``plain`` averages all alike. Source: RDC (Wei et al. CVPR 2018).
    """
    maps = maps.relu()
    if maps.numel():
        maps = maps / (maps.amax(dim=(2, 3), keepdim=True) + EPSILON)
    return maps.mean(dim=0) if plain or len(maps) == 1 else maps[0] + maps[1:].mean(dim=0)


def _summed(classifier: Looking, photo: Photo, channels: Sequence[int], scales: Sequence[float], flip: bool) -> Tensor:
    """Return the positive parts of the maps of ``channels``, (K, H, W), summed over scales and mirror images."""
    total = torch.zeros(len(channels), *photo.size)
    for maps in _looks(classifier, photo, channels, scales, flip):
        total += maps
    return total


def _looks(
    classifier: Looking, photo: Photo, channels: Sequence[int], scales: Sequence[float], flip: bool
) -> Iterator[Tensor]:
    """Yield the positive parts of the maps of ``channels``, (K, H, W), of each scale and mirror image."""
    for scale in scales if channels else ():
        image = _image(photo, scale, classifier)
        wanted = torch.tensor(channels, device=image.device)
        for mirrored in (False, True) if flip else (False,):
            maps = _maps(classifier, image.flip(3) if mirrored else image)[wanted]  # (K, h, w)
            maps = maps.flip(2) if mirrored else maps
            yield _grown(maps.relu(), photo.size)


def grad_cam(classifier: Classifier, photo: Photo, *, layer: int = -1) -> Activation:
    """Return Grad-CAM on feature map ``layer`` of the trunk: the maps weighted by the mean gradient of each tag's logit."""
    tags = photo.tags or ()
    maps = []
    with torch.enable_grad():
        features = classifier.features(_image(photo, 1.0, classifier).requires_grad_())
        logits = classifier.logits_of(features)  # (1, C-1)
        for tag in tags:
            (gradient,) = torch.autograd.grad(logits[0, tag - 1], features[layer], retain_graph=True)  # (1, D, h, w)
            weights = gradient.mean(dim=(2, 3), keepdim=True)  # (1, D, 1, 1)
            maps.append((weights * features[layer]).sum(dim=1)[0].relu().detach())  # (h, w)
    grown = _grown(torch.stack(maps), photo.size) if maps else torch.zeros(0, *photo.size)
    return Activation(maps=_scaled(grown), classes=tags)


def gradient_saliency(
    classifier: Classifier, pixels: NDArray[np.uint8], *, layer: int | None = None
) -> NDArray[np.float32]:
    """Return |d(sum of the logits)/d(layer)|, the largest over channels: float32 (h, w), not scaled.

    ``layer`` counts the trunk's feature maps; ``None`` is the image itself (then h, w are H, W).
    Source: Simonyan et al. 2013; SEC's author code takes conv4 (layer 3) and sums the logits.
    """
    with torch.enable_grad():
        image = as_image(pixels, classifier).requires_grad_()
        features = classifier.features(image)
        target = image if layer is None else features[layer]
        (gradient,) = torch.autograd.grad(classifier.logits_of(features).sum(), target)
    return gradient.abs().amax(dim=1)[0].float().cpu().numpy()


def mask_out(classifier: Classifier, photo: Photo, *, window: int = 32, stride: int = 8, batch: int = 32) -> Activation:
    """Return how much each tag's logit drops when a window is painted over with the mean colour.

    Drops are averaged over the windows that cover a pixel, negative ones count as 0.  Window and stride: spec (ours).
    """
    tags, (height, width) = photo.tags or (), photo.size
    image = _image(photo, 1.0, classifier)  # (1, 3, H, W)
    tops, lefts = (range(0, max(1, side - window + stride), stride) for side in (height, width))
    windows = [(top, left) for top in tops for left in lefts]
    total, seen = torch.zeros(len(tags), height, width), torch.zeros(height, width)
    wanted = torch.tensor([tag - 1 for tag in tags], dtype=torch.long, device=image.device)
    mean = classifier.trunk.get_buffer("mean").reshape(3, 1, 1)
    with torch.no_grad():
        quick = folded(classifier)
        whole = quick(image)[0, wanted]  # (K,)
        for start in range(0, len(windows), batch) if tags else ():
            part = windows[start : start + batch]
            painted = image.repeat(len(part), 1, 1, 1)
            for copy, (top, left) in zip(painted, part, strict=True):
                copy[:, top : top + window, left : left + window] = mean
            drops = (whole - quick(painted)[:, wanted]).float().cpu()  # (B, K)
            for drop, (top, left) in zip(drops, part, strict=True):
                total[:, top : top + window, left : left + window] += drop[:, None, None]
                seen[top : top + window, left : left + window] += 1
    return Activation(maps=_scaled((total / seen.clamp(min=1)).relu()), classes=tags)


def predicted_tags(classifier: Looking, photo: Photo) -> tuple[int, ...]:
    """Return the tags whose probability is over one half."""
    with torch.no_grad():
        logits = folded(classifier)(_image(photo, 1.0, classifier))[0]  # (C-1,)
    return tuple(int(index) + 1 for index in (logits > 0).nonzero().flatten())


def raw_maps(classifier: Classifier, pixels: NDArray[np.uint8], classes: Sequence[int]) -> NDArray[np.float32]:
    """Return the class maps before any ReLU or scaling: float32 (K, h, w) on the network's own grid."""
    wanted = [tag - 1 for tag in classes]
    return _maps(classifier, as_image(pixels, classifier))[wanted].cpu().numpy()


def _maps(classifier: Looking, image: Tensor) -> Tensor:
    with torch.no_grad():
        return folded(classifier).maps(image)[0].float()  # (C-1, h, w)


def _image(photo: Photo, scale: float, classifier: Looking) -> Tensor:
    """Return the photo at ``scale`` as float32 (1, 3, H, W) in [0, 1] on the network's device."""
    pixels = photo.pixels
    if scale != 1.0:
        height, width = (max(1, round(side * scale)) for side in photo.size)
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
    return as_image(pixels, classifier)


def _grown(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(K, h, w) -> (K, H, W) on the host, bilinear."""
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0].cpu()


def _scaled(maps: Tensor) -> NDArray[np.float32]:
    """Divide each map by its own maximum."""
    if maps.numel():
        maps = maps / (maps.amax(dim=(1, 2), keepdim=True) + EPSILON)
    return maps.float().numpy()
