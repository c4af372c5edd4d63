"""Restricting the classes that the config of an untrusted file may instantiate to those known to be harmless."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import set_parsing_settings
from jsonargparse._common import parsing_settings

ALLOWED = (
    *(f"ebmzoo.{package}" for package in ("data", "methods", "metrics", "networks", "sampling")),
    *(f"ebmzoo.{package}" for package in ("ssrl", "tasks")),
    *("ebmzoo.Langevin", "ebmzoo.sampling.langevin.Langevin"),  # an optional sampler is given by its class path
    *(f"lightning.pytorch.{package}" for package in ("callbacks", "loggers", "profilers", "strategies")),
    "torch.nn",
    "torch.optim",
)
"""The allowed prefixes of a class path and its definition; without `ebmzoo.load`, which could grant itself `trust`."""

REFUSED = re.compile(r"Importing '([\w.]+)' is not allowed")
"""jsonargparse's message for a refused name."""


@contextmanager
def restricted_imports(trust: bool = False) -> Iterator[None]:
    """Within the block, unless `trust`, a parser imports only classes named and defined in `ALLOWED`.

    jsonargparse checks before it imports a class or function that a value names, at any depth and also in files that a
    value names.
    """
    before = dict(parsing_settings)
    try:
        if not trust:
            set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=list(ALLOWED))
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
        f"'{found[1]}' is neither a class of ebmzoo nor of its libraries; a checkpoint's config may name it only "
        "with --trust, for a file from a source that you trust (`load(path, trust=True)` in Python)"
    )


def needs_trust(config: Any) -> bool:
    """Whether a checkpoint with this config needs `--trust`: it names an imported class that is not of `ALLOWED`."""
    if isinstance(config, Mapping):
        return any(needs_trust(value) for value in config.values())
    if isinstance(config, list):
        return any(needs_trust(value) for value in config)
    return isinstance(config, str) and _is_foreign(config)


def _is_foreign(name: str) -> bool:
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
    return not all(f"{path}.".startswith(tuple(f"{allowed}." for allowed in ALLOWED)) for path in (name, definition))


def shell_command(command: str, checkpoint: Path, config: str) -> str:
    """A command on a checkpoint with this config's YAML text, quoted for a shell, with `--trust` where it is needed.

    >>> shell_command("test", Path("my runs/last.ckpt"), "model: null")
    "ebmzoo test --ckpt_path 'my runs/last.ckpt'"
    """
    trust = needs_trust(yaml.safe_load(config))
    return shlex.join(["ebmzoo", command, "--ckpt_path", str(checkpoint), *["--trust"] * trust])
