"""Reading configs: errors of one sentence, and a model from the text of a config."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, NoReturn, TypeVar, Union, get_args, get_origin

import yaml
from jsonargparse import Namespace
from jsonargparse._typehints import ActionTypeHint
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser

from ebmzoo.errors import Misread, UserError
from ebmzoo.reading import read_yaml
from ebmzoo.training.config_classes import known_classes, without_module
from ebmzoo.training.migration import moved
from ebmzoo.training.parser_limits import limit_parser
from ebmzoo.training.trust import refusal, restricted_imports

T = TypeVar("T")

LIMITS = ("max_gib", "energy_limit")
"""The limits that may be infinite, which means no limit."""

GROUPS = ("trainer", "watchdog")
"""The keys of a run that must hold mappings, which jsonargparse does not check."""


limit_parser()


class ZooParser(LightningArgumentParser):
    """A parser with errors of one sentence, which suggest the closest valid name, and exit code 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise Misread(self.sentence(str(message))) from ex

    def add_class_arguments(self, *args: Any, **kwargs: Any) -> Any:
        added = super().add_class_arguments(*args, **kwargs)
        for action in self._actions:
            if isinstance(action, ActionTypeHint):
                action._typehint = integers_first(action._typehint)
        return added

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        found = super().parse_args(*args, **kwargs)
        command = found.get(found.get("subcommand") or "", found)
        for key in GROUPS:
            if key in command and not isinstance(command[key], Namespace):
                self.error(f"{key} is {command[key]}; a mapping of its keys is needed")
        for key, value in _leaves(found.as_dict()):
            if (needed := _needed(key, value)) is not None:
                self.error(f"{key} is {value!r:.60}; {needed}")
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
        abstract = re.search(r"([\w.]+) is abstract", message)
        # A class of the user's own; one of ebmzoo's is that of the argument, whose value is what is wrong.
        if abstract is not None and "." in abstract[1] and not abstract[1].startswith("ebmzoo."):
            module, _, name = abstract[1].rpartition(".")
            lacking = getattr(getattr(import_module(module), name), "__abstractmethods__", ())
            return f"{abstract[1]} is abstract: it must define {', '.join(sorted(lacking))}"
        if no_class is not None:
            whole = re.findall(r"class_path(?:=| |': )'([\w.]+)'", message)
            name = next((path for path in whole if no_class[1] in path.split(".")), no_class[1])
            if (present := moved(name)) != name:
                return _renamed(name, present)
            if (unfound := without_module(name)) is not None:
                return unfound
            near = difflib.get_close_matches(name.rpartition(".")[2], known_classes(), n=1, cutoff=0.5)
            return f"there is no class '{name}'" + (f"; did you mean '{known_classes()[near[0]]}'?" if near else "")
        lacking = re.fullmatch(r"the following arguments are required: ([\w, ]+)", gist)
        if lacking is not None and not self.exit_on_error:  # the parser of a class, which does not know its key
            flags = " ".join(f"--data.{name} VALUE" for name in lacking[1].split(", "))
            return f"{lacking[1]} must be given for the class of data or model, such as {flags}"
        if unknown is None:
            return gist if len(gist) <= 400 else f"{gist[:200]} … {gist[-180:]}"
        name = unknown[1]
        if name in ("size", "channels") and "val_fraction" in self.names():  # the parser of a class of images
            return (
                f"there is no key '{name}': these images have one shape; --data ebmzoo.data.ImageFolder "
                "--data.path DIR --data.size N takes those of a folder at any size"
            )
        near = difflib.get_close_matches(_plain(name), [_plain(n) for n in self.names()], n=1, cutoff=0.6)
        return f"there is no key '{name}'" + (f"; did you mean '{near[0]}'?" if near else "")

    def names(self) -> list[str]:
        """The keys of this parser and its subcommands."""
        parsers: list[Any] = [self]
        if (subcommands := getattr(self, "_subcommands_action", None)) is not None:
            parsers += subcommands._name_parser_map.values()
        return [a.dest for p in parsers for a in p._actions if not a.dest.endswith("help")]


def integers_first(hint: Any) -> Any:
    """A union with `int` before `float`, or any other type as it is.

    jsonargparse tries the types of a union in order, and `float` takes every integer: a `limit_val_batches` of 1, one
    batch, would become 1.0, all of them.
    """
    members = get_args(hint)
    if get_origin(hint) not in (Union, UnionType) or int not in members or float not in members:
        return hint
    rest = [kind for kind in members if kind not in (int, float, NoneType)]
    return Union[tuple([int, float, *rest] + [NoneType] * (NoneType in members))]  # noqa: UP007  (of a tuple)


class _OfArgument(UserError):
    """An error about one argument of a class, whose message begins with the argument's name."""

    def __init__(self, message: str, kind: str, argument: str, value: Any) -> None:
        super().__init__(message)
        self.kind, self.argument, self.value = kind, argument, value

    def in_config(self, config: Mapping[str, Any]) -> str:
        """The message with the whole keys of the argument in a resolved config, instead of its name alone."""
        keys = list(_keys_of(config, self.kind, self.argument, self.value))
        return " and ".join(keys) + str(self)[len(self.argument) :] if keys else str(self)


def _keys_of(node: Any, kind: str, argument: str, value: Any, at: str = "") -> Iterator[str]:
    """The keys at which a config gives an argument of a class this value."""
    if isinstance(node, Namespace):
        node = vars(node)
    if isinstance(node, list | tuple):
        for child in node:
            yield from _keys_of(child, kind, argument, value, at)
    elif isinstance(node, Mapping):
        arguments = node.get("init_args") or node
        arguments = vars(arguments) if isinstance(arguments, Namespace) else arguments
        path = node.get("class_path")
        if (
            argument in arguments
            and arguments[argument] == value
            and (path is None or str(path).rpartition(".")[2] == kind)
        ):
            yield f"{at}.{argument}".lstrip(".")
        for key, child in arguments.items():
            yield from _keys_of(child, kind, argument, value, f"{at}.{key}".lstrip("."))


def _renamed(name: str, present: str) -> str:
    return f"there is no class '{name}'; it is now '{present}'"


def _built(kind: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Call `kind` with these arguments; an error of torch or Python is reported with the numbers among them."""
    try:
        return kind(*args, **kwargs)
    except UserError as error:
        argument = re.match(r"(\w+)(?=: | is )", str(error))
        if isinstance(error, _OfArgument) or argument is None or argument[1] not in kwargs:
            raise
        raise _OfArgument(str(error), getattr(kind, "__name__", ""), argument[1], kwargs[argument[1]]) from error
    except (ValueError, TypeError, RuntimeError, ArithmeticError, MemoryError) as error:
        numbers = {key: x for key, x in kwargs.items() if isinstance(x, int | float) and not isinstance(x, bool)}
        values = ", ".join(f"{key} {number:g}" for key, number in numbers.items())
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        name = getattr(kind, "__name__", str(kind))
        raise UserError(f"{name} cannot be created{' with ' if values else ''}{values}: {reason}") from error


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a config that hold no others, with their keys."""
    if isinstance(node, Mapping):
        for name, child in node.items():
            at = key if name == "init_args" else f"{key}.{name}".lstrip(".")
            yield from _leaves(child, at)
    elif isinstance(node, list | tuple):
        for child in node:
            yield from _leaves(child, key)
    elif isinstance(node, Namespace):
        yield from _leaves(vars(node), key)
    else:
        yield key, node


def _needed(key: str, value: Any) -> str | None:
    """What is needed instead of a value that neither torch nor the system can take; None where it is not such a one."""
    if isinstance(value, float):
        unlimited = value == math.inf and key.rpartition(".")[2] in LIMITS
        return None if math.isfinite(value) or unlimited else "a finite number is needed"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return "a whole number of at most 63 bits is needed"
    return "a text without null characters is needed" if isinstance(value, str) and "\0" in value else None


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


def _plain(name: str) -> str:
    return name.replace(".init_args", "").replace("-", "_")


@contextmanager
def as_user_errors(config: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Within the block, errors of a parser or a constructor become a `UserError` without their wrapping.

    Args:
        config: The resolved config, with which an error about an argument of a class names its whole key.
    """
    try:
        yield
    except Misread as error:
        raise UserError(error.sentence) from error
    except (ValueError, TypeError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__ or cause.__context__
        if isinstance(cause, _OfArgument) and config is not None:
            raise UserError(cause.in_config(config)) from error
        message = str(cause) if cause is not None else refusal(str(error)) or _gist(str(error))
        raise UserError(message) from error


def sections(config: str) -> dict[str, Any]:
    """The keys of a config's YAML text.

    Raises:
        UserError: The text is not YAML, contains a Python object, or is not a mapping.
    """
    try:
        content = read_yaml(config) or {}
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
