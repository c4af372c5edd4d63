"""Arrays that are kept in files for later commands: what is damaged is not used, and no command needs them."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebmzoo.reading import check_regular, read_json
from ebmzoo.writing import PART, write_whole

VARIABLE, OFF = "EBMZOO_CACHE", "off"
"""The environment variable that names one folder for all that is kept, or says that nothing is."""
BESIDE = ".ebmzoo-cache"
"""The folder for what is kept beside its source."""
MOST = 20 * 2**30
"""The bytes that a folder keeps: 20 GiB, of which what was used longest ago goes first."""
SHARE = 0.5
"""The share of the free space of a disk that what is kept may take."""
ABANDONED = 24 * 3600
"""The age in seconds from which the unfinished file of another process is taken to be left over."""
TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Kept by ebmzoo; it may be deleted at any time.\n"
"""The content of CACHEDIR.TAG, by which programs for backups leave a folder out (https://bford.info/cachedir/)."""

Arrays = Mapping[str, NDArray[Any]]
_OWN = re.compile(r"([0-9a-f]{32})\.(json|\w+\.npy)")
_UNFINISHED = re.compile(rf"\.[0-9a-f]{{32}}\.\w.*{re.escape(PART)}")


@dataclass(frozen=True)
class KeptArrays:
    """Arrays as they were kept, each a read-only memory map, and plain facts about them."""

    arrays: Arrays
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class ArrayCache:
    """Arrays in files of a folder, under keys of plain values that state all that the arrays depend on.

    An entry is a file `.npy` for each array and a file `.json`, which is written last and has the key, and the type,
    shape and SHA-256 of each array. Two processes that write one entry write the same.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     cache = ArrayCache(Path(folder) / "new")
    ...     cache.write({"of": "x"}, {"square": np.arange(3) ** 2}, {"n": 3})
    ...     cache.read({"of": "x"}).arrays["square"].tolist(), cache.read({"of": "y"})
    True
    ([0, 1, 4], None)

    Args:
        folder: The folder, which is made if it does not exist.
        most: The bytes that it keeps.
    """

    folder: Path
    most: int = MOST

    def read(self, key: Mapping[str, Any]) -> KeptArrays | None:
        """Return the arrays of a key; None if they are not there, or are not what was written."""
        path = self._path(key)
        try:
            stated = read_json(path)
            if stated["key"] != _plain(key):
                return None
            arrays = {name: _checked(self._path(key, name), facts) for name, facts in stated["arrays"].items()}
            facts = dict(stated["facts"])
        except Exception:  # none is there, or a damaged file, which makes its reader raise almost anything
            return None
        with suppress(OSError):  # in a folder of another user
            os.utime(path)
        return KeptArrays(arrays, facts)

    def write(self, key: Mapping[str, Any], arrays: Arrays, facts: Mapping[str, Any]) -> bool:
        """Keep arrays of one or more elements, and return True; False if the folder or its disk does not take them."""
        needed = sum(array.nbytes for array in arrays.values())
        stated = {"key": _plain(key), "facts": dict(facts), "arrays": {name: _facts(a) for name, a in arrays.items()}}
        try:
            if self.folder.is_symlink():  # of another's choice, perhaps: nothing is written through it
                return False
            self.folder.mkdir(parents=True, exist_ok=True)
            if needed > min(self.most, SHARE * shutil.disk_usage(self.folder).free):
                return False
            if not (tag := self.folder / "CACHEDIR.TAG").exists():
                write_whole(tag, TAG, flush=False)
            for name, array in arrays.items():
                content = np.ascontiguousarray(array)

                def save(file: Any, content: NDArray[Any] = content) -> None:
                    np.lib.format.write_array(file, content, allow_pickle=False)

                write_whole(self._path(key, name), save, flush=False)
            write_whole(path := self._path(key), json.dumps(stated), flush=False)
            self._trim(path.stem)
        except OSError:
            return False
        return True

    def _path(self, key: Mapping[str, Any], name: str | None = None) -> Path:
        stem = sha256(json.dumps(_plain(key), sort_keys=True).encode()).hexdigest()[:32]
        return self.folder / (f"{stem}.json" if name is None else f"{stem}.{name}.npy")

    def _trim(self, newest: str) -> None:
        """Remove what was used longest ago, never the `newest` entry, until the rest is within `most`."""
        entries: dict[str, list[tuple[Path, os.stat_result]]] = {}
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # another process is removing it
                status = path.lstat()
                if (match := _OWN.fullmatch(path.name)) is not None:
                    entries.setdefault(match[1], []).append((path, status))
                elif _UNFINISHED.fullmatch(path.name) and status.st_mtime < time.time() - ABANDONED:
                    path.unlink()
        sizes = {stem: sum(status.st_size for _, status in files) for stem, files in entries.items()}
        used = {stem: max(status.st_mtime for _, status in files) for stem, files in entries.items()}
        total = sum(sizes.values())
        for stem in sorted(entries, key=used.__getitem__):
            if total <= self.most:
                return
            if stem != newest:
                for path, _ in entries[stem]:
                    path.unlink(missing_ok=True)
                total -= sizes[stem]


def _plain(key: Mapping[str, Any]) -> Any:
    """A key as JSON gives it back."""
    return json.loads(json.dumps(key))


def _facts(array: NDArray[Any]) -> dict[str, Any]:
    digest = sha256(np.ascontiguousarray(array).data).hexdigest()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "sha256": digest}


def _checked(path: Path, stated: Mapping[str, Any]) -> NDArray[Any]:
    """The array of a file as a memory map.

    Raises:
        ValueError: It is not the one that is stated.
        UserError: The file is a pipe or a device.
    """
    check_regular(path)
    array = np.lib.format.open_memmap(path, mode="r")
    if array.dtype.hasobject or _facts(array) != stated:
        raise ValueError(f"{path} is damaged")
    return array


def caches(kind: str, beside: Path | None = None) -> list[ArrayCache]:
    """Return the caches for one kind of arrays, in the order in which they are tried.

    These are the folder `BESIDE` in `beside`, if that is given, and the user's: `ebmzoo` in `$XDG_CACHE_HOME` or in
    `~/.cache`. `$EBMZOO_CACHE` names another folder instead of both; if it is `off`, there is none.
    """
    chosen = os.environ.get(VARIABLE, "")
    if chosen == OFF:
        return []
    if chosen:
        return [ArrayCache(Path(chosen).expanduser() / kind)]
    folders = [] if beside is None else [beside / BESIDE]
    with suppress(RuntimeError):  # a user without a home
        xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
        folders.append((xdg if xdg.is_absolute() else Path.home() / ".cache") / "ebmzoo" / kind)
    return [ArrayCache(folder) for folder in folders]


def find(places: Sequence[ArrayCache], key: Mapping[str, Any]) -> KeptArrays | None:
    """Return the arrays of a key from the first cache that has them; None if none has."""
    return next((kept for place in places if (kept := place.read(key)) is not None), None)


def keep(places: Sequence[ArrayCache], key: Mapping[str, Any], arrays: Arrays, facts: Mapping[str, Any]) -> None:
    """Keep arrays in the first cache that takes them, if one does."""
    if all(array.size for array in arrays.values()):
        any(place.write(key, arrays, facts) for place in places)


def code_digest(*modules: str) -> str:
    """Return the SHA-256 of the files of modules, on which what they have computed depends."""
    from importlib import import_module

    found = sha256()
    for name in modules:
        file = getattr(import_module(name), "__file__", None)
        found.update(name.encode() + b"\0" + (b"" if file is None else Path(file).read_bytes()))
    return found.hexdigest()
