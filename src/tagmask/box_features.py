"""What a network sees in each of many boxes, for all photos in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tagmask.augment import resize
from tagmask.data.photos import PerImage, Photos
from tagmask.files import link, read_json, write_json
from tagmask.keys import digest
from tagmask.masked import prior_of
from tagmask.nets.classifier import Classifier
from tagmask.nets.folded import as_image, folded
from tagmask.types import Boxes
from tagmask.work import Job

AT_ONCE = 16  # boxes of a photo that the network sees together  # ours


class BoxFeatures(PerImage[NDArray[np.float32]]):
    """``features[name]`` are those of a photo's boxes, float32 (n, D), read from one file that is never in memory whole."""

    def __init__(self, file: Path, first: Mapping[str, Sequence[int]], key: str = ""):
        super().__init__(list(first))
        self.file, self._first, self._key = file, first, key
        self._rows = np.load(file, mmap_mode="r", allow_pickle=False)

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        begin, end = self._first[name]
        return np.asarray(self._rows[begin:end])

    def key_of(self, name: str) -> str:
        """The key of one photo's features, which follows from that of the whole."""
        return digest([self._key, name])

    def save(self, folder: Path) -> None:
        """Write the file, and which of its rows are whose."""
        link(self.file, folder / "features.npy")
        write_json(folder / "rows.json", self._first)

    @classmethod
    def load(cls, folder: Path, *, device: str, key: str) -> BoxFeatures:
        """Open what ``save`` wrote."""
        return cls(folder / "features.npy", read_json(folder / "rows.json"), key)


@torch.no_grad()
def box_features(
    classifier: Classifier, photos: Photos, prior: PerImage[Boxes], *, side: int, cells: int, job: Job
) -> BoxFeatures:
    """Return what the classifier sees in each box that ``masked_prior`` kept, of length 1, and a 1 behind it.

    The box is warped to a square of ``side`` pixels, as R-CNN does, and what the network shows of it averaged in ``cells`` x
    ``cells`` parts. The last column is the bias of the SVMs.
    """
    first: dict[str, list[int]] = {}
    total = 0
    for name in photos.names:
        count = len(prior_of(prior[name])[0])
        first[name] = [total, total + count]
        total += count
    width = classifier.trunk.channels[-1] * cells * cells
    file = job.folder / "features.npy"
    rows = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(total, width + 1))
    with job.narrator.stage(job.name, len(photos)) as counter:
        for name in photos.names:
            begin, end = first[name]
            boxes = prior_of(prior[name])[0]
            rows[begin:end, :width] = warped_boxes(classifier, photos[name].pixels, boxes, side=side, cells=cells)
            rows[begin:end, width] = 1
            counter.advance()
    rows.flush()
    return BoxFeatures(file, first)


def warped_boxes(
    classifier: Classifier, pixels: NDArray[np.uint8], boxes: NDArray[np.integer], *, side: int, cells: int
) -> NDArray[np.float32]:
    """Return what the last map shows of each box, cut out and warped to ``side``, of length 1: (n, D cells cells).

    A network that sees the box alone tells a part from the whole; cut out of the photo's map, whose cells see far beyond
    the box, the most telling part always wins.
    """
    quick, rows = folded(classifier), [torch.zeros(0, classifier.trunk.channels[-1] * cells * cells)]
    for start in range(0, len(boxes), AT_ONCE):
        crops = [pixels[y0:y1, x0:x1] for x0, y0, x1, y1 in boxes[start : start + AT_ONCE].tolist()]
        images = torch.cat([as_image(resize(crop, side, side), classifier) for crop in crops])
        last = quick.features(images)[-1].float()  # (n, D, h, w)
        rows.append(functional.adaptive_avg_pool2d(last, output_size=cells).flatten(start_dim=1).cpu())
    return functional.normalize(torch.cat(rows), dim=1).numpy()
