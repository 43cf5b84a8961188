"""Train the network that follows objects: on static photos with masks, and then on clips where there are any."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tagmask.classify import mean_colour
from tagmask.data.novel import guarded
from tagmask.data.photos import PerImage, Photos, Truth
from tagmask.errors import DataError, OptionError, RunError, did_you_mean
from tagmask.files import read_json
from tagmask.fit import Examples, Schedule, fit
from tagmask.keys import plain
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.storage import DESCRIPTION, save_network
from tagmask.nets.tracker import TrackerNet
from tagmask.runs import LONGEST, choose_device, known_options, open_work
from tagmask.types import Dataset, LabelMap
from tagmask.video.track import Tracker, load_tracker
from tagmask.video.tracking_loss import tracking_loss
from tagmask.video.triplets import ClipTriplets, PhotoTriplets
from tagmask.work import Job, Work

METHOD = "fit-tracker"
REVISION = 2
OPTIMIZERS = ("adam", "sgd")


@dataclass(frozen=True)
class Options:
    """Every choice of the tracker: what it is, and after the semicolon where its value comes from."""

    clips: bool = False  # the photos are frames of clips, one folder each, and ids of masks are objects; ours
    epochs: float = 48.0  # epochs of the training, over photos or frames; source (6000 steps of 8, of 1000 photos)
    batch: int = 8  # triplets of frames in one of its steps; source
    rate: float = 1e-4  # learning rate of the backbone; source
    head_rate: float = 10.0  # times as fast learns what is not of the backbone; source
    optimizer: str = "adam"  # adam, or sgd, which diverges at much higher rates than adam's; source
    output_stride: int = 16  # input over feature resolution of the backbone; source
    size: tuple[int, int] = (240, 432)  # height and width at which frames are looked at; source (half of the published)
    stride: int = 8  # pixels a cell on which frames are matched, 4, 8 or 16; paper (RANet: 16, of twice the size)
    embed: int = 64  # channels of the embedding, no more than half the rows of a template; source
    width: int = 32  # channels of the decoder; source
    isometric: bool = True  # bound the singular values of the template, once a clip; source
    eps: float = 0.0  # how far they stay apart: between 1 / (1 + eps) and 1 + eps; ours (source: not published)
    gain: float = 20.0  # how far a weak direction of the template is amplified at most, 1e9: as far as it takes; source
    local: int = 4  # cells that the local correlation reaches into the frame before, 0: none; source
    centre: bool = True  # let pixels point to the centre of their object; source
    select: str = "none"  # none: read all rows of the template; rank: the best ones, by ranking attention; source
    keep: int = 256  # maps that ranking attention keeps of the object and of the background; paper (RANet)
    previous: bool = True  # show the decoder the mask before; paper (RANet)
    pair: float = 0.3  # how often two objects of a photo are followed at once, in 0..1; ours
    motion: float = 0.2  # how much of a whole random warp lies between a frame and the one before; ours (RANet: 1)
    gap: int = 5  # frames that the one before lies back at most, in clips; paper (RANet)

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            hint = did_you_mean(self.optimizer, OPTIMIZERS)
            raise OptionError(f"optimizer is {self.optimizer!r}{hint}; expected one of {', '.join(OPTIMIZERS)}.")
        for name in ("batch", "embed", "width", "keep", "gap"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} is {getattr(self, name)}; expected a positive number, 1 or more.")
        for name in ("epochs", "rate"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} is {getattr(self, name)}; expected a positive number.")
        for name in ("head_rate", "eps", "local"):
            if getattr(self, name) < 0:
                raise OptionError(f"{name} is {getattr(self, name)}; expected no negative number.")
        if self.gain < 1:
            raise OptionError(f"gain is {self.gain}; expected 1 or more (20 caps weak directions, 1e9 caps none).")
        for name in ("pair", "motion"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{name} is {getattr(self, name)}; expected a number from 0 to 1.")


SHAPE = (
    "size",
    "stride",
    "embed",
    "width",
    "isometric",
    "eps",
    "gain",
    "local",
    "centre",
    "select",
    "keep",
    "previous",
)


def fit_tracker(
    data: Dataset,
    out: str | Path,
    *,
    options: Options | None = None,
    backbone: Backbone | None = None,
    start: str | Path | None = None,
    store: str | Path | None = None,
    device: str = "auto",
    precision: str = "32-true",
    seed: int = 0,
    longest: int = LONGEST,
    quiet: bool = False,
    command: str = "",
    **changes: Any,
) -> Tracker:
    """Train a tracker on the photos (or, with ``clips=True``, the frames) of ``data`` that have a mask; leave it in ``out``.

    ``start`` is the folder of an earlier tracker to go on from, whose shape stays. ``options`` may be given field by field.
    Masks of novel classes teach nothing (see ``data.novel``). A run that was interrupted goes on where it stopped when it is
    called again. Raises OptionError for unknown and impossible options, DataError where there is no mask, RunError for a
    folder that holds something else.
    """
    options = replace(options or Options(), **known_options(METHOD, Options, changes))
    seen = guarded(data, "masks of the base classes" if data.novel else "masks").train
    samples = [sample for sample in seen if sample.mask is not None]
    if not samples:
        raise DataError(f"{data.root}: none of the {len(data.train)} images to learn from has a mask; give masks/.")
    device = choose_device(device)
    backbone = replace(backbone or Backbone(), output_stride=options.output_stride)
    work, _ = open_work(
        METHOD, data, out, options, backbone=backbone, store=store, device=device, precision=precision, seed=seed,
        longest=longest, quiet=quiet, command=command or "tagmask.fit_tracker(...)",
        start=None if start is None else str(Path(start).resolve()),
    )  # fmt: skip
    earlier = () if start is None else (_earlier(work, Path(start), options),)
    shape = {name: getattr(options, name) for name in SHAPE}
    network = work.once(
        "tracker", train_tracker, work.photos(samples), Truth(samples, len(data.classes), longest), backbone, *earlier,
        shape=shape, schedule=Schedule(options.epochs, options.batch, options.rate, head_rate=options.head_rate),
        adam=options.optimizer == "adam", clips=options.clips, pair=options.pair, motion=options.motion, gap=options.gap,
        seed=seed,
    )  # fmt: skip
    save_network(network, work.out, extra={"data": data.root.name, "options": plain(asdict(options)), "seed": seed})
    return load_tracker(work.out, device=device)


def train_tracker(
    photos: Photos,
    truth: PerImage[LabelMap],
    backbone: Backbone,
    start: TrackerNet | None = None,
    *,
    shape: Mapping[str, Any],
    schedule: Schedule,
    adam: bool,
    clips: bool,
    pair: float,
    motion: float,
    gap: int,
    seed: int,
    job: Job,
) -> TrackerNet:
    """Train a tracker of that ``shape`` (or go on from ``start``) on triplets of frames, of photos or of ``clips``."""
    torch.manual_seed(seed)
    network = TrackerNet(build_backbone(backbone), **shape) if start is None else copy.deepcopy(start)
    fill = mean_colour(network)
    examples: Examples = (
        ClipTriplets(photos, truth, network.size, fill, gap=gap)
        if clips
        else PhotoTriplets(photos, truth, network.size, fill, motion=motion, pair=pair)
    )
    return fit(network, examples, tracking_loss, schedule, seed=seed, job=job, adam=adam)


def opened_tracker(*, folder: str, sha256: str) -> TrackerNet:
    """Return the tracker kept in ``folder``; raises RunError for any other network."""
    return load_tracker(folder).network


def _earlier(work: Work, folder: Path, options: Options) -> TrackerNet:
    """Return the tracker to go on from; options that want it of another shape are refused."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise RunError(f"{folder}: holds no tracker to start from; expected the folder of `tagmask fit-tracker --out`.")
    network = work.once(
        "start", opened_tracker, folder=str(folder.resolve()), sha256=str(read_json(path).get("sha256"))
    )
    usual = Options()
    for name in SHAPE:
        wanted, has = getattr(options, name), network.options[name]
        if wanted != getattr(usual, name) and plain(wanted) != plain(has):
            raise OptionError(f"{name} is {wanted}, the tracker to start from has {has}; leave it out, or start anew.")
    return network
