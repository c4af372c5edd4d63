"""Which split and which class a file belongs to, told from its path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from ebmzoo.data.images import UNLABELLED
from ebmzoo.errors import UserError

ALL = ""
"""The split of files that are in no split."""


@dataclass(frozen=True)
class Layout:
    """The split and the label of each path; a split of None means that the file is not used.

    Args:
        splits: `train`, `test`, `ALL` or None, one a path.
        labels: Indices into `classes`, one a path.
        classes: The names of the class folders, sorted.
    """

    splits: list[str | None]
    labels: list[int]
    classes: tuple[str, ...]


def layout(paths: list[str], source: str) -> Layout:
    """Read `[train|test]/[<class>/]…/<file>`, under one folder that holds everything or not.

    Other folders beside `train` and `test` are not used. Below a class folder, folders do not matter.

    Raises:
        UserError: If only one of `train` and `test` is there, or only some files are in a class folder.
    """
    parts = [PurePosixPath(path).parts for path in paths]
    while len({p[0] for p in parts}) == 1 and parts[0][0] not in ("train", "test") and all(len(p) > 2 for p in parts):
        parts = [p[1:] for p in parts]
    tops = {p[0] for p in parts if len(p) > 1}
    splits: list[str | None] = [ALL] * len(parts)
    if found := tops & {"train", "test"}:
        if len(found) == 1:
            (there,) = found
            missing = "test" if there == "train" else "train"
            raise UserError(
                f"{source}: there are images in {there}/ but none in {missing}/, both or neither are needed"
            )
        splits = [p[0] if len(p) > 1 and p[0] in found else None for p in parts]
        parts = [p[1:] for p in parts]
    used = [len(p) > 1 for p, split in zip(parts, splits, strict=True) if split is not None]
    if not any(used):
        return Layout(splits, [0] * len(parts), UNLABELLED)
    if not all(used):
        stray = next(x for x, p, s in zip(paths, parts, splits, strict=True) if s is not None and len(p) == 1)
        raise UserError(
            f"{source}: {stray} is in no class folder while others are, move it into one or all out of them"
        )
    classes = sorted({p[0] for p, split in zip(parts, splits, strict=True) if split is not None})
    number = {name: label for label, name in enumerate(classes)}
    labels = [0 if s is None else number[p[0]] for p, s in zip(parts, splits, strict=True)]
    return Layout(splits, labels, tuple(classes))
