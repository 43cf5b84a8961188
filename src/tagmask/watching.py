"""What a classifier makes of clips: which frames show the class, where in them, and how far the object reaches.

Hong, Yeo, Kwak, Lee, Han. Weakly Supervised Semantic Segmentation Using Web-Crawled Videos. CVPR 2017. A clip is read once,
frame by frame; a chunk of frames is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
import torch
from numpy.typing import NDArray

from tagmask.activate import highest_cam
from tagmask.augment import resize
from tagmask.data.photos import PerImage
from tagmask.errors import DataError, OptionError
from tagmask.footage import Footage, Recorder
from tagmask.nets.classifier import Classifier
from tagmask.nets.folded import as_image, folded
from tagmask.progress import Narrator
from tagmask.refine.clipcut import CutOptions, cut_frames, frames_to_keep
from tagmask.refine.shots import SHOT_CHANGE, colour_change, colour_shares
from tagmask.tagged_clips import TaggedClip, TaggedClips
from tagmask.types import Activation, Photo

FRAME, ATTENTION, MASK = "frame", "attention", "mask"  # kinds of pictures in a footage
CLIP = "{clip}"  # stands for the path of the clip in an error that is kept

Frame = NDArray[np.uint8]
Numbered = tuple[int, Frame]


@dataclass(frozen=True)
class FrameOptions:
    """Which frames of a clip are worked on.

    Every ``stride``-th is looked at, at most ``longest`` pixels a side. The class must be believed in with more than
    ``score``, no other with more than ``others``. Frames that follow on each other and pass, without a cut between them
    (``change``, see ``refine.shots``), are a run; runs of fewer than ``least`` are left out, others come in chunks of at
    most ``chunk``.
    """

    stride: int = 5
    longest: int = 320
    score: float = 0.8
    others: float = 0.8
    least: int = 5
    chunk: int = 30
    change: float = SHOT_CHANGE

    def __post_init__(self) -> None:
        if min(self.stride, self.longest, self.least, self.chunk) < 1 or self.least > self.chunk:
            raise OptionError(
                f"stride {self.stride}, size {self.longest}, least run {self.least} and chunk {self.chunk} of frames must be 1 "
                "or more, and a run must fit into a chunk."
            )
        if max(self.score, self.others, self.change) > 1:
            raise OptionError(
                f"the scores of frames are {self.score} and {self.others}, the change at a cut is {self.change}; expected "
                "numbers in 0..1."
            )


def watched(
    classifier: Classifier,
    clip: TaggedClip,
    *,
    frames: FrameOptions,
    scales: Sequence[float],
    flip: bool,
    attend: Callable[..., Activation] = highest_cam,
) -> Footage:
    """Return the frames of a clip that show its class, with the attention to it (what ``attend`` says, in 8 bits).

    Its facts are ``frames`` (how many the clip has), ``size`` (height, width of the clip), ``stride``, ``chunks`` (lists of
    the numbers of frames) and ``error``: a clip that is broken somewhere has no chunk, and says here why.
    """
    recorder, chunks, seen = Recorder(), [], _Seen()
    try:
        for chunk in chunked(_sampled(clip, frames, seen), _shows(classifier, clip.tag, frames), frames):
            for number, frame in chunk:
                found = attend(classifier, Photo(clip.name, frame, (clip.tag,)), scales=scales, flip=flip)
                recorder.add(FRAME, number, frame)
                recorder.add(ATTENTION, number, np.rint(found.maps[0] * 255).astype(np.uint8))
            chunks.append([number for number, _ in chunk])
    except DataError as error:
        recorder.drop()
        reason = str(error).replace(str(clip.clip.path), CLIP)
        facts = {"frames": 0, "size": [0, 0], "stride": frames.stride, "chunks": [], "error": reason}
        return Recorder().done(facts)
    facts = {"frames": seen.count, "size": list(seen.size), "stride": frames.stride, "chunks": chunks, "error": ""}
    return recorder.done(facts)


@dataclass
class _Seen:
    """How many frames of a clip were read, and of which size."""

    count: int = 0
    size: tuple[int, int] = (0, 0)


def _sampled(clip: TaggedClip, frames: FrameOptions, seen: _Seen) -> Iterator[Numbered]:
    """Yield every so manieth frame with its number, made smaller where it is too large."""
    for number, frame in enumerate(clip.clip):
        height, width = frame.shape[:2]
        seen.count, seen.size = number + 1, (height, width)
        if number % frames.stride:
            continue
        scale = frames.longest / max(height, width)
        if scale < 1:
            frame = resize(frame, max(1, round(height * scale)), max(1, round(width * scale)))
        yield number, frame


def _shows(classifier: Classifier, tag: int, frames: FrameOptions) -> Callable[[Frame], bool]:
    """Return what says whether a frame shows the class and, as far as is known, no other."""

    def shows(frame: Frame) -> bool:
        with torch.no_grad():
            scores = folded(classifier)(as_image(frame, classifier))[0].float().sigmoid().cpu()  # (C-1,)
        own = float(scores[tag - 1])
        scores[tag - 1] = 0
        return own > frames.score and float(scores.max()) <= frames.others

    return shows


def chunked(
    frames: Iterator[Numbered], passes: Callable[[Frame], bool], options: FrameOptions
) -> Iterator[list[Numbered]]:
    """Yield runs of frames that pass, long ones in chunks; see ``FrameOptions``. No more than a chunk is held."""
    held: list[Numbered] = []
    before: NDArray[np.float32] | None = None
    long_enough = False  # the run that the held frames belong to
    for number, frame in frames:
        colours = colour_shares(frame)
        cut = before is not None and colour_change(before, colours) > options.change
        good, before = passes(frame), colours
        if cut or not good:
            if held and (long_enough or len(held) >= options.least):
                yield held
            held, long_enough = [], False
        if good:
            held.append((number, frame))
        if len(held) == options.chunk:
            yield held
            held, long_enough = [], True
    if held and (long_enough or len(held) >= options.least):
        yield held


def cut_clip(
    footage: Footage, *, threshold: float, calibrate: float, cut: CutOptions, area: tuple[float, float], inside: float
) -> Footage:
    """Return the object's mask (0 or 1) in every frame of a footage, cut out chunk by chunk; ``kept`` are worth learning from.

    The attention is raised to the power that moves ``threshold`` to ``calibrate`` (0: not at all), so that what is as likely
    object as not says so. ``area`` and ``inside``: see ``frames_to_keep``; only attention of over one half counts there.
    """
    power = log(calibrate) / log(threshold) if calibrate and 0 < threshold < 1 else 1.0
    recorder = Recorder()
    kept: list[int] = []
    for numbers in footage.facts["chunks"]:
        attention = unit(footage.stack(ATTENTION, numbers))
        attention = (attention**power).astype(np.float32)
        masks = cut_frames(footage.stack(FRAME, numbers), attention, cut)
        speaks = np.where(attention > 0.5, attention, np.float32(0))  # for the object; faint traces lie everywhere
        good = frames_to_keep(masks, speaks, area=area, inside=inside)
        for number, mask in zip(numbers, masks, strict=True):
            recorder.add(MASK, number, mask.astype(np.uint8))
        kept += [number for number, use in zip(numbers, good, strict=True) if use]
    return recorder.done({**footage.facts, "kept": kept})


def unit(values: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return 8-bit values as float32 in [0, 1]."""
    return values.astype(np.float32) / np.float32(255)


def told(clips: TaggedClips, footages: PerImage[Footage], narrator: Narrator) -> tuple[str, ...]:
    """Say what the clips gave, and return lines about those that could not be used. Raises DataError where none could."""
    problems, found = list(clips.problems), 0
    for name in clips.names:
        facts = footages[name].facts
        found += sum(len(chunk) for chunk in facts["chunks"])
        if facts["error"]:
            problems.append(f"{facts['error'].replace(CLIP, str(clips[name].clip.path))} Not used.")
            narrator.say(problems[-1])
    broken = len(problems) - len(clips.problems)
    narrator.say(f"{found} frames of {len(clips) - broken} clips show their class")
    if broken == len(clips):
        raise DataError(
            f"none of the {broken} clips can be read to its end; the first: {problems[len(clips.problems)]}"
        )
    return tuple(problems)
