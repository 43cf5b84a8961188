"""Clips that show a class: the user's, in a folder for each class, or made of photos by a moving camera."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tagmask.data.photos import PerImage
from tagmask.data.pixels import fingerprint, load_photo
from tagmask.data.tags import folded
from tagmask.data.video import PICTURES, VIDEOS, Clip, in_order, open_clip
from tagmask.errors import DataError, OptionError, did_you_mean
from tagmask.keys import digest
from tagmask.types import Dataset, Sample
from tagmask.work import Work

MADE = "made"  # in place of a folder: clips made of the photos with one tag
LEAST = 2  # frames of a clip  # ours
SEEN = (0.6, 0.9)  # share of a photo's sides that a made clip shows at its ends, drawn  # ours
SIZE = 0.75  # sides of a made clip, of the photo's  # ours

Frame = NDArray[np.uint8]


@dataclass(frozen=True)
class MadeClip:
    """A clip of one photo, over which a camera moves smoothly. Its law: every pass makes the same frames anew."""

    sample: Sample
    longest: int
    count: int
    seed: int

    @property
    def path(self) -> Path:
        """The photo."""
        return self.sample.image

    def __iter__(self) -> Iterator[Frame]:
        """Yield RGB frames uint8 (H, W, 3). Raises DataError where the photo cannot be read."""
        pixels = load_photo(self.sample, longest=self.longest or None).pixels
        random = np.random.default_rng([self.seed, zlib.crc32(self.sample.name.encode())])
        return moving_view(pixels, self.count, random)


def moving_view(pixels: Frame, count: int, random: np.random.Generator) -> Iterator[Frame]:
    """Yield ``count`` views of a photo (H, W, 3), all of one size: from a random one smoothly over to another.

    Nothing but the photo is seen: no border is invented.
    """
    photo = np.array(pixels.shape[:2])
    size = np.maximum(np.rint(SIZE * photo), 1).astype(int)
    share, corner = random.uniform(*SEEN, size=2), random.uniform(size=(2, 2))  # at the start and at the end
    for number in range(count):
        way = number / max(count - 1, 1)
        way = way * way * (3 - 2 * way)  # starts and stops gently
        part = share[0] + way * (share[1] - share[0])
        top, left = (corner[0] + way * (corner[1] - corner[0])) * (1 - part) * (photo - 1)
        down, across = part * (photo - 1) / np.maximum(size - 1, 1)
        view = np.array([[across, 0, left], [0, down, top]])
        seen = cv2.warpAffine(
            src=pixels, M=view, dsize=(int(size[1]), int(size[0])), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip
        yield np.asarray(seen, dtype=np.uint8)


@dataclass(frozen=True)
class TaggedClip:
    """A clip whose every frame may show the class ``tag`` (1..C-1), or not; and no other.

    ``name`` names its results, ``shown`` the folder of its masks.
    """

    name: str
    shown: str
    tag: int
    clip: Clip | MadeClip

    def frame_name(self, number: int) -> str:
        """Return the name of a frame: that of the picture, without its ending, or five digits."""
        pictures = self.clip.pictures if isinstance(self.clip, Clip) else ()
        return pictures[number].stem if pictures else f"{number:05d}"

    def fingerprint(self) -> str:
        """Name what the frames are made of."""
        if isinstance(self.clip, Clip):
            return digest([fingerprint(path) for path in self.clip.pictures or (self.clip.path,)])
        made = self.clip
        return digest([fingerprint(made.path), made.longest, made.count, made.seed, made.sample.name])


class TaggedClips(PerImage[TaggedClip]):
    """``clips[name]`` is one clip; ``problems`` are lines about those that cannot be used."""

    def __init__(self, clips: Sequence[TaggedClip], problems: Sequence[str] = ()):
        super().__init__([clip.name for clip in clips])
        self._clips = {clip.name: clip for clip in clips}
        self.problems = list(problems)
        self._keys: dict[str, str] = {}

    def __getitem__(self, name: str) -> TaggedClip:
        return self._clips[name]

    def key_of(self, name: str) -> str:
        """The bytes of the clip (of each of its frames where it is a folder) and its class."""
        if name not in self._keys:
            self._keys[name] = digest([self._clips[name].fingerprint(), self._clips[name].tag])
        return self._keys[name]


def checked_clips(source: str) -> None:
    """Raise OptionError where ``source`` is neither empty, ``made`` nor a folder."""
    if source and source != MADE and not Path(source).is_dir():
        raise OptionError(
            f"clips is {source!r}{did_you_mean(source, [MADE])}; expected a folder with a folder of clips for each class, "
            f"or {MADE}: clips made of the photos."
        )


def tagged_clips(work: Work, data: Dataset, source: str, *, count: int) -> TaggedClips:
    """Return the clips of the folder ``source``, or with ``made`` clips of ``count`` frames of the photos with one tag.

    What cannot be used is said, and stands in ``problems``. Raises OptionError for an empty ``source``, DataError where no
    clip can be used.
    """
    checked_clips(source)
    known = ", ".join(data.classes[1:4]) + (", ..." if len(data.classes) > 4 else "")
    if not source:
        raise OptionError(
            f"clips is empty; expected --clips CLIPS with videos CLIPS/CLASS/*.mp4, or folders of frames CLIPS/CLASS/CLIP/, "
            f"for the classes of the data ({known}); or --clips {MADE}: clips made of the photos."
        )
    if source == MADE:
        samples = [sample for sample in data.train if sample.tags is not None and len(sample.tags) == 1]
        if not samples:
            raise DataError(
                f"{data.root}: no photo has exactly one tag, of which a clip could be made; give --clips CLIPS."
            )
        made = [(sample, MadeClip(sample, work.longest, count, work.seed)) for sample in samples]
        return TaggedClips([TaggedClip(s.name, s.name, (s.tags or (0,))[0], clip) for s, clip in made])
    clips = clips_in(Path(source), data.classes)
    for problem in clips.problems:
        work.narrator.say(problem)
    if not len(clips):
        raise DataError(
            f"{source}: holds no clip of the classes of the data ({known}); expected CLASS/*.mp4, or folders of frames "
            f"CLASS/CLIP/, of {LEAST} frames or more. {' '.join(clips.problems[:1])}".rstrip()
        )
    work.narrator.say(f"{source}: {len(clips)} clips of {len({clips[name].tag for name in clips.names})} classes")
    return clips


def clips_in(folder: Path, classes: Sequence[str]) -> TaggedClips:
    """Open the clips ``CLASS/CLIP.mp4`` and ``CLASS/CLIP/`` under a folder; what cannot be used becomes a problem."""
    ids = {folded(name): number for number, name in enumerate(classes) if number}
    found: list[tuple[str, str, int, Clip]] = []
    problems: list[str] = []
    for part in _parts(folder):
        if not part.is_dir():
            if part.suffix.lower() in VIDEOS:
                problems.append(f"{part}: lies in no folder of a class, so nothing says what it shows; not used.")
            continue
        tag = ids.get(folded(part.name))
        if tag is None:
            problems.append(f"{part}: is no class of the data{did_you_mean(part.name, classes[1:])}; not used.")
            continue
        inside = [one for one in _parts(part) if one.is_dir() or one.suffix.lower() in VIDEOS]
        if not inside and any(one.suffix.lower() in PICTURES for one in _parts(part)):
            problems.append(f"{part}: holds pictures; expected a folder of frames for each clip, or videos; not used.")
        names = Counter(one.name if one.is_dir() else one.stem for one in inside)
        for one in inside:
            short = one.name if one.is_dir() else one.stem
            try:
                clip = open_clip(one, least=LEAST)
            except DataError as error:
                problems.append(f"{error} Not used.")
                continue
            found.append((part.name, short if names[short] == 1 else one.name, tag, clip))
    twice = Counter(name for _, name, _, _ in found)
    clips = [
        TaggedClip(f"{group}/{name}", name if twice[name] == 1 else f"{group}_{name}", tag, clip)
        for group, name, tag, clip in found
    ]
    return TaggedClips(clips, problems)


def _parts(folder: Path) -> list[Path]:
    return sorted((part for part in folder.iterdir() if not part.name.startswith(".")), key=in_order)
