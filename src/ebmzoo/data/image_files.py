"""Opening image files of anyone: their formats, and limits of what they take in memory, checked before decoding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from threading import Condition
from typing import IO

from PIL import Image, UnidentifiedImageError

from ebmzoo.errors import UserError
from ebmzoo.reading import check_regular, read_bytes

Entry = tuple[str, Callable[[], bytes]]
"""A file's name and a function that returns its bytes."""

UNREADABLE = frozenset({"BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})
"""Formats of Pillow that are no photographs, or that it reads only by starting another program."""
MOST_BYTES = 2**26
"""The largest image file that is read: 64 MiB."""
MOST_PIXELS = 2**26
"""The most pixels of an image that is decoded: 67 million, 0.25 GiB in four channels of 8 bits."""
AT_ONCE = 2**30
"""The memory for the images that are being decoded at the same time, in bytes."""
BYTES_A_PIXEL = 16
"""What the decoding of a pixel takes, with the copies of its conversions, in bytes."""


@cache
def formats() -> tuple[str, ...]:
    """Return the names of the formats that are read: all that the installed Pillow decodes itself."""
    Image.init()
    return tuple(sorted(set(Image.OPEN) - UNREADABLE))


@cache
def image_suffixes() -> frozenset[str]:
    """Return the endings of file names, such as `.jfif`, of the formats that are read."""
    readable = formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in readable)


@contextmanager
def opened(file: Path | IO[bytes]) -> Iterator[Image.Image]:
    """Open an image, whose pixels are not decoded yet; while the block decodes them, others may have to wait.

    Raises:
        UserError: If the file is a pipe or a device.
        ValueError: If the image has more than `MOST_PIXELS`.
    """
    if isinstance(file, Path):
        check_regular(file)
    with Image.open(file, formats=formats()) as image:
        width, height = image.size
        if width * height > MOST_PIXELS:
            raise ValueError(f"{width}×{height} pixels, more than {MOST_PIXELS / 1e6:.0f} million")
        with _MEMORY.taken(width * height * BYTES_A_PIXEL):
            yield image


class _DecodingMemory:
    """Memory that several threads share: each waits until what it needs is free, or all of it."""

    def __init__(self, most: int) -> None:
        self.most = self.free = most
        self._changed = Condition()

    @contextmanager
    def taken(self, needed: int) -> Iterator[None]:
        """Within the block, `needed` bytes are taken."""
        needed = min(needed, self.most)
        with self._changed:
            self._changed.wait_for(lambda: self.free >= needed)
            self.free -= needed
        try:
            yield
        finally:
            with self._changed:
                self.free += needed
                self._changed.notify_all()


_MEMORY = _DecodingMemory(AT_ONCE)


def entry(path: Path, name: str | None = None) -> Entry:
    """Return the entry of a file, by default under its whole path; its bytes are those of a regular, not giant file."""
    return str(path) if name is None else name, partial(read_bytes, path, MOST_BYTES)


def size_of(path: str | Path) -> tuple[int, int]:
    """Return the width and height in the header of an image file, without decoding its pixels.

    Raises:
        UserError: If the file is missing, is not a regular file or an image, or has too many pixels.
    """
    try:
        with opened(Path(path)) as image:
            return image.size
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is not an image file") from error
    except Exception as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
        raise UserError(f"{path} cannot be read as an image ({reason})") from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, without a full stop, for use within a sentence."""
    return next(iter(str(error).splitlines()), "").strip(" .:") or type(error).__name__
