"""Guides for single photos: the three rules of guided labelling, from a photo, its seeds and its saliency."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray

from tagmask.errors import OptionError, did_you_mean
from tagmask.nets.classifier import Classifier
from tagmask.nets.folded import as_image, folded
from tagmask.refine.guides import propagated_guide, random_guide, regions, salient_mask, scored_guide
from tagmask.types import LabelMap, Photo, Saliency

RULES = ("G2", "G1", "G0", "seeds")  # the names of the final paper
AT_ONCE = 4  # masked copies of a photo that a network looks at together; on a GPU photos are grouped besides  # ours


def checked_rule(rule: str) -> None:
    """Raise OptionError unless ``rule`` is one of ``RULES``."""
    if rule not in RULES:
        raise OptionError(f"guide is {rule!r}{did_you_mean(rule, RULES)}; expected one of {', '.join(RULES)}.")


def drawn_guide(photo: Photo, saliency: Saliency, *, salient: float, seed: int) -> LabelMap:
    """Return the guide G0; what is drawn follows from ``seed`` and the photo's name."""
    random = np.random.default_rng([seed, crc32(photo.name.encode())])
    return random_guide(salient_mask(saliency.unit, salient), photo.tags or (), random)


def classified_guide(
    classifier: Classifier, photo: Photo, saliency: Saliency, *, salient: float, smallest: float
) -> LabelMap:
    """Return the guide G1: each salient region is looked at alone, the rest of the photo in the mean colour.

    Where a photo has one tag, all that is salient is that.
    """
    tags = photo.tags or ()
    mask = salient_mask(saliency.unit, salient)
    if len(tags) < 2:
        return LabelMap(np.where(mask, np.uint8(tags[0] if tags else 0), np.uint8(0)))
    numbered = regions(mask, smallest)
    return scored_guide(numbered, region_scores(classifier, photo, numbered), tags)


def region_scores(classifier: Classifier, photo: Photo, numbered: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the logits float32 (R, K) of the photo's tags for each region 1..R of (H, W), seen alone."""
    image = as_image(photo.pixels, classifier)  # (1, 3, H, W)
    mean = classifier.trunk.get_buffer("mean")  # (1, 3, 1, 1)
    wanted = torch.tensor([tag - 1 for tag in photo.tags or ()], device=image.device)
    where = torch.from_numpy(numbered).to(image.device)
    rows = [torch.zeros(0, len(wanted))]
    with torch.no_grad():
        for start in range(1, int(numbered.max()) + 1, AT_ONCE):
            chosen = torch.arange(start, min(start + AT_ONCE, int(numbered.max()) + 1), device=image.device)
            alone = torch.where((where == chosen[:, None, None])[:, None], image, mean)  # (B, 3, H, W)
            rows.append(folded(classifier)(alone)[:, wanted].float().cpu())
    return torch.cat(rows).numpy()


def spread_guide(
    seeds: LabelMap, photo: Photo, saliency: Saliency, *, salient: float, smallest: float, keep_unknown: bool
) -> LabelMap:
    """Return the guide G2."""
    mask = salient_mask(saliency.unit, salient)
    return propagated_guide(seeds, mask, photo.pixels, smallest=smallest, keep_unknown=keep_unknown)
