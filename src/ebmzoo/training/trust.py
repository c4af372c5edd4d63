"""Restricting the classes that the config of an untrusted file may instantiate to those known to be harmless."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

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
        "with --trust true, for a file from a source that you trust (`load(path, trust=True)` in Python)"
    )
