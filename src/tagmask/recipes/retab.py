"""RETAB - masks of some classes teach where objects of any class end, and which pixels belong together; new classes need tags.

Zhou, Niu, Si, Qian, Zhang. BMVC 2022. https://arxiv.org/abs/2110.01519
Extra supervision   masks of the base classes
Run                 tagmask run retab photos/ --novel horse,sheep
Expect              the row `retab` of docs/results.md
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tagmask.activate import multi_scale_cam
from tagmask.boundary import boundary_labels, find_edges, fit_boundary
from tagmask.classify import fit_classifier
from tagmask.data.photos import PerImage, Truth
from tagmask.errors import DataError, OptionError
from tagmask.fit import Schedule
from tagmask.label import threshold_labels
from tagmask.nets.backbones import Backbone
from tagmask.nets.classifier import Classifier
from tagmask.nets.seam import SeamClassifier
from tagmask.outcome import Outcome
from tagmask.retrain import retrain
from tagmask.seam import fit_seam
from tagmask.threshold import choose_threshold
from tagmask.types import Activation, Dataset
from tagmask.walking import check_choices, walk_out
from tagmask.work import Work


@dataclass(frozen=True)
class Options:
    """Every choice of the recipe: what it is, and after the semicolon where its value comes from."""

    activations: str = "cam"  # where activations come from: cam or seam; paper (both are reported)
    boundary: bool = True  # learn the boundary from the base masks, walk in two stages around it; paper
    affinity_masks: bool = True  # learn affinities from the base masks too (without boundary: AFFGT+SEGGT); paper
    segment_masks: bool = True  # let the base masks teach the segmenter (alone: SEGGT; none of the three: plain); paper
    tag_epochs: float = 5.0  # epochs of the classifier; author code (irn)
    tag_rate: float = 0.01  # learning rate of the classifier; ours (irn: 0.1 without momentum, which is as much)
    tag_crop: int = 512  # side of the classifier's training crops in pixels; author code (irn)
    tag_momentum: float = 0.9  # its momentum; ours (SEAM's author code: 0.0005, by a slip)
    tag_batch: int = 16  # photos in its training step; author code (irn; SEAM: 8)
    balance: bool = False  # weigh the yes and no of each tag by how rare they are (cam only); ours
    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)  # scales of the photo at which activations are summed; author code
    flip: bool = True  # sum the activations of the mirror image too; author code
    threshold: float = 0.0  # background threshold in 0..1, where 0 means: choose it without masks; ours
    band: int = 0  # pixels from a change of label that are boundary too, 0 = those of 255 alone; author code
    boundary_epochs: float = 8.0  # epochs of the boundary network; author code
    boundary_rate: float = 0.001  # its learning rate; author code
    calibrate: float = 0.2  # move the threshold here by a power of the maps, 0 = do not; ours (what the powers suit)
    low_power: float = 4.0  # objects against the background (1 - max)^this are sure; author code
    high_power: float = 32.0  # what is background against (1 - max)^this is sure; author code
    fast_crf: bool = False  # refine the sure labels at half the resolution, until they settle; ours
    affinity_stride: int = 8  # pixels a cell of the affinity and boundary networks; author code
    radius: int = 5  # cells nearer than this are pairs; author code
    affinity_epochs: float = 8.0  # epochs of the affinity network; author code
    affinity_rate: float = 0.01  # its learning rate; author code
    affinity_momentum: float = 0.0005  # its momentum, and the boundary network's; author code (a slip: weight decay)
    affinity_crop: int = 448  # side of their training crops in pixels; author code
    affinity_batch: int = 8  # photos in their training step; author code
    learn_trunk: bool = True  # let the trunk of the affinity network learn too; author code
    walk_power: float = 16.0  # the background (1 - max)^this walks with the maps; author code
    beta: float = 8.0  # power of the affinities on the walk; author code
    walk_steps: int = 256  # steps of each stage of the walk; author code
    output_stride: int = 16  # pixels a cell of the trunks' grid; paper (DeepLab v3; RETAB: 8)
    segmenter: str = "deeplab-v3"  # deeplab-v1, deeplab-v2 or deeplab-v3; ours (RETAB: a ResNet-38)
    rounds: int = 1  # segmenters trained in turn, each on the novel masks of the one before; author code
    epochs: float = 20.0  # epochs of each segmenter; ours
    rate: float = 0.002  # learning rate of the segmenter; ours (DeepLab v3: 0.007 for all layers, BatchNorm trained)
    head_rate: float = 10.0  # its new layers learn so many times as fast; paper (DeepLab v1)
    crop: int = 513  # side of the segmenter's training crops in pixels; paper (DeepLab v3)
    zoom: tuple[float, float] = (0.5, 2.0)  # range of the random scale of training photos; paper (DeepLab v3)
    width: int = 256  # channels of the segmenter's head; paper (DeepLab v3)
    batch: int = 16  # photos in a training step of the segmenter; paper (DeepLab v3)
    test_scales: tuple[float, ...] = (1.0,)  # scales at which the segmenter looks at a photo; ours
    test_flip: bool = False  # let the segmenter look at the mirror image too; ours
    test_crf: bool = False  # sharpen the segmenter's predictions with a CRF; ours (the paper of DeepLab v3 has none)

    def __post_init__(self) -> None:
        check_choices(self)
        if self.activations not in ("cam", "seam"):
            raise OptionError(f"activations is {self.activations!r}; expected cam or seam.")


def run(data: Dataset, work: Work, options: Options) -> Outcome:
    """Classify, activate, learn boundary and affinities from the base masks, walk in two stages, segment from both."""
    masked = tuple(sample for sample in data.train if sample.mask is not None)
    if not masked:
        raise DataError(
            f"{data.root}: no training photo without a novel class has a mask; give --novel the classes that have tags "
            "only, and masks/ for photos of the others (affinitynet needs no mask)."
        )
    if not data.novel:
        work.narrator.say("no class is novel, so every mask is learned from; --novel names classes that have tags only")
    truth = Truth(masked, classes=len(data.classes), longest=work.longest)
    backbone, seed = replace(work.backbone, output_stride=options.output_stride), work.seed
    small = Schedule(
        options.boundary_epochs, options.affinity_batch, options.boundary_rate,
        momentum=options.affinity_momentum, bias_rate=2.0,  # author code
    )  # fmt: skip

    activation = activate(data, work, options, backbone)
    chosen = work.once("threshold", choose_threshold, data.train, activation, fixed=options.threshold)
    seeds = work.each("seeds", threshold_labels, activation, chosen["threshold"])
    edges = None
    if options.boundary:
        known_edges = work.each("known-edges", boundary_labels, truth, band=options.band)
        boundary = work.once(
            "boundary", fit_boundary, masked, known_edges, backbone,
            stride=options.affinity_stride, crop=options.affinity_crop, schedule=small, seed=seed,
        )  # fmt: skip
        edges = work.each("edges", find_edges, boundary, data.train)
    walked = walk_out(
        work, data, activation, chosen["threshold"], options,
        known=truth if options.affinity_masks else None, edges=edges,
    )  # fmt: skip
    end = retrain(work, data, walked.masks, options, known=truth if options.segment_masks else None)
    return Outcome(
        masks=end.masks, segmenter=end.segmenter, activation=activation, seeds=walked.sure, threshold=chosen,
        steps={"thresholded activation": seeds, "random walk": walked.masks, **end.steps}, predict=end.predict,
    )  # fmt: skip


def activate(data: Dataset, work: Work, options: Options, backbone: Backbone) -> PerImage[Activation]:
    """Train the classifier of CAM or of SEAM on the tags of all classes, and return its activations."""
    seam = options.activations == "seam"
    schedule = Schedule(
        options.tag_epochs, options.tag_batch, options.tag_rate, momentum=options.tag_momentum,
        weight_decay=5e-4 if seam else 1e-4, bias_rate=2.0 if seam else 1.0,  # author code (SEAM, irn)
    )  # fmt: skip
    common: dict[str, Any] = {
        "classes": len(data.classes) - 1, "crop": options.tag_crop, "schedule": schedule, "seed": work.seed
    }  # fmt: skip
    classifier: Classifier | SeamClassifier
    if seam:
        classifier = work.once(
            "classifier", fit_seam, data.train, backbone,
            pcm=True, rescale=0.3, er_weight=1.0, ecr_weight=1.0, hardest=0.2, **common,  # paper, author code (SEAM)
        )  # fmt: skip
    else:
        classifier = work.once("classifier", fit_classifier, data.train, backbone, balance=options.balance, **common)
    looks: dict[str, Any] = {"scales": options.scales, "flip": options.flip, **({"minmax": True} if seam else {})}
    return work.each("activation", multi_scale_cam, classifier, data.train, **looks)
