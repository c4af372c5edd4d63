"""The image files of a folder or an archive, without extracting anything to disk."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ebmzoo.data.image_files import MOST_BYTES, Entry, entry, first_line, image_suffixes
from ebmzoo.errors import UserError
from ebmzoo.reading import check_regular

TAR = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
ZIP = (".zip",)
ALWAYS_UNPACKED, RATIO = 2**30, 100
"""An archive may unpack to that many bytes, and to that many times its own size; images hardly shrink in one."""
KINDS = "a folder, an archive (.tar, .tar.gz, .tar.xz, .tar.bz2, .zip) or an .npz file"


def existing(path: str | Path) -> Path:
    """Return the path with `~` expanded.

    Raises:
        UserError: If it does not exist, or is a pipe or a device.
    """
    expanded = Path(path).expanduser()
    if not expanded.exists():
        raise UserError(f"path: {expanded} does not exist; it must be {KINDS}")
    if not expanded.is_dir():
        check_regular(expanded)
    return expanded


def check_no_devices(folder: Path) -> None:
    """Check that a folder and the folders in it, if it exists, contain no pipe or device, which a reader may open.

    Raises:
        UserError: If there is one.
    """
    if not folder.is_dir():
        return
    for place in (folder, *(Path(found.path) for found in os.scandir(folder) if found.is_dir())):
        for found in os.scandir(place):
            if not found.is_file() and not found.is_dir():
                check_regular(found.path)


def image_files(path: Path, left_out: Counter[str] | None = None) -> Iterator[Entry]:
    """Yield every image file below `path`, a folder or an archive, under its relative path; hidden files are skipped.

    Args:
        path: The folder or archive.
        left_out: Counts the files that are not images, by the ending of their names.

    Raises:
        UserError: If a file cannot be read, or the archive is damaged, encrypted, far larger than its file, or contains
            a link or a path outside itself.
    """
    name = path.name.lower()
    if path.is_dir():
        yield from _in_folder(path, left_out)
    elif name.endswith(TAR + ZIP):
        try:
            yield from _in_zip(path, left_out) if name.endswith(ZIP) else _in_tar(path, left_out)
        except (
            tarfile.TarError,
            zipfile.BadZipFile,
            lzma.LZMAError,
            zlib.error,
            EOFError,
            OSError,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise UserError(
                f"{path} is not a complete archive ({first_line(error)}): copy or download it again"
            ) from error
    else:
        raise UserError(f"path: {path} is of an unknown kind; it must be {KINDS}")


def _wanted(name: str, left_out: Counter[str] | None) -> bool:
    path = PurePosixPath(name)
    if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
        return False
    wanted = path.suffix.lower() in image_suffixes()
    if not wanted and left_out is not None:
        left_out[path.suffix.lower() or "no ending"] += 1
    return wanted


def _inside(archive: Path, member: str) -> str:
    """Return the member's name without a leading `./`.

    Raises:
        UserError: If it points outside the archive.
    """
    name = PurePosixPath(member)
    if name.is_absolute() or ".." in name.parts:
        raise UserError(f"{archive}: member {member!r} points outside the archive, so the archive is not read")
    return str(name)


def _in_folder(folder: Path, left_out: Counter[str] | None) -> Iterator[Entry]:
    for where, folders, files in os.walk(folder, followlinks=True, onerror=_unreadable):
        # A link to a folder that it is in would recur forever. Any other is a folder of its own: two classes, or the
        # splits of two data sets, may share images.
        above = {os.path.realpath(parent) for parent in (Path(where), *Path(where).parents)}
        folders[:] = sorted(name for name in folders if os.path.realpath(Path(where, name)) not in above)
        for file in sorted(files):
            path = Path(where, file)
            name = path.relative_to(folder).as_posix()
            if _wanted(name, left_out):
                check_regular(path)
                yield entry(path, name)


def _unreadable(error: OSError) -> None:
    raise UserError(f"path: {error.filename} cannot be read ({error.strerror})") from error


def _small(archive: Path, name: str, size: int) -> None:
    if size > MOST_BYTES:
        raise UserError(
            f"{archive}: {name} unpacks to {size / 2**30:.3g} GiB, too much for an image: remove it from the archive"
        )


def _check_unpacked(archive: Path, size: int) -> None:
    most = ALWAYS_UNPACKED + RATIO * archive.stat().st_size
    if size > most:
        raise UserError(
            f"{archive} unpacks to {size / 2**30:.3g} GiB or more, over {RATIO} times its size, so it is not read: "
            "pack the images alone"
        )


class _Metered:
    """The unpacked bytes of an archive, of which only so many are read, at once and in all."""

    def __init__(self, file: IO[bytes], archive: Path) -> None:
        self.file, self.archive = file, archive

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes."""
        _small(self.archive, "a header", size)
        _check_unpacked(self.archive, self.file.tell() + size)
        return self.file.read(size)

    def seek(self, position: int) -> int:
        """Go to a position, for which a compressed archive is unpacked up to there."""
        _check_unpacked(self.archive, position)
        return self.file.seek(position)

    def tell(self) -> int:
        """Return the position."""
        return self.file.tell()


def _unpacking(archive: Path) -> IO[bytes]:
    with archive.open("rb") as file:
        start = file.read(6)
    unpack: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
    compressed = next((kind for magic, kind in unpack.items() if start.startswith(magic)), None)
    unpacked: IO[bytes] = archive.open("rb") if compressed is None else compressed(archive)
    return unpacked


def _in_tar(archive: Path, left_out: Counter[str] | None) -> Iterator[Entry]:
    with _unpacking(archive) as unpacked:
        metered: Any = _Metered(unpacked, archive)
        tar = tarfile.open(fileobj=metered, mode="r:")  # noqa: SIM115  (nothing of it is open but the archive)
        for member in tar:
            name = _inside(archive, member.name)
            if member.isdir() or not _wanted(name, left_out):
                continue
            _small(archive, name, member.size)
            content = tar.extractfile(member) if member.isfile() else None
            if content is None:
                raise UserError(f"{archive}: {name} is a link: pack the images again with `tar --dereference`")
            # Read now: a compressed archive can only be read forwards, and it is closed after the last member.
            yield name, partial(bytes, content.read())
        if archive.suffix == ".tar":  # compressed formats detect a missing end themselves
            with archive.open("rb") as file:
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise EOFError("its end marker is missing")


def _in_zip(archive: Path, left_out: Counter[str] | None) -> Iterator[Entry]:
    with zipfile.ZipFile(archive) as zipped:
        members = zipped.infolist()
        _check_unpacked(archive, sum(member.file_size for member in members))
        for member in members:
            name = _inside(archive, member.filename)
            if member.is_dir() or not _wanted(name, left_out):
                continue
            if member.flag_bits & 1:
                raise UserError(f"{archive}: {name} is encrypted: pack the images again without a password")
            _small(archive, name, member.file_size)
            yield name, partial(bytes, zipped.read(member))
