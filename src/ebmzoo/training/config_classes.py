"""The classes that a config can name: those that are there, and what to do where one is not."""

from __future__ import annotations

import difflib
from importlib import import_module
from importlib.util import find_spec

from ebmzoo.training.plugins import plugins

PACKAGES = (
    *("data", "methods", "methods.baselines", "metrics", "networks", "networks.autoencoder"),
    *("sampling", "ssrl", "tasks"),
)
"""The packages of `ebmzoo` with the public classes that a config can name."""

OWN = ("ebmzoo", "lightning", "torch")
"""The packages that are there, of whose names another may be a misspelling."""


def known_classes() -> dict[str, str]:
    """The class paths of the public classes and plug-ins that a config can name, by short name."""
    found = {plugin.class_path.rpartition(".")[2]: plugin.class_path for plugin in plugins()}
    for package in PACKAGES:
        for name in import_module(f"ebmzoo.{package}").__all__:
            found[name] = f"ebmzoo.{package}.{name}"
    return found


def without_module(name: str) -> str | None:
    """The sentence for a class in a package that Python does not find; None if it finds it, or the name is misspelt."""
    top, dot, _ = name.partition(".")
    if not dot or not top.isidentifier() or difflib.get_close_matches(top, OWN, cutoff=0.8):
        return None
    try:
        found = find_spec(top) is not None
    except ValueError:  # a module without a specification, such as __main__
        found = True
    if found:
        return None
    return (
        f"there is no class '{name}', because Python finds no module '{top}': install its package, or put PYTHONPATH=. "
        "before the command for a module in the working folder"
    )
