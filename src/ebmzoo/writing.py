"""Writing files: whole or not at all, never through a link, and with errors that name the path."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ebmzoo.errors import UserError

PART = ".part"
"""The ending of a file that is being written, and of what a killed process leaves of it."""

_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://")
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


class UnwritableError(UserError, OSError):
    """A file cannot be written; the message names the path and the reason.

    It is an `OSError` too, so that what survives a full disk, such as a training run, survives this.

    Args:
        path: The file.
        cause: The reason, as the system or this module states it.
    """

    def __init__(self, path: Path, cause: OSError | str) -> None:
        reason = cause if isinstance(cause, str) else cause.strerror or str(cause)
        super().__init__(f"{path} cannot be written ({reason})")
        self.errno = None if isinstance(cause, str) else cause.errno
        self.strerror = reason

    def __str__(self) -> str:  # that of an OSError is its number and reason
        return str(self.args[0])


def check_local(path: object, key: str) -> None:
    """Check that a place to write to is a path on this machine.

    >>> try:
    ...     check_local("s3://bucket/run", "run_dir")
    ... except UserError as error:
    ...     print(error)
    run_dir is s3://bucket/run; it must be the path of a folder or file on this machine, such as a mounted one

    Args:
        path: What the user has given.
        key: The option or key of the config.

    Raises:
        UserError: It is empty, an address such as that of a bucket, or no text.
    """
    if not isinstance(path, str | Path) or not str(path).strip() or "\0" in str(path) or _ADDRESS.match(str(path)):
        shown = repr(path) if not isinstance(path, str) or not path.strip() else path
        needed = "it must be the path of a folder or file on this machine, such as a mounted one"
        raise UserError(f"{key} is {shown!s:.200}; {needed}")


def write_whole(path: str | Path, content: bytes | str | Callable[[IO[bytes]], object], flush: bool = True) -> None:
    """Write a file that is either complete or, after an error or an interruption, as it was before.

    The content goes to a new file beside it, which is then renamed. A link at `path` is replaced and never followed;
    the folder is created if it does not exist.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_whole(Path(folder) / "a" / "note.txt", "text\\n")
    ...     write_whole(Path(folder) / "a" / "data.bin", lambda file: file.write(bytes(3)))
    ...     sorted(path.name for path in (Path(folder) / "a").iterdir())
    ['data.bin', 'note.txt']

    Args:
        path: The file.
        content: Its bytes, its text (written as UTF-8), or a function that writes them to the binary file it is given.
        flush: Whether to wait until the disk has it, so that it survives a power cut too; takes milliseconds.

    Raises:
        UnwritableError: The file cannot be written, for example because the disk is full, or `path` is no file.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise UnwritableError(path, "Is a directory" if path.is_dir() else "it is not a regular file")
    aside = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}{PART}")
    made = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINKS, 0o666)
        made = True
        with os.fdopen(descriptor, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            if flush:
                os.fsync(file.fileno())
        if flush:
            rename(aside, path)
        else:
            aside.replace(path)
        made = False
    except OSError as error:
        raise (error if isinstance(error, UnwritableError) else UnwritableError(path, error)) from error
    finally:
        if made:
            aside.unlink(missing_ok=True)


def rename(old: Path, new: Path) -> None:
    """Replace `new` by `old` and flush the folder to disk."""
    old.replace(new)
    if os.name == "posix":
        folder = os.open(new.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def append_rows(path: str | Path, rows: str) -> None:
    """Append whole lines to a text file, which a failure leaves as it was; half a line at its end is ended first.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "events.jsonl"
    ...     append_rows(path, '{"step": 1}\\n')
    ...     path.read_text()
    '{"step": 1}\\n'

    Raises:
        UnwritableError: As of `appending`.
    """
    path = Path(path)
    with appending(path) as file:
        before = os.fstat(file.fileno()).st_size
        ended = before == 0 or _last_byte(path) == b"\n"
        content = (b"" if ended else b"\n") + rows.encode()
        try:
            if file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(before)
            raise


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)


@contextmanager
def appending(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a file, created with its folder if it does not exist, to append bytes to; unbuffered.

    A line that is passed to `write` in one piece is not mixed with the lines of other processes.

    Raises:
        UnwritableError: The file cannot be opened or written; or it is a link, a second name of another file, or no
            file.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # without O_NONBLOCK, the opening of a pipe would wait for a reader
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NO_LINKS | getattr(os, "O_NONBLOCK", 0)
        with os.fdopen(os.open(path, flags, 0o666), "ab", buffering=0) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise UnwritableError(path, "it is not a regular file of its own")
            yield file
    except OSError as error:
        if path.is_symlink():
            raise UnwritableError(path, "it is a link, which is not followed") from error
        raise (error if isinstance(error, UnwritableError) else UnwritableError(path, error)) from error


def check_links(folder: str | Path, skipped: tuple[str, ...] = ()) -> None:
    """Check that nothing in a folder is a link to a place outside it, through which other libraries would write.

    The folder itself may be one.

    Args:
        folder: The folder; it need not exist.
        skipped: Names of folders in it that are not searched.

    Raises:
        UserError: There is such a link.
    """
    folder = Path(folder)
    inside = folder.resolve()
    for where, folders, files in os.walk(folder):
        for path in (Path(where, name) for name in (*folders, *files)):
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                raise UserError(
                    f"run_dir: {path} is a link to {os.readlink(path)}, outside the folder, and would be written "
                    "through: remove the link, or give another run_dir"
                )
        if Path(where) == folder:
            folders[:] = [name for name in folders if name not in skipped]
