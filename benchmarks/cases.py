"""What `benchmarks.speed` measures: one generator of cases for each group, which imports its peer itself."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import torch
from benchmarks.speed import Case
from PIL import Image, ImageOps
from torch.nn import functional

from tagmask.activate import multi_scale_cam
from tagmask.ahead import computed
from tagmask.allocator import give_memory_back, keep_memory
from tagmask.data.toy import draw_scene
from tagmask.fickle import fickle_maps
from tagmask.nets.backbones import Backbone, build_backbone
from tagmask.nets.classifier import Classifier
from tagmask.nets.fickle import FickleNet
from tagmask.nets.segmenter import build_segmenter
from tagmask.refine.crf import FAST_CRF, PSA_CRF, SEC_TRAIN_CRF, mean_field
from tagmask.refine.exact import mean_field_exact
from tagmask.refine.grow import grow
from tagmask.refine.superpixels import felzenszwalb, slic
from tagmask.refine.walk import Transition, half_disc, overlap, transition, walk
from tagmask.types import Photo

SIZE = (375, 500)
FOLDER = 100  # photos
LIMIT = 0.05  # of growing: most of the picture is grown over


def pictures(photos: Path | None, count: int, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """Return ``count`` photos of one size, uint8 (H, W, 3); drawn where there is no folder."""
    height, width = size
    if photos is None:
        scenes = (draw_scene(np.random.default_rng(seed), 256, 5)[0] for seed in range(count))
        return [cv2.resize(src=scene, dsize=(width, height), interpolation=cv2.INTER_CUBIC) for scene in scenes]
    found = sorted(path for path in photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return [
        np.array(ImageOps.fit(Image.open(path).convert("RGB"), (width, height), Image.Resampling.BICUBIC))
        for path in found[:: max(1, len(found) // count)][:count]
    ]


def agreement(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Compare two arrays of class probabilities (K, H, W)."""
    return float(np.abs(ours - theirs).max()), float((ours.argmax(axis=0) == theirs.argmax(axis=0)).mean())


def crf(photos: Path | None) -> Iterator[Case]:
    """The dense CRF, lattice included, against pydensecrf2."""
    from tests.refine.test_crf_peer import energies
    from tests.refine.test_crf_peer import peer as pydensecrf

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
    from tests.refine.test_crf_peer import energies
    from tests.refine.test_crf_peer import peer as pydensecrf

    images, cores = pictures(photos, FOLDER), os.cpu_count() or 1
    for classes, kept in ((21, 21), (21, 4)):
        unary = energies(classes, *SIZE)
        fewer = np.ascontiguousarray(unary[:kept])
        what = f"{FOLDER} photos 500x375, " + (f"{kept} classes" if kept == classes else "3 tags and background")
        yield Case(
            "dense CRF of a folder", what, f"{cores} processes of pydensecrf2 with {classes} classes",
            partial(on_threads, partial(mean_field, fewer), images, cores),
            partial(on_processes, partial(_peer_labels, pydensecrf, unary), images, cores),
            threads=cores, weigh=False, most_rounds=2,
        )  # fmt: skip


def _peer_labels(peer: Callable, unary: np.ndarray, image: np.ndarray) -> int:
    return int(peer(unary, image, PSA_CRF).argmax(axis=0).sum())


def on_threads(function: Callable, images: Sequence, workers: int) -> int:
    """Refine all images on threads of this process."""
    with ThreadPoolExecutor(workers) as pool:
        return sum(int(q.argmax(axis=0).sum()) for q in pool.map(function, images))


def on_processes(function: Callable, images: Sequence, workers: int) -> int:
    """Refine all images in processes of their own, forked so that nothing is sent but the images."""
    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        return sum(pool.map(function, images, chunksize=5))


def growing(photos: Path | None) -> Iterator[Case]:
    """Seeded region growing against the queue, both with four classes present."""
    rng = np.random.default_rng(0)
    rough = rng.random((21, SIZE[0] // 25, SIZE[1] // 25)).astype(np.float32)
    smooth = np.stack([cv2.resize(src=plane, dsize=SIZE[::-1], interpolation=cv2.INTER_LINEAR) for plane in rough]) ** 8
    probabilities = (smooth / smooth.sum(axis=0)).astype(np.float32)
    tags, limits = (3, 8, 15), {"background": LIMIT, "foreground": LIMIT}
    cues = np.where(rng.random(SIZE) < 0.01, rng.choice([0, *tags], SIZE), 255).astype(np.uint8)
    share = (grow(cues, probabilities, tags, **limits) != 255).mean()
    yield Case(
        "region growing", f"500x375, 4 of 21 classes, {share:.0%} grown", "queue in Python",
        partial(grow, cues, probabilities, tags, **limits), partial(queue, cues, probabilities, tags),
        lambda ours, theirs: (None, float((ours == theirs).mean())), most_rounds=3,
    )  # fmt: skip


def queue(cues: np.ndarray, probabilities: np.ndarray, tags: Sequence[int], limit: float = LIMIT) -> np.ndarray:
    """Grow by a queue of pixels in Python; what is sure is found by numpy before."""
    present = np.array([0, *tags])
    likeliest, value = probabilities[present].argmax(axis=0), probabilities[present].max(axis=0)
    sure = np.where(value > limit, present[likeliest], 255)
    sure = np.pad(np.where(cues == 255, sure, cues), 1, constant_values=255).tolist()
    grown = np.pad(cues, 1, constant_values=255)
    waiting = deque(map(tuple, np.argwhere(grown != 255).tolist()))
    grown = grown.tolist()
    while waiting:
        y, x = waiting.popleft()
        label = grown[y][x]
        for b in (y - 1, y, y + 1):
            for a in (x - 1, x, x + 1):
                if grown[b][a] == 255 and sure[b][a] == label:
                    grown[b][a] = label
                    waiting.append((b, a))
    return np.array(grown, dtype=np.uint8)[1:-1, 1:-1]


def walking(photos: Path | None) -> Iterator[Case]:
    """The random walk against squaring the dense matrix eight times, which is what the published code does."""
    large, small = (94, 125), (47, 63)
    problems = [random_walk(*size) for size in (large, small)]
    (maps, step), (few, short) = problems
    stretch = (np.prod(large) / np.prod(small)) ** 3
    yield Case(
        "random walk", "94x125, radius 5, 256 steps, 3 maps", "dense matrix squared 8 times",
        partial(walk, maps, step), partial(dense_walk, few, short),
        lambda ours, theirs: (float(np.abs(walk(few, short) - theirs).max()), None),
        times_peer=float(stretch), most_rounds=3,
        note="the peer ran at 47x63: its time is multiplied by the cube of the ratio of cells, its MB are as measured "
        "and grow with the square; the difference is that at 47x63",
    )  # fmt: skip


def random_walk(height: int, width: int) -> tuple[np.ndarray, Transition]:
    """Return three maps and a step of radius 5 with beta 10."""
    rng = np.random.default_rng(0)
    offsets = half_disc(5)
    affinity = rng.random((len(offsets), height, width)).astype(np.float32)
    return rng.random((3, height, width)).astype(np.float32), transition(affinity, offsets, beta=10)


def dense_walk(maps: np.ndarray, step: Transition) -> np.ndarray:
    """Walk 256 steps with the matrix as a whole."""
    height, width = maps.shape[1:]
    cells = np.arange(height * width).reshape(height, width)
    matrix = np.zeros((cells.size, cells.size), dtype=np.float32)  # source by target
    for plane, offset in zip(step.weights, step.offsets, strict=True):
        here, there = overlap(offset, (height, width))
        matrix[cells[there], cells[here]] = plane[here]
    for _ in range(8):
        matrix = matrix @ matrix
    return (maps.reshape(len(maps), -1) @ matrix).reshape(maps.shape)


def activation(photos: Path | None) -> Iterator[Case]:
    """Multi-scale CAM of a folder: folded, one photo a thread, against photo after photo on all threads."""
    torch.manual_seed(0)
    trunk = build_backbone(Backbone("mobilenetv2_100", weights="none", output_stride=16))
    classifier = Classifier(trunk, classes=20).eval()
    images = {str(i): Photo(str(i), image, (1, 5)) for i, image in enumerate(pictures(photos, 24))}
    yield Case(
        "multi-scale CAM", "24 photos 500x375, MobileNetV2, scales 0.5 1 1.5 2, flip", "plain serial float32",
        partial(cam_on_threads, classifier, images), partial(cam_serial, classifier, images),
        lambda ours, theirs: (max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)), None),
        threads=torch.get_num_threads(), weigh=False, most_rounds=3,
    )  # fmt: skip


def cam_on_threads(classifier: Classifier, images: dict[str, Photo]) -> list[np.ndarray]:
    """Compute the maps as a stage of a run does."""
    found: dict[str, np.ndarray] = {}
    for _ in computed(list(images), lambda name: found.update({name: multi_scale_cam(classifier, images[name]).maps})):
        pass
    return [found[name] for name in images]


@torch.no_grad()
def cam_serial(classifier: Classifier, images: dict[str, Photo]) -> list[np.ndarray]:
    """Compute the maps the plain way."""
    results = []
    for photo in images.values():
        wanted = [tag - 1 for tag in photo.tags or ()]
        total = torch.zeros(1, len(wanted), *photo.size)
        for scale in (0.5, 1.0, 1.5, 2.0):
            height, width = (round(side * scale) for side in photo.size)
            pixels = np.asarray(Image.fromarray(photo.pixels).resize((width, height), Image.Resampling.BICUBIC))
            image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None].float() / 255
            for mirrored in (False, True):
                maps = classifier.maps(image.flip(3) if mirrored else image)[:, wanted].relu()
                maps = maps.flip(3) if mirrored else maps
                total += functional.interpolate(maps, size=photo.size, mode="bilinear", align_corners=False)
        results.append((total / (total.amax(dim=(2, 3), keepdim=True) + 1e-5))[0].numpy())
    return results


def training_crf(photos: Path | None) -> Iterator[Case]:
    """SEC's CRF on the 41x41 grid beside the rest of a training step: 4 and more is under a fifth of the step."""
    torch.manual_seed(0)
    backbone = Backbone("mobilenetv2_100", weights="none", output_stride=8, norm="frozen", freeze=2)
    network = build_segmenter("deeplab-v1", backbone, 21, width=1024).train()
    images, small = torch.rand(15, 3, 321, 321), 255 * torch.rand(15, 41, 41, 3)
    scores = torch.randn(15, 21, 41, 41)

    def step() -> None:
        network(images).logsumexp(dim=1).mean().backward()

    yield Case(
        "SEC's CRF in training", "15 photos, 41x41, 21 classes", "forward and backward of MobileNetV2 LargeFOV at stride 8",
        partial(mean_field_exact, -scores, small, SEC_TRAIN_CRF), step,
        threads=torch.get_num_threads(), weigh=False, most_rounds=3,
        note="the peer is the rest of the training step; a ratio above 4 is less than a fifth of the step",
    )  # fmt: skip


def kept_memory(photos: Path | None) -> Iterator[Case]:
    """A training step whose freed memory stays with the process, as the command line has it, beside glibc's way."""
    torch.manual_seed(0)
    backbone = Backbone("mobilenetv2_100", weights="none", output_stride=16, norm="frozen", freeze=2)
    network = build_segmenter("deeplab-v3", backbone, 21, width=256).train()
    images = torch.rand(16, 3, 192, 192).contiguous(memory_format=torch.channels_last)

    def step(memory: Callable[[], bool]) -> None:
        memory()
        for _ in range(4):
            network(images).logsumexp(dim=1).mean().backward()

    yield Case(
        "training step", "deeplab-v3 on MobileNetV2, 16 photos 192x192", "the same, freed memory given back",
        partial(step, keep_memory), partial(step, give_memory_back), threads=torch.get_num_threads(), weigh=False,
    )  # fmt: skip


def looks(photos: Path | None) -> Iterator[Case]:
    """FickleNet's 200 looks at a photo beside one: the trunk sees it once, and a look is a sum over kept places."""
    (image,) = pictures(photos, 1, (257, 257))
    photo = Photo("photo", image, (1, 5))
    for name, stride, kernel in (("mobilenetv2_100", 16, 5), ("mobilenetv2_100", 8, 9), ("resnet50", 8, 9)):
        torch.manual_seed(0)
        trunk = build_backbone(Backbone(name, weights="none", output_stride=stride))
        network = FickleNet(trunk, classes=20, kernel=kernel).eval()
        yield Case(
            "FickleNet, 200 looks", f"257x257, 2 tags, {name} at stride {stride}, windows of {kernel}",
            "one CAM of the same network",
            partial(fickle_maps, network, photo, size=257, looks=200), partial(fickle_maps, network, photo, size=257, looks=0),
            weigh=False, note="not the same result: a ratio above 0.33 is less than three times the price of one CAM",
        )  # fmt: skip


def superpixels(photos: Path | None) -> Iterator[Case]:
    """OpenCV's superpixels, as we call them, against scikit-image's."""
    from skimage import segmentation

    (image,) = pictures(photos, 1)
    yield Case(
        "superpixels", "SLIC, 500x375, 200 regions", "scikit-image",
        partial(slic, image, regions=200), partial(segmentation.slic, image, n_segments=200), weigh=False,
    )  # fmt: skip
    yield Case(
        "superpixels", "Felzenszwalb, 500x375", "scikit-image",
        partial(felzenszwalb, image), partial(segmentation.felzenszwalb, image, scale=300, sigma=0.5, min_size=100),
        weigh=False, note="two implementations: the regions differ",
    )  # fmt: skip


CASES = {
    "crf": crf,
    "folder": folder,
    "grow": growing,
    "walk": walking,
    "cam": activation,
    "training": training_crf,
    "memory": kept_memory,
    "looks": looks,
    "superpixels": superpixels,
}
