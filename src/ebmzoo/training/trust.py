"""What a config from a file of another's may have built: nothing but classes that are known to do no harm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from jsonargparse import set_parsing_settings
from jsonargparse._common import parsing_settings

ALLOWED = (
    *(f"ebmzoo.{package}" for package in ("data", "methods", "metrics", "networks", "sampling")),
    *(f"ebmzoo.{package}" for package in ("ssrl", "tasks")),
    *("ebmzoo.Langevin", "ebmzoo.sampling.langevin.Langevin"),  # a sampler that may be null is written as a class
    *(f"lightning.pytorch.{package}" for package in ("callbacks", "loggers", "profilers", "strategies")),
    "torch.nn",
    "torch.optim",
)
"""Where a class must be named and defined. `ebmzoo.load` is not among them: it would give itself `trust`."""

REFUSED = re.compile(r"Importing '([\w.]+)' is not allowed")
"""How jsonargparse says that it refuses a name."""


@contextmanager
def nothing_foreign(trust: bool = False) -> Iterator[None]:
    """Within it, unless `trust`, a parser imports only what is in `ALLOWED`, by its name and where it is defined.

    jsonargparse asks before it imports anything that a value names, a class or a function, at any depth and also in a
    file that a value names.
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
    """The sentence for a parser's message that is about a refused name, None where it is about something else."""
    found = REFUSED.search(message)
    if found is None:
        return None
    return (
        f"'{found[1]}' is neither a class of ebmzoo nor of what it builds on: a checkpoint's config may name it only "
        "with --trust true, for a file whose writer you trust (`load(path, trust=True)` in Python)"
    )
