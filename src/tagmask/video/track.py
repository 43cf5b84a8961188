"""Follow objects from frame to frame, given a mask of the first one. What is remembered has one size, however long it goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tagmask.classify import mean_colour
from tagmask.errors import DataError, RunError
from tagmask.nets.folded import as_image, folded, look_in
from tagmask.nets.storage import load_network
from tagmask.nets.tracker import FINE, Past, Template, TrackerNet
from tagmask.runs import choose_device
from tagmask.types import UNKNOWN
from tagmask.video.matching import aggregate, soft_centres
from tagmask.video.metrics import ids_in
from tagmask.video.views import Canvas, template_view

Labels = NDArray[np.uint8]
LOST = 0.01  # of its last area, below which the centre of an object stays where it was; source


@dataclass(frozen=True)
class Score:
    """One object in one frame: its id, area in pixels, mean probability over it, and its middle.

    Of an object that is not there the area is 0 and the rest nan.
    """

    object: int
    area: int
    confidence: float
    row: float
    column: float


class Tracker:
    """Follows the objects of one clip at a time. Its law: ``start`` once, then ``step`` for every frame, in order.

    A camera, with the mask of its first frame (the ids of the objects, 0 elsewhere) painted or found by whatever means::

        tracker = tagmask.load_tracker("runs/tracker")
        camera = cv2.VideoCapture(0)
        _, frame = camera.read()
        tracker.start(frame[..., ::-1], mask)                # RGB uint8 (H, W, 3), ids uint8 (H, W)
        while camera.isOpened():
            _, frame = camera.read()
            labels = tracker.step(frame[..., ::-1])          # the same ids, uint8 (H, W)
            cv2.imshow("objects", overlay(frame, labels))    # tagmask.video.overlay
            if cv2.waitKey(1) == 27:
                break

    ``templates`` counts how often the template operator has run: once a clip, for all its objects together.
    """

    def __init__(self, network: TrackerNet) -> None:
        self.network = network
        self.templates = 0
        self._ids: list[int] = []
        self._canvas: Canvas | None = None
        self._last: tuple[Labels, NDArray[np.float32]] | None = None
        self._template: Template
        self._past: Past

    @torch.no_grad()
    def start(self, frame: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
        """Begin a clip with its first RGB frame uint8 (H, W, 3) and the objects in it: ids uint8 (H, W), 255 is no object.

        Raises DataError where both are not of one size, or no object is there.
        """
        size = _size(frame)
        ids = objects_in(mask, size)
        network = folded(self.network)
        canvas, fill = Canvas.of(size, network.size), mean_colour(network)
        pixels, labels = canvas.place(frame, fill), _placed(mask, ids, canvas)
        whole = network(as_image(pixels, network))
        views = [template_view(pixels, _only(labels, known), network.size, fill) for known in ids]
        embedding = torch.cat([network(as_image(view, network)).embedding for view, _ in views])
        shown = torch.from_numpy(np.stack([part for _, part in views])).to(embedding.device)  # (K, h, w)
        self._template = network.template(embedding, (shown == 1).float(), (shown == 0).float())
        self.templates += 1
        masks = torch.from_numpy(np.stack([labels == known for known in ids])).to(embedding).float()
        masks = functional.avg_pool2d(masks[:, None], kernel_size=FINE)[:, 0]
        self._past = Past(whole.embedding, masks, soft_centres(masks))
        self._ids, self._canvas = ids, canvas
        self._last = mask, (mask > 0).astype(np.float32)

    @torch.no_grad()
    def step(self, frame: NDArray[np.uint8]) -> Labels:
        """Return where the objects are in the next RGB frame uint8 (H, W, 3): their ids uint8 (H, W), 0 elsewhere.

        Raises RunError before ``start``, DataError for a frame of another size than the first.
        """
        if self._canvas is None:
            raise RunError(
                "the tracker has not been started; call start(frame, mask) with the first frame of the clip."
            )
        size = _size(frame)
        if size != self._canvas.frame:
            known = self._canvas.frame
            raise DataError(
                f"the frame has {size[1]}x{size[0]} pixels, the first had {known[1]}x{known[0]}; give frames of one size."
            )
        network = folded(self.network)
        seen = network(as_image(self._canvas.place(frame, mean_colour(network)), network))
        owner = torch.zeros(len(self._ids), dtype=torch.long, device=seen.embedding.device)
        logits = network.decode(seen, self._template, self._past, owner)  # (K, h, w)
        masks = aggregate(logits.sigmoid())[1:]
        self._past = Past(seen.embedding, masks, _moved(self._past.centres, soft_centres(masks)))
        best, place = aggregate(self._canvas.back(logits).sigmoid()).max(dim=0)
        labels = np.array([0, *self._ids], dtype=np.uint8)[place.cpu().numpy()]
        self._last = labels, best.cpu().numpy()
        return labels

    @property
    def scores(self) -> tuple[Score, ...]:
        """How the objects stand in the last frame, by id."""
        if self._last is None:
            return ()
        return tuple(_score(known, *self._last) for known in self._ids)

    def state(self) -> dict[str, Tensor]:
        """Return all that is remembered, of the same size after every frame; ``restore`` takes it back."""
        if self._canvas is None:
            raise RunError("the tracker has not been started, so there is nothing to keep.")
        numbers = {"ids": torch.tensor(self._ids), "size": torch.tensor(self._canvas.frame)}
        held = {**self._template._asdict(), **self._past._asdict()}
        return {**numbers, **{name: tensor.contiguous().cpu() for name, tensor in held.items()}}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what ``state`` returned: the next ``step`` is as if there had been no break."""
        device = next(self.network.parameters()).device
        at = {name: tensor.to(device) for name, tensor in state.items()}
        height, width = state["size"].tolist()
        self._ids, self._canvas = state["ids"].tolist(), Canvas.of((height, width), self.network.size)
        self._template = Template(*(at[name] for name in Template._fields))
        self._past = Past(*(at[name] for name in Past._fields))
        self._last = None


def load_tracker(folder: str | Path, *, device: str = "cpu", looking: str = "float32") -> Tracker:
    """Open the tracker that ``fit-tracker`` left in a folder; ``looking`` "bfloat16" sees in half the time where known.

    Raises RunError where there is none, OptionError for a device that is not there.
    """
    network = load_network(Path(folder), device=choose_device(device))
    if not isinstance(network, TrackerNet):
        raise RunError(
            f"{folder}: holds a {type(network).__name__}; expected the folder of `tagmask fit-tracker --out`."
        )
    look_in(network, looking)
    return Tracker(network)


def objects_in(mask: Labels, size: tuple[int, int]) -> list[int]:
    """Return the ids in the mask of a first frame of that size; raises DataError where it does not fit or shows none."""
    if mask.dtype != np.uint8 or mask.shape != size:
        raise DataError(
            f"the first mask is {mask.dtype} {mask.shape}; expected ids uint8 {size}, a pixel for the frame's."
        )
    ids = [known for known in ids_in(mask) if known != UNKNOWN]
    if not ids:
        raise DataError("the first mask shows no object; expected ids 1 to 254 where there are some (255 is unknown).")
    return ids


def _size(frame: NDArray[np.uint8]) -> tuple[int, int]:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise DataError(f"the frame is {frame.dtype} {frame.shape}; expected RGB uint8 (H, W, 3).")
    return frame.shape[0], frame.shape[1]


def _placed(mask: Labels, ids: list[int], canvas: Canvas) -> Labels:
    """Return the ids on the canvas; an object too small to be seen there still has one pixel, at its middle."""
    labels = canvas.place_labels(mask)
    for known in ids:
        if not (labels == known).any():
            middle = np.argwhere(mask == known).mean(axis=0)
            row, column = ((middle + 0.5) * np.array(canvas.inner) / np.array(canvas.frame)).astype(int)
            labels[canvas.top + row, canvas.left + column] = known
    return labels


def _only(labels: Labels, known: int) -> Labels:
    return np.where(labels == UNKNOWN, np.uint8(UNKNOWN), (labels == known).astype(np.uint8))


def _moved(before: Tensor, now: Tensor) -> Tensor:
    """Return the centres (K, 3) of now, but the old ones of objects of which hardly anything is left."""
    return torch.where((now[:, 2] > LOST * before[:, 2])[:, None], now, before)


def _score(known: int, labels: Labels, best: NDArray[np.float32]) -> Score:
    there = labels == known
    area = int(np.count_nonzero(there))
    if not area:
        return Score(known, 0, float("nan"), float("nan"), float("nan"))
    rows, columns = np.nonzero(there)
    return Score(known, area, float(best[there].mean(dtype=np.float64)), float(rows.mean()), float(columns.mean()))
