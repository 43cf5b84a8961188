"""Attention maps gathered over the epochs of a training: the rule by which they become one, and the file that keeps them.

Jiang, Hou, Cao, Cheng, Wei, Xiong. Integral Object Mining via Online Attention Accumulation. ICCV 2019; the drop is of
their TPAMI article of 2021.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor
from torch.nn import functional

from tagmask.data.photos import PerImage
from tagmask.errors import OptionError
from tagmask.files import read_json, write_json
from tagmask.keys import digest
from tagmask.nets.classifier import Classifier
from tagmask.nets.storage import load_network, save_network
from tagmask.types import Activation

EPSILON = 1e-8  # author code
Maps = NDArray[np.float32]


@dataclass(frozen=True)
class Rule:
    """How the maps of the epochs become one.

    ``update`` is "max" (the largest value of all epochs) or "ave" (their mean). ``scale`` divides a map by its maximum
    ("max", author code in PyTorch) or stretches it, and what is stored before each update, to 0..1 ("min-max", author
    code in Caffe). Maps of a photo's first ``start`` epochs are not taken, and with ``ranked`` only those of tags that
    are among the best scores, as many as the photo has tags. Before the network sees a photo, what it last attended to
    by more than ``drop_threshold`` is wiped out with probability ``drop_rate`` (0: never).
    """

    update: str = "max"  # paper
    scale: str = "max"  # author code (PyTorch)
    ranked: bool = True  # author code
    start: int = 1  # author code
    drop_rate: float = 0.0  # 0.5 in the author code of OAA-drop
    drop_threshold: float = 0.6  # author code

    def __post_init__(self) -> None:
        for name, known in (("update", ("max", "ave")), ("scale", ("max", "min-max"))):
            if getattr(self, name) not in known:
                raise OptionError(f"{name} is {getattr(self, name)!r}; expected {' or '.join(known)}.")
        for name in ("drop_rate", "drop_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{name} is {getattr(self, name)}; expected a number in 0..1.")


def attention(maps: Maps, scale: str = "max") -> Maps:
    """Return the positive part of class maps (K, h, w), each divided by its maximum or stretched: float32 in [0, 1].

    A map without a positive value becomes 0, with "min-max" any flat one.
    """
    positive = np.maximum(maps, 0, dtype=np.float32)
    low = positive.min(axis=(1, 2), keepdims=True) if scale == "min-max" else np.float32(0)
    return (positive - low) / (positive.max(axis=(1, 2), keepdims=True) - low + np.float32(EPSILON))


def among_top(scores: NDArray[np.float32], chosen: Sequence[int]) -> NDArray[np.bool_]:
    """Return bool (K,): which of the K ``chosen`` places of ``scores`` (C-1,) fewer than K others exceed.

    >>> among_top(np.array([0.9, 0.1, 0.5, 0.7]), [0, 2])
    array([ True, False])
    """
    exceeding = (scores[None, :] > scores[list(chosen), None]).sum(axis=1)  # (K,)
    return np.asarray(exceeding < len(chosen))


def updated(stored: Maps, taken: NDArray[np.int32], current: Maps, rule: Rule) -> Maps:
    """Return the accumulation (K, h, w) once ``current`` is taken; each of ``stored`` holds ``taken`` (K,) maps so far."""
    count = taken[:, None, None]
    if rule.update == "ave":
        together = (count * stored + current) / (count + np.float32(1))
    else:
        together = np.maximum(attention(stored, "min-max") if rule.scale == "min-max" else stored, current)
    return np.where(count > 0, together, current).astype(np.float32)


def wiped(images: Tensor, last: Tensor, colour: Tensor, threshold: float) -> Tensor:
    """Return images (B, 3, H, W) with ``colour`` (1, 3, 1, 1) where attention (B, h, w), grown to them, is above."""
    grown = functional.interpolate(last[:, None], size=images.shape[2:], mode="bilinear", align_corners=False)
    return torch.where(grown > threshold, colour, images)


class AttentionMemory:
    """The maps of every photo and tag in one file. Its law: the rows ``first[i]`` to ``first[i + 1]`` are photo i's tags.

    A row holds how often its photo was ``seen``, how many maps were ``taken``, their accumulation as ``map`` (until one
    is taken the latest map, so that a tag never taken keeps its last epoch's) and, for the drop, the ``last`` one taken.
    Beside what the rule says, no map is taken where the tag's probability is below ``least`` (NSROM).
    The file is what ``fit`` keeps with a checkpoint; memory does not grow with the number of photos.
    """

    def __init__(
        self, path: Path, tags: Sequence[tuple[int, ...]], grid: tuple[int, int], rule: Rule, least: float = 0.0
    ):
        self.path, self.tags, self.rule, self.least = path, tags, rule, least
        self.first = first_rows(tags)
        fields: list[tuple[str, str] | tuple[str, str, tuple[int, int]]]
        fields = [("seen", "<i4"), ("taken", "<i4"), ("map", "<f2", grid)]
        fields += [("last", "<f2", grid)] if rule.drop_rate else []
        self.rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(fields), shape=(self.first[-1],))

    def see(self, index: int, maps: Maps) -> None:
        """Take, or do not take, the raw class maps (C-1, h, w) of photo ``index``; their means are its scores."""
        rows = self.rows[self.first[index] : self.first[index + 1]]
        chosen = [tag - 1 for tag in self.tags[index]]
        current = attention(maps[chosen], self.rule.scale)  # (K, h, w)
        scores = maps.mean(axis=(1, 2))  # (C-1,)
        trusted = among_top(scores, chosen) if self.rule.ranked else np.ones(len(chosen), dtype=bool)
        trusted &= (rows["seen"] >= self.rule.start) & (expit(scores[chosen]) >= self.least)
        stored = rows["map"].astype(np.float32)
        fallback = np.where(rows["taken"][:, None, None] > 0, stored, current)
        rows["map"] = np.where(trusted[:, None, None], updated(stored, rows["taken"], current, self.rule), fallback)
        if self.rule.drop_rate:
            rows["last"] = np.where(trusted[:, None, None], current, rows["last"])
        rows["taken"] += trusted
        rows["seen"] += 1

    def last(self, index: int) -> Maps:
        """Return the strongest of the maps last taken of a photo's tags: float32 (h, w), 0 where there is none."""
        rows = self.rows[self.first[index] : self.first[index + 1]]
        return rows["last"].max(axis=0, initial=0).astype(np.float32)

    def finished(self) -> Path:
        """Return the file once everything is in it."""
        self.rows.flush()
        return self.path

    def save(self, path: Path) -> None:
        """Copy the file."""
        shutil.copyfile(self.finished(), path)

    def restore(self, path: Path) -> None:
        """Go on from a copy."""
        shutil.copyfile(path, self.path)
        self.rows = np.lib.format.open_memmap(self.path, mode="r+")


class Accumulated(PerImage[Activation]):
    """The accumulated maps, on the grid of the square, read from one file photo by photo; and the ``network`` behind them."""

    def __init__(self, network: Classifier, maps: Path, tags: Mapping[str, Sequence[int]], key: str = ""):
        super().__init__(list(tags))
        self.network, self.maps = network, maps
        self._tags = {name: tuple(its) for name, its in tags.items()}
        self._first = dict(zip(self.names, first_rows(list(self._tags.values()))[:-1], strict=True))
        self._rows = np.load(maps, mmap_mode="r", allow_pickle=False)
        self._key = key

    def __getitem__(self, name: str) -> Activation:
        first, classes = self._first[name], self._tags[name]
        return Activation(self._rows["map"][first : first + len(classes)].astype(np.float32), classes)

    def key_of(self, name: str) -> str:
        """The key of one photo's maps, which depend on the whole training."""
        return digest([self._key, name])

    def save(self, folder: Path) -> None:
        """Write the network, the maps and whose they are."""
        save_network(self.network, folder)
        shutil.copyfile(self.maps, folder / "maps.npy")
        write_json(folder / "tags.json", self._tags)

    @classmethod
    def load(cls, folder: Path, *, device: str, key: str) -> Accumulated:
        """Open what ``save`` wrote."""
        network = load_network(folder, device=device)
        assert isinstance(network, Classifier)
        return cls(network, folder / "maps.npy", read_json(folder / "tags.json"), key)


def first_rows(tags: Sequence[Sequence[int]]) -> list[int]:
    """Return where each photo's rows begin, and where the last one's end.

    >>> first_rows([(1, 4), (), (2,)])
    [0, 2, 2, 3]
    """
    return [0, *np.cumsum([len(its) for its in tags]).tolist()]
