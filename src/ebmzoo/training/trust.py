"""Restricting the classes that the config of an untrusted file may instantiate to those known to be harmless."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import set_parsing_settings
from jsonargparse._common import parsing_settings

from ebmzoo.data.downloads import downloads_confined
from ebmzoo.errors import UserError
from ebmzoo.reading import read_yaml
from ebmzoo.training.plugins import trusted_paths

ALLOWED = (
    *(f"ebmzoo.{package}" for package in ("data", "methods", "metrics", "networks", "sampling")),
    *(f"ebmzoo.{package}" for package in ("ssrl", "tasks")),
    *("ebmzoo.Langevin", "ebmzoo.sampling.langevin.Langevin"),  # an optional sampler is given by its class path
    "torch.nn",
    "torch.optim",
)
"""The allowed prefixes of a class path and its definition; the classes of installed plug-ins are allowed too.

Without `ebmzoo.load`, which could grant itself `trust`, and without Lightning's callbacks, loggers, profilers, plugins
and strategies, which write where their arguments say.
"""

OF_TRAINER: Mapping[str, tuple[Any, ...]] = {
    "callbacks": (None, []),
    "plugins": (None, []),
    "logger": (None, True, False),
    "profiler": (None, "simple", "advanced"),
    "strategy": (None, "auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false", "fsdp"),
    "default_root_dir": (None,),
    "model_registry": (None,),
}
"""The keys of `trainer` that may name objects or places outside the run's folder, and the values that do neither."""

REFUSED = re.compile(r"Importing '([\w.]+)' is not allowed")
"""jsonargparse's message for a refused name."""


@contextmanager
def restricted_imports(trust: bool = False) -> Iterator[None]:
    """Within the block, unless `trust`, a parser imports only classes named and defined in `ALLOWED`, and plug-ins.

    jsonargparse checks before it imports a class or function that a value names, at any depth and also in files that a
    value names. What these classes download goes to folders below the working folder only.
    """
    before = dict(parsing_settings)
    try:
        if not trust:
            set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=[*ALLOWED, *trusted_paths()])
        with downloads_confined(not trust):
            yield
    finally:
        parsing_settings.clear()
        parsing_settings.update(before)


def refusal(message: str) -> str | None:
    """The sentence for a parser's message about a refused name; None for any other message."""
    found = REFUSED.search(message)
    if found is None:
        return None
    return (
        f"'{found[1]}' is neither a class of ebmzoo nor of its libraries nor of an installed plug-in; a checkpoint's "
        "config may name it only with --trust, for a file from a source that you trust (`load(path, trust=True)` in "
        "Python); an entry point of its package in a group such as ebmzoo.methods makes it a plug-in, which needs no "
        "--trust (docs/extending.md)"
    )


def check_trainer(config: Mapping[str, Any]) -> None:
    """Check that the trainer of an untrusted config writes nothing outside the run's folder.

    Raises:
        UserError: It could.
    """
    for key, value in _objects(config):
        raise UserError(
            f"trainer.{key} is {value!s:.200}; a checkpoint's config may set that only with --trust, for a file "
            "from a source that you trust"
        )


def _objects(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The keys of `OF_TRAINER` in a config with other values than those listed there."""
    trainer = config.get("trainer")
    for key, value in trainer.items() if isinstance(trainer, Mapping) else ():
        if key in OF_TRAINER and not any(value == harmless for harmless in OF_TRAINER[key]):
            yield key, value


def needs_trust(config: Any) -> bool:
    """Whether a checkpoint with this config needs `--trust`.

    It does if it names an imported class that is neither of `ALLOWED` nor a plug-in, or has a trainer that
    `check_trainer` refuses.
    """
    if isinstance(config, Mapping) and next(_objects(config), None) is not None:
        return True
    return _names_foreign(config, tuple(f"{allowed}." for allowed in (*ALLOWED, *trusted_paths())))


def check_named_classes(config: Any) -> None:
    """Check that a config names no class that a checkpoint's config may name only with `--trust`.

    Raises:
        UserError: It names one.
    """
    allowed = tuple(f"{path}." for path in (*ALLOWED, *trusted_paths()))
    for name in _class_paths(config):
        if not f"{name}.".startswith(allowed) or _is_foreign(name, allowed):
            raise UserError(str(refusal(f"Importing '{name}' is not allowed")))


def _class_paths(config: Any) -> Iterator[str]:
    if isinstance(config, Mapping):
        for key, value in config.items():
            if key == "class_path" and isinstance(value, str):
                yield value
            yield from _class_paths(value)
    elif isinstance(config, list):
        for value in config:
            yield from _class_paths(value)


def _names_foreign(config: Any, allowed: tuple[str, ...]) -> bool:
    if isinstance(config, Mapping):
        return any(_names_foreign(value, allowed) for value in config.values())
    if isinstance(config, list):
        return any(_names_foreign(value, allowed) for value in config)
    return isinstance(config, str) and _is_foreign(config, allowed)


def _is_foreign(name: str, allowed: tuple[str, ...]) -> bool:
    module, dot, rest = name.rpartition(".")
    while dot and module not in sys.modules:
        module, dot, last = module.rpartition(".")
        rest = f"{last}.{rest}"
    found: Any = sys.modules.get(module) if dot else None
    for part in rest.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        return False
    definition = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    return not all(f"{path}.".startswith(allowed) for path in (name, definition))


def shell_command(command: str, checkpoint: Path, config: str) -> str:
    """A command on a checkpoint with this config's YAML text, quoted for a shell, with `--trust` where it is needed.

    >>> shell_command("test", Path("my runs/last.ckpt"), "model: null")
    "ebmzoo test --ckpt_path 'my runs/last.ckpt'"
    """
    trust = needs_trust(read_yaml(config))
    return shlex.join(["ebmzoo", command, "--ckpt_path", str(checkpoint), *["--trust"] * trust])
