"""The configurations and benchmark plans that come with the package: their folder, their files, and their names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import ebmzoo
from ebmzoo.errors import UserError

INDEX = "index.json"
"""The file beside the configurations that has method, data, size and parameters of each."""

_PACKAGE = Path(ebmzoo.__file__).parent
_FOLDER = "configs"
_PLANS = "benchmarks"
_NOT_OF_FIT = (_PLANS, "sweeps", "baselines")  # baselines/ holds former paths


def config_folder() -> Path:
    """The folder of the configurations: inside an installed package, or beside `src/` in a checkout.

    Raises:
        UserError: There is neither.
    """
    for folder in (_PACKAGE / _FOLDER, _PACKAGE.parents[1] / _FOLDER):
        if folder.is_dir():
            return folder
    raise UserError(f"the configurations of ebmzoo are not where they are expected, in {_PACKAGE / _FOLDER}")


def config_paths() -> dict[str, Path]:
    """Every configuration of `fit` by its name, the parts of its path joined by `_`, without `ablations`.

    `clel/cifar.yaml` is `clel_cifar`, `clel/ablations/beta01_cifar.yaml` is `clel_beta01_cifar`.
    """
    folder, found = config_folder(), {}
    for path in sorted(folder.glob("*/**/*.yaml")):
        parts = path.relative_to(folder).with_suffix("").parts
        if parts[0] not in _NOT_OF_FIT:
            found["_".join(part for part in parts if part != "ablations")] = path
    return found


def plan_paths() -> dict[str, Path]:
    """Every benchmark plan by its name, that of its file."""
    return {path.stem: path for path in sorted((config_folder() / _PLANS).glob("*.yaml"))}


def config_path(name: str) -> Path:
    """The path of the configuration called `name`.

    Raises:
        UserError: There is none of that name.
    """
    return _of_name(name, config_paths(), "config", "`ebmzoo configs` lists them")


def config_name(path: Path) -> str:
    """The name of a configuration that comes with the package, or the stem of any other file."""
    return next((name for name, known in config_paths().items() if known.resolve() == path.resolve()), path.stem)


def config_file(given: str | Path) -> Path:
    """The file of a configuration, given by its path or its name.

    A path such as `configs/clel/cifar.yaml` is also that of a file of the package where the working folder has no such
    file. A file that does not exist is returned as it is given.

    Raises:
        UserError: `given` is a name, and there is no configuration of that name.
    """
    return _file(given, config_path)


def plan_file(given: str | Path) -> Path:
    """The file of a benchmark plan, given by its path or its name; as `config_file`.

    Raises:
        UserError: `given` is a name, and there is no plan of that name.
    """

    def plan_path(name: str) -> Path:
        plans = plan_paths()
        return _of_name(name, plans, "benchmark plan", f"there are {', '.join(plans)}")

    return _file(given, plan_path)


def is_name(given: str | Path) -> bool:
    """Whether it is written as the name of a configuration, not as a path or as YAML."""
    return re.fullmatch(r"[\w-]+", str(given)) is not None


def _file(given: str | Path, path_of_name: Callable[[str], Path]) -> Path:
    path = Path(given)
    if path.is_file():
        return path
    if path.parts[:1] == (_FOLDER,):
        of_package = config_folder().joinpath(*path.parts[1:])
        return of_package if of_package.is_file() else path
    return path_of_name(str(given)) if is_name(given) else path


def _of_name(name: str, paths: Mapping[str, Path], kind: str, otherwise: str) -> Path:
    if name not in paths:
        near = difflib.get_close_matches(name, paths, n=1)
        hint = f"did you mean '{near[0]}'?" if near else otherwise
        raise UserError(f"there is no {kind} named '{name}'; {hint}")
    return paths[name]
