"""A drawn data set to learn on: five shapes with five textures over textured grounds, with tags and masks.

Every colour is drawn from the same range for objects and grounds, so that shape and texture tell the classes and no
threshold on colour does. Edges are antialiased from signed distances; image ``i`` depends on the seed and ``i`` only.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tagmask.data.pixels import write_mask
from tagmask.errors import OptionError

NEGATIVES = 0.08  # ours, as every number below: images with nothing but ground
OBJECTS = (0.40, 0.42, 0.18)  # how often an image shows one, two, three objects
AREA = {1: (0.15, 0.33), 2: (0.12, 0.25), 3: (0.11, 0.17)}  # of the image, by the number of objects
LEAST_VISIBLE = 0.08  # of the image, after occlusion
_TRIES = 40

Plane = NDArray[np.floating]


def _disc(x: Plane, y: Plane) -> Plane:
    return np.hypot(x, y) - 0.564


def _square(x: Plane, y: Plane) -> Plane:
    return _box(x, y, 0.42, 0.42) - 0.09


def _triangle(x: Plane, y: Plane) -> Plane:
    return np.maximum(np.maximum(-y, 0.866 * np.abs(x) + 0.5 * y) - 0.36, np.hypot(x, y) - 0.74) - 0.06


def _ring(x: Plane, y: Plane) -> Plane:
    return np.abs(np.hypot(x, y) - 0.46) - 0.175


def _cross(x: Plane, y: Plane) -> Plane:
    return np.minimum(_box(x, y, 0.61, 0.18), _box(x, y, 0.18, 0.61)) - 0.04


def _box(x: Plane, y: Plane, half_width: float, half_height: float) -> Plane:
    """Signed distance to a box around the origin."""
    dx, dy = np.abs(x) - half_width, np.abs(y) - half_height
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0)


# Textures are waves in -1..1, sharpened to two colours later; x and y run over about -0.6..0.6 inside of a shape.
def _stripes(x: Plane, y: Plane, fine: float) -> Plane:
    return np.sin(2 * np.pi * 4.2 * fine * x)


def _checks(x: Plane, y: Plane, fine: float) -> Plane:
    return np.sin(2 * np.pi * 2.5 * fine * x) * np.sin(2 * np.pi * 2.5 * fine * y) * 1.6


def _dots(x: Plane, y: Plane, fine: float) -> Plane:
    u, v = 5.2 * fine * x, 5.2 * fine * y / 0.866
    u = u + 0.5 * (np.floor(v) % 2)
    return 1.5 - 4.6 * np.hypot(u - np.floor(u) - 0.5, (v - np.floor(v) - 0.5) * 0.866)


def _spokes(x: Plane, y: Plane, fine: float) -> Plane:
    return np.sin(np.round(9 * fine) * np.arctan2(y, x)) * 1.4


def _zigzag(x: Plane, y: Plane, fine: float) -> Plane:
    wave = np.abs((3.4 * fine * x) % 1 - 0.5) * 2
    return np.sin(2 * np.pi * (3.6 * fine * y + 0.55 * wave))


@dataclass(frozen=True)
class _Kind:
    name: str
    distance: Callable[[Plane, Plane], Plane]  # signed, of a shape of unit area; negative inside
    texture: Callable[[Plane, Plane, float], Plane]


KINDS = (
    _Kind("disc", _disc, _stripes),
    _Kind("square", _square, _checks),
    _Kind("triangle", _triangle, _dots),
    _Kind("ring", _ring, _spokes),
    _Kind("cross", _cross, _zigzag),
)


@dataclass(frozen=True)
class _Object:
    label: int
    distance: Plane  # (H, W), in pixels
    x: Plane  # (H, W), the object's own axes
    y: Plane
    fine: float


def make_toy(
    folder: str | Path, images: int = 120, size: int = 96, seed: int = 0, val: float = 0.25, classes: int = 5
) -> Path:
    """Draw a data set in our own layout, with masks and the splits train and val, and return its folder.

    ``val`` is a share of the images below 1 and their number otherwise. The same arguments give the same bytes.
    Raises OptionError for sizes under 32 pixels, fewer than 2 images or other than 2 to 5 classes.
    """
    if size < 32 or images < 2 or not 2 <= classes <= len(KINDS):
        raise OptionError(
            f"a toy set of {images} images of {size} pixels and {classes} classes cannot be drawn; "
            f"expected 2 or more images, 32 or more pixels, 2 to {len(KINDS)} classes."
        )
    root = Path(folder)
    for part in ("images", "masks", "splits"):
        (root / part).mkdir(parents=True, exist_ok=True)
    held_out = round(images * val) if val < 1 else int(val)
    if not 0 <= held_out < images:
        raise OptionError(f"val={val} leaves no training image of {images}; expected less.")
    rows, splits = ["image,tags"], {"train": [], "val": []}  # type: tuple[list[str], dict[str, list[str]]]
    for index in range(images):
        name = f"toy{index:04d}"
        negative = _spread(index, round(NEGATIVES * images), images)
        pixels, labels = draw_scene(np.random.default_rng([seed, index]), size, classes, negative=negative)
        Image.fromarray(pixels).save(root / "images" / f"{name}.png", format="PNG", compress_level=1)
        write_mask(root / "masks" / f"{name}.png", labels)
        rows.append(f"{name},{' '.join(KINDS[label - 1].name for label in np.unique(labels) if label)}")
        splits["val" if _spread(index + images // 2, held_out, images) else "train"].append(name)
    names = ["background", *(kind.name for kind in KINDS[:classes])]
    texts = {"tags.csv": rows, "classes.txt": names, **{f"splits/{name}.txt": lines for name, lines in splits.items()}}
    for file, lines in texts.items():
        (root / file).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    return root


def draw_scene(
    rng: np.random.Generator, size: int, classes: int = 5, *, negative: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw one picture, uint8 RGB (H, W, 3), and its labels, uint8 (H, W) in 0..classes."""
    picture = _ground(rng, size)
    labels = np.zeros((size, size), dtype=np.uint8)
    for thing in [] if negative else _place(rng, size, classes):
        alpha = np.clip(0.5 - thing.distance, 0, 1)  # (H, W)
        picture = _over(_shadowed(picture, thing.distance, size), _surface(rng, thing, size), alpha)
        labels[alpha >= 0.5] = thing.label
    picture += rng.normal(scale=0.012, size=(size, size, 1)).astype(np.float32)  # the grain of a camera
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8), labels


def _place(rng: np.random.Generator, size: int, classes: int) -> list[_Object]:
    """Objects of different classes, back to front, each with enough left to see; fewer where they do not fit."""
    count = min(classes, int(rng.choice(3, p=OBJECTS)) + 1)
    while True:
        for _ in range(_TRIES):
            labels = rng.permutation(classes)[:count] + 1
            things = [_object(rng, size, int(label), AREA[count]) for label in labels]
            seen = np.zeros((size, size), dtype=np.uint8)
            for thing in things:
                seen[thing.distance <= 0] = thing.label
            visible = np.bincount(seen.ravel(), minlength=classes + 1)[labels] / seen.size
            if visible.min() >= LEAST_VISIBLE:
                return things
        count -= 1  # one object always fits in the end: its area is at least AREA[1]


def _object(rng: np.random.Generator, size: int, label: int, area: tuple[float, float]) -> _Object:
    scale = size * float(np.sqrt(rng.uniform(*area)))  # shapes have unit area
    margin = 0.42 * scale
    centre_x, centre_y = rng.uniform(margin, size - margin, size=2)
    angle = float(rng.uniform(0, 2 * np.pi))
    row, column = np.mgrid[:size, :size].astype(np.float32) + 0.5
    dx, dy = (column - centre_x) / scale, (row - centre_y) / scale
    x = (np.cos(angle) * dx + np.sin(angle) * dy).astype(np.float32)
    y = (np.cos(angle) * dy - np.sin(angle) * dx).astype(np.float32)
    fine = float(rng.uniform(0.85, 1.15))
    return _Object(label, KINDS[label - 1].distance(x, y) * np.float32(scale), x, y, fine)


def _surface(rng: np.random.Generator, thing: _Object, size: int) -> Plane:
    """The textured, lit surface of an object, (H, W, 3): two colours, light from above left, a darker rim."""
    wave = KINDS[thing.label - 1].texture(thing.x, thing.y, thing.fine)
    mix = np.clip(0.5 + wave * size / 40, 0, 1)[..., None].astype(np.float32)
    first, second = _colour_pair(rng, contrast=0.38)
    inside = np.maximum(-thing.distance, 0) / size
    row, column = np.mgrid[:size, :size].astype(np.float32) / size
    core = thing.distance < 0
    tilt = row + column
    tilt = tilt - (float(tilt[core].mean()) if core.any() else 0.0)
    light = 1 - 0.22 * np.clip(tilt, -0.8, 0.8) - 0.42 * np.exp(-inside / 0.013)
    return (first * mix + second * (1 - mix)) * light[..., None].astype(np.float32)


def _shadowed(picture: Plane, distance: Plane, size: int) -> Plane:
    """Darken what lies under an object, a little to the lower right."""
    shift = round(0.025 * size)
    moved = np.pad(distance, ((shift, 0), (shift, 0)), mode="edge")[:size, :size]
    return picture * (1 - 0.42 * np.clip(0.5 - moved / (0.05 * size), 0, 1))[..., None]


def _over(below: Plane, above: Plane, alpha: Plane) -> Plane:
    return below + alpha[..., None] * (above - below)


def _ground(rng: np.random.Generator, size: int) -> Plane:
    """A ground of one of four kinds (clouds, grain of wood, pebbles, blades), (H, W, 3)."""
    first, second = _colour_pair(rng, contrast=0.22)
    kind = int(rng.integers(4))
    if kind == 0:
        wave = _noise(rng, size, (3, 3)) + 0.5 * _noise(rng, size, (9, 9))
    elif kind == 1:
        wave = np.sin(9 * _noise(rng, size, (2, 7))) * 0.7 + 0.4 * _noise(rng, size, (3, 40))
    elif kind == 2:
        wave = 1.2 * np.abs(_noise(rng, size, (14, 14))) - 0.6 + 0.4 * _noise(rng, size, (4, 4))
    else:
        wave = 0.7 * _noise(rng, size, (30, 8)) + 0.6 * _noise(rng, size, (4, 4))
    if rng.uniform() < 0.5:
        wave = wave.T
    mix = np.clip(0.5 + 0.45 * wave, 0, 1)[..., None]
    fall = 1.06 - 0.12 * np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    return (first * mix + second * (1 - mix)) * fall


def _noise(rng: np.random.Generator, size: int, cells: tuple[int, int]) -> Plane:
    """Smooth noise of about unit deviation, (H, W), with so many cells down and across."""
    grid = rng.normal(size=(cells[0] + 3, cells[1] + 3)).astype(np.float32)
    noise: Plane = np.asarray(cv2.resize(grid, dsize=(size, size), interpolation=cv2.INTER_CUBIC), dtype=np.float32)
    return noise


def _colour_pair(rng: np.random.Generator, contrast: float) -> tuple[Plane, Plane]:
    """Two colours of any hue, RGB in 0..1, that differ in lightness by about ``contrast``."""
    hue, saturation = float(rng.uniform()), float(rng.uniform(0.30, 0.75))
    bright = float(rng.uniform(0.45 + contrast / 2, 0.98))
    near = (hue + float(rng.normal(scale=0.06))) % 1
    light = colorsys.hsv_to_rgb(hue, saturation * 0.75, bright)
    dark = colorsys.hsv_to_rgb(near, min(1.0, saturation * 1.15), bright - contrast)
    pair = [np.array(light, dtype=np.float32), np.array(dark, dtype=np.float32)]
    return (pair[0], pair[1]) if rng.uniform() < 0.5 else (pair[1], pair[0])


def _spread(index: int, chosen: int, total: int) -> bool:
    """Whether ``index`` is among ``chosen`` of ``total`` that lie evenly."""
    return (index + 1) * chosen // total > index * chosen // total
