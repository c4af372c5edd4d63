"""Reading configs: errors of one sentence, and a model from the text of a config."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn, TypeVar

import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser

from ebmzoo.errors import Misread, UserError
from ebmzoo.training.migration import moved
from ebmzoo.training.trust import refusal, restricted_imports

T = TypeVar("T")

LIMITS = ("max_gib", "energy_limit")
"""The limits that may be infinite, which means no limit."""


PACKAGES = (
    *("data", "methods", "methods.baselines", "metrics", "networks", "networks.autoencoder"),
    *("sampling", "ssrl", "tasks"),
)
"""The packages of `ebmzoo` with the public classes that a config can name."""

GROUPS = ("trainer", "watchdog")
"""The keys of a run that must hold mappings, which jsonargparse does not check."""


class ZooParser(LightningArgumentParser):
    """A parser with errors of one sentence, which suggest the closest valid name, and exit code 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise Misread(self.sentence(str(message))) from ex

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        found = super().parse_args(*args, **kwargs)
        command = found.get(found.get("subcommand") or "", found)
        for key in GROUPS:
            if key in command and not isinstance(command[key], Namespace):
                self.error(f"{key} is {command[key]}; a mapping of its keys is needed")
        for key, value in _numbers(found.as_dict()):
            if math.isnan(value) or value == -math.inf or (value == math.inf and key.rpartition(".")[2] not in LIMITS):
                self.error(f"{key} is {value}; a finite number is needed")
        return found

    def instantiate(self, *args: Any, **kwargs: Any) -> Any:
        return super().instantiate(*args, **kwargs, instantiators=[(_built, object, True)])

    def sentence(self, message: str) -> str:
        """The part of jsonargparse's message that states the error, with the closest valid name."""
        if (refused := refusal(message)) is not None:
            return refused
        gist = _gist(message)
        unknown = re.search(r"(?:[Kk]ey|[Oo]ption) '([\w.-]+)' is not (?:expected|accepted)", gist)
        unknown = unknown or re.search(r"[Uu]nrecognized arguments: --([\w.-]+)", gist)
        no_class = re.search(r"(?:dot import path string: |[Nn]o module named '|has no attribute ')([\w.]+)", message)
        fixed = re.search(r"thus '([\w.]+)' is not accepted as class_path", message)
        if fixed is not None and (present := moved(fixed[1])) != fixed[1]:
            return _renamed(fixed[1], present)
        if (abstract := re.search(r"([\w.]+) is abstract", message)) is not None and "." in abstract[1]:
            module, _, name = abstract[1].rpartition(".")
            lacking = getattr(getattr(import_module(module), name), "__abstractmethods__", ())
            return f"{abstract[1]} is abstract: it must define {', '.join(sorted(lacking))}"
        if no_class is not None:
            whole = re.findall(r"class_path(?:=| |': )'([\w.]+)'", message)
            name = next((path for path in whole if no_class[1] in path.split(".")), no_class[1])
            if (present := moved(name)) != name:
                return _renamed(name, present)
            near = difflib.get_close_matches(name.rpartition(".")[2], _classes(), n=1, cutoff=0.5)
            return f"there is no class '{name}'" + (f"; did you mean '{_classes()[near[0]]}'?" if near else "")
        if unknown is None:
            return gist if len(gist) <= 400 else f"{gist[:200]} … {gist[-180:]}"
        name = unknown[1]
        near = difflib.get_close_matches(_plain(name), [_plain(n) for n in self.names()], n=1, cutoff=0.6)
        return f"there is no key '{name}'" + (f"; did you mean '{near[0]}'?" if near else "")

    def names(self) -> list[str]:
        """The keys of this parser and its subcommands."""
        parsers: list[Any] = [self]
        if (subcommands := getattr(self, "_subcommands_action", None)) is not None:
            parsers += subcommands._name_parser_map.values()
        return [a.dest for p in parsers for a in p._actions if not a.dest.endswith("help")]


def _renamed(name: str, present: str) -> str:
    return f"there is no class '{name}'; it is now '{present}'"


def _built(kind: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Call `kind` with these arguments; an error of torch or Python is reported with the numbers among them."""
    try:
        return kind(*args, **kwargs)
    except UserError:
        raise
    except (ValueError, TypeError, RuntimeError, ArithmeticError, MemoryError) as error:
        numbers = {key: x for key, x in kwargs.items() if isinstance(x, int | float) and not isinstance(x, bool)}
        values = ", ".join(f"{key} {number:g}" for key, number in numbers.items())
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        name = getattr(kind, "__name__", str(kind))
        raise UserError(f"{name} cannot be created{' with ' if values else ''}{values}: {reason}") from error


def _numbers(node: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """The floating-point numbers of a config with their keys."""
    if isinstance(node, float):
        yield key, node
    elif isinstance(node, Mapping):
        for name, child in node.items():
            at = key if name == "init_args" else f"{key}.{name}".lstrip(".")
            yield from _numbers(child, at)
    elif isinstance(node, list | tuple):
        for child in node:
            yield from _numbers(child, key)
    elif isinstance(node, Namespace):
        yield from _numbers(vars(node), key)


def _gist(message: str) -> str:
    """A message in one line; of the reasons for each member of a union type, the first that concerns the value."""
    message = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", message)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    reasons = [line[2:] for line in lines if line.startswith("- ") and "NoneType" not in line]
    if not reasons:
        return " ".join(lines)
    key = re.search(r'[Kk]ey "([\w.]+)"', lines[0])
    value = re.search(r"Given value: ([^(]{1,80})$", message)
    gist = " or ".join(dict.fromkeys(reasons)) if "Expected" in reasons[0] else reasons[0]
    gist += f", not {value[1]}" if value and value[1] not in gist else ""
    return f"{key[1]}: {gist}" if key else gist


def _classes() -> dict[str, str]:
    """The class paths of the public classes that a config can name, by short name."""
    found = {}
    for package in PACKAGES:
        for name in import_module(f"ebmzoo.{package}").__all__:
            found[name] = f"ebmzoo.{package}.{name}"
    return found


def _plain(name: str) -> str:
    return name.replace(".init_args", "").replace("-", "_")


@contextmanager
def as_user_errors() -> Iterator[None]:
    """Within the block, errors of a parser or a constructor become a `UserError` without their wrapping."""
    try:
        yield
    except Misread as error:
        raise UserError(error.sentence) from error
    except (ValueError, TypeError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__ or cause.__context__
        message = str(cause) if cause is not None else refusal(str(error)) or _gist(str(error))
        raise UserError(message) from error


def sections(config: str) -> dict[str, Any]:
    """The keys of a config's YAML text.

    Raises:
        UserError: The text is not YAML, contains a Python object, or is not a mapping.
    """
    try:
        content = yaml.safe_load(config) or {}
    except yaml.YAMLError as error:
        raise UserError(f"the config is not plain YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"the config is a {type(content).__name__}, but a mapping with the key model is needed")
    return content


def build_model(config: str, trust: bool = True) -> LightningModule:
    """Instantiate the `model:` of a config's YAML text.

    Raises:
        UserError: The text has no model or, without `trust`, names a class from outside ebmzoo and its libraries.
    """
    section = sections(config).get("model")
    if section is None:
        raise UserError("the config has no model")
    parser = ZooParser()
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    with as_user_errors(), restricted_imports(trust):
        model = parser.instantiate(parser.parse_object({"model": section})).model
    assert isinstance(model, LightningModule)
    return model
