"""Full supervision - the upper bound: the same segmentation network trained on the user's own masks.

Chen, Papandreou, Schroff, Adam (DeepLab v3). 2017. https://arxiv.org/abs/1706.05587
Extra supervision   masks
Run                 tagmask run full photos/
Expect              the row `full` of docs/results.md
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tagmask.data.photos import Truth
from tagmask.fit import Schedule
from tagmask.outcome import Outcome
from tagmask.refine.crf import PSA_CRF
from tagmask.segment import fit_segmenter, predict_labels
from tagmask.types import Dataset
from tagmask.work import Work


@dataclass(frozen=True)
class Options:
    """Every choice of the recipe: what it is, and after the semicolon where its value comes from."""

    output_stride: int = 16  # pixels a cell of the networks' grid; paper (DeepLab v3)
    segmenter: str = "deeplab-v3"  # deeplab-v1, deeplab-v2 or deeplab-v3; ours
    epochs: float = 20.0  # epochs of the segmenter; ours
    rate: float = 0.002  # learning rate of the segmenter; ours (DeepLab v3: 0.007 for all layers, BatchNorm trained)
    head_rate: float = 10.0  # its new layers learn so many times as fast; paper (DeepLab v1)
    crop: int = 513  # side of the training crops in pixels; paper (DeepLab v3)
    zoom: tuple[float, float] = (0.5, 2.0)  # range of the random scale of training photos; paper (DeepLab v3)
    width: int = 256  # channels of the segmenter's head; paper (DeepLab v3)
    batch: int = 16  # photos in a training step; paper (DeepLab v3)
    test_scales: tuple[float, ...] = (1.0,)  # scales at which the segmenter looks at a photo; ours
    test_flip: bool = False  # let the segmenter look at the mirror image too; ours
    test_crf: bool = False  # sharpen the segmenter's predictions with a CRF; ours (the paper of DeepLab v3 has none)


def run(data: Dataset, work: Work, options: Options) -> Outcome:
    """Train on the masks of those training photos that have one, predict all of them."""
    masked = [sample for sample in data.train if sample.mask is not None] or data.train
    truth = Truth(masked, classes=len(data.classes), longest=work.longest)
    backbone = replace(work.backbone, output_stride=options.output_stride)
    looks: dict[str, Any] = {"scales": options.test_scales, "flip": options.test_flip}
    if options.test_crf:
        looks["crf"] = PSA_CRF
    segmenter = work.once(
        "segmenter", fit_segmenter, masked, truth, backbone,
        segmenter=options.segmenter, classes=len(data.classes), crop=options.crop, scales=options.zoom,
        width=options.width, seed=work.seed,
        schedule=Schedule(options.epochs, options.batch, options.rate, head_rate=options.head_rate),
    )  # fmt: skip
    masks = work.each("relabelled", predict_labels, segmenter, data.train, use_tags=True, **looks)
    return Outcome(masks=masks, segmenter=segmenter, predict=looks)
