"""What a command may write: no file that is there already, an input among them, unless `--overwrite` is given."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ebmzoo.errors import UserError

FILES = (".png", ".npz")
"""The endings of the single files that `ebmzoo sample` writes."""
OTHER_FILES = frozenset({".csv", ".gz", ".json", ".npy", ".pt", ".svg", ".tar", ".txt", ".yaml", ".zip"})
"""Endings of files that are no pictures and that nobody gives to a folder."""

_OF_A_SET = re.compile(r"\d{6,}\.png")


def is_folder(out: str) -> bool:
    """Whether `out` is a folder: one that exists, or a name that does not end as a file does, such as `run_v1.5`.

    Raises:
        UserError: It ends as a file of another format than PNG and NPZ.
    """
    path = Path(out)
    suffix = path.suffix.lower()
    if path.is_dir() or out.endswith(("/", os.sep)):
        return True
    if suffix in FILES:
        return False
    from PIL import Image

    if suffix in OTHER_FILES or suffix in Image.registered_extensions():
        raise UserError(f"out is {out}; it must end in .png or .npz, or be a folder")
    return True


def check_free(paths: Iterable[Path], overwrite: bool) -> None:
    """Check that none of the files is there already, a link included; with `overwrite` all may be.

    Raises:
        UserError: One is.
    """
    taken = [] if overwrite else [path for path in paths if os.path.lexists(path)]
    if taken:
        more = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
        raise UserError(f"out: {taken[0]}{more} would be overwritten; give another --out, or --overwrite")


def check_alone(folder: Path, overwrite: bool) -> None:
    """Check that a set of images would be alone in its folder; with `overwrite` it replaces an earlier set.

    Raises:
        UserError: The folder holds files; with `overwrite`, files that are not of such a set.
    """
    found = _visible(folder)
    others = [path for path in found if not _OF_A_SET.fullmatch(path.name)]
    if overwrite and others:
        raise UserError(f"out: {others[0]} is not of a set of images that could be replaced; give another --out")
    if found and not overwrite:
        raise UserError(
            f"out: the folder {folder} holds {found[0].name} already, and a set of images must be alone in its folder; "
            "give another --out, or --overwrite to replace an earlier set"
        )


def remove_set(folder: Path) -> None:
    """Remove an earlier set of images from its folder."""
    for path in _visible(folder):
        if _OF_A_SET.fullmatch(path.name):
            path.unlink()


def distinct(stems: Sequence[str], endings: Sequence[str]) -> list[str]:
    """The stems, numbered if two of the files `<stem><ending>` had the same name, in upper or lower case.

    >>> distinct(["a", "b"], [".png", "_0.png"])
    ['a', 'b']
    >>> distinct(["x", "x_0"], [".png", "_0.png"])
    ['0_x', '1_x_0']
    """
    names = [f"{stem}{ending}".casefold() for stem in stems for ending in endings]
    return [*stems] if len(set(names)) == len(names) else [f"{i}_{stem}" for i, stem in enumerate(stems)]


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
