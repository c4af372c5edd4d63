"""The decoded images of a folder or an archive, which are kept so that later commands need not decode them again."""

from __future__ import annotations

import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache as once
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import features

from ebmzoo.data.array_cache import KeptArrays, caches, code_digest, find, keep
from ebmzoo.data.decode import Frame, Pixels, check_memory, decode
from ebmzoo.data.image_files import Entry, formats, image_suffixes
from ebmzoo.data.sources import image_files
from ebmzoo.data.splits import digest
from ebmzoo.errors import UserError

LIBRARIES = ("pil", "jpg", "libjpeg_turbo", "jpg_2000", "libtiff", "webp", "avif")
"""What decodes images: Pillow and the libraries that it was built with."""
CODE = tuple(f"ebmzoo.data.{name}" for name in ("decode", "image_files", "sources", "decoded"))
"""Our own modules that pixels depend on."""
SETTLED = 2.0
"""The seconds for which a folder must be unchanged: a change within one tick of a file system's clock is not seen."""
LONGEST = 2**28
"""The most bytes that the names of the files may take."""


@dataclass(frozen=True)
class Decoded:
    """The images of a source in the order of its files.

    Args:
        names: The path of each file in the source.
        images: uint8 `(N, channels, size, size)`, which may be a read-only memory map.
        digests: The digest of each file (`ebmzoo.data.splits.digest`).
    """

    names: list[str]
    images: Pixels
    digests: list[bytes]


def decoded(source: Path, frame: Frame, left_out: Counter[str], *, max_gib: float, cache: bool = True) -> Decoded:
    """Return the decoded images of a folder or an archive: those that are kept if it has not changed since.

    They are kept beside the source or, where that cannot be written, in the user's cache (`array_cache.caches`). What
    is kept belongs to the content of an archive, to the names, sizes and times of change of the files of a folder, to
    the frame, and to the version of all that decodes.

    Args:
        source: The folder or archive.
        frame: How each image is cropped and scaled.
        left_out: Counts the files that are not images, by the ending of their names.
        max_gib: The most memory that the images may take.
        cache: Whether to use what is kept, and to keep what is decoded.

    Raises:
        UserError: As of `image_files` and `decode`.
    """
    places = caches("images", beside=source.resolve().parent) if cache else []
    state = _State.of(source) if places else None
    if state is None:
        return _decode(source, frame, left_out, max_gib)
    key = state.key(frame)
    if (found := find(places, key)) is not None and (kept := _read(found, frame)) is not None:
        check_memory(len(kept.names), frame, max_gib)
        left_out.update(state.left_out if state.left_out is not None else found.facts["left_out"])
        return kept
    made = _decode(source, frame, left_out, max_gib)
    if made.names and state.holds(source):
        names = np.frombuffer(json.dumps(made.names).encode(), np.uint8)
        digests = np.frombuffer(b"".join(made.digests), np.uint8).reshape(len(made.names), -1)
        if names.nbytes <= LONGEST:
            keep(places, key, {"images": made.images, "names": names, "digests": digests}, {"left_out": left_out})
    return made


def _decode(source: Path, frame: Frame, left_out: Counter[str], max_gib: float) -> Decoded:
    digests: dict[str, bytes] = {}

    def with_digests() -> Iterator[Entry]:
        for name, read in image_files(source, left_out):

            def digested(name: str = name, read: Callable[[], bytes] = read) -> bytes:
                content = read()
                digests[name] = digest(content)
                return content

            yield name, digested

    names, images = decode(with_digests(), frame, max_gib=max_gib)
    return Decoded(names, images.numpy(), [digests[name] for name in names])


def _read(found: KeptArrays, frame: Frame) -> Decoded | None:
    """What is kept; None if it is not of the right form, whoever wrote it."""
    try:
        images, digests = found.arrays["images"], found.arrays["digests"]
        if found.arrays["names"].nbytes > LONGEST:
            return None
        names = json.loads(found.arrays["names"].tobytes())
        left_out = found.facts["left_out"]
        right = (
            images.dtype == digests.dtype == np.uint8
            and images.shape == (len(names), frame.channels, frame.size, frame.size)
            and digests.shape == (len(names), len(digest(b"")))
            and isinstance(names, list)
            and all(isinstance(name, str) for name in names)
            and all(isinstance(n, int) for n in left_out.values())
        )
    except Exception:  # as of any file of another program
        return None
    return Decoded(names, images, [row.tobytes() for row in digests]) if right else None


@dataclass(frozen=True)
class _State:
    """What is compared to see whether a source is the one that was decoded.

    Args:
        digest: The digest of an archive, or of the listing of a folder.
        marks: The sizes and times of change of the files, which cost less to compare.
        left_out: The files of a folder that are not images, by their endings; None for an archive, which is not opened.
    """

    digest: str
    marks: tuple[Any, ...]
    left_out: Counter[str] | None

    @classmethod
    def of(cls, source: Path) -> _State | None:
        """The present state; None where it cannot be told, or a file of a folder has only just been changed."""
        try:
            if not source.is_dir():
                with source.open("rb") as file:
                    marks = _marks(source, None)
                    return cls(file_digest(file, "sha256").hexdigest(), marks, None)
            left_out: Counter[str] = Counter()
            start, marks = time.time(), _marks(source, left_out)
        except (OSError, UserError):  # which decoding meets too, and explains
            return None
        changed = max((max(times) for _, _, *times in marks), default=0) / 1e9
        if changed > start - SETTLED:
            return None
        return cls(sha256(repr(marks).encode()).hexdigest(), marks, left_out)

    def holds(self, source: Path) -> bool:
        """Whether the source is still in this state, after it was decoded."""
        try:
            return self.marks == _marks(source, None)
        except (OSError, UserError):
            return False

    def key(self, frame: Frame) -> dict[str, Any]:
        """What decoded images depend on."""
        kind = "archive" if self.left_out is None else "folder"
        return {"of": "decoded images", kind: self.digest, "frame": asdict(frame), **_decoder()}


def _marks(source: Path, left_out: Counter[str] | None) -> tuple[Any, ...]:
    """The name, size, and times of change in ns of an archive or of each image file of a folder.

    The time of change of an inode is among them: no program that restores the time of modification can set it.
    """
    names = sorted(name for name, _ in image_files(source, left_out)) if source.is_dir() else [""]
    found = [(name, (source / name).stat()) for name in names]
    return tuple((name, status.st_size, status.st_mtime_ns, status.st_ctime_ns) for name, status in found)


@once
def _decoder() -> dict[str, Any]:
    """The version of all that decodes: libraries, formats, our own code, and the kind of processor."""
    return {
        "libraries": {name: features.version(name) for name in LIBRARIES},
        "formats": sha256(repr((formats(), sorted(image_suffixes()))).encode()).hexdigest(),
        "code": code_digest(*CODE),
        "machine": platform.machine(),
    }
