"""Train a network that labels the frames of a video: an image network, then one that looks back.

Li, Wang, Chen, Niu, Si, Qian, Zhang. STT. ACM MM 2021. https://doi.org/10.1145/3474085.3475409
Labels of single frames are enough: clips are made of them (see ``pseudo``), or taken from photos that follow on each other.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tagmask.data.photos import Photos, Truth
from tagmask.errors import DataError, OptionError, did_you_mean
from tagmask.files import write_json
from tagmask.fit import Schedule
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.storage import save_network
from tagmask.nets.temporal import TemporalSegmenter
from tagmask.runs import choose_device, known_options, open_work
from tagmask.types import Dataset
from tagmask.video.clips import encode_clips, find_movers
from tagmask.video.label import VideoRun, score_frames
from tagmask.video.learn import fit_image, fit_settled, fit_temporal
from tagmask.video.pseudo import Motion
from tagmask.video.scenes import class_names, count_labels, labelled, sequences
from tagmask.work import Work

METHODS = ("stt", "frame")
LONGEST = 640  # pixels: larger frames are worked on at this longest side, as photos are  # ours


@dataclass(frozen=True)
class Options:
    """Every choice: what it is, and after the semicolon where its value comes from."""

    network: str = "pspnet"  # pspnet or bisenet; paper
    output_stride: int = 16  # pixels a cell of the backbone's last map; source (papers: 8 pspnet, 32 bisenet)
    channels: int = 128  # channels of the map between encoder and decoder, 0: as published (pspnet); source
    hidden: int = 64  # channels inside the decoder; source (paper: 256 with a ResNet-18)
    skip: int = 16  # channels of a finer map that the decoder sees, 0: none, as published; ours
    detail: int = 64  # channels of bisenet's detail path; ours
    epochs: float = 60.0  # epochs of the image network; ours
    rate: float = 0.005  # learning rate of its backbone; ours, by the training loss on 30 frames of CamVid
    head_rate: float = 10.0  # what is new learns so many times as fast; author code (PSPNet)
    batch: int = 16  # frames, or clips, in a training step; source
    crop: tuple[int, int] = (288, 384)  # height and width of training views and clips in pixels; source
    zoom: tuple[float, float] = (0.5, 2.0)  # range of the random scale of training views; source
    jitter: float = 0.3  # brightness, contrast and saturation change by up to this share; ours
    auxiliary: float = 0.4  # weight of the loss of inner maps; author code (PSPNet)
    frames: int = 7  # frames before that a frame reads from; paper (derived from its numbers of keys)
    start: int = 1  # cells to each side in which it looks for keys in the nearest of them; paper
    end: int = 5  # and in the oldest ones; paper
    growth: int = 1  # by how many cells this grows with each frame back; paper
    share: float = 0.5  # share of a frame's cells that ask; paper
    choice: str = "top"  # which: the most dissimilar (top), random or lowest; paper
    radius: int = 5  # cells to each side with which a cell is compared for that; paper
    scale: str = "unit"  # of these products: unit (cosine over 0.1), root (over root D), none (the paper's); ours
    heads: int = 4  # heads of the attention; ours
    reduction: int = 4  # channels of keys are those of the map over this; paper
    layer_norm: str = "pre"  # pre, or post as in the paper's figure; ours
    position: bool = False  # learn a bias for each place of a key; ours (paper: none)
    settled: bool = True  # the encoder learns no more while the rest learns to look back; ours (paper: all learns)
    clips: int = 1500  # clips drawn and encoded once for that; about 1 MB each on disk; ours
    clip_epochs: float = 8.0  # how often each is seen (not settled: how many clips are drawn of each photo); ours
    clip_rate: float = 0.01  # learning rate of the encoder then, the rest head_rate times that; ours, as rate
    drop: float = 0.5  # share of clips of which fewer frames before are seen, down to none; ours
    real: float = 0.5  # share of clips that are frames which follow on each other, by their names; source (video_data)
    movers: tuple[str, ...] = ("car", "pedestrian", "person", "bicyclist", "cyclist", "rider")  # pasted classes; source
    objects: int = 3  # objects pasted into a clip, at most; source
    forward: float = 0.012  # growth of what a pseudo-clip shows, a frame; source
    shift: float = 3.0  # pixels by which a pseudo-clip moves, a frame; source
    extra: bool = False  # frame: learn on from the clips that stt has, without looking back, to compare; source

    def __post_init__(self) -> None:
        if len(self.crop) != 2 or min(self.crop) < 32:
            raise OptionError(f"crop is {self.crop}; expected a height and a width of 32 pixels or more.")
        if len(self.zoom) != 2 or self.zoom[0] > self.zoom[1] or self.zoom[0] <= 0:
            raise OptionError(f"zoom is {self.zoom}; expected the least and the largest scale, above 0.")
        for name in ("drop", "real", "jitter"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{name} is {getattr(self, name)}; expected a share, 0 to 1.")
        if self.batch < 2:
            raise OptionError(f"batch is {self.batch}; the networks normalise over the batch, give 2 or more.")
        if self.frames < 1 or (self.settled and self.clips < 1):
            raise OptionError(
                f"frames is {self.frames} and clips {self.clips}; expected 1 or more (method frame has none)."
            )


ARCHITECTURE = ("network", "channels", "hidden", "skip", "detail")
ATTENTION = (
    "frames", "start", "end", "growth", "share", "choice", "radius", "scale", "heads", "reduction", "layer_norm", "position",
)  # fmt: skip


def fit_video(
    data: Dataset,
    out: str | Path,
    *,
    method: str = "stt",
    options: Options | None = None,
    backbone: Backbone | None = None,
    store: str | Path | None = None,
    device: str = "auto",
    precision: str = "32-true",
    seed: int = 0,
    longest: int = LONGEST,
    quiet: bool = False,
    command: str = "",
    **changes: Any,
) -> VideoRun:
    """Train on the frames of ``data`` that have masks, and leave the network and its scores in the folder ``out``.

    ``method`` "stt" looks back, "frame" labels each frame alone. Single fields of ``options`` may be given by name. A call
    that was interrupted goes on where it stopped; ``store`` shares finished stages. Raises OptionError for an unknown
    method or option, DataError where the data cannot be used.
    """
    if method not in METHODS:
        raise OptionError(
            f"method {method!r} is not known{did_you_mean(method, METHODS)}; expected {', '.join(METHODS)}."
        )
    options = replace(options or Options(), **known_options("fit-video", Options, changes))
    device, classes = choose_device(device), class_names(data)
    train, val = labelled(data, data.train_split), labelled(data, data.val_split)
    if not train:
        raise DataError(
            f"{data.root}: no frame of {data.train_split!r} has a mask; to label frames, some must be labelled."
        )
    backbone = replace(backbone or Backbone(), output_stride=options.output_stride)
    build_network(backbone, len(classes), options, options.frames)  # refuses impossible options before anything is kept
    work, settings = open_work(
        f"fit-video {method}", data, out, options, backbone=backbone, store=store, device=device, precision=precision,
        seed=seed, longest=longest, quiet=quiet, command=command or f"tagmask.fit_video(..., method={method!r})",
        classes=list(classes), train_split=data.train_split, train_frames=len(train),
    )  # fmt: skip
    work.narrator.say(f"{method} on {data.root}: {len(train)} labelled frames of {len(classes)} classes to learn from")
    truth = Truth(train, classes=len(classes), longest=longest)
    shares = work.once("labels", count_labels, truth, classes=len(classes))["shares"]
    network = _train(work, work.photos(train), truth, classes, method, options)
    save_network(
        network, work.out, extra={"classes": list(classes), "longest": longest, "supervision": "masks of frames"}
    )
    metrics = {
        **settings, "shares": dict(zip(classes, shares, strict=True)),
        "stages": [asdict(cost) for cost in work.costs],
        "minutes": round(sum(cost.seconds for cost in work.costs) / 60, 2),
        "peak_mb": round(max(cost.peak_mb for cost in work.costs)),
    }  # fmt: skip
    done = VideoRun(work.out)
    if val:
        metrics["val"] = score_frames(done.labeller(device=device), val, work.narrator)
    write_json(work.out / "metrics.json", metrics)
    return done


def _train(
    work: Work, photos: Photos, truth: Truth, classes: tuple[str, ...], method: str, options: Options
) -> TemporalSegmenter:
    """Train the image network, and where that is not all, the one that looks back."""
    built = {name: getattr(options, name) for name in ARCHITECTURE}
    image = work.once(
        "image", fit_image, photos, truth, work.backbone, classes=len(classes), crop=options.crop, zoom=options.zoom,
        jitter=options.jitter, auxiliary=options.auxiliary, built=built, seed=work.seed,
        schedule=Schedule(options.epochs, options.batch, options.rate, head_rate=options.head_rate),
    )  # fmt: skip
    if method == "frame" and not options.extra:
        return image
    following = len(photos) - len(sequences(photos.names))
    if options.real and following:
        work.narrator.say(
            f"{following} frames follow on another, by their names, and make clips with it (else: --real 0)"
        )
    motion = Motion(zoom=options.forward, shift=options.shift, objects=options.objects)
    movers = work.once(
        "movers", find_movers, truth, classes=tuple(i for i, name in enumerate(classes) if name in options.movers)
    )
    drawn: dict[str, Any] = {
        "size": options.crop, "past": options.frames, "motion": motion, "real": options.real, "movers": movers,
    }  # fmt: skip
    how = {name: getattr(options, name) for name in ATTENTION} if method == "stt" else {"frames": 0}
    schedule = Schedule(options.clip_epochs, options.batch, options.clip_rate, head_rate=options.head_rate)
    learned: dict[str, Any] = {"attention": how, "drop": options.drop, "schedule": schedule, "seed": work.seed}
    if options.settled:
        clips = work.once("clips", encode_clips, image, photos, truth, count=options.clips, seed=work.seed, **drawn)
        return work.once("labeller", fit_settled, image, clips, **learned)
    return work.once(
        "labeller", fit_temporal, image, photos, truth, auxiliary=options.auxiliary, **drawn, **learned
    )  # fmt: skip


def build_network(backbone: Backbone, classes: int, options: Options, frames: int) -> TemporalSegmenter:
    """Build the network of these options with so many ``frames``."""
    chosen = {name: getattr(options, name) for name in (*ARCHITECTURE, *ATTENTION)}
    return TemporalSegmenter(build_backbone(backbone), classes, **{**chosen, "frames": frames})
