"""What `benchmarks.speed` measures: one generator of cases for each group."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from benchmarks.speed import Case
from PIL import Image, ImageOps
from tests.refine.test_crf_peer import energies
from tests.refine.test_crf_peer import peer as pydensecrf

from tagmask.data.toy import draw_scene
from tagmask.refine.crf import FAST_CRF, PSA_CRF, mean_field

SIZE = (375, 500)
FOLDER = 100  # photos


def pictures(photos: Path | None, count: int, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """Return ``count`` photos of one size, uint8 (H, W, 3); drawn where there is no folder."""
    height, width = size
    if photos is None:
        scenes = (draw_scene(np.random.default_rng(seed), 256, 5)[0] for seed in range(count))
        return [cv2.resize(src=scene, dsize=(width, height), interpolation=cv2.INTER_CUBIC) for scene in scenes]
    found = sorted(path for path in photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return [
        np.asarray(ImageOps.fit(Image.open(path).convert("RGB"), (width, height), Image.Resampling.BICUBIC))
        for path in found[:: max(1, len(found) // count)][:count]
    ]


def agreement(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Compare two arrays of class probabilities (K, H, W)."""
    return float(np.abs(ours - theirs).max()), float((ours.argmax(axis=0) == theirs.argmax(axis=0)).mean())


def crf(photos: Path | None) -> Iterator[Case]:
    """The dense CRF, lattice included, against pydensecrf2."""
    (image,) = pictures(photos, 1)
    for classes in (3, 21):
        unary = energies(classes, *SIZE)
        yield Case(
            "dense CRF", f"500x375, {classes} classes", "pydensecrf2",
            partial(mean_field, unary, image), partial(pydensecrf, unary, image, PSA_CRF), agreement,
        )  # fmt: skip
    unary = energies(21, *SIZE)
    yield Case(
        "dense CRF", "500x375, pruned to 3 tags and background", "pydensecrf2 with 21 classes",
        lambda: mean_field(np.ascontiguousarray(unary[:4]), image), partial(pydensecrf, unary, image, PSA_CRF),
        note="not the same result: absent classes cannot win",
    )  # fmt: skip
    yield Case(
        "dense CRF", "500x375, 21 classes, FAST_CRF", "pydensecrf2",
        partial(mean_field, unary, image, FAST_CRF), partial(pydensecrf, unary, image, PSA_CRF), agreement,
        note="half resolution and an early end: labels differ",
    )  # fmt: skip
    (large,) = pictures(photos, 1, (1024, 2048))
    wide = energies(19, 1024, 2048)
    yield Case(
        "dense CRF", "2048x1024, 19 classes", "pydensecrf2",
        partial(mean_field, wide, large), partial(pydensecrf, wide, large, PSA_CRF), agreement,
    )  # fmt: skip


def folder(photos: Path | None) -> Iterator[Case]:
    """A folder of photos: our threads against as many processes of the peer."""
    images, cores = pictures(photos, FOLDER), os.cpu_count() or 1
    for classes, kept in ((21, 21), (21, 4)):
        unary = energies(classes, *SIZE)
        fewer = np.ascontiguousarray(unary[:kept])
        what = f"{FOLDER} photos 500x375, " + (f"{kept} classes" if kept == classes else "3 tags and background")
        yield Case(
            "dense CRF", what, f"{cores} processes of pydensecrf2 with {classes} classes",
            partial(on_threads, partial(mean_field, fewer), images, cores),
            partial(on_processes, partial(_peer_labels, unary), images, cores),
            threads=cores, weigh=False,
        )  # fmt: skip


def _peer_labels(unary: np.ndarray, image: np.ndarray) -> int:
    return int(pydensecrf(unary, image, PSA_CRF).argmax(axis=0).sum())


def on_threads(function: Callable, images: Sequence, workers: int) -> int:
    """Refine all images on threads of this process."""
    with ThreadPoolExecutor(workers) as pool:
        return sum(int(q.argmax(axis=0).sum()) for q in pool.map(function, images))


def on_processes(function: Callable, images: Sequence, workers: int) -> int:
    """Refine all images in processes of their own, forked so that nothing is sent but the images."""
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        return sum(pool.map(function, images, chunksize=5))


CASES = {"crf": crf, "folder": folder}
