"""AffinityNet - sure pixels teach which pixels belong together; along that, activations walk to the ends of objects.

Ahn, Kwak. CVPR 2018. https://arxiv.org/abs/1803.10464
Extra supervision   none
Run                 tagmask run affinitynet photos/
Expect              the row `affinitynet` of docs/results.md
"""

from __future__ import annotations

from dataclasses import dataclass

from tagmask.affinity import propagate
from tagmask.begin import begin
from tagmask.outcome import Outcome
from tagmask.refine.crf import PSA_CRF
from tagmask.retrain import retrain
from tagmask.types import Dataset
from tagmask.walking import check_choices, walk_out
from tagmask.work import Work


@dataclass(frozen=True)
class Options:
    """Every choice of the recipe: what it is, and after the semicolon where its value comes from."""

    tag_epochs: float = 5.0  # epochs of the classifier; author code (irn)
    tag_rate: float = 0.01  # learning rate of the classifier; ours (irn: 0.1 without momentum, which is as much)
    tag_crop: int = 512  # side of the classifier's training crops in pixels; author code (irn)
    balance: bool = False  # weigh the yes and no of each tag by how rare they are; ours
    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)  # scales of the photo at which activations are summed; author code
    flip: bool = True  # sum the activations of the mirror image too; author code
    threshold: float = 0.0  # background threshold in 0..1, where 0 means: choose it without masks; ours
    calibrate: float = 0.2  # move it here by a power of the maps, 0 = do not; ours (psa's maps are cut near 0.2)
    low_power: float = 4.0  # objects against the background (1 - max)^this are sure; paper, author code
    high_power: float = 32.0  # what is background against (1 - max)^this is sure; author code (paper: 24)
    fast_crf: bool = False  # refine the sure labels at half the resolution, until they settle; ours
    affinity_stride: int = 8  # pixels a cell of the affinity network; author code
    radius: int = 5  # cells nearer than this are pairs; paper
    affinity_epochs: float = 8.0  # epochs of the affinity network; author code
    affinity_rate: float = 0.1  # its learning rate; author code (VGG16, whose normalised head ours is; ResNet-38: 0.01)
    affinity_momentum: float = 0.0005  # its momentum; author code: by a slip its weight decay (0.9 wants rate 0.01)
    affinity_crop: int = 448  # side of its training crops in pixels; author code
    affinity_batch: int = 8  # photos in its training step; author code
    learn_trunk: bool = True  # let its trunk learn too; author code
    walk_power: float = 16.0  # the background (1 - max)^this walks with the maps; author code
    beta: float = 8.0  # power of the affinities on the walk; paper
    walk_steps: int = 256  # steps of the walk; paper (the matrix squared eight times)
    walk_crf: bool = False  # refine what has walked with a CRF; author code (paper: both are reported)
    output_stride: int = 16  # pixels a cell of the trunks' grid; paper (DeepLab v3; psa: 8)
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

    def __post_init__(self) -> None:
        check_choices(self)


def run(data: Dataset, work: Work, options: Options) -> Outcome:
    """Classify, activate, take what is sure, learn affinities from it, let the activations walk, segment."""
    begun = begin(work, data, options)
    walked = walk_out(work, data, begun.activation, begun.chosen["threshold"], options)
    masks, steps = walked.masks, {"thresholded activation": begun.seeds, "random walk": walked.masks}
    if options.walk_crf:  # walking anew costs less than to keep the scores of every photo
        masks = steps["after the CRF"] = work.each(
            "sharpened", propagate, walked.affinity, data.train, walked.maps,
            alpha=options.walk_power, beta=options.beta, radius=options.radius, steps=options.walk_steps, crf=PSA_CRF,
        )  # fmt: skip
    end = retrain(work, data, masks, options)
    return Outcome(
        masks=end.masks, segmenter=end.segmenter, activation=begun.activation, seeds=walked.sure, threshold=begun.chosen,
        steps={**steps, **end.steps}, predict=end.predict,
    )  # fmt: skip
