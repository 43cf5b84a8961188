"""What a network sees in each of many boxes, for all photos in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import roi_align

from tagmask.data.photos import PerImage, Photos
from tagmask.files import link, read_json, write_json
from tagmask.keys import digest
from tagmask.masked import prior_of
from tagmask.nets.classifier import Classifier
from tagmask.nets.folded import as_image, folded
from tagmask.types import Boxes
from tagmask.work import Job


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
    classifier: Classifier, photos: Photos, prior: PerImage[Boxes], *, cells: int, job: Job
) -> BoxFeatures:
    """Return what the classifier's last map shows in each box that ``masked_prior`` kept, of length 1, and a 1 behind it.

    The box is averaged in ``cells`` x ``cells`` parts (RoIAlign). The last column is the bias of the SVMs.
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
            rows[begin:end, :width] = pooled_boxes(classifier, photos[name].pixels, prior_of(prior[name])[0], cells)
            rows[begin:end, width] = 1
            counter.advance()
    rows.flush()
    return BoxFeatures(file, first)


def pooled_boxes(
    classifier: Classifier, pixels: NDArray[np.uint8], boxes: NDArray[np.integer], cells: int
) -> NDArray[np.float32]:
    """Return the last feature map averaged in ``cells`` x ``cells`` parts of each box, of length 1: (n, D cells cells)."""
    features = folded(classifier).features(as_image(pixels, classifier))[-1].float()  # (1, D, h, w)
    (height, width), (h, w) = pixels.shape[:2], features.shape[2:]
    to_grid = np.array([w / width, h / height] * 2)
    rois = torch.from_numpy((boxes * to_grid).astype(np.float32)).to(features.device)
    cut = roi_align(input=features, boxes=[rois], output_size=cells, spatial_scale=1.0, aligned=True)
    return torch.nn.functional.normalize(cut.flatten(start_dim=1), dim=1).cpu().numpy()
