"""FickleNet - a classifier that sees other cells by chance at every look finds, over many looks, more than the telling parts.

Lee, Kim, Lee, Lee, Yoon. CVPR 2019. https://arxiv.org/abs/1902.10421
Extra supervision   none
Run                 tagmask run ficklenet photos/
Expect              the row `ficklenet` of docs/results.md
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tagmask.data.photos import PerImage
from tagmask.errors import OptionError
from tagmask.fickle import fickle_maps, fit_fickle
from tagmask.fit import Schedule
from tagmask.growing import checked_growing, grid_cues, on_grid, segment_from_cues
from tagmask.label import threshold_labels
from tagmask.outcome import Outcome
from tagmask.saliency import checked_source, saliency_maps, supervision_of
from tagmask.seed import claimed_cues, strongest_cues
from tagmask.threshold import choose_threshold
from tagmask.types import Activation, Dataset, LabelMap, Saliency
from tagmask.work import Work


@dataclass(frozen=True)
class Options:
    """Every choice of the recipe: what it is, and after the semicolon where its value comes from."""

    tag_epochs: float = 30.0  # epochs of the classifier; ours (not published)
    tag_rate: float = 0.01  # its learning rate, halved after each third; ours (SGD; recalled: Adam with 1e-3)
    tag_crop: int = 321  # side of its training crops in pixels; recalled
    tag_stride: int = 8  # pixels a cell of its grid; recalled (321 becomes 41)
    kernel: int = 9  # cells a side of the window in which it chooses by chance, odd; recalled
    dropout: float = 0.9  # probability that a window does not see one of its cells, in 0..1; recalled
    keep_centre: bool = True  # a window always sees its centre; paper
    looks: int = 200  # looks at each photo; source
    gather: str = "mean"  # the localisation map that is shown: the mean of all looks or the highest; ours
    theta: float = 0.35  # a tag claims a cell where one look's map exceeds this, in 0..1; recalled
    top: float = 0.0  # object cues: this share of the cells where a mean map is strongest instead, 0 = not; ours (dsrg)
    threshold: float = 0.0  # threshold of the maps shown in 0..1, 0: choose it without masks; ours
    saliency: str = "rbd"  # background cues by: mbd, rbd or a folder (docs/data.md); ours (paper: DRFI)
    background: float = 0.06  # background cues: what is less salient, in 0..1; recalled
    size: int = 321  # photos are warped to a square of this side for looks and for the growing network; author code
    mirror: bool = True  # show the growing network mirror images too; author code (dsrg)
    grow_stride: int = 8  # pixels a cell of its grid; author code (dsrg)
    grow_epochs: float = 15.1  # its epochs; author code (dsrg: 8000 steps of 20 over 10 582 photos)
    grow_rate: float = 5e-4  # its learning rate; author code (dsrg)
    grow_policy: str = "step"  # how it falls: step (to 0.33 of it after each eighth) or poly; author code (dsrg)
    grow_batch: int = 20  # photos in a training step of it; author code (dsrg)
    growing: bool = True  # let the cues grow; paper
    balanced: bool = True  # background and objects have a mean of their own in the seed loss; paper
    unary: str = "prob"  # its CRF starts from probabilities (prob) or their logarithm (logprob); author code (dsrg)
    grow_background: float = 0.99  # how sure of the background it must be for cues to grow, in 0..1; author code (dsrg)
    grow_object: float = 0.85  # how sure of an object, in 0..1; author code (dsrg)
    override_cues: bool = False  # what it is sure of counts also at cues, for the paths of growth; paper (code: True)
    first_epoch: bool = True  # show the grown cues after its first epoch too, which is then trained twice; ours
    go_on: bool = True  # the first segmenter goes on from the growing network; author code (dsrg)
    output_stride: int = 8  # pixels a cell of the segmenters' grid; author code (dsrg)
    segmenter: str = "deeplab-v2"  # deeplab-v1, deeplab-v2 or deeplab-v3; paper
    rounds: int = 1  # segmenters trained in turn after the growing one, each on the masks before; recalled
    epochs: float = 18.9  # epochs of each segmenter; author code (dsrg: 20 000 steps of 10)
    rate: float = 1e-3  # learning rate of the segmenter; author code (dsrg)
    head_rate: float = 10.0  # its new layers learn so many times as fast; author code (dsrg)
    crop: int = 321  # side of the segmenter's training crops in pixels; author code (dsrg)
    zoom: tuple[float, float] = (1.0, 1.0)  # range of the random scale of training photos; author code (dsrg)
    width: int = 1024  # channels of the heads of the growing network and the segmenter; author code (dsrg)
    batch: int = 10  # photos in a training step of the classifier and the segmenter; recalled
    test_scales: tuple[float, ...] = (0.75, 1.0, 1.25)  # scales at which the segmenter sees a photo; author code (dsrg)
    test_flip: bool = False  # let the segmenter look at the mirror image too; author code (dsrg)
    test_crf: bool = True  # sharpen the segmenter's predictions with a CRF; author code (dsrg)

    def __post_init__(self) -> None:
        checked_source(self.saliency)
        checked_growing(self)
        if self.kernel % 2 == 0 or self.looks < 1:
            raise OptionError(f"kernel is {self.kernel} and looks {self.looks}; expected an odd number, 1 or more.")
        if not (self.dropout < 1 and self.theta < 1 and self.threshold <= 1 and self.top <= 1):
            numbers = f"dropout is {self.dropout}, theta {self.theta}, threshold {self.threshold} and top {self.top}"
            raise OptionError(f"{numbers}; expected numbers in 0..1, below 1 for the first two.")
        if self.gather not in ("mean", "highest"):
            raise OptionError(f"gather is {self.gather!r}; expected mean or highest.")


def run(data: Dataset, work: Work, options: Options) -> Outcome:
    """Train the fickle classifier, look often, take cues from all looks, then go on as DSRG does."""
    schedule = Schedule(
        options.tag_epochs, options.batch, options.tag_rate, policy="step", drops=2, drop_by=0.5,  # recalled
        head_rate=10 / options.kernel**2,  # its weights of one class move together, as one of a plain classifier  # ours
    )  # fmt: skip
    network = work.once(
        "classifier", fit_fickle, data.train, replace(work.backbone, output_stride=options.tag_stride),
        classes=len(data.classes) - 1, crop=options.tag_crop, kernel=options.kernel, dropout=options.dropout,
        keep_centre=options.keep_centre, schedule=schedule, seed=work.seed,
    )  # fmt: skip
    looking = {"size": options.size, "seed": work.seed, "looks": options.looks}
    plain = work.each("plain-activation", fickle_maps, network, data.train, size=options.size, looks=0)
    mean, highest = (
        work.each(f"{how}-activation", fickle_maps, network, data.train, **looking, gather=how)
        for how in ("mean", "highest")
    )
    shown = mean if options.gather == "mean" else highest
    steps: dict[str, PerImage[LabelMap]] = {}
    for step, maps in {"plain CAM": plain, "localisation map": shown}.items():
        folder = step.partition(" ")[0]
        chosen = work.once(f"{folder}-threshold", choose_threshold, data.train, maps, fixed=options.threshold)
        steps[step] = work.each(f"{folder}-labels", threshold_labels, maps, chosen["threshold"])
    saliency = saliency_maps(work, data.train, options.saliency)
    cues = work.each(
        "cues", cues_of, highest, mean, saliency,
        side=-(-options.size // options.grow_stride), theta=options.theta, top=options.top, background=options.background,
    )  # fmt: skip
    grown = segment_from_cues(work, data, cues, options)
    return Outcome(
        masks=grown.end.masks, segmenter=grown.end.segmenter, activation=shown, seeds=cues, threshold=chosen,
        steps={**steps, **grown.steps}, val_steps=grown.val_steps, predict=grown.end.predict,
        saliency=saliency, supervision=supervision_of(options.saliency),
    )  # fmt: skip


def cues_of(
    highest: Activation, mean: Activation, saliency: Saliency, *, side: int, theta: float, top: float, background: float
) -> LabelMap:
    """Return the cues of one photo on a grid of ``side`` cells a side."""
    maps = on_grid(mean.maps, side)
    foreground = strongest_cues(maps, top) if top else claimed_cues(on_grid(highest.maps, side), maps, theta)
    return grid_cues(foreground, maps, mean.classes, on_grid(saliency.unit[None], side)[0], background=background)
