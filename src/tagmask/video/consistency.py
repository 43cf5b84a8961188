"""How steady the labels of a clip are: temporal consistency along optical flow (TC), and video consistency (VC).

Liu, Shen, Yu, Wang. Efficient Semantic Video Segmentation with Per-frame Inference. ECCV 2020 (TC, as in Lai and others.
ECCV 2018); Miao, Wei, Wu, Liang, Li, Yang. VSPW. CVPR 2021 (VC). Both reward what does not change: read mIoU beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from tagmask.evaluate import Confusion, json_types
from tagmask.refine.flow import optical_flow, warp
from tagmask.types import UNKNOWN

WINDOW = 8  # frames of VC  # paper


def flow_name(preset: str = "medium") -> str:
    """Name the flow that TC was measured with, for no two flows give the same number."""
    return f"DIS {preset} (OpenCV {cv2.__version__})"


def motions(
    frames: Iterable[NDArray[np.uint8]], preset: str = "medium", *, occlusion: bool = False
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_] | None]]:
    """Yield of each two consecutive RGB frames the flow (H, W, 2) from the first to the second, and what both show.

    The latter, bool (H, W), is what `seen_in_both` says, or ``None`` without ``occlusion``. Two frames are in memory.
    """
    for first, second in pairwise(frames):
        forward = optical_flow(first, second, preset)
        yield forward, seen_in_both(forward, optical_flow(second, first, preset)) if occlusion else None


def seen_in_both(forward: NDArray[np.float32], backward: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Say, bool (H, W), which pixels come back to about where they were, so that neither frame hides them.

    With f from the first frame to the second and b, where f ends, back: |f + b|^2 <= .01 (|f|^2 + |b|^2) + .5. Source:
    Sundaram, Brox, Keutzer. ECCV 2010.
    """
    back = warp(backward, forward)
    error, length = ((forward + back) ** 2).sum(axis=2), (forward**2 + back**2).sum(axis=2)
    return error <= 0.01 * length + 0.5


def warp_labels(later: NDArray[np.uint8], flow: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the labels uint8 (H, W) of the later frame as the earlier one sees them, along its flow (H, W, 2).

    The nearest pixel's label is taken, 255 where the flow leaves the frame. (The authors' script interpolates the ids,
    which makes other classes along every boundary, and takes the border's beyond it.)
    """
    y, x = np.mgrid[: flow.shape[0], : flow.shape[1]].astype(np.float32) + np.moveaxis(flow[..., ::-1], 2, 0)
    return np.asarray(
        cv2.remap(
            src=later, map1=x, map2=y, interpolation=cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT, borderValue=UNKNOWN,
        ),
        dtype=np.uint8,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Consistency:
    """TC in [0, 1]: mean of ``iou`` (C,), nan where a class does not occur, over ``classes`` that do; ``pairs`` of frames."""

    tc: float
    iou: NDArray[np.float64]
    classes: int
    pairs: int

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and lists, with ``None`` for nan."""
        return json_types({"tc": self.tc, "iou": self.iou, "classes": self.classes, "pairs": self.pairs})


class TemporalConsistency:
    """Counts of what frames and the frames after them, warped back, agree on: summed over all pairs, then divided.

    Pixels that either side calls 255 do not count, nor those whose flow leaves the frame. Constant memory.
    """

    def __init__(self, classes: int) -> None:
        self.counts = Confusion(classes)
        self.pairs = 0

    def add(
        self,
        labels: NDArray[np.uint8],
        later: NDArray[np.uint8],
        flow: NDArray[np.float32],
        visible: NDArray[np.bool_] | None = None,
    ) -> None:
        """Count two consecutive frames' labels uint8 (H, W); ``flow`` goes from the first to the later frame.

        Only ``visible`` pixels, bool (H, W), of the first frame count; without it all do.
        """
        if labels.shape != later.shape or labels.shape != flow.shape[:2]:
            raise ValueError(f"labels and flow must have one size, got {labels.shape}, {later.shape}, {flow.shape[:2]}")
        warped = warp_labels(later, flow)
        unsure = warped == UNKNOWN
        if visible is not None:
            unsure |= ~visible
        self.counts.add(np.where(unsure, np.uint8(UNKNOWN), labels), warped)  # it leaves out what the first calls 255
        self.pairs += 1

    def scores(self) -> Consistency:
        """Return TC over the classes that occur on either side."""
        found = self.counts.scores(absent="skip_nan")
        return Consistency(tc=found.miou, iou=found.iou, classes=found.averaged, pairs=self.pairs)


def temporal_consistency(
    labels: Iterable[NDArray[np.uint8]],
    motion: Iterable[tuple[NDArray[np.float32], NDArray[np.bool_] | None]],
    classes: int,
) -> Consistency:
    """Return TC of one clip's labels, each uint8 (H, W), given its `motions`; raises ``ValueError`` where they are not as many.

    To score several methods on one clip, compute the motions once and hand in the list.
    """
    counted = TemporalConsistency(classes)
    for (first, second), (flow, visible) in zip(pairwise(labels), motion, strict=True):
        counted.add(first, second, flow, visible)
    return counted.scores()


class VideoConsistency:
    """VC: of the pixels whose true class stays over ``window`` frames, the share labelled right in all; mean over windows.

    It needs the truth of every frame, and no flow. Its law: per pixel only two numbers are kept, for how many frames its
    true class has stayed, and for how many it has been labelled right.
    """

    def __init__(self, window: int = WINDOW) -> None:
        self.window = window
        self.windows = 0
        self._sum = 0.0
        self._truth: NDArray[np.uint8] | None = None
        self._stays = self._right = np.zeros((0, 0), dtype=np.int32)

    def cut(self) -> None:
        """Begin anew: the next frame does not follow on the last one."""
        self._truth = None

    def add(self, prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
        """Take in the next frame, both uint8 (H, W); pixels whose truth is 255 do not count."""
        shapes = {prediction.shape, truth.shape} | (set() if self._truth is None else {self._truth.shape})
        if len(shapes) > 1:
            raise ValueError(f"predictions and truth of a clip must have one size, got {sorted(shapes)}")
        known = truth != UNKNOWN
        if self._truth is None:
            self._stays = self._right = np.zeros(truth.shape, dtype=np.int32)
            self._truth = truth
        self._stays = np.where(truth == self._truth, self._stays + 1, 1) * known
        self._right = (self._right + 1) * (known & (prediction == truth))
        self._truth = truth
        stable = self._stays >= self.window
        if stable.any():
            self._sum += np.count_nonzero(stable & (self._right >= self.window)) / np.count_nonzero(stable)
            self.windows += 1

    @property
    def score(self) -> float:
        """VC in [0, 1]; nan before the first full window."""
        return self._sum / self.windows if self.windows else float("nan")
