"""Learn from the tags what single objects look like, and describe each by a few numbers that others can be compared with.

Fan, Hou, Cheng, Yu, Martin, Hu. Associating Inter-Image Salient Instances for Weakly Supervised Semantic Segmentation.
ECCV 2018. https://doi.org/10.1007/978-3-030-01240-3_23
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tagmask.augment import channels_first, resize
from tagmask.data.photos import PerImage, Photos
from tagmask.errors import DataError
from tagmask.fit import Schedule, fit
from tagmask.losses import centre_loss, moved_centres
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.embedding import EmbeddingNet
from tagmask.nets.folded import as_image, folded
from tagmask.types import Photo
from tagmask.work import Job

AT_ONCE = 16  # crops of a photo that the network looks at together  # ours


@dataclass(frozen=True)
class InstanceViews:
    """Training examples: (uint8 RGB (3, side, side), the number of its tag, from 0), of n instances.

    Instance i is what lies in ``boxes[i]`` of the photo ``names[i]``, warped to a square, mirrored half of the time.
    """

    photos: Photos
    names: Sequence[str]
    boxes: NDArray[np.int64]
    labels: NDArray[np.int64]
    side: int

    def __len__(self) -> int:
        return len(self.names)

    def example(self, index: int, random: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Return one instance and its label; only the mirroring is random."""
        view = crop(self.photos[self.names[index]].pixels, self.boxes[index], self.side)
        return channels_first(view[:, :: -1 if random.integers(2) else 1]), np.asarray(self.labels[index])


def crop(pixels: NDArray[np.uint8], box: Sequence[int] | NDArray[np.integer], side: int) -> NDArray[np.uint8]:
    """Return what lies in a box of RGB ``pixels`` (H, W, 3), warped to (side, side, 3)."""
    x0, y0, x1, y1 = (int(value) for value in box)
    return resize(np.ascontiguousarray(pixels[y0:y1, x0:x1]), side, side)


def taught_by(
    attention: PerImage[dict[str, Any]], *, single: bool
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Return photo, box (n, 4) and label (n,) of the instances to learn from: the tag that attention sees most in each.

    With ``single`` they are those of photos with one tag, if there are any. Labels count from 0. Of ``attention`` see
    ``salient_instances.attended``.
    """
    found: list[tuple[str, list[int], int, bool]] = []
    for name in attention.names:
        known = attention[name]
        tags = known["tags"]
        for box, scores in zip(known["boxes"], known["scores"], strict=True) if tags else ():
            found.append((name, box, tags[int(np.argmax(scores))] - 1, len(tags) == 1))
    if single and any(alone for *_, alone in found):
        found = [each for each in found if each[3]]
    boxes = np.array([box for _, box, _, _ in found], dtype=np.int64).reshape(-1, 4)
    return [name for name, *_ in found], boxes, np.array([label for _, _, label, _ in found], dtype=np.int64)


def fit_embedding(
    photos: Photos,
    attention: PerImage[dict[str, Any]],
    backbone: Backbone,
    start: EmbeddingNet | None,
    *,
    classes: int,
    width: int,
    side: int,
    single: bool,
    pull: float,
    move: float,
    cosine: bool,
    schedule: Schedule,
    seed: int,
    job: Job,
) -> EmbeddingNet:
    """Train a network on crops of instances by cross entropy and ``pull`` times the centre loss (cosine, or Euclid).

    ``classes`` is C-1. The labels are those of ``taught_by``. ``move`` is how far a step moves the centres. ``start`` is
    the network to go on from. Raises DataError where no photo with a tag has an instance.
    """
    torch.manual_seed(seed)
    network = EmbeddingNet(build_backbone(backbone), classes, width=width)
    if start is not None:
        network.load_state_dict(start.state_dict())
    names, boxes, labels = taught_by(attention, single=single)
    if not names:
        raise DataError(
            "no photo with a tag has an instance, so there is nothing to compare; lower --salient or --smallest."
        )

    def loss(network: nn.Module, images: Tensor, truth: Tensor) -> Mapping[str, Tensor]:
        assert isinstance(network, EmbeddingNet)
        features = network(images.float() / 255)  # (B, D)
        terms = {
            "tags": functional.cross_entropy(input=network.score(features).float(), target=truth),
            "centres": pull * centre_loss(features, truth, network.centres, cosine=cosine),
        }
        network.centres.copy_(moved_centres(features.detach(), truth, network.centres, rate=move, cosine=cosine))
        return terms

    return fit(network, InstanceViews(photos, names, boxes, labels, side), loss, schedule, seed=seed, job=job)


def embedded(network: EmbeddingNet, photo: Photo, attention: dict[str, Any], *, side: int) -> NDArray[np.float32]:
    """Return the features of each instance of a photo, float32 (n, D)."""
    boxes, quick = attention["boxes"], folded(network)
    rows = [np.zeros((0, network.options["width"]), dtype=np.float32)]
    with torch.no_grad():
        for start in range(0, len(boxes), AT_ONCE):
            crops = [as_image(crop(photo.pixels, box, side), network) for box in boxes[start : start + AT_ONCE]]
            rows.append(quick(torch.cat(crops)).float().cpu().numpy())
    return np.concatenate(rows)
