"""C-SPCL - easy photos and sure boxes teach detectors first, harder ones as they learn; what they find, a detector learns.

Zhang, Han, Zhao, Meng. IJCV 2019. https://doi.org/10.1007/s11263-018-1112-4
Extra supervision   none
Run                 tagmask run c_spcl photos/
Expect              the row `c_spcl` of docs/results.md
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tagmask.begin import begin
from tagmask.box_features import box_features
from tagmask.curriculum import PACING
from tagmask.detect import checked_detector, cut_boxes, detect_boxes, fit_detector
from tagmask.errors import OptionError, did_you_mean
from tagmask.fit import Schedule
from tagmask.masked import activation_boxes, best_boxes, masked_prior
from tagmask.outcome import Outcome
from tagmask.pacing import learn_boxes
from tagmask.proposals import checked_proposals, proposals, proposals_supervision
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
    scales: tuple[float, ...] = (1.0,)  # scales of the photo at which activations are summed; paper (CAM)
    flip: bool = False  # sum the activations of the mirror image too; paper (CAM)
    threshold: float = 0.0  # background threshold in 0..1, where 0 means: choose it without masks; ours
    proposals: str = "selective-search"  # that, segments, a COCO json or a folder of regions (docs/data.md); ours
    most_proposals: int = 2000  # proposals of a photo; recalled (Fast R-CNN)
    thin: float = 0.75  # of proposals that overlap by more, in 0..1, one is looked at; ours
    candidates: int = 200  # of these are painted over, those where activations stand out most; ours (source: lazily)
    kept: int = 50  # of these teach, those of the largest prior; source
    mask_side: int = 0  # longest side at which painted copies are looked at, 0 = the photo's own; ours
    size_power: float = 0.0  # the prior is divided by the box's share of the photo to this power; ours (source: 0)
    feature_side: int = 224  # boxes are warped to a square of this side in pixels to be compared; recalled (R-CNN: 227)
    feature_cells: int = 1  # what is seen of it is averaged in so many parts a side; ours (source: fc7 of VGG16)
    pacing: str = "both"  # weights that are learned: both, instance, image or none; paper
    prior: bool = True  # let the prior count beside the losses, and not only for the first labels; paper
    easy_overlap: float = 0.4  # photos of one tag whose ten best boxes overlap so are easy, in 0..1; ours
    paced_rounds: int = 6  # times that classifiers, labels and weights are learned in turns; ours
    pace: tuple[float, float] = (0.5, 0.9)  # share of what is believed in the first round and in the last; ours
    svm_cost: float = 1.0  # what an instance on the wrong side costs an SVM; ours
    negatives: int = 2000  # boxes of photos without the tag that each SVM learns from; ours
    instance_prior: float = 0.5  # how far the prior raises the loss up to which boxes are believed; ours
    image_prior: float = 0.2  # the same for easy photos; ours
    prior_fade: float = 0.8  # both count so many times as much in each round as in the one before; ours
    diversity: float = 0.5  # gain, shrinking with their number, of believing in boxes of a photo at all; ours
    exact: bool = False  # follow the objective to the letter, or judge what nobody believes in as if one did; ours
    hysteresis: float = 0.1  # labels change only if that gains more; ours
    pseudo_boxes: int = 2  # boxes of a tag that teach the detector, at most; ours (source: 1 to 3)
    detector: str = "rcnn"  # rcnn (judges the proposals) or faster-rcnn (proposes itself, torchvision); source
    box_epochs: float = 8.0  # epochs of the detector; ours
    box_rate: float = 0.002  # its learning rate; ours (recalled, Fast R-CNN: 0.001 with 2 photos)
    box_side: int = 512  # longest side of the photos that it sees; ours (recalled, Fast R-CNN: 1000)
    box_batch: int = 8  # photos in its training step; ours (recalled, Fast R-CNN: 2)
    box_samples: int = 64  # boxes of a photo in its training step; recalled (Fast R-CNN)
    box_width: int = 256  # units of its hidden layers, or channels of its map; ours (recalled: 4096)
    box_cells: int = 7  # rcnn cuts each box in so many parts along each side; recalled (Fast R-CNN)
    box_overlap: float = 0.3  # of two found boxes of one class that overlap by more one stays, in 0..1; source
    box_least: float = 0.05  # probability that a found box has at least, in 0..1; recalled (Fast R-CNN)
    cuts: int = 5  # iterations of GrabCut inside a box; ours (OpenCV)
    cut_least: float = 0.5  # what GrabCut leaves below this share of a box gives way to all of it; recalled (Khoreva)
    cut_sure: float = 0.5  # masks are cut from boxes of this probability and from the surest of each tag; ours
    output_stride: int = 16  # pixels a cell of the networks' grid; author code (irn), paper (DeepLab v3)
    segmenter: str = "deeplab-v3"  # deeplab-v1, deeplab-v2 or deeplab-v3; ours
    rounds: int = 1  # segmenters trained in turn, each on the masks of the one before; ours
    epochs: float = 20.0  # epochs of each segmenter; ours
    rate: float = 0.002  # learning rate of the segmenter; ours (DeepLab v3: 0.007 for all layers, BatchNorm trained)
    head_rate: float = 10.0  # new layers, of the detector too, learn so many times as fast; paper (DeepLab v1)
    crop: int = 513  # side of the segmenter's training crops in pixels; paper (DeepLab v3)
    zoom: tuple[float, float] = (0.5, 2.0)  # range of the random scale of training photos; paper (DeepLab v3)
    width: int = 256  # channels of the segmenter's head; paper (DeepLab v3)
    batch: int = 16  # photos in a training step; author code (irn), paper (DeepLab v3)
    test_scales: tuple[float, ...] = (1.0,)  # scales at which the segmenter looks at a photo; ours
    test_flip: bool = False  # let the segmenter look at the mirror image too; ours
    test_crf: bool = False  # sharpen the segmenter's predictions with a CRF; ours (the paper of DeepLab v3 has none)

    def __post_init__(self) -> None:
        checked_proposals(self.proposals)
        checked_detector(self.detector)
        if self.pacing not in PACING:
            hint = did_you_mean(self.pacing, PACING)
            raise OptionError(f"pacing is {self.pacing!r}{hint}; expected one of {', '.join(PACING)}.")
        for name in (
            "threshold",
            "thin",
            "easy_overlap",
            "prior_fade",
            "box_overlap",
            "box_least",
            "cut_least",
            "cut_sure",
        ):
            if getattr(self, name) > 1:
                raise OptionError(f"{name} is {getattr(self, name)}; expected a number in 0..1.")
        for name in ("most_proposals", "candidates", "kept", "feature_side", "feature_cells", "paced_rounds", "svm_cost",
                     "negatives", "pseudo_boxes", "box_epochs", "box_side", "box_batch", "box_samples", "box_width",
                     "box_cells", "cuts"):  # fmt: skip
            if not getattr(self, name):
                raise OptionError(f"{name} is 0; expected a positive number.")
        if not 0 <= self.pace[0] <= self.pace[1] <= 1:
            raise OptionError(f"pace is {self.pace}; expected two shares in 0..1, the first not above the second.")


def run(data: Dataset, work: Work, options: Options) -> Outcome:
    """Classify, paint proposals over, learn boxes at their own pace, a detector from them, masks inside of what it finds."""
    backbone = replace(work.backbone, output_stride=options.output_stride)
    pace = {"cost": options.svm_cost, "instance_prior": options.instance_prior, "photo_prior": options.image_prior}
    looks: dict[str, Any] = {"overlap": options.box_overlap, "least": options.box_least}

    begun = begin(work, data, options)
    everything = tuple({sample.name: sample for sample in (*data.train, *data.val)}.values())
    found = proposals(work, everything, options.proposals, most=options.most_proposals)
    prior = work.each(
        "prior", masked_prior, begun.classifier, data.train, found, begun.activation,
        thin=options.thin, candidates=options.candidates, kept=options.kept, side=options.mask_side,
        size_power=options.size_power,
    )  # fmt: skip
    features = work.once(
        "features", box_features, begun.classifier, data.train, prior,
        side=options.feature_side, cells=options.feature_cells,
    )  # fmt: skip
    learned = work.once(
        "learned", learn_boxes, data.train, prior, features,
        rounds=options.paced_rounds, share=options.pace, pace={**pace, "diversity": options.diversity},
        use_prior=options.prior, fade=options.prior_fade, easy_overlap=options.easy_overlap, pacing=options.pacing,
        exact=options.exact, hysteresis=options.hysteresis, negatives=options.negatives,
        most=options.pseudo_boxes, seed=work.seed,
    )  # fmt: skip
    detector = work.once(
        "detector", fit_detector, data.train, found, learned, backbone,
        detector=options.detector, classes=len(data.classes), side=options.box_side, samples=options.box_samples,
        width=options.box_width, cells=options.box_cells, seed=work.seed,
        schedule=Schedule(options.box_epochs, options.box_batch, options.box_rate, head_rate=options.head_rate),
    )  # fmt: skip
    boxes = work.each("boxes", detect_boxes, detector, data.train, found, learned, **looks)
    masks = work.each(
        "cut", cut_boxes, boxes, data.train, iterations=options.cuts, least=options.cut_least, sure=options.cut_sure
    )
    end = retrain(work, data, masks, options)
    return Outcome(
        masks=end.masks, segmenter=end.segmenter, activation=begun.activation, seeds=begun.seeds, threshold=begun.chosen,
        steps={"thresholded activation": begun.seeds, "cut from boxes": masks, **end.steps}, predict=end.predict,
        boxes=boxes, val_boxes=work.each("val-boxes", detect_boxes, detector, data.val, found, None, **looks),
        box_steps={
            "thresholded activation": work.each(
                "activation-boxes", activation_boxes, begun.activation, begun.chosen["threshold"]
            ),
            "mask-out prior": work.each("prior-boxes", best_boxes, prior), "self-paced": learned,
        },
        supervision=proposals_supervision(options.proposals),
    )  # fmt: skip
