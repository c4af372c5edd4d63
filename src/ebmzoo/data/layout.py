"""The split and the class of a file, from its path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from ebmzoo.data.images import UNLABELLED
from ebmzoo.data.splits import NAMES, named_splits
from ebmzoo.errors import UserError, plain

ALL = ""
"""The split of files in a folder without splits."""


@dataclass(frozen=True)
class FileLayout:
    """The split and the label of each path.

    Args:
        splits: `train`, `val`, `test` or `ALL` for each path; None for a file that is not used.
        labels: An index into `classes` for each path.
        classes: The names of the class folders, sorted.
    """

    splits: list[str | None]
    labels: list[int]
    classes: tuple[str, ...]


def layout(paths: list[str], source: str) -> FileLayout:
    """Return the layout of paths `[train|val|test]/[<class>/]…/<file>`, below any number of common folders.

    Splits may be spelled as in `ebmzoo.data.splits.NAMES`, in any case; if there are any, other folders next to them
    are not used. Folders below a class folder are ignored.

    Args:
        paths: Paths of files, relative to the source.
        source: The name of the source in errors.

    Raises:
        UserError: If only one of `train` and `test` exists, two folders are the same split, or only some files are in a
            class folder.
    """
    parts = [PurePosixPath(path).parts for path in paths]
    while len({p[0] for p in parts}) == 1 and parts[0][0].casefold() not in NAMES and all(len(p) > 2 for p in parts):
        parts = [p[1:] for p in parts]
    tops = {p[0] for p in parts if len(p) > 1}
    splits: list[str | None] = [ALL] * len(parts)
    if named := named_splits(tops, source):
        splits = [named.get(p[0]) if len(p) > 1 else None for p in parts]
        parts = [p[1:] for p in parts]
    used = [len(p) > 1 for p, split in zip(parts, splits, strict=True) if split is not None]
    if not any(used):
        return FileLayout(splits, [0] * len(parts), UNLABELLED)
    if not all(used):
        stray = next(x for x, p, s in zip(paths, parts, splits, strict=True) if s is not None and len(p) == 1)
        raise UserError(
            f"{source}: {stray} is in no class folder, but other images are: move it into one, or all out of theirs"
        )
    classes = sorted({p[0] for p, split in zip(parts, splits, strict=True) if split is not None})
    number = {name: label for label, name in enumerate(classes)}
    labels = [0 if s is None else number[p[0]] for p, s in zip(parts, splits, strict=True)]
    return FileLayout(splits, labels, tuple(map(plain, classes)))
