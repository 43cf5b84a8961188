"""Clips: video files and folders of frames, read and written one frame at a time, by OpenCV's FFmpeg.

A clip is never in memory as a whole. OpenCV's build of FFmpeg is LGPL and reads mp4, avi, webm, mkv and gif; it writes
MPEG-4 (.mp4), VP9 (.webm) and motion JPEG (.avi).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from tagmask.data.pixels import header, read_image
from tagmask.errors import DataError, OptionError

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # its complaints about broken files become our errors

Frame = NDArray[np.uint8]  # RGB (H, W, 3)
VIDEOS = (".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v", ".gif")
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
CODECS = {".mp4": "mp4v", ".webm": "VP90", ".avi": "MJPG"}
RATE = 25.0  # frames a second of a folder of frames  # ours
TRUNCATED = 0.95  # of the frames that the head of a file promises; some heads are wrong by one or two  # ours


@dataclass(frozen=True)
class Clip:
    """A video file or a folder of frames. Its law: every pass over it reads the frames anew, in order, all of one size.

    ``frames`` is how many there should be, 0 where that is not known before they are read; ``rate`` in frames a second.
    """

    path: Path
    size: tuple[int, int]
    rate: float
    frames: int
    pictures: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """The file's name without its ending, or the folder's name."""
        return self.path.name if self.pictures else self.path.stem

    def __iter__(self) -> Iterator[Frame]:
        """Yield RGB frames uint8 (H, W, 3). Raises DataError, which names the file, where one is broken or another size."""
        count = 0
        for frame in self._pictures() if self.pictures else self._decoded():
            if frame.shape[:2] != self.size:
                raise DataError(
                    f"{self.pictures[count] if self.pictures else self.path}: frame {count} has "
                    f"{frame.shape[1]}x{frame.shape[0]} pixels, those before have {self.size[1]}x{self.size[0]}; "
                    "give frames of one size."
                )
            count += 1
            yield frame
        if count < TRUNCATED * self.frames - 1:
            raise DataError(
                f"{self.path}: is truncated (frame {count} of {self.frames} cannot be read); copy it again."
            )

    def _pictures(self) -> Iterator[Frame]:
        for path in self.pictures:
            yield read_image(path)

    def _decoded(self) -> Iterator[Frame]:
        video = cv2.VideoCapture(str(self.path), cv2.CAP_FFMPEG)
        try:
            while True:
                there, frame = video.read()
                if not there:
                    return
                yield np.ascontiguousarray(frame[..., ::-1])
        finally:
            video.release()


def is_clip(path: Path) -> bool:
    """Whether this is a video file, or a folder with frames directly in it."""
    if path.is_dir():
        return any(part.suffix.lower() in PICTURES for part in path.iterdir())
    return path.suffix.lower() in VIDEOS


def open_clip(path: Path, *, least: int = 1) -> Clip:
    """Open a video file, or a folder whose pictures are the frames (2.jpg comes before 10.jpg).

    Raises DataError, which names the file, where there is nothing to read or there are fewer than ``least`` frames.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder.")
    if path.is_dir():
        found = sorted((part for part in path.iterdir() if part.suffix.lower() in PICTURES), key=in_order)
        if len(found) < least:
            raise DataError(f"{path}: holds {len(found)} pictures; expected {least} frames or more.")
        return Clip(path, header(found[0])[0], RATE, len(found), tuple(found))
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        readable = 0
        size = (0, 0)
        while readable < least:
            there, frame = video.read() if readable == 0 else (video.grab(), None)
            if not there:
                break
            size = size if frame is None else (frame.shape[0], frame.shape[1])
            readable += 1
        rate, frames = video.get(cv2.CAP_PROP_FPS), int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        video.release()
    if readable < least:
        what = f"only {readable} frames of it can be read" if readable else "no frame of it can be read"
        raise DataError(
            f"{path}: {what}; expected {least} or more. Is it a video ({', '.join(VIDEOS)}), and not truncated?"
        )
    return Clip(path, size, rate if 0 < rate < 1000 else RATE, max(frames, 0))


class ClipWriter:
    """Writes RGB frames uint8 (H, W, 3) to a file, whose ending says how. It is there when all is written, or not at all."""

    def __init__(self, path: Path, *, rate: float = RATE) -> None:
        if path.suffix.lower() not in CODECS:
            raise OptionError(f"{path}: cannot be written as a clip; expected an ending {', '.join(CODECS)}.")
        self.path, self.rate = path, rate
        self._partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
        self._video: cv2.VideoWriter | None = None

    def write(self, frame: Frame) -> None:
        """Add a frame; the first one's size is that of all. Odd sides lose a pixel, for most codecs have none."""
        height, width = (side - side % 2 for side in frame.shape[:2])
        if self._video is None:
            codec = cv2.VideoWriter.fourcc(*CODECS[self.path.suffix.lower()])
            self._video = cv2.VideoWriter(
                filename=str(self._partial), fourcc=codec, fps=self.rate, frameSize=(width, height)
            )
            if not self._video.isOpened():
                raise DataError(f"{self.path}: cannot be written; is its folder there, and are frames 2x2 or larger?")
        self._video.write(np.ascontiguousarray(frame[:height, :width, ::-1]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._video is not None:
            self._video.release()
        if kind is None and self._partial.exists():
            self._partial.replace(self.path)
        self._partial.unlink(missing_ok=True)


def in_order(path: Path) -> list[tuple[int, str]]:
    """Sort key of names with numbers in them.

    >>> [path.name for path in sorted(map(Path, ("f10.jpg", "f9.jpg", "e.jpg")), key=in_order)]
    ['e.jpg', 'f9.jpg', 'f10.jpg']
    """
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]
