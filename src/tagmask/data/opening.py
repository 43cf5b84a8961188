"""Open any picture safely: only the header is read, and whatever is broken becomes one DataError."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from PIL import Image, UnidentifiedImageError

from tagmask.errors import DataError

MOST_PIXELS = 500_000_000  # ours: 1.5 GB as RGB; more in one file is a mistake or an attack
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")  # ours: none of them runs a program


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open lazily, and turn whatever Pillow throws at a broken file into one DataError that names it."""
    try:
        with _large_pictures, Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise DataError(f"{path}: {image.width}x{image.height} pixels; at most {MOST_PIXELS} are read.")
            yield image
    except DataError:
        raise
    except UnidentifiedImageError as error:
        empty = path.stat().st_size == 0
        raise DataError(
            f"{path}: {'is empty (0 bytes)' if empty else 'is not a picture, whatever its name'}."
        ) from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file.") from error
    except MemoryError as error:
        raise DataError(f"{path}: does not fit in memory.") from error
    except Exception as error:  # Pillow's decoders raise nearly every kind on broken bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        if "truncated" in reason.lower() or isinstance(error, EOFError):
            raise DataError(f"{path}: is truncated (it ends before its picture does); copy it again.") from error
        raise DataError(f"{path}: cannot be decoded ({reason}).") from error


class _LargePictures:
    """Lifts Pillow's own size guard while any thread is inside, and puts it back when the last one leaves.

    The guard is one global of Pillow's; `MOST_PIXELS` stands in for it, so that 108 megapixels are read quietly.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._guard: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._guard, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                Image.MAX_IMAGE_PIXELS = self._guard


_large_pictures = _LargePictures()


def orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8 as the header states it; Pillow itself turns TIFFs when it reads them."""
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1  # for PNG: asking further would decode the whole picture
    try:
        turned = image.getexif().get(0x0112, 1)
    except Exception:  # a broken EXIF block does not spoil the picture
        return 1
    return turned if isinstance(turned, int) and 1 <= turned <= 8 else 1
