"""CAM - a classifier shows where it sees each tag; what it shows, sharpened, teaches a segmentation network.

Zhou, Khosla, Lapedriza, Oliva, Torralba. CVPR 2016. https://arxiv.org/abs/1512.04150
Extra supervision   none
Run                 tagmask run cam photos/
Expect              the row `cam` of docs/results.md
"""

from __future__ import annotations

from dataclasses import dataclass

from tagmask.activate import multi_scale_cam
from tagmask.begin import begin
from tagmask.label import threshold_labels
from tagmask.outcome import Outcome
from tagmask.refine.crf import IRN_CRF
from tagmask.refine.sharpen import sharpen
from tagmask.retrain import retrain
from tagmask.types import Dataset
from tagmask.work import Work


@dataclass(frozen=True)
class Options:
    """Every choice of the recipe: what it is, and after the semicolon where its value comes from."""

    tag_epochs: float = 5.0  # epochs of the classifier; author code (irn)
    tag_rate: float = 0.01  # learning rate of the classifier; ours (irn: 0.1 without momentum, which is as much)
    tag_crop: int = 512  # side of the classifier's training crops in pixels; author code (irn)
    balance: bool = False  # weigh the yes and no of each tag by how rare they are; ours
    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)  # scales of the photo at which activations are summed; author code
    flip: bool = True  # sum the activations of the mirror image too; author code (psa)
    threshold: float = 0.0  # background threshold in 0..1, where 0 means: choose it without masks; ours
    confidence: float = 0.7  # how far the CRF trusts a thresholded label, in 0..1; author code (irn)
    output_stride: int = 16  # pixels a cell of the networks' grid; author code (irn), paper (DeepLab v3)
    segmenter: str = "deeplab-v3"  # deeplab-v1, deeplab-v2 or deeplab-v3; ours
    rounds: int = 2  # segmenters trained in turn, each on the masks of the one before; ours
    epochs: float = 20.0  # epochs of each segmenter; ours
    rate: float = 0.002  # learning rate of the segmenter; ours (DeepLab v3: 0.007 for all layers, BatchNorm trained)
    head_rate: float = 10.0  # its new layers learn so many times as fast; paper (DeepLab v1)
    crop: int = 513  # side of the segmenter's training crops in pixels; paper (DeepLab v3)
    zoom: tuple[float, float] = (0.5, 2.0)  # range of the random scale of training photos; paper (DeepLab v3)
    width: int = 256  # channels of the segmenter's head; paper (DeepLab v3)
    batch: int = 16  # photos in a training step; author code (irn), paper (DeepLab v3)
    test_scales: tuple[float, ...] = (1.0,)  # scales at which the segmenter looks at a photo; ours
    test_flip: bool = False  # let the segmenter look at the mirror image too; ours
    test_crf: bool = False  # sharpen the segmenter's predictions with a CRF; ours (the paper of DeepLab v3 has none)


def run(data: Dataset, work: Work, options: Options) -> Outcome:
    """Classify, activate, choose a threshold, sharpen, segment; then segment once more from the network's own masks."""
    begun = begin(work, data, options)
    masks = work.each("sharpened", sharpen, begun.seeds, data.train, crf=IRN_CRF, confidence=options.confidence)
    end = retrain(work, data, masks, options)

    plain = work.each(
        "val-activation", multi_scale_cam, begun.classifier, data.val,
        scales=options.scales, flip=options.flip, predicted=True,
    )  # fmt: skip
    val_steps = {
        "thresholded activation": work.each("val-thresholded", threshold_labels, plain, begun.chosen["threshold"])
    }
    return Outcome(
        masks=end.masks, segmenter=end.segmenter, activation=begun.activation, seeds=begun.seeds, threshold=begun.chosen,
        steps={"thresholded activation": begun.seeds, "after the CRF": masks, **end.steps}, val_steps=val_steps,
        predict=end.predict,
    )  # fmt: skip
