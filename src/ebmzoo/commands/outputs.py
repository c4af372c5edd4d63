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


def check_memory(n: int, each: int) -> None:
    """Check that `n` images fit into this machine's memory before hours are spent on them.

    Args:
        n: The number of images.
        each: The bytes that one takes until it is written.

    Raises:
        UserError: They do not.
    """
    memory = _memory()
    if memory is not None and n * each > memory:
        raise UserError(
            f"n is {n}: so many images need {n * each / 2**30:.3g} GiB of memory, and this machine has "
            f"{memory / 2**30:.3g}; make several sets, with other seeds"
        )


def _memory() -> int | None:
    """The bytes of this machine's memory; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


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
