"""Classes and attribute values by name, with an error that lists the valid ones."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from torch import Tensor

from ebmzoo.data import ImageSet
from ebmzoo.errors import UserError

MAX_LISTED = 12
"""The number of names that an error lists."""


def class_of(images: ImageSet, wanted: str, flag: str) -> int:
    """The index of a class of `images` by its name or index; errors as of `index_of`."""
    return index_of(images.classes, images.name, wanted, flag)


def index_of(names: Sequence[str], dataset: str, wanted: str, flag: str) -> int:
    """The index of a class by its name or index.

    Args:
        names: The names of the classes.
        dataset: The name of the data set, for the error.
        wanted: The name or index.
        flag: The command-line flag, for the error.

    Raises:
        UserError: `wanted` is neither a name nor a valid index; the error lists the classes.
    """
    k = len(names)
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and int(wanted) < k:
        return int(wanted)
    hint = "" if wanted.removeprefix("-").isdecimal() else _near(wanted, names)
    raise UserError(f"{flag}: {dataset} has no class {wanted!r}, only 0 to {k - 1}: {_listed(names)}{hint}")


def members(images: ImageSet, wanted: str, flag: str) -> Tensor:
    """The mask `(N,)`, bool, of the images with the attribute value `wanted` or, without attributes, of that class.

    Raises:
        UserError: There is no such value or class, or no image has it.
    """
    if images.attributes is None:
        mask = images.labels == class_of(images, wanted, flag)
    else:
        every = [value for values in images.attributes.values for value in values]
        holders = zip(images.attributes.names, images.attributes.values, strict=True)
        name = next((name for name, values in holders if wanted in values), None)
        if name is None:
            hint = _near(wanted, every) or f", only {_listed(every)}"
            raise UserError(f"{flag}: no attribute of {images.name} has the value {wanted!r}{hint}")
        mask = images.attributes.where({name: wanted})
    if not mask.any():
        raise UserError(f"{flag}: no training image of {images.name} has the value {wanted!r}")
    return mask


def _near(wanted: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(wanted, names, n=3)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_LISTED]) + (", …" if len(names) > MAX_LISTED else "")
