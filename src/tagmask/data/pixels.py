"""Pixels in and out: photos as RGB, masks as class ids, both read one at a time and never trusted.

Pillow decodes. What a photo becomes:

=================  =====================================================================================
grey, 1-bit        the same value in all three channels
palette            its colours
transparency       laid over white, as a browser or a printer shows it
CMYK, YCbCr        Pillow's plain conversion; colour profiles are not applied
16-bit grey        shifted down to 8 bits from the fewest of 8, 10, 12, 14 or 16 bits that hold its largest
                   value, so that the 12-bit picture of a camera or microscope does not come out black
16-bit colour      the high byte of each channel
animation          its first frame
EXIF rotation      honoured, also by `image_size`
floating point     refused: nothing says which value is white
=================  =====================================================================================
"""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tagmask.data.opening import opened, orientation
from tagmask.errors import DataError
from tagmask.types import UNKNOWN, Photo, Sample

_ENDINGS = ".jpg .jpeg .jpe .jfif .png .bmp .tif .tiff .webp .gif .ppm .pgm .pbm .pnm .jp2"
_PHOTO_MODES = "1 L P RGB RGBA LA PA La RGBa RGBX CMYK YCbCr HSV I I;16 I;16B I;16L I;16N"
_MASK_MODES = "1 L P I I;16 I;16B I;16L I;16N"
ENDINGS = frozenset(_ENDINGS.split())

_FINGERPRINT_BYTES = 65536  # ours: the head and the tail hold the header and what a cut or an edit changes
_TURN = {  # EXIF 2.3, tag 0x0112: what undoes each orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: Path, *, longest: int | None = None) -> NDArray[np.uint8]:
    """Read a photo as uint8 RGB (H, W, 3), upright; the table above says what each kind of file becomes.

    ``longest`` shrinks a photo whose longer side has more pixels (JPEGs are then decoded small, which is fast).
    Raises DataError, which names the file, when it is missing, truncated, too large or not a picture.
    """
    with opened(path) as image:
        refuse_mode(path, image.mode)
        turn = _TURN.get(orientation(image))
        if longest is not None and max(image.size) > longest:
            factor = longest / max(image.size)
            small = max(1, round(image.width * factor)), max(1, round(image.height * factor))
            image.draft(None, small)
            image.load()
            rgb = _to_rgb(path, image).resize(small, resample=Image.Resampling.BICUBIC)
        else:
            rgb = _to_rgb(path, image)
        return np.array(rgb if turn is None else rgb.transpose(turn))


def load_photo(sample: Sample, longest: int | None = None) -> Photo:
    """Read the photo of a sample; ``longest`` as in `read_image`. Raises DataError, which names the file."""
    return Photo(name=sample.name, pixels=read_image(sample.image, longest=longest), tags=sample.tags)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels after EXIF rotation, from the header alone. Raises DataError."""
    return header(path)[0]


def header(path: Path) -> tuple[tuple[int, int], str]:
    """Size (H, W) after EXIF rotation and Pillow's mode, from the header alone. Raises DataError."""
    with opened(path) as image:
        width, height = image.size
        return ((width, height) if orientation(image) >= 5 else (height, width)), image.mode


def decode_fully(path: Path) -> None:
    """Decode a photo to its last byte and forget it; JPEGs at an eighth of their size, which reads all bytes too.

    Raises DataError, which names the file, where the header looked well and the rest is not (a truncated file).
    """
    with opened(path) as image:
        image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()


def refuse_mode(path: Path, mode: str) -> None:
    """Raise DataError for the kinds of pixels that have no one meaning as a photo."""
    if mode not in _PHOTO_MODES.split():
        what = "floating point pixels, and nothing says which value is white" if mode == "F" else f"{mode} pixels"
        raise DataError(f"{path}: holds {what}; expected 8- or 16-bit grey or colour; save it as such.")


def read_mask(path: Path, classes: int) -> NDArray[np.uint8]:
    """Read a mask as uint8 (H, W): 0 background, 1..classes-1, 255 unknown.

    Palette and grey pictures of ids are masks (the palette's colours do not matter). Raises DataError for colour
    pictures and for ids of ``classes`` and above, 255 excepted.
    """
    with opened(path) as image:
        refuse_mask_mode(path, image.mode)
        step = _grey_step(image)  # Pillow forgets it once it has decoded
        raw = np.asarray(image)
    ids = raw.astype(np.int64 if raw.dtype.itemsize > 1 else np.uint8) // step
    # Counting the bytes takes a tenth of the time of sorting them.
    seen = np.flatnonzero(np.bincount(ids.ravel(), minlength=256)) if ids.dtype == np.uint8 else np.unique(ids)
    strange = [int(value) for value in seen if not (0 <= value < classes or value == UNKNOWN)]
    if strange:
        named = ", ".join(map(str, strange[:8])) + (" ..." if len(strange) > 8 else "")
        raise DataError(f"{path}: holds the ids {named}; expected 0..{classes - 1} or 255 (unknown).")
    return ids.astype(np.uint8)


def refuse_mask_mode(path: Path, mode: str) -> None:
    """Raise DataError for a picture that cannot be a mask of ids."""
    if mode not in _MASK_MODES.split():
        raise DataError(
            f"{path}: is a {mode} picture, so its colours are not class ids; expected a palette or grey PNG of ids."
        )


def write_mask(path: Path, labels: NDArray[np.uint8]) -> None:
    """Write labels uint8 (H, W) as a palette PNG in the VOC colours; equal labels give equal bytes."""
    if labels.dtype != np.uint8 or labels.ndim != 2:
        raise ValueError(f"labels must be uint8 (H, W), got {labels.dtype} {labels.shape}")
    picture = Image.fromarray(np.ascontiguousarray(labels))
    picture.putpalette(palette().tobytes())
    picture.save(path, format="PNG", compress_level=6)


def palette() -> NDArray[np.uint8]:
    """The VOC colour map, uint8 (256, 3): bit b of the id, three by three, fills r, g and b from the top bit down.

    >>> palette()[[0, 1, 2, 15, 255]].tolist()
    [[0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128], [224, 224, 192]]
    """
    ids = np.arange(256)[:, None]
    channels = np.arange(3)[None, :]
    colours = np.zeros((256, 3), dtype=np.int64)
    for triple in range(8):
        colours |= ((ids >> (3 * triple + channels)) & 1) << (7 - triple)
    return colours.astype(np.uint8)


def fingerprint(path: Path) -> str:
    """Name the content of a file by its size and the BLAKE2b of its first and last 64 KiB. Raises DataError."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            digest = blake2b(file.read(_FINGERPRINT_BYTES), digest_size=16)
            file.seek(max(0, size - _FINGERPRINT_BYTES))
            digest.update(file.read(_FINGERPRINT_BYTES))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    return f"{size:x}-{digest.hexdigest()}"


def _to_rgb(path: Path, image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _from_16_bit(path, image)
    if image.mode == "RGBX":  # the fourth channel is padding, not transparency
        return image.convert("RGB")
    if image.mode in ("La", "RGBa"):
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        clear = image.convert("RGBA")
        white = Image.new("RGBA", clear.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, clear).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(path: Path, image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)  # (H, W)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise DataError(f"{path}: holds values {low}..{high}; expected 8- or 16-bit pixels; save it as such.")
    bits = next(bits for bits in (8, 10, 12, 14, 16) if high < 1 << bits)
    return Image.fromarray((values >> (bits - 8)).astype(np.uint8)).convert("RGB")


def _grey_step(image: Image.Image) -> int:
    """What Pillow multiplies the ids of 2- and 4-bit grey PNGs with: it stretches them to 0..255."""
    tiles = getattr(image, "tile", None)
    raw = tiles[0].args if tiles else None
    return {"L;2": 85, "L;4": 17}.get(raw if isinstance(raw, str) else "", 1)
