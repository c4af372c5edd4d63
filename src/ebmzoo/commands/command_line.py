"""The command line as Lightning's parser needs it: its options in order, and every configuration complete."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ebmzoo.errors import UserError
from ebmzoo.reading import CONFIG_BYTES, read_text
from ebmzoo.training.checkpoint import read
from ebmzoo.training.config import sections
from ebmzoo.training.config_files import with_resolved_configs
from ebmzoo.training.migration import KEY
from ebmzoo.training.trust import check_trainer
from ebmzoo.writing import write_whole

CONFIG = ("--config", "-c")
_FIRST = {"--config": 0, "-c": 0, "--model": 1, "--data": 1}
"""A configuration replaces earlier values, and `--model.x` is known only once the class of the model is."""

FLAGS = (
    "--trust",
    "--overwrite",
    "--again",
    "--fresh_features",
    "--prepare",
    "--changed_data",
    "--summary",
    "--details",
)
"""Options that are true where no value follows."""

_OPTION = re.compile(r"--.|-[a-z]")
_TASK_NAMES = re.compile(r"[a-z_]+(,[a-z_]+)*,?")


@dataclass(frozen=True)
class Option:
    """An option with its value, as the words of the command line: `--n 3` or `--n=3`."""

    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """The option itself, such as `--n`."""
        return self.words[0].partition("=")[0]

    @property
    def value(self) -> str | None:
        """Its value; None where there is none."""
        _, joined, value = self.words[0].partition("=")
        return value if joined else self.words[1] if len(self.words) > 1 else None


def options(args: Sequence[str]) -> list[Option]:
    """The options of a command line, whose first word is the command; negative numbers are values."""
    found: list[list[str]] = []
    for word in args[1:]:
        if _OPTION.match(word) or not found:
            found.append([word])
        else:
            found[-1].append(word)
    return [Option(tuple(words)) for words in found]


def ordered(args: Sequence[str]) -> list[str]:
    """The same command line with configurations first, then the classes of model and data, then the rest as it stands.

    >>> ordered(["fit", "--model.gamma", "0.1", "--config", "a.yaml"])
    ['fit', '--config', 'a.yaml', '--model.gamma', '0.1']
    """
    found = sorted(options(args), key=lambda option: _FIRST.get(option.name, 2))
    return [args[0], *(word for option in found for word in option.words)]


def prepared(args: Sequence[str], folder: Path) -> list[str]:
    """The command line as the parser needs it: in order, each configuration complete, a checkpoint's included.

    Args:
        args: The command and its options.
        folder: The folder for configurations that are written for the parser.

    Raises:
        UserError: A configuration or the checkpoint cannot be read.
    """
    resolved = with_resolved_configs(ordered(with_flag_values(args)), folder)
    return with_task_names(with_checkpoint_config(resolved, folder))


def with_flag_values(args: Sequence[str], positional: bool = False) -> list[str]:
    """The command line with `--trust=true` for `--trust` where no value follows, and so for each of `FLAGS`.

    Args:
        args: The command and its options.
        positional: Whether the command has positional arguments: what follows is then a value only if it is a boolean.

    >>> with_flag_values(["restore", "--trust", "x.png"], positional=True)
    ['restore', '--trust=true', 'x.png']
    """
    found = []
    for word, after in zip(args, [*args[1:], None], strict=True):
        boolean = after is not None and after.lower() in ("true", "false")
        valued = boolean or not (after is None or positional or _OPTION.match(after))
        found.append(f"{word}=true" if word in FLAGS and not valued else word)
    return found


def with_checkpoint_config(args: list[str], folder: Path) -> list[str]:
    """The command line with the checkpoint's own configuration, where it names a checkpoint and no `--config`.

    The configuration is written into `folder`, with the checkpoint's folder as its `run_dir`; options override it.

    Raises:
        UserError: The file is not a checkpoint; or its configuration is not a mapping or, without `--trust`, has a
            trainer that `check_trainer` refuses.
    """
    names = {option.name for option in options(args)}
    path = settings(args).get("ckpt_path")
    if path is None or names & {*CONFIG, "-h", "--help"}:
        return args
    carried = read(path)[KEY]["config"]
    try:
        config = sections(carried)
        if not trusts(args):
            check_trainer(config)
    except UserError as error:
        raise UserError(f"ckpt_path: {path}: {error}") from error
    config["run_dir"] = str(Path(path).parent)
    written = folder / "config.yaml"
    write_whole(written, yaml.safe_dump(config, sort_keys=False), flush=False)
    return [args[0], "--config", str(written), *args[1:]]


def with_task_names(args: list[str]) -> list[str]:
    """The command line with `test --tasks generation,ood`, names where the key takes a list, as `--only`."""
    if args[0] != "test":
        return args
    found = [args[0]]
    for option in options(args):
        named = option.name == "--tasks" and _TASK_NAMES.fullmatch(option.value or "")
        found += [f"--only={option.value}"] if named else option.words
    return found


def kept_ood(args: Sequence[str], data: Mapping[str, Any] | None) -> str | None:
    """The sentence about the out-of-distribution sets that `--data CLASS` keeps from a config; None without any.

    Args:
        args: The ordered command line.
        data: The resolved section of the data.
    """
    found = options(args)
    chosen = [option.value for option in found if option.name == "--data"]
    sections_of_data = [_keys(option.value or "").get("data") for option in found if option.name in CONFIG]
    before = next((section for section in reversed(sections_of_data) if isinstance(section, dict)), {})
    sets = ((data or {}).get("init_args") or {}).get("ood") or []
    if not chosen or not sets or any(option.name.startswith("--data.ood") for option in found):
        return None
    if not (before.get("init_args") or {}).get("ood") or data is None or data["class_path"] == before.get("class_path"):
        return None
    names = ", ".join(str(each["class_path"]).rpartition(".")[2] for each in sets)
    return f"data.ood: {chosen[-1]} keeps the config's out-of-distribution sets, {names}; --data.ood '[]' removes them"


def trusts(args: Sequence[str]) -> bool:
    """Whether the configuration may name any class: the user's own always, a checkpoint's only with `--trust`."""
    values = {option.name: option.value for option in options(args)}
    if values.keys() & {*CONFIG} or "--ckpt_path" not in values:
        return True
    return (values.get("--trust", "false") or "true").lower() == "true"


def settings(args: Sequence[str]) -> dict[str, Any]:
    """The top-level keys of an ordered command line: of its configurations, then of its options; null is None."""
    found: dict[str, Any] = {}
    for option in options(args):
        if option.name in CONFIG:
            found |= _keys(option.value or "")
        elif option.name.startswith("--"):
            found[option.name[2:]] = None if option.value in (None, "null", "~") else option.value
    return found


def _keys(config: str) -> dict[str, Any]:
    """The keys of a configuration, a file or YAML text; none where it is neither, which is the parser's to refuse."""
    try:
        return sections(read_text(config, CONFIG_BYTES) if Path(config).is_file() else config)
    except (UserError, OSError, ValueError):
        return {}
