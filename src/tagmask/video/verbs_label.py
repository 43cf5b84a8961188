"""`tagmask fit-video` and `tagmask label-video`: their flags."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from tagmask.flags import Verb, option_flags, training_choice, training_flags
from tagmask.registry import options_in

CUT = 0.35  # as in ``label``, which imports torch


def add_verbs(verb: Verb) -> None:
    """Register both verbs."""
    fit = verb("fit-video", _fit, "Train a network that labels the frames of a video, on frames with masks.")
    fit.add_argument("data", type=Path, metavar="DATA", help="frames with masks, as any data set (see docs/video.md)")
    fit.add_argument("--train-split", default="train", help="the split to learn from (train; all where there is none)")
    fit.add_argument("--val-split", default="val", help="the split to validate on, never learned from (val)")
    fit.add_argument("--limit", type=int, help="take only so many frames of each, for a first try")
    fit.add_argument(
        "--method",
        default="stt",
        help="stt: each frame looks back at those before it; frame: it is labelled alone (stt)",
    )
    fit.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder for the network")
    training_flags(fit)
    source = Path(__file__).with_name("fit_video.py").read_text(encoding="utf-8")
    option_flags(fit.add_argument_group("options of the network and its training"), options_in(source))
    label = verb("label-video", _label, "Label the frames of a clip with a network that `fit-video` trained.")
    label.add_argument("clip", type=Path, metavar="CLIP", help="a video file or a folder of frames")
    label.add_argument("--model", type=Path, required=True, metavar="RUN", help="the folder of `fit-video --out`")
    label.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the masks and the overlay")
    label.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (auto)")
    label.add_argument(
        "--longest", type=int, help="longest side at which a frame is looked at; 0: its own (as trained)"
    )
    label.add_argument(
        "--cut", type=float, default=CUT, help=f"share of the pixels that change colour at a cut, 1: no cuts ({CUT})"
    )
    label.add_argument("--looking", default="float32", help="numbers of the trunk: float32 or bfloat16 (float32)")
    label.add_argument(
        "--overlay", action=argparse.BooleanOptionalAction, default=True, help="write the clip with its labels over it"
    )
    label.add_argument("--quiet", action="store_true", help="say nothing but errors")


def _fit(given: argparse.Namespace) -> None:
    from tagmask.data import load_data
    from tagmask.nets.backbones import Backbone
    from tagmask.video.fit_video import fit_video

    data = load_data(given.data, train_split=given.train_split, val_split=given.val_split, limit=given.limit)
    chosen = training_choice(given)
    done = fit_video(
        data, given.out, method=given.method, backbone=Backbone(**chosen.pop("backbone")),
        command=shlex.join(["tagmask", *given.words]), **chosen,
    )  # fmt: skip
    print(done.verdict())


def _label(given: argparse.Namespace) -> None:
    from tagmask.video.label_clip import OVERLAY, label_clip

    count = label_clip(
        given.clip, given.model, given.out, device=given.device, longest=given.longest, cut=given.cut,
        looking=given.looking, draw=given.overlay, quiet=given.quiet,
    )  # fmt: skip
    print(f"masks    {given.out / 'masks'} ({count} frames)")
    if given.overlay:
        print(f"overlay  {given.out / OVERLAY}")
