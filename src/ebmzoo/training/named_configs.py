"""The configurations that come with the package, by name."""

from __future__ import annotations

import difflib
from pathlib import Path

import ebmzoo
from ebmzoo.errors import UserError

_PACKAGE = Path(ebmzoo.__file__).parent


def config_folder() -> Path:
    """The folder of the configurations: inside an installed package, or beside `src/` in a checkout.

    Raises:
        UserError: There is neither.
    """
    for folder in (_PACKAGE / "configs", _PACKAGE.parents[1] / "configs"):
        if folder.is_dir():
            return folder
    raise UserError(f"the configurations of ebmzoo are not where they are expected, in {_PACKAGE / 'configs'}")


def config_paths() -> dict[str, Path]:
    """Every configuration by its name, the parts of its path joined by underscores: `clel/cifar.yaml` is `clel_cifar`."""
    folder = config_folder()
    return {"_".join(path.relative_to(folder).with_suffix("").parts): path for path in sorted(folder.rglob("*.yaml"))}


def config_path(name: str) -> Path:
    """The path of the configuration called `name`.

    Raises:
        UserError: There is none of that name.
    """
    paths = config_paths()
    if name not in paths:
        near = difflib.get_close_matches(name, paths, n=1)
        raise UserError(f"there is no config named '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""))
    return paths[name]


def named_config(name: str) -> str:
    """The text of the configuration called `name`; errors as of `config_path`."""
    return config_path(name).read_text(encoding="utf-8")
