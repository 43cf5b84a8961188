"""Label the frames of a video one after the other, each with a look at the few before it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tagmask.augment import resize
from tagmask.data.photos import Truth
from tagmask.data.pixels import read_image
from tagmask.errors import OptionError, RunError
from tagmask.evaluate import Confusion
from tagmask.files import read_json
from tagmask.label import resized_labels
from tagmask.nets.folded import as_image, folded, look_in
from tagmask.nets.storage import load_network, read_extra
from tagmask.nets.temporal import TemporalSegmenter
from tagmask.progress import Narrator
from tagmask.refine.shots import SHOT_CHANGE, colour_change, colour_shares
from tagmask.types import Sample
from tagmask.video.scenes import sequences

CUT = SHOT_CHANGE  # share of the pixels that change their colour at a cut


class FrameLabeller:
    """Labels frames in the order of time. Its law: it keeps the keys and values of the last T frames, and no frame.

    ``classes`` are the names of the labels 0, 1, ...; a frame whose longest side is over ``longest`` is looked at that size
    (0: never). Where the colours of more than the share ``cut`` of the pixels change at once (1: never), and where the size
    changes, nothing of the frames before is used: call that a cut.
    """

    def __init__(
        self, network: TemporalSegmenter, classes: Sequence[str], *, longest: int = 0, cut: float = CUT
    ) -> None:
        if not 0 < cut <= 1:
            raise OptionError(
                f"cut is {cut}; expected the share of pixels whose colours change at a cut, up to 1 (never)."
            )
        self.network, self.classes, self.longest, self.cut = network, tuple(classes), longest, cut
        self.number = 0  # of the next frame; a network that chooses at random goes by it
        self._past: deque[tuple[Tensor, Tensor]] = deque(maxlen=self.reach)
        self._colours: NDArray[np.float32] | None = None

    @property
    def reach(self) -> int:
        """How many frames before it a frame reads from."""
        return int(self.network.options["frames"])

    def reset(self, number: int = 0) -> None:
        """Forget all frames: the next one, frame ``number`` of its clip, is the first."""
        self.number, self._colours = number, None
        self._past.clear()

    def step(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the labels uint8 (H, W) of the next RGB frame uint8 (H, W, 3). Raises ``ValueError`` for anything else."""
        return self.labels_of(self.scores(frame), frame.shape[:2])

    def labels_of(self, scores: NDArray[np.float32], size: tuple[int, int] | tuple[int, ...]) -> NDArray[np.uint8]:
        """Return labels uint8 (H, W) of scores (C, h, w), or of an average of them."""
        return resized_labels(scores, range(len(scores)), (size[0], size[1])).labels

    @torch.no_grad()
    def scores(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits float32 (C, h, w) of the next RGB frame, on the grid of the network."""
        network, encoded = self._encode(frame)
        past: list[Any] = [torch.stack(parts, dim=1) for parts in zip(*self._past, strict=True)] or [None, None]
        x = network.look_back(encoded.map, *past, draw=self.number)
        scores = network.decode(x, encoded.fine)[0].float().cpu().numpy()
        self._remember(network, encoded.map)
        return scores

    @torch.no_grad()
    def see(self, frame: NDArray[np.uint8]) -> None:
        """Take in the next frame without labelling it, which takes less time; later frames come out the same."""
        network, encoded = self._encode(frame)
        self._remember(network, encoded.map)

    def _encode(self, frame: NDArray[np.uint8]) -> tuple[TemporalSegmenter, Any]:
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"a frame must be RGB uint8 (H, W, 3), got {frame.dtype} {frame.shape}")
        self._look_for_a_cut(frame)
        height, width = frame.shape[:2]
        if self.longest and max(height, width) > self.longest:
            scale = self.longest / max(height, width)
            frame = resize(frame, max(1, round(height * scale)), max(1, round(width * scale)))
        network = folded(self.network)
        encoded = network.encode(as_image(frame, self.network))
        if self._past and self._past[0][0].shape[1:3] != encoded.map.shape[2:]:
            self._past.clear()
        return network, encoded

    def _remember(self, network: TemporalSegmenter, x: Tensor) -> None:
        past = network.remember(x)
        if past is not None:
            self._past.append(past)
        self.number += 1

    def _look_for_a_cut(self, frame: NDArray[np.uint8]) -> None:
        if self.cut >= 1:
            return
        colours = colour_shares(frame)
        if self._colours is not None and colour_change(self._colours, colours) > self.cut:
            self._past.clear()
        self._colours = colours


def load_labeller(
    folder: str | Path,
    *,
    device: str = "cpu",
    longest: int | None = None,
    cut: float = CUT,
    looking: str = "float32",
) -> FrameLabeller:
    """Open what `fit_video` left in ``folder``: its ``step(frame)`` labels frame after frame, ``reset()`` begins a new clip.

    ``longest`` overrides the size at which the network was trained to look, ``looking`` "bfloat16" is quicker on processors
    that know it. Raises RunError where there is no such network.
    """
    network = load_network(Path(folder), device=device)
    if not isinstance(network, TemporalSegmenter):
        raise RunError(f"{folder}: holds a {type(network).__name__}; expected the folder of `tagmask fit-video --out`.")
    look_in(network, looking)
    extra = read_extra(Path(folder))
    return FrameLabeller(network, extra["classes"], longest=extra["longest"] if longest is None else longest, cut=cut)


@dataclass(frozen=True)
class VideoRun:
    """A finished training: its folder, its scores and its network."""

    folder: Path

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of ``metrics.json``."""
        return dict(read_json(self.folder / "metrics.json"))

    def labeller(self, *, device: str = "cpu", **how: Any) -> FrameLabeller:
        """Return what labels frames, as `load_labeller` does."""
        return load_labeller(self.folder, device=device, **how)

    def verdict(self) -> str:
        """Return what it is worth in a line or two."""
        val = self.metrics.get("val")
        lines = [f"network  {self.folder / 'model.safetensors'}"]
        if val:
            lines.append(
                f"mIoU     {100 * val['miou']:.1f} of {val['images']} frames of val, {val['averaged']} classes"
            )
        return "\n".join([*lines, f"use it   tagmask label-video CLIP --model {self.folder} --out DIR"])


def score_frames(labeller: FrameLabeller, samples: Sequence[Sample], narrator: Narrator) -> dict[str, Any]:
    """Label the frames of ``samples``, those that follow on each other as clips, and return their scores as JSON types."""
    known = {sample.name: sample for sample in samples}
    truth, confusion = Truth(samples, len(labeller.classes)), Confusion(len(labeller.classes))
    with narrator.stage("evaluation", len(samples), unit="frames") as counter:
        for run in sequences(list(known)):
            labeller.reset()
            for name in run:
                confusion.add(truth[name].labels, labeller.step(read_image(known[name].image)))
                counter.advance()
    return {**confusion.scores().to_json(), "images": len(samples)}
