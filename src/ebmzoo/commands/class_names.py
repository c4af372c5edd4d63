"""Which class, or which images, a name that a user gives means."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from torch import Tensor

from ebmzoo.data import ImageSet
from ebmzoo.errors import UserError

NAMED = 12
"""How many names an error lists."""


def class_of(images: ImageSet, wanted: str, flag: str) -> int:
    """The class of that name, else of that index; a UserError with the classes that there are."""
    return index_of(images.classes, images.name, wanted, flag)


def index_of(names: Sequence[str], of: str, wanted: str, flag: str) -> int:
    """Where `wanted` is among the `names` of the classes `of` a data set, else the index that it is itself.

    Raises:
        UserError: neither.
    """
    k = len(names)
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and int(wanted) < k:
        return int(wanted)
    hint = "" if wanted.removeprefix("-").isdecimal() else _near(wanted, names)
    raise UserError(f"{flag}: {of} has no class {wanted!r}, only 0 to {k - 1}: {_listed(names)}{hint}")


def members(images: ImageSet, wanted: str, flag: str) -> Tensor:
    """Which images have an attribute with the value `wanted`, or are of the class `wanted`, `(N,)` bool.

    Raises:
        UserError: there is no such value or class, or no image has it.
    """
    if images.attributes is None:
        mask = images.labels == class_of(images, wanted, flag)
    else:
        every = [value for values in images.attributes.values for value in values]
        holders = zip(images.attributes.names, images.attributes.values, strict=True)
        name = next((name for name, values in holders if wanted in values), None)
        if name is None:
            told = _near(wanted, every) or f", only {_listed(every)}"
            raise UserError(f"{flag}: no attribute of {images.name} has the value {wanted!r}{told}")
        mask = images.attributes.where({name: wanted})
    if not mask.any():
        raise UserError(f"{flag}: no training image of {images.name} has the value {wanted!r}")
    return mask


def _near(wanted: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(wanted, names, n=3)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
