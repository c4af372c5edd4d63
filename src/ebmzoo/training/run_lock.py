"""Locks of a run's folder: who writes into it holds one, and the system frees it when that process ends."""

from __future__ import annotations

import json
import os
import socket
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from ebmzoo.errors import UserError

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"
"""The file that a fit locks in its run's folder."""

CLAIM = ".benchmark.lock"
"""The file that a benchmark locks in a run's folder, from before its training until after its test."""

_BUSY = (BlockingIOError, PermissionError)
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock, as it states itself in the file.

    >>> str(Holder(71, "node3", "2026-11-29 12:00:05"))
    'process 71 on node3 since 2026-11-29 12:00:05'
    """

    pid: int | None = None
    host: str = ""
    since: str = ""

    def __str__(self) -> str:
        return "another process" if self.pid is None else f"process {self.pid} on {self.host} since {self.since}"

    @classmethod
    def read(cls, file: int) -> Holder:
        """The holder that a lock's file states; unknown where it has not written it yet."""
        try:
            found = json.loads(os.pread(file, 1000, 0))
            return cls(int(found["pid"]), str(found["host"]), str(found["since"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            return cls()


class RunLock:
    """A lock that this process holds on a folder, until `release` or its end; a context manager.

    A file whose process has died is not locked any more, so that a stale one needs no care. Where the file system knows
    no locks, nothing is locked.

    Args:
        path: The file, whose folder is created if it does not exist.
        file: Its descriptor.
        made_folder: Whether it was created for the lock; it is removed with it if nothing else was written there.
    """

    def __init__(self, path: Path, file: int, made_folder: bool) -> None:
        self.path = path
        self._file: int | None = file
        self._made_folder = made_folder

    @classmethod
    def take(cls, folder: Path, name: str = LOCK, wait: bool = False, inherited: bool = False) -> RunLock | Holder:
        """The lock on a folder, or who holds it.

        Args:
            folder: The folder.
            name: The name of the file.
            wait: Whether to wait until it is free.
            inherited: Whether processes that this one starts hold it too, until the last of them ends.

        Raises:
            UserError: The file cannot be created.
        """
        path, made = folder / name, not folder.exists()
        while True:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                file = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINKS, 0o644)
            except OSError as error:
                raise UserError(f"run_dir: {path} cannot be created ({error.strerror})") from error
            if not _locked(file, wait):
                holder = Holder.read(file)
                os.close(file)
                return holder
            if _is_there(path, file):
                break
            os.close(file)  # it was removed in the meantime
        _state(file)
        os.set_inheritable(file, inherited)
        return cls(path, file, made)

    def release(self) -> None:
        """Free the folder."""
        if self._file is None:
            return
        if self._made_folder and [*self.path.parent.iterdir()] == [self.path]:
            self.path.unlink()
            self.path.parent.rmdir()
        os.close(self._file)
        self._file = None

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def holder_of(folder: Path, name: str = LOCK) -> Holder | None:
    """Who holds the lock on a folder; None where nobody does."""
    try:
        file = os.open(folder / name, os.O_RDWR | _NO_LINKS)
    except OSError:
        return None
    try:
        return None if _locked(file, wait=False) else Holder.read(file)
    finally:
        os.close(file)


def _locked(file: int, wait: bool) -> bool:
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except _BUSY:
        return False
    except OSError:  # the file system knows no locks
        return True
    return True


def _is_there(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(file))
    except FileNotFoundError:
        return False


def _state(file: int) -> None:
    since = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
    own: dict[str, Any] = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, (json.dumps(own) + "\n").encode(), 0)
    except OSError:  # a full disk: the lock holds all the same
        return
