"""`tagmask fit-tracker` and `tagmask track`: their flags."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from tagmask.flags import Verb, data_flags, option_flags, training_choice, training_flags, verified_data
from tagmask.registry import options_in


def add_verbs(verb: Verb) -> None:
    """Register both verbs."""
    fit = verb("fit-tracker", _fit, "Train a network that follows objects, on photos with masks or on clips.")
    data_flags(fit)
    fit.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder for the tracker")
    fit.add_argument("--start", type=Path, metavar="RUN", help="a tracker to go on from (of photos, with clips)")
    training_flags(fit)
    source = Path(__file__).with_name("fit_tracker.py").read_text(encoding="utf-8")
    option_flags(fit.add_argument_group("options of the tracker"), options_in(source))
    track = verb("track", _track, "Follow objects through a clip, given their mask in its first frame.")
    track.add_argument("clip", type=Path, metavar="CLIP", help="a video file or a folder of frames")
    track.add_argument("--mask", type=Path, required=True, metavar="FIRST", help="PNG of ids: the objects in frame one")
    track.add_argument("--model", type=Path, required=True, metavar="RUN", help="the folder of a tracker")
    track.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for masks, scores and overlay")
    track.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (auto)")
    track.add_argument("--looking", default="float32", help="numbers of the trunk: float32 or bfloat16 (float32)")
    track.add_argument("--every", type=int, default=100, help="frames that an interruption costs at most (100)")
    track.add_argument(
        "--overlay", action=argparse.BooleanOptionalAction, default=True, help="write the clip with the objects over it"
    )
    track.add_argument("--quiet", action="store_true", help="say nothing but errors")


def _fit(given: argparse.Namespace) -> None:
    from tagmask.nets.backbones import Backbone
    from tagmask.runs import claim
    from tagmask.video.fit_tracker import METHOD, fit_tracker

    claim(given.out, METHOD)
    data, _ = verified_data(given, given.out)
    chosen = training_choice(given)
    fit_tracker(
        data, given.out, start=given.start, backbone=Backbone(**chosen.pop("backbone")),
        command=shlex.join(["tagmask", *given.words]), **chosen,
    )  # fmt: skip
    print(f"tracker  {given.out}\n\ntagmask track CLIP --mask FIRST.png --model {given.out} --out DIR")


def _track(given: argparse.Namespace) -> None:
    from tagmask.errors import OptionError
    from tagmask.video.track_clip import track_clip

    if given.every < 1:
        raise OptionError(f"every is {given.every}; expected 1 frame or more.")
    count = track_clip(
        given.clip, given.mask, given.model, given.out, device=given.device, looking=given.looking, every=given.every,
        overlay=given.overlay, quiet=given.quiet,
    )  # fmt: skip
    print(f"masks    {given.out / 'masks'} ({count} frames)\nscores   {given.out / 'scores.csv'}")
    if given.overlay:
        print(f"overlay  {given.out / 'overlay.mp4'}")
