"""DSRG - cues grow, while the network learns from them, over all that it is sure of and that touches them.

Huang, Wang, Wang, Liu, Wang. CVPR 2018. https://doi.org/10.1109/CVPR.2018.00733
Extra supervision   none
Run                 tagmask run dsrg photos/
Expect              the row `dsrg` of docs/results.md
"""

from __future__ import annotations

from dataclasses import dataclass

from tagmask.begin import begin
from tagmask.errors import OptionError
from tagmask.growing import checked_growing, grid_cues, on_grid, segment_from_cues
from tagmask.outcome import Outcome
from tagmask.saliency import checked_source, saliency_maps, supervision_of
from tagmask.seed import foreground_cues, strongest_cues
from tagmask.types import Activation, Dataset, LabelMap, Saliency
from tagmask.work import Work


@dataclass(frozen=True)
class Options:
    """Every choice of the recipe: what it is, and after the semicolon where its value comes from."""

    tag_epochs: float = 5.0  # epochs of the classifier; author code (irn)
    tag_rate: float = 0.01  # learning rate of the classifier; ours (as cam)
    tag_crop: int = 321  # side of the classifier's training crops in pixels; recalled
    balance: bool = False  # weigh the yes and no of each tag by how rare they are; ours
    scales: tuple[float, ...] = (1.0,)  # scales of the photo at which activations are summed; recalled
    flip: bool = False  # sum the activations of the mirror image too; recalled
    threshold: float = 0.2  # object cues: above this share of a map's maximum, 0 = choose it without masks; recalled
    top: float = 0.0  # object cues: this share of the cells where a map is strongest instead, 0 = not; source (0.2)
    saliency: str = "rbd"  # background cues by: mbd, rbd or a folder (docs/data.md); ours (paper: DRFI)
    background: float = 0.06  # background cues: what is less salient, in 0..1; paper
    size: int = 321  # photos are warped to a square of this side in pixels for the growing network; author code
    mirror: bool = True  # show it mirror images too; author code
    grow_stride: int = 8  # pixels a cell of its grid; author code (321 becomes 41)
    grow_epochs: float = 15.1  # its epochs; author code (8000 steps of 20 over 10 582 photos)
    grow_rate: float = 5e-4  # its learning rate; author code
    grow_policy: str = "step"  # how it falls: step (to 0.33 of it after each eighth) or poly (to nothing); author code
    grow_batch: int = 20  # photos in a training step of it; author code
    growing: bool = True  # let the cues grow; paper
    balanced: bool = True  # background and objects have a mean of their own in the seed loss; paper
    unary: str = "prob"  # its CRF starts from probabilities (prob) or their logarithm (logprob); author code
    grow_background: float = 0.99  # how sure of the background it must be for cues to grow, in 0..1; author code
    grow_object: float = 0.85  # how sure of an object, in 0..1; author code
    override_cues: bool = False  # what it is sure of counts also at cues, for the paths of growth; paper (code: True)
    first_epoch: bool = True  # show the grown cues after its first epoch too, which is then trained twice; ours
    go_on: bool = True  # the first segmenter goes on from the growing network; author code
    output_stride: int = 8  # pixels a cell of the classifier's and the segmenters' grid; author code
    segmenter: str = "deeplab-v2"  # deeplab-v1, deeplab-v2 or deeplab-v3; paper (ASPP)
    rounds: int = 1  # segmenters trained in turn after the growing one, each on the masks before; paper
    epochs: float = 18.9  # epochs of each segmenter; author code (20 000 steps of 10)
    rate: float = 1e-3  # learning rate of the segmenter; author code
    head_rate: float = 10.0  # its new layers learn so many times as fast; author code
    crop: int = 321  # side of the segmenter's training crops in pixels; author code
    zoom: tuple[float, float] = (1.0, 1.0)  # range of the random scale of training photos; author code
    width: int = 1024  # channels of the heads of the growing network and the segmenter; author code
    batch: int = 10  # photos in a training step of the classifier and the segmenter; author code
    test_scales: tuple[float, ...] = (0.75, 1.0, 1.25)  # scales at which the segmenter looks at a photo; author code
    test_flip: bool = False  # let the segmenter look at the mirror image too; author code
    test_crf: bool = True  # sharpen the segmenter's predictions with a CRF; author code

    def __post_init__(self) -> None:
        checked_source(self.saliency)
        checked_growing(self)
        if not (self.threshold < 1 and self.top <= 1):
            raise OptionError(
                f"threshold is {self.threshold} and top {self.top}; expected below 1, and a number up to 1."
            )


def run(data: Dataset, work: Work, options: Options) -> Outcome:
    """Classify, take cues from activations and saliency, train while they grow, relabel, segment."""
    begun = begin(work, data, options)
    saliency = saliency_maps(work, data.train, options.saliency)
    cues = work.each(
        "cues", cues_of, begun.activation, saliency, begun.chosen["threshold"],
        side=-(-options.size // options.grow_stride), top=options.top, background=options.background,
    )  # fmt: skip
    grown = segment_from_cues(work, data, cues, options)
    return Outcome(
        masks=grown.end.masks, segmenter=grown.end.segmenter, activation=begun.activation, seeds=cues,
        threshold=begun.chosen, steps={"thresholded activation": begun.seeds, **grown.steps}, val_steps=grown.val_steps,
        predict=grown.end.predict, saliency=saliency, supervision=supervision_of(options.saliency),
    )  # fmt: skip


def cues_of(
    activation: Activation, saliency: Saliency, threshold: float, *, side: int, top: float, background: float
) -> LabelMap:
    """Return the cues of one photo on a grid of ``side`` cells a side."""
    maps, classes = on_grid(activation.maps, side), activation.classes
    foreground = strongest_cues(maps, top) if top else foreground_cues(maps, classes, fraction=threshold)
    return grid_cues(foreground, maps, classes, on_grid(saliency.unit[None], side)[0], background=background)
