"""The trained models that come with the package, by name."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from ebmzoo.errors import UserError

if TYPE_CHECKING:
    from ebmzoo.methods import Method

FOLDER = Path(__file__).parent / "models"


def names() -> list[str]:
    """The names of the models."""
    return sorted(path.name for path in FOLDER.iterdir() if path.is_dir() and not path.name.startswith(("_", ".")))


def folder_of(name: str) -> Path:
    """The folder of the model called `name`.

    Raises:
        UserError: There is none of that name.
    """
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UserError(f"pretrained: there is no model '{name}'; {hint}There are {', '.join(known) or 'none'}")
    return FOLDER / name


def pretrained(name: str) -> Method:
    """Load a trained model that comes with the package, in eval mode on the CPU, with its averaged weights.

    >>> import ebmzoo
    >>> method = ebmzoo.pretrained("dual_mcmc_digits")
    >>> method.sample(2, steps=0).images.shape
    torch.Size([2, 1, 8, 8])

    Args:
        name: One of the names in docs/sharing.md, such as `dual_mcmc_digits`.

    Raises:
        UserError: There is none of that name; the error lists the names.
    """
    from ebmzoo.methods import Method
    from ebmzoo.training.checkpoint import load

    method = load(folder_of(name))
    assert isinstance(method, Method)
    return method
