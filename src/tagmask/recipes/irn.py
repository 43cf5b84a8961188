"""IRN - boundaries and centres, learned from sure pixels alone, say how far a tag spreads and where one object ends.

Ahn, Cho, Kwak. CVPR 2019. https://arxiv.org/abs/1904.05044
Extra supervision   none
Run                 tagmask run irn photos/
Expect              the row `irn` of docs/results.md
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tagmask.affinity import calibrated
from tagmask.begin import begin
from tagmask.fit import Schedule
from tagmask.outcome import Outcome
from tagmask.refine.crf import IRN_CRF
from tagmask.refine.sharpen import sharpen
from tagmask.relation import (
    check_choices,
    cut_instances,
    fit_relation,
    labels_on_photo,
    sure_labels,
    walk_activation,
)
from tagmask.retrain import retrain
from tagmask.threshold import choose_threshold
from tagmask.types import Dataset
from tagmask.work import Work


@dataclass(frozen=True)
class Options:
    """Every choice of the recipe: what it is, and after the semicolon where its value comes from."""

    tag_epochs: float = 5.0  # epochs of the classifier; author code
    tag_rate: float = 0.01  # learning rate of the classifier; ours (author code: 0.1 without momentum, as much)
    tag_crop: int = 512  # side of the classifier's training crops in pixels; author code
    balance: bool = False  # weigh the yes and no of each tag by how rare they are; ours
    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)  # scales of the photo at which activations are summed; author code
    flip: bool = True  # sum the activations of the mirror image too; author code
    threshold: float = 0.0  # background threshold in 0..1, where 0 means: choose it without masks; ours
    calibrate: float = 0.15  # maps are bent so that this is their threshold (0: not); author code (of its own maps)
    sure_object: float = 0.30  # surely an object: over this, after a CRF; author code
    sure_background: float = 0.05  # surely background: up to this, after a CRF; author code
    confidence: float = 0.7  # how far the CRF trusts a thresholded label, in 0..1; author code
    relation_epochs: float = 3.0  # epochs of the relation network; author code
    relation_rate: float = 0.1  # its learning rate, ten times as much for displacements; author code
    relation_momentum: float = 1e-4  # its momentum; author code, by a slip the weight decay (0.9: a tenth of the rate)
    relation_batch: int = 32  # photos in one of its training steps; author code
    relation_crop: int = 512  # side of its training crops in pixels; author code
    relation_zoom: tuple[float, float] = (0.5, 1.5)  # range of the random scale of its training photos; author code
    relation_width: int = 256  # channels of its displacement branch, an eighth for each map of a boundary; author code
    relation_radius: int = 10  # cells of 4 pixels: pairs that it learns from are nearer than this; paper
    walk_radius: int = 5  # cells of 4 pixels: the random walk steps to cells nearer than this; author code
    walk_beta: float = 10.0  # power of the affinities: more stops the walk at weaker boundaries; author code
    walk_steps: int = 256  # steps of the random walk; author code (the matrix squared 8 times)
    walk_threshold: float = 0.25  # background threshold of the walked maps, 0: choose it without masks; author code
    walk_crf: bool = False  # sharpen the walked labels with a CRF; paper (its masks are scored both ways)
    instances: bool = True  # cut the labels of the training photos into single objects; paper
    cut_masks: bool = False  # cut the last segmenter's masks and not the walked labels; ours
    least_instance: float = 0.01  # share of the photo that an instance covers at least; ours (author code: score 0)
    output_stride: int = 16  # pixels a cell of the networks' grid; author code, paper (DeepLab v3)
    segmenter: str = "deeplab-v3"  # deeplab-v1, deeplab-v2 or deeplab-v3; ours (paper: DeepLab v2)
    rounds: int = 2  # segmenters trained in turn, each on the masks of the one before; ours (paper: 1)
    epochs: float = 20.0  # epochs of each segmenter; ours
    rate: float = 0.002  # learning rate of the segmenter; ours (DeepLab v3: 0.007 for all layers, BatchNorm trained)
    head_rate: float = 10.0  # its new layers learn so many times as fast; paper (DeepLab v1)
    crop: int = 513  # side of the segmenter's training crops in pixels; paper (DeepLab v3)
    zoom: tuple[float, float] = (0.5, 2.0)  # range of the random scale of training photos; paper (DeepLab v3)
    width: int = 256  # channels of the segmenter's head; paper (DeepLab v3)
    batch: int = 16  # photos in a training step; author code, paper (DeepLab v3)
    test_scales: tuple[float, ...] = (1.0,)  # scales at which the segmenter looks at a photo; ours
    test_flip: bool = False  # let the segmenter look at the mirror image too; ours
    test_crf: bool = False  # sharpen the segmenter's predictions with a CRF; ours (the paper of DeepLab v3 has none)

    def __post_init__(self) -> None:
        check_choices(self)


def run(data: Dataset, work: Work, options: Options) -> Outcome:
    """Activate, learn relations from sure pixels, let activations walk along them, segment, and cut out instances."""
    schedule = Schedule(
        options.relation_epochs, options.relation_batch, options.relation_rate,
        momentum=options.relation_momentum, weight_decay=1e-4,  # author code
    )  # fmt: skip
    backbone = replace(work.backbone, output_stride=options.output_stride)
    walk = {"radius": options.walk_radius, "beta": options.walk_beta, "steps": options.walk_steps}

    begun = begin(work, data, options)
    maps = begun.activation if not options.calibrate else work.each(
        "calibrated", calibrated, begun.activation, threshold=begun.chosen["threshold"], target=options.calibrate
    )  # fmt: skip
    sure = work.each(
        "sure", sure_labels, maps, data.train,
        above=options.sure_object, below=options.sure_background, crf=IRN_CRF, confidence=options.confidence,
    )  # fmt: skip
    relation = work.once(
        "relation", fit_relation, data.train, sure, backbone, width=options.relation_width,
        radius=options.relation_radius, crop=options.relation_crop, scales=options.relation_zoom,
        schedule=schedule, seed=work.seed,
    )  # fmt: skip
    walked = work.each("walked", walk_activation, relation, data.train, maps, **walk)
    cut = work.once("walk-threshold", choose_threshold, data.train, walked, fixed=options.walk_threshold)
    masks = work.each("labels", labels_on_photo, walked, data.train, threshold=cut["threshold"])
    steps = {"thresholded activation": begun.seeds, "random walk": masks}
    if options.walk_crf:
        masks = steps["after the CRF"] = work.each(
            "sharpened", sharpen, masks, data.train, crf=IRN_CRF, confidence=options.confidence
        )
    end = retrain(work, data, masks, options)
    instances = work.each(
        "cut", cut_instances, relation, data.train, maps, end.masks if options.cut_masks else masks,
        least=options.least_instance, **walk,
    ) if options.instances else None  # fmt: skip
    return Outcome(
        masks=end.masks, segmenter=end.segmenter, activation=walked, seeds=sure, threshold=cut,
        steps={**steps, **end.steps}, predict=end.predict, instances=instances,
    )  # fmt: skip
