"""The files of a run, as `ebmzoo compare` reads them; nothing here needs torch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ebmzoo.errors import UserError, plain, plain_content
from ebmzoo.reading import CONFIG_BYTES, read_json, read_text, read_yaml
from ebmzoo.report.comparison.schema import of_result, of_training

T = TypeVar("T")

MARKS = ("config.yaml", "training.json", "failed.json", "test")
"""A folder with one of these belongs to a run."""


@dataclass(frozen=True)
class Record:
    """A run as its files describe it.

    `name` is that of the folder, with as much of its path as distinguishes it from the other runs. `method` and `data`
    are those of the config, as class names and settings; `results` maps a task's name to the content of its file;
    `training` is the cost of the run. `error` is the error of a failed run; `missing` lists what the folder lacks, and
    `damaged` says of each file that could not be used why not.
    """

    folder: Path
    name: str
    method: str | None
    data: Mapping[str, Any]
    results: Mapping[str, Mapping[str, Any]]
    training: Mapping[str, Any]
    error: str | None
    missing: tuple[str, ...]
    damaged: tuple[str, ...] = ()

    @cached_property
    def figures(self) -> dict[str, float]:
        """All figures as `<task>/<figure>`, NaN if not finite; those of the run's cost are under `training/`."""
        found = {
            f"{task}/{name}": math.nan if value is None else float(value)
            for task, result in self.results.items()
            for name, value in result["figures"].items()
        }
        networks = self.training.get("parameters") or {}
        if networks:
            found["training/parameters"] = float(sum(networks.values()))
        for name, key in COSTS.items():
            if (value := self.training.get(key)) is not None:
                found[f"training/{name}"] = float(value)
        return found

    def spread(self, key: str) -> float | None:
        """The standard deviation of a figure over seeds; None if there is one seed."""
        task, _, name = key.partition("/")
        value = self.results.get(task, {}).get("spread", {}).get(name)
        return None if value is None else float(value)

    def samples(self) -> Path | None:
        """The picture of samples from the test, or the last one from training."""
        return _first(self.folder / "test" / "samples.png", *sorted(self.folder.glob("samples/step_*.png"))[::-1])

    def real(self) -> Path | None:
        """The picture of real images from the test."""
        return _first(self.folder / "test" / "real.png")


COSTS = {
    "seconds_per_iteration": "seconds_per_iteration_median",
    "cpu_seconds_per_iteration": "cpu_seconds_per_iteration_median",
    "iterations": "iterations",
    "images": "images",
    "seconds": "seconds",
}
"""The keys of `training.json` with the cost of a run, by the name of the figure."""


def is_untrained(folder: Path) -> bool:
    """Whether a fit made the folder, and failed or was stopped before anything came of it.

    There is a config, but no checkpoint, no result of a test, no iteration in `training.json`, and no `failed.json`,
    by which a benchmark reports a failed run.
    """
    made = [*folder.glob("*.ckpt"), *folder.glob("test/*.json"), *folder.glob("failed.json")]
    if made or not any((folder / mark).exists() for mark in MARKS):
        return False
    damaged: dict[Path, str] = {}
    training = _usable(folder / "training.json", _training, damaged) or {}
    return not damaged and not training.get("iterations", bool(training))


def read_records(folders: Sequence[Path]) -> list[Record]:
    """Read the runs in these folders, in order, each once; a file that cannot be used is left out and named.

    Raises:
        UserError: As `no_run` says of a folder.
    """
    distinct = list({folder.resolve(): folder for folder in folders}.values())
    return [_read(folder, name) for folder, name in zip(distinct, _names(distinct), strict=True)]


def _names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, or as many parts as make all names different."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, 1 + max(map(len, parts), default=1)):
        names = [plain("/".join(p[-depth:])) for p in parts]
        if len(set(names)) == len(names):
            break
    return names


def no_run(folder: Path) -> str | None:
    """Why a folder cannot be read as that of a run: it does not exist, belongs to none, or its fit came to nothing."""
    if folder.is_file():
        return f"{folder} is a file; give the run's folder, such as {folder.parent}"
    if not folder.is_dir():
        return f"there is no run folder {folder}"
    if not any((folder / mark).exists() for mark in MARKS):
        return f"{folder} is not a run's folder: it has none of {', '.join(MARKS)}"
    if is_untrained(folder):
        return f"{folder} holds no run: its fit ended before the first iteration, and left no checkpoint"
    return None


def _read(folder: Path, name: str) -> Record:
    if (reason := no_run(folder)) is not None:
        raise UserError(reason)
    damaged: dict[Path, str] = {}
    config = _usable(folder / "config.yaml", _config, damaged) or {}
    found = {path.stem: _usable(path, _result, damaged) for path in sorted(folder.glob("test/*.json"))}
    results = {task: result for task, result in found.items() if result is not None}
    training = _usable(folder / "training.json", _training, damaged) or {}
    failed = _usable(folder / "failed.json", _object, damaged)
    missing = [] if config or folder / "config.yaml" in damaged else ["no config.yaml"]
    if not results:
        missing.append("no results of `ebmzoo test`")
    if not training and folder / "training.json" not in damaged:
        missing.append("no training.json, which records parameters and seconds")
    elif training.get("finished") is False:
        missing.append(f"training was not finished: {training.get('iterations', '?')} iterations")
    return Record(
        folder=folder,
        name=name,
        method=_class(config.get("model")),
        data=_data(config.get("data")),
        results=results,
        training=training,
        error=None if failed is None else " ".join(str(failed.get("error", "failed.json has no error")).split()),
        missing=tuple(missing),
        damaged=tuple(damaged.values()),
    )


def _usable(path: Path, read: Callable[[Path], T], damaged: dict[Path, str]) -> T | None:
    """What `read` makes of a file; None if there is none, or if it cannot be used: why not is put into `damaged`."""
    if not os.path.lexists(path):
        return None
    try:
        return read(path)
    except UserError as error:
        damaged[path] = str(error)
    except OSError as error:
        damaged[path] = plain(f"{path} cannot be read ({error.strerror or error})")
    return None


def _config(path: Path) -> dict[str, Any]:
    try:
        config = plain_content(read_yaml(read_text(path, CONFIG_BYTES)))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} holds no config, which is a mapping of keys")
    return config


def _object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object")
    return content


def _result(path: Path) -> dict[str, Any] | None:
    """The result of a task; None if the file is something else."""
    content = _object(path)
    wanted = {"task": str, "figures": dict, "protocol": dict}
    if not all(isinstance(content.get(key), kind) for key, kind in wanted.items()):
        return None
    for problem in of_result(content):
        raise UserError(f"{path} is no result of a task: {problem}")
    return content


def _training(path: Path) -> dict[str, Any]:
    content = _object(path)
    for problem in of_training(content, tuple(COSTS.values())):
        raise UserError(f"{path} is no record of a training: {problem}")
    return content


def _class(section: Any) -> str | None:
    path = section.get("class_path") if isinstance(section, dict) else None
    return str(path).rpartition(".")[2] if path else None


def _data(section: Any) -> dict[str, Any]:
    """The data's class and its settings."""
    kind = _class(section)
    settings = section.get("init_args") if isinstance(section, dict) else None
    return {} if kind is None else {**(settings if isinstance(settings, dict) else {}), "class": kind}


def _first(*paths: Path) -> Path | None:
    return next((path for path in paths if path.is_file()), None)
