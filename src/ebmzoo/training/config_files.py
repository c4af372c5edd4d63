"""Configuration files, and the overlays that `extends` makes of them.

extends: ../cifar.yaml     # relative to this file; or a name, such as clel_cifar
run_dir: runs/clel_beta01_cifar
model:
  init_args: {beta: 0.1}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ebmzoo.errors import UserError
from ebmzoo.reading import CONFIG_BYTES, check_regular, read_text
from ebmzoo.training.config import sections
from ebmzoo.training.config_names import config_file, config_folder, config_path, config_paths, is_name
from ebmzoo.writing import write_whole

EXTENDS = "extends"
"""The key of the configuration that a file changes: the path of its file, relative to this one, or its name."""


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
        config = sections(read_text(path, CONFIG_BYTES))
    except FileNotFoundError as error:
        by = f"config: {chain[-1]} extends {path}, but" if chain else "config:"
        raise UserError(f"{by} there is no file {path}{_renamed(path)}") from error
    except (OSError, UserError, UnicodeDecodeError) as error:
        raise UserError(f"config: {path} cannot be used: {error}") from error
    if EXTENDS not in config:
        return config
    base = config.pop(EXTENDS)
    if not isinstance(base, str) or not base:
        raise UserError(f"config: {path}: extends is {base!r}; the path or the name of another config is needed")
    found: dict[str, Any] = merged(_read(_base(path, base), (*chain, place)), config)
    return found


def _base(path: Path, base: str) -> Path:
    """The file that `path` extends."""
    beside = path.parent / base
    if beside.is_file() or not is_name(base):
        return beside
    try:
        return config_path(base)
    except UserError as error:
        raise UserError(f"config: {path}: extends: {error}") from error


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
    path = config_file(value)
    try:
        check_regular(path)
    except UserError as error:
        raise UserError(f"config: {error}") from error
    if not path.is_file() and path.suffix not in (".yaml", ".yml"):
        return value  # the parser reports the error, or takes it as YAML
    config = read_config(path)
    if not config:
        raise UserError(f"config: {path} is empty")
    if EXTENDS not in sections(read_text(path, CONFIG_BYTES)):
        return str(path)
    # The names of file and folder are kept: the folder's identifies an ablation.
    written = folder / str(at) / path.resolve().parent.name / path.name
    write_whole(written, yaml.safe_dump(config, sort_keys=False, allow_unicode=True), flush=False)
    return str(written)
