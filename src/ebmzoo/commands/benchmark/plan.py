"""The plan of a benchmark, its runs and their common settings, read from a YAML file."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import yaml

from ebmzoo.errors import UserError
from ebmzoo.reading import CONFIG_BYTES, read_text, read_yaml
from ebmzoo.training.config_files import read_config
from ebmzoo.training.config_names import config_file, config_name, plan_file
from ebmzoo.writing import check_local

KEYS = ("run_dir", "prepare", "runs", "fit", "test", "columns")
RUN_KEYS = ("name", "config", "fit")
OF_PLAN = ("config", "run_dir", "ckpt_path", "resume", "trust")
"""Options that a benchmark sets itself."""

_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)


@dataclass(frozen=True)
class Run:
    """One run of a benchmark: `ebmzoo fit --config <config>` with the flags `fit`, into `run_dir`.

    >>> Run("cdrl", Path("cdrl.yaml"), Path("runs/cdrl")).checkpoint.name
    'last.ckpt'
    """

    name: str
    config: Path
    run_dir: Path
    fit: Mapping[str, Any] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Path:
        return self.run_dir / "last.ckpt"

    def wanted(self) -> dict[str, Any]:
        """The config with the changes of `fit`, with which the resolved config of the run must agree."""
        config = read_config(self.config)
        for key, value in self.fit.items():
            _set(config, key.split("."), value, key)
        config.pop("run_dir", None)
        config.pop("tasks", None)  # the tasks of a test do not affect training
        return config


@dataclass(frozen=True)
class Plan:
    """A benchmark: the prerequisites, the runs, and the flags of `ebmzoo test` for all of them.

    `prepare` are runs that others need, such as the scorecard's feature extractor; each is made at the `run_dir` of its
    config, unless it exists. `columns` are those of the final table; None shows the defaults of `ebmzoo compare`.

    >>> run = Run("cdrl", Path("configs/cdrl/digits.yaml"), Path("runs/bench/cdrl"))
    >>> Plan(Path("runs/bench"), prepare=(), runs=(run,), test={"budget": "quick"}).runs[0].name
    'cdrl'
    """

    run_dir: Path
    prepare: tuple[Run, ...]
    runs: tuple[Run, ...]
    test: Mapping[str, Any]
    columns: tuple[str, ...] | None = None

    @classmethod
    def read(cls, path: str | Path) -> Plan:
        """Read a plan from a YAML file with the keys `run_dir`, `prepare`, `runs`, `fit`, `test` and `columns`.

        `path` may be the name of a plan that comes with the package. An entry of `runs` or `prepare` is a config, by
        its path or name, or a mapping with `config`, its own `fit` and a `name`.

        Raises:
            UserError: The file does not exist or has other keys, has no runs, or lists a config twice or one that is
                missing.
        """
        path = plan_file(path)
        if not path.is_file():
            raise UserError(f"there is no file {path}")
        try:
            content = read_yaml(read_text(path, CONFIG_BYTES))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
        _check_keys(content, KEYS, str(path))
        if not content.get("runs"):
            raise UserError(f"{path}: `runs` is empty; list the configs to run there")
        for key in ("runs", "prepare", "columns"):
            if not isinstance(content.get(key), list | None):
                raise UserError(f"{path}: {key} is {content[key]!r:.80}; it must be a list")
        given = content.get("run_dir", f"runs/benchmarks/{path.stem}")
        check_local(given, f"{path}: run_dir")
        run_dir = Path(given)
        common = _flags_of(content.get("fit"), f"{path}: fit")
        runs = tuple(_run(entry, common, run_dir, f"{path}: runs") for entry in content["runs"])
        names = [run.name for run in runs]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise UserError(f"{path}: runs has '{repeated.pop()}' twice; give one of them another `name`")
        prepare = tuple(_run(entry, {}, None, f"{path}: prepare") for entry in content.get("prepare") or ())
        columns = content.get("columns")
        if columns is not None and not all(isinstance(column, str) and column for column in columns):
            raise UserError(f"{path}: columns are {columns!r:.80}; names of figures are needed, such as ood/*")
        test = _flags_of(content.get("test"), f"{path}: test")
        return cls(run_dir, prepare, runs, test, tuple(columns) if columns else None)


def _run(entry: Any, common: Mapping[str, Any], folder: Path | None, where: str) -> Run:
    entry = {"config": entry} if isinstance(entry, str) else entry
    _check_keys(entry, RUN_KEYS, where)
    if not isinstance(entry.get("config"), str) or not entry["config"]:
        raise UserError(f"{where}: config is {entry.get('config')!r:.80}; it must be the path or the name of a config")
    try:
        config = config_file(entry["config"])
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    if not config.is_file():
        raise UserError(f"{where}: there is no config {config}")
    name = entry.get("name") or config_name(config)
    if not isinstance(name, str) or not _stays_inside(name):
        raise UserError(f"{where}: the name {name!r:.80} is not that of a folder inside the benchmark's run_dir")
    own = _flags_of(entry.get("fit"), f"{where}: {name}: fit")
    if folder is None:
        place = read_config(config).get("run_dir")
        check_local(place, f"{config}: run_dir")
        return Run(name, config, Path(str(place)), own)
    return Run(name, config, folder / name, {**common, **own})


def _stays_inside(name: str) -> bool:
    path = PurePath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and path.as_posix() == name


def _flags_of(content: Any, where: str) -> dict[str, Any]:
    """The keys that a plan sets, which become options of a command line."""
    if content is not None and not isinstance(content, dict):
        raise UserError(f"{where} must be a mapping of keys, such as `trainer.max_steps: 1000`")
    for key, value in (content or {}).items():
        if not isinstance(key, str) or _KEY.fullmatch(key) is None or key in OF_PLAN:
            raise UserError(f"{where}: {key!r:.80} is no key that a plan can set, such as `trainer.max_steps`")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            needed = "a finite number, a text, a list or a mapping is needed"
            raise UserError(f"{where}: {key} is {value!s:.80}; {needed}") from error
    return content or {}


def _check_keys(content: Any, keys: tuple[str, ...], where: str) -> None:
    if not isinstance(content, dict):
        raise UserError(f"{where}: a mapping with the keys {', '.join(keys)} is needed")
    for key in content:
        if key not in keys:
            near = difflib.get_close_matches(str(key), keys, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(keys)}"
            raise UserError(f"{where}: there is no key '{key}'; {hint}")


def _set(config: Any, path: list[str], value: Any, key: str) -> None:
    """Set `model.gamma` where a config has `model: {class_path: …, init_args: {gamma: …}}`.

    Raises:
        UserError: The config has a value where it would have to have a mapping.
    """
    head, *rest = path
    if isinstance(config, dict) and "init_args" in config and head not in ("class_path", "init_args"):
        config = config["init_args"]
    if not isinstance(config, dict):
        raise UserError(f"fit: {key} cannot be set, since the config has {config!r:.80} where it would be")
    if rest:
        if config.get(head) is None:
            config[head] = {}
        _set(config[head], rest, value, key)
    else:
        config[head] = value


def agrees(wanted: Any, resolved: Any) -> str | None:
    """The first key at which a resolved config differs from the wanted one; None if it agrees."""
    if isinstance(wanted, dict) and isinstance(resolved, dict):
        for key, value in wanted.items():
            if key not in resolved:
                return str(key)
            if (below := agrees(value, resolved[key])) is not None:
                return f"{key}.{below}" if below else str(key)
        return None
    if isinstance(wanted, list) and isinstance(resolved, list) and len(wanted) == len(resolved):
        for index, (a, b) in enumerate(zip(wanted, resolved, strict=True)):
            if (below := agrees(a, b)) is not None:
                return f"{index}.{below}" if below else str(index)
        return None
    return None if _same(wanted, resolved) else ""


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(a == b or float(a) == float(b))
    except (TypeError, ValueError):
        return str(a) == str(b)
