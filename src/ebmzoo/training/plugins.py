"""Plug-ins: the classes that installed packages add, by entry points in the groups `ebmzoo.<kind>`.

[project.entry-points."ebmzoo.methods"]
PersistentCD = "my_zoo.methods:PersistentCD"
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

KINDS = ("methods", "networks", "data", "tasks")
"""The kinds of plug-ins, each with an entry-point group of its own."""


@dataclass(frozen=True)
class Plugin:
    """A class that an installed package adds.

    Args:
        kind: One of `KINDS`.
        class_path: Its dotted path, as a config names it.
        package: The package and its version.
    """

    kind: str
    class_path: str
    package: str

    @property
    def paths(self) -> tuple[str, ...]:
        """The dotted paths of the class: its own, and those at which packages above its module may import it.

        >>> Plugin("methods", "my_zoo.methods.PersistentCD", "my-zoo 1.0").paths
        ('my_zoo.methods.PersistentCD', 'my_zoo.PersistentCD')
        """
        module, _, name = self.class_path.rpartition(".")
        parts = module.split(".")
        return tuple(".".join([*parts[:n], name]) for n in range(len(parts), 0, -1))


def group(kind: str) -> str:
    """The entry-point group of a kind of plug-ins."""
    return f"ebmzoo.{kind}"


def plugins() -> list[Plugin]:
    """The plug-ins of the packages that are installed or on `PYTHONPATH`, in the order of `KINDS`; none is imported."""
    return [
        Plugin(kind, f"{point.module}.{point.attr}", _package(point))
        for kind in KINDS
        for point in sorted(entry_points(group=group(kind)), key=lambda point: point.value)
        if point.attr.isidentifier()
    ]


def trusted_paths() -> list[str]:
    """The class paths that the installation of their packages allows a checkpoint's config to name."""
    return [path for plugin in plugins() for path in plugin.paths]


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "a package"
