"""AISI - what stands out is cut into single objects, and those of all photos that look alike agree which tag they show.

Fan, Hou, Cheng, Yu, Martin, Hu. ECCV 2018. https://doi.org/10.1007/978-3-030-01240-3_23
Extra supervision   none
Run                 tagmask run inter_image_instances photos/
Expect              the row `inter_image_instances` of docs/results.md
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tagmask.association import Assigned, assign_tags, painted, rule_of, tagged
from tagmask.begin import begin
from tagmask.data.photos import PerImage
from tagmask.embedding import embedded, fit_embedding
from tagmask.errors import OptionError
from tagmask.fit import Schedule
from tagmask.outcome import Outcome
from tagmask.refine.association import ATTENTION_ALONE
from tagmask.refine.crf import DEEPLAB_V2_CRF
from tagmask.retrain import retrain
from tagmask.saliency import checked_source, saliency_maps
from tagmask.salient_instances import (
    SALIENCY,
    attended,
    checked_area,
    checked_instances,
    instances_supervision,
    salient_instances,
)
from tagmask.types import Dataset, LabelMap
from tagmask.work import Work


@dataclass(frozen=True)
class Options:
    """Every choice of the recipe: what it is, and after the semicolon where its value comes from."""

    tag_epochs: float = 5.0  # epochs of the classifier; author code (irn)
    tag_rate: float = 0.01  # learning rate of the classifier; ours (as cam)
    tag_crop: int = 321  # side of the classifier's training crops in pixels; ours (not published)
    balance: bool = False  # weigh the yes and no of each tag by how rare they are; ours
    scales: tuple[float, ...] = (1.0,)  # scales of the photo at which activations are summed; ours (not published)
    flip: bool = False  # sum the activations of the mirror image too; ours (not published)
    threshold: float = 0.0  # of the activations that the report shows, 0..1, 0: choose it without masks; ours
    instances: str = "saliency"  # saliency: cut from it, or a COCO json or folder of PNGs; ours (paper: S4Net)
    saliency: str = "mbd"  # mbd, rbd or a folder of maps or a network (docs/data.md); ours
    salient: float = 0.5  # salient: from this share of the photo's largest saliency on; author code (guided labelling)
    smallest: float = 0.01  # salient pieces under this share of the photo are left out; author code (guided labelling)
    split: float = 0.5  # activation over this, in 0..1, is a seed; seeds split salient pieces (0: do not); ours
    attend: str = "box"  # the attention of an instance is the mean over its box or its mask; paper (mask: ours)
    feature_crop: int = 128  # instances are warped to a square of this side in pixels to be compared; ours
    feature_width: int = 128  # numbers that describe an instance; ours (not published)
    single_epochs: float = 5.0  # epochs of the feature network on photos with one tag first, 0 = not; ours
    feature_epochs: float = 5.0  # its epochs on all; ours (not published)
    feature_rate: float = 1e-3  # its learning rate; ours (not published)
    feature_batch: int = 32  # instances in its training step; ours (not published)
    pull: float = 0.1  # weight of the centre loss; ours (not published)
    move: float = 0.5  # how far a step moves the centres, in 0..1; ours (not published)
    cosine: bool = True  # distance to centres: by the cosine, else Euclid's; paper
    graph: bool = True  # instances that look alike agree; without, attention alone decides; paper
    neighbours: int = 5  # an instance is joined to so many that are most like it; ours (not published)
    mutual: bool = False  # only where both are among the neighbours of the other; ours (not published)
    lam: float = 30.0  # weight of attention beside the graph, 0 = none (without both: lots); paper
    rescale: bool = False  # multiply it by the mean degree of the graph over 5; ours
    keep: float = 0.8  # share of the instances that get a tag, the rest is noise (1: no noise); ours (not published)
    solver: str = "milp"  # milp (the best answer) or icm (a good one, sooner); paper (CPLEX; icm: ours)
    seconds: float = 60.0  # after so many the best answer so far is taken, for each group; ours
    group: int = 400  # instances that are assigned together; paper
    grouping: str = "alike"  # such groups are of what looks alike (alike) or by lot (shuffled); ours (paper: by lot)
    missed: bool = True  # where a tag has no instance, what none covers is unknown, not background; ours
    output_stride: int = 8  # pixels a cell of the networks' grid; paper (DeepLab v2)
    segmenter: str = "deeplab-v2"  # deeplab-v1, deeplab-v2 or deeplab-v3; paper
    rounds: int = 1  # segmenters trained in turn, each on the masks of the one before; paper
    epochs: float = 18.9  # epochs of each segmenter; recalled (DeepLab v2: 20 000 steps of 10)
    rate: float = 2.5e-4  # learning rate of the segmenter; recalled (DeepLab v2)
    head_rate: float = 10.0  # new layers, the feature network's too, learn so many times as fast; recalled (DeepLab v2)
    crop: int = 321  # side of the segmenter's training crops in pixels; recalled (DeepLab v2)
    zoom: tuple[float, float] = (0.5, 1.5)  # range of the random scale of training photos; recalled (DeepLab v2)
    width: int = 1024  # channels of the segmenter's head; recalled (DeepLab v2 on VGG16)
    batch: int = 10  # photos in a training step; recalled (DeepLab v2)
    test_scales: tuple[float, ...] = (0.75, 1.0, 1.25)  # scales at which the segmenter looks at a photo; recalled
    test_flip: bool = False  # let the segmenter look at the mirror image too; ours
    test_crf: bool = True  # sharpen the segmenter's predictions with a CRF; recalled (DeepLab v2)

    def __post_init__(self) -> None:
        checked_source(self.saliency)
        checked_instances(self.instances)
        checked_area(self.attend)
        rule_of(self)
        for name in ("threshold", "salient", "smallest", "split", "move"):
            if getattr(self, name) > 1:
                raise OptionError(f"{name} is {getattr(self, name)}; expected a number in 0..1.")
        for name in ("salient", "feature_crop", "feature_width", "feature_epochs", "feature_rate", "feature_batch"):
            if not getattr(self, name):
                raise OptionError(f"{name} is 0; expected a positive number.")


def run(data: Dataset, work: Work, options: Options) -> Outcome:
    """Cut out instances, attend to them, learn what they look like, assign tags over all photos, paint, segment."""
    rule = rule_of(options)
    learning: dict[str, Any] = {
        "classes": len(data.classes) - 1, "width": options.feature_width, "side": options.feature_crop,
        "pull": options.pull, "move": options.move, "cosine": options.cosine, "seed": work.seed,
    }  # fmt: skip

    begun = begin(work, data, options)
    saliency = saliency_maps(work, data.train, options.saliency) if options.instances == SALIENCY else None
    instances = salient_instances(
        work, data.train, options.instances, saliency, begun.activation,
        salient=options.salient, smallest=options.smallest, split=options.split,
    )  # fmt: skip
    attention = work.each("attention", attended, instances, begun.activation, over=options.attend)
    features = None
    if options.graph:
        inputs = (data.train, attention, replace(work.backbone, output_stride=options.output_stride))
        schedule = partial(
            Schedule, batch=options.feature_batch, rate=options.feature_rate, head_rate=options.head_rate
        )
        first = None if not options.single_epochs else work.once(
            "features-single", fit_embedding, *inputs, None, single=True,
            schedule=schedule(options.single_epochs), **learning,
        )  # fmt: skip
        network = work.once(
            "features", fit_embedding, *inputs, first, single=False,
            schedule=schedule(options.feature_epochs), **learning,
        )  # fmt: skip
        features = work.each("embedded", embedded, network, data.train, attention, side=options.feature_crop)
    seen = Assigned(work.once("by-attention", assign_tags, attention, None, rule=ATTENTION_ALONE, seed=work.seed))
    assigned = Assigned(work.once("assigned", assign_tags, attention, features, rule=rule, seed=work.seed))
    steps: dict[str, PerImage[LabelMap]] = {
        "thresholded activation": begun.seeds,
        "attention only": work.each("attention-only", painted, instances, attention, seen, missed=options.missed),
        "assigned": work.each("painted", painted, instances, attention, assigned, missed=options.missed),
    }
    end = retrain(work, data, steps["assigned"], options, crf=DEEPLAB_V2_CRF)
    return Outcome(
        masks=end.masks, segmenter=end.segmenter, activation=begun.activation, seeds=steps["assigned"],
        threshold=begun.chosen, steps={**steps, **end.steps}, predict=end.predict,
        instances=work.each("tagged", tagged, instances, attention, assigned), saliency=saliency,
        supervision=instances_supervision(options.instances, options.saliency),
    )  # fmt: skip
