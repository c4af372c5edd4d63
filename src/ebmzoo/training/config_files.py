"""Configuration files: their places, their names, and the overlays that `extends` makes of them.

extends: ../cifar.yaml     # relative to this file
run_dir: runs/clel_beta01_cifar
model:
  init_args: {beta: 0.1}
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import ebmzoo
from ebmzoo.errors import UserError
from ebmzoo.training.config import sections

EXTENDS = "extends"
_PACKAGE = Path(ebmzoo.__file__).parent
_NOT_OF_FIT = ("benchmarks", "sweeps")


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
    """Every configuration of `fit` by its name, the parts of its path joined by `_`, without `ablations`.

    `clel/cifar.yaml` is `clel_cifar`, `clel/ablations/beta01_cifar.yaml` is `clel_beta01_cifar`.
    """
    folder, found = config_folder(), {}
    for path in sorted(folder.glob("*/**/*.yaml")):
        parts = path.relative_to(folder).with_suffix("").parts
        if parts[0] not in (*_NOT_OF_FIT, "baselines"):  # baselines/ holds former paths
            found["_".join(part for part in parts if part != "ablations")] = path
    return found


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


def config_name(path: Path) -> str:
    """The name of a configuration that comes with the package, or the stem of any other file."""
    return next((name for name, known in config_paths().items() if known.resolve() == path.resolve()), path.stem)


def merged(base: Any, overlay: Any) -> Any:
    """Merge `overlay` into `base`.

    Mappings are merged key by key; lists, numbers and null replace the base's value. A mapping with another
    `class_path` than the base's replaces it as a whole, since the arguments of one class are not those of another.
    """
    if not isinstance(base, Mapping) or not isinstance(overlay, Mapping):
        return overlay
    if "class_path" in overlay and overlay["class_path"] != base.get("class_path"):
        return dict(overlay)
    return {**base, **{key: merged(base[key], value) if key in base else value for key, value in overlay.items()}}


def read_config(path: str | Path) -> dict[str, Any]:
    """The keys of a configuration file, those of the files that it extends included.

    Raises:
        UserError: A file is missing, is no mapping in YAML, or extends itself.
    """
    return _read(Path(path), ())


def _read(path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
    place = path.resolve()
    if place in chain:
        raise UserError(f"config: {path} extends itself, by way of {', '.join(p.name for p in chain)}")
    try:
        config = sections(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        by = f"config: {chain[-1]} extends {path}, but" if chain else "config:"
        raise UserError(f"{by} there is no file {path}{_renamed(path)}") from error
    except (OSError, UserError, UnicodeDecodeError) as error:
        raise UserError(f"config: {path} cannot be used: {error}") from error
    if EXTENDS not in config:
        return config
    base = config.pop(EXTENDS)
    if not isinstance(base, str) or not base:
        raise UserError(f"config: {path}: extends is {base!r}; the path of another config is needed")
    found: dict[str, Any] = merged(_read(path.parent / base, (*chain, place)), config)
    return found


def _renamed(path: Path) -> str:
    """A hint at the present path of a configuration, if `path` is that of an earlier layout; empty otherwise."""
    try:
        paths = config_paths()
    except UserError:
        return ""
    names = [path.stem]
    if path.parent.name == "small":
        names = [f"{path.stem[:i]}_small{path.stem[i:]}" for i, letter in enumerate(path.stem) if letter == "_"]
    found = next((paths[name] for name in names if name in paths), None)
    if found is None:
        return ""
    root = config_folder().parent
    return f"; it is {found.relative_to(root) if root == Path.cwd() else found} now"


def named_config(name: str) -> str:
    """The text of the configuration called `name`, merged with those it extends; raises the errors of `config_path`."""
    return resolved_text(config_path(name))


def resolved_text(path: str | Path) -> str:
    """`read_config` as YAML text; raises the same errors."""
    return yaml.safe_dump(read_config(path), sort_keys=False, allow_unicode=True)


def with_resolved_configs(args: Sequence[str], folder: Path) -> list[str]:
    """The command line with every `--config`, a path or a name, replaced by a file that extends no other.

    A configuration that extends others is merged with them and written into `folder`.

    Raises:
        UserError: There is no such file or name, or it cannot be used.
    """
    found, waiting = list(args), False
    for at, arg in enumerate(args):
        flag, joined, value = arg.partition("=")
        named = flag in ("--config", "-c")
        if waiting or (named and joined):
            path = _resolved(arg if waiting else value, folder, at)
            found[at] = path if waiting else f"{flag}={path}"
        waiting = named and not joined
    return found


def _resolved(value: str, folder: Path, at: int) -> str:
    path = Path(value)
    if not path.is_file() and path.suffix not in (".yaml", ".yml"):
        if "/" in value or "\n" in value or ":" in value:
            return value  # the parser reports the error
        path = config_path(value)
    config = read_config(path)
    if EXTENDS not in sections(path.read_text(encoding="utf-8")):
        return str(path)
    # The names of file and folder are kept: the folder's identifies an ablation.
    written = folder / str(at) / path.resolve().parent.name / path.name
    written.parent.mkdir(parents=True)
    written.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return str(written)
