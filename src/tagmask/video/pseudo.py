"""Clips made of one labelled photo: a camera that moves smoothly over it, and objects that move on their own.

Where only single frames are labelled, and those before them are missing or far away, this is how a network learns to look
back. Everything random comes from the generator handed in. Arrays in, arrays out. Source: video_data, section 2A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from tagmask.augment import resize

Pixels = NDArray[np.uint8]
Matrix = NDArray[np.float64]  # (3, 3), of homogeneous points x, y, 1

MOST_ENLARGED = 1.25  # photo's pixels a pixel of the clip, at the most  # ours
LEAST_SEEN = 0.7  # of the largest view that fits  # ours
UNSTEADY = 0.3  # what changes from frame to frame, of what is drawn for the clip  # ours


@dataclass(frozen=True)
class Motion:
    """How a pseudo-clip moves, a frame; and what makes its frames differ besides. Values: source (video_data)."""

    zoom: float = 0.012  # mean of the logarithm of the zoom: a camera that drives forward
    zoom_spread: float = 0.006
    shift: float = 3.0  # pixels, standard deviation to each side
    roll: float = 0.2  # degrees, standard deviation
    gain: float = 0.05  # brightness, up to so much more or less
    noise: float = 3.0  # standard deviation, of 255
    objects: int = 3  # pasted, at most
    speed: float = 4.0  # pixels, standard deviation of pasted objects' own motion across  # ours


@dataclass(frozen=True)
class Cutout:
    """An object cut out of a photo: ``pixels`` (h, w, 3), ``inside`` bool (h, w), its class, and how low it stood in [0, 1]."""

    pixels: Pixels
    inside: NDArray[np.bool_]
    label: int
    low: float


def pseudo_clip(
    pixels: Pixels,
    labels: Pixels,
    size: tuple[int, int],
    past: int,
    random: np.random.Generator,
    motion: Motion,
    cutouts: Sequence[Cutout] = (),
) -> tuple[Pixels, Pixels]:
    """Return ``past`` + 1 frames uint8 (T+1, h, w, 3) of ``size`` (h, w), the oldest first, and the last one's labels (h, w).

    ``pixels`` (H, W, 3) and ``labels`` (H, W) are the photo. No border is invented: what is seen in any frame lies in the
    photo. Half of the clips are mirrored.
    """
    path = camera_path(size, past, random, motion)
    view = _view(path, size, labels.shape, random)
    frames = np.stack([_seen(pixels, view @ step, size, cv2.INTER_LINEAR) for step in path])
    truth = _seen(labels, view @ path[-1], size, cv2.INTER_NEAREST)
    for cutout in cutouts:
        _paste(frames, truth, cutout, random, motion)
    if random.integers(2):
        frames, truth = frames[:, :, ::-1], np.ascontiguousarray(truth[:, ::-1])
    return disturbed(frames, random, motion), truth


def camera_path(size: tuple[int, int], past: int, random: np.random.Generator, motion: Motion) -> list[Matrix]:
    """Return for each frame, the oldest first, where its pixels are in the last one: (3, 3), for the last the identity."""
    height, width = size
    focus = np.array(
        [width * random.uniform(0.35, 0.65), height * random.uniform(0.4, 0.5)]
    )  # near the horizon  # ours
    drift = random.normal(0, motion.shift, 2)
    zoom, roll = random.normal(motion.zoom, motion.zoom_spread), random.normal(0, motion.roll)
    path = [np.eye(3)]
    for _ in range(past):
        shift = drift + UNSTEADY * random.normal(0, motion.shift, 2)
        scale = np.exp(zoom + UNSTEADY * random.normal(0, motion.zoom_spread))
        turn = np.deg2rad(roll + UNSTEADY * random.normal(0, motion.roll))
        linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        step = np.eye(3)  # where this frame's pixels are in the next one
        step[:2, :2], step[:2, 2] = linear, focus - linear @ focus + shift
        path.append(path[-1] @ step)
    return path[::-1]


def _view(path: Sequence[Matrix], size: tuple[int, int], photo: Sequence[int], random: np.random.Generator) -> Matrix:
    """Return where in the photo the last frame's pixels are: at a random place and scale at which all frames lie in it."""
    height, width = size
    corners = np.array([[0, width - 1, 0, width - 1], [0, 0, height - 1, height - 1], [1, 1, 1, 1]], dtype=np.float64)
    reached = np.concatenate([(step @ corners)[:2] for step in path], axis=1)  # x, y of all frames' corners
    low, high = reached.min(axis=1), reached.max(axis=1)
    room = np.array([photo[1] - 1, photo[0] - 1])
    fits = float((room / (high - low)).min())
    scale = min(fits, MOST_ENLARGED * random.uniform(LEAST_SEEN, 1), fits * random.uniform(LEAST_SEEN, 1))
    view = np.eye(3)
    view[:2, :2] *= scale
    view[:2, 2] = -scale * low + random.uniform(size=2) * (room - scale * (high - low))
    return view


def _seen(values: Pixels, view: Matrix, size: tuple[int, int], how: int) -> Pixels:
    return np.asarray(
        cv2.warpAffine(
            src=values, M=view[:2], dsize=(size[1], size[0]), flags=how | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        ),
        dtype=np.uint8,
    )  # fmt: skip


def _paste(frames: Pixels, truth: Pixels, cutout: Cutout, random: np.random.Generator, motion: Motion) -> None:
    """Put an object into all frames, in place, moving and growing steadily; and into the labels of the last frame."""
    height, width = truth.shape
    tall, wide = cutout.inside.shape
    scale = float(
        np.clip(random.uniform(0.7, 1.4), 4 / min(tall, wide), 0.8 * min(height / tall, width / wide))
    )  # ours
    foot = height * float(np.clip(cutout.low + random.normal(0, 0.05), 0.05, 1))  # about where it stood  # ours
    centre = random.uniform(0, width)
    speed = random.normal(0, [motion.speed, motion.speed / 4])
    growth = random.normal(motion.zoom, 0.01)
    for age, frame in enumerate(frames[::-1]):
        zoom = scale * np.exp(-growth * age)
        rows, columns = max(2, round(tall * zoom)), max(2, round(wide * zoom))
        top = round(foot - speed[1] * age) - rows
        left = round(centre - speed[0] * age - columns / 2)
        y, x = (
            slice(max(0, top), max(0, min(height, top + rows))),
            slice(max(0, left), max(0, min(width, left + columns))),
        )
        if y.stop <= y.start or x.stop <= x.start:
            continue
        inner = np.s_[y.start - top : y.stop - top, x.start - left : x.stop - left]
        share = cv2.GaussianBlur(
            resize(cutout.inside.astype(np.uint8) * 255, rows, columns), ksize=(3, 3), sigmaX=0.7
        )[inner].astype(np.float32)[..., None] / 255  # fmt: skip
        there = resize(cutout.pixels, rows, columns)[inner].astype(np.float32)
        frame[y, x] = np.rint(frame[y, x] + share * (there - frame[y, x])).astype(np.uint8)
        if age == 0:
            truth[y, x][share[..., 0] > 0.5] = cutout.label


def disturbed(frames: Pixels, random: np.random.Generator, motion: Motion) -> Pixels:
    """Return frames (T, h, w, 3) as a camera has them: each with its own gain, noise, and now and then blur or JPEG."""
    height, width = frames.shape[1:3]
    margin = 32
    noise = random.standard_normal((height + margin, width + margin, 3), dtype=np.float32) * np.float32(motion.noise)
    made = np.empty_like(frames)
    for place, frame in enumerate(frames):
        down, right = random.integers(margin + 1, size=2)
        values = frame * np.float32(1 + random.uniform(-motion.gain, motion.gain))
        values += noise[down : down + height, right : right + width]  # one grain, moved: drawing it anew takes longer
        picture = np.ascontiguousarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
        blur, quality, either = random.uniform(0.3, 0.9), int(random.integers(60, 96)), random.uniform()
        if either < 0.25:  # ours
            picture = np.asarray(cv2.GaussianBlur(picture, ksize=(0, 0), sigmaX=blur), dtype=np.uint8)
        elif either < 0.6:
            _, written = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
            picture = np.asarray(cv2.imdecode(written, cv2.IMREAD_COLOR), dtype=np.uint8)
        made[place] = picture
    return made


def objects_to_move(
    labels: Pixels, classes: Sequence[int], least: float = 0.001, most: float = 0.15
) -> list[tuple[int, int, int, int, int]]:
    """Return (class, top, left, bottom, right) of whole objects of ``classes``: connected, off the border of the photo.

    They cover a share of the photo (H, W) from ``least`` to ``most``.  # ours
    """
    found = []
    for label in classes:
        _, _, boxes, _ = cv2.connectedComponentsWithStats((labels == label).astype(np.uint8))
        for left, top, wide, tall, area in boxes[1:].tolist():
            inside = left > 0 and top > 0 and left + wide < labels.shape[1] and top + tall < labels.shape[0]
            if inside and least * labels.size <= area <= most * labels.size:
                found.append((label, top, left, top + tall, left + wide))
    return found


def cut_out(pixels: Pixels, labels: Pixels, place: Sequence[int]) -> Cutout:
    """Cut one of `objects_to_move` out of its photo."""
    label, top, left, bottom, right = place
    box = np.s_[top:bottom, left:right]
    return Cutout(pixels[box], labels[box] == label, label, bottom / labels.shape[0])


def clip_of_photos(
    photos: Sequence[Pixels], labels: Pixels, size: tuple[int, int], random: np.random.Generator, motion: Motion
) -> tuple[Pixels, Pixels]:
    """Return frames (n, h, w, 3) and the last one's labels of real ``photos`` (H, W, 3), the oldest first, in one view."""
    still = [np.eye(3)]
    view = _view(still, size, labels.shape, random)
    frames = np.stack([_seen(photo, view, size, cv2.INTER_LINEAR) for photo in photos])
    truth = _seen(labels, view, size, cv2.INTER_NEAREST)
    if random.integers(2):
        frames, truth = frames[:, :, ::-1], np.ascontiguousarray(truth[:, ::-1])
    return disturbed(frames, random, motion), truth
