"""The image files of a folder or an archive, without extracting anything to disk."""

from __future__ import annotations

import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from ebmzoo.data.decode import Entry, first_line
from ebmzoo.errors import UserError

IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
TAR = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
ZIP = (".zip",)
MOST_BYTES = 2**28
"""The largest image file that is read from an archive, where a few bytes can expand to any number."""
KINDS = "a folder, an archive (.tar, .tar.gz, .tar.xz, .tar.bz2, .zip) or an .npz file"


def existing(path: str | Path) -> Path:
    """Return the path with `~` expanded.

    Raises:
        UserError: If it does not exist.
    """
    expanded = Path(path).expanduser()
    if not expanded.exists():
        raise UserError(f"path: {expanded} does not exist; it must be {KINDS}")
    return expanded


def image_files(path: Path) -> Iterator[Entry]:
    """Yield every image file below `path`, a folder or an archive, under its relative path; hidden files are skipped.

    Raises:
        UserError: If a file cannot be read, or the archive is damaged, encrypted, or contains a link or a path outside
            itself.
    """
    name = path.name.lower()
    if path.is_dir():
        yield from _in_folder(path)
    elif name.endswith(TAR + ZIP):
        try:
            yield from _in_zip(path) if name.endswith(ZIP) else _in_tar(path)
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


def _wanted(name: str) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and name.lower().endswith(IMAGES)


def _inside(archive: Path, member: str) -> str:
    """Return the member's name without a leading `./`.

    Raises:
        UserError: If it points outside the archive.
    """
    name = PurePosixPath(member)
    if name.is_absolute() or ".." in name.parts:
        raise UserError(f"{archive}: member {member!r} points outside the archive, so the archive is not read")
    return str(name)


def _in_folder(folder: Path) -> Iterator[Entry]:
    seen: set[str] = set()
    for where, folders, files in os.walk(folder, followlinks=True, onerror=_unreadable):
        if (real := os.path.realpath(where)) in seen:
            folders.clear()  # a link to a parent folder would recur forever
            continue
        seen.add(real)
        folders.sort()
        for file in sorted(files):
            path = Path(where, file)
            name = path.relative_to(folder).as_posix()
            if _wanted(name):
                if not path.is_file():  # opening a pipe would block
                    raise UserError(f"path: {path} is not a readable file: repair or remove it")
                yield name, path.read_bytes


def _unreadable(error: OSError) -> None:
    raise UserError(f"path: {error.filename} cannot be read ({error.strerror})") from error


def _small(archive: Path, name: str, size: int) -> None:
    if size > MOST_BYTES:
        raise UserError(
            f"{archive}: {name} unpacks to {size / 2**30:.3g} GiB, too much for an image: remove it from the archive"
        )


def _in_tar(archive: Path) -> Iterator[Entry]:
    with tarfile.open(archive) as tar:
        for member in tar:
            name = _inside(archive, member.name)
            if member.isdir() or not _wanted(name):
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


def _in_zip(archive: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            name = _inside(archive, member.filename)
            if member.is_dir() or not _wanted(name):
                continue
            if member.flag_bits & 1:
                raise UserError(f"{archive}: {name} is encrypted: pack the images again without a password")
            _small(archive, name, member.file_size)
            yield name, partial(bytes, zipped.read(member))
