"""The numbers in the tables of the five papers, and a few of two more, with their places, and where papers disagree."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, Literal


@dataclass(frozen=True)
class Printed:
    """A figure as a paper prints it: `paper` and `table` are its place, `printed` is the label of the row there.

    `value` is None for a run that did not converge; `nfe` and `parameters`, in millions, are None if the table does not
    have them. `role` is `method` for a method of these papers, `baseline`, or `other`.
    """

    paper: str
    table: str
    data: str
    metric: str
    method: str
    printed: str
    value: float | None
    nfe: float | None
    parameters: float | None
    role: Literal["method", "baseline", "other"]
    note: str | None


@dataclass(frozen=True)
class Conflict:
    """Figures of one model in which papers differ: `values` are (paper, table, label of the row, value)."""

    data: str
    metric: str
    quantity: Literal["value", "nfe"]
    name: str
    values: tuple[tuple[str, str, str, float], ...]
    note: str | None

    def __str__(self) -> str:
        places: dict[float, list[str]] = {}
        for paper, table, _, value in self.values:
            places.setdefault(value, []).append(f"{paper} {where(table)}")
        values = "; ".join(f"{value:g} ({', '.join(found)})" for value, found in places.items())
        what = self.metric if self.quantity == "value" else "NFE"
        return f"{self.name}, {self.data}, {what}: {values}" + (f"; {self.note}" if self.note else "")

    def covers(self, row: Printed) -> bool:
        """Whether the row is one of the differing figures."""
        if (self.data, self.metric) != (row.data, row.metric):
            return False
        return any((row.paper, row.table, row.printed) == place[:3] for place in self.values)


@dataclass(frozen=True)
class Papers:
    """The papers by their short names with their titles, the numbers they print, and where they disagree.

    `classes` maps the class of a method to its name in the papers, `data` that of a data set to its name there and the
    side of its images.
    """

    titles: Mapping[str, str]
    classes: Mapping[str, str]
    data: Mapping[str, tuple[str, int]]
    rows: Sequence[Printed]
    conflicts: Sequence[Conflict]

    def named(self, settings: Mapping[str, Any]) -> str | None:
        """The papers' name of a data set with these settings, its `class` among them; None if they print nothing of it.

        >>> papers().named({"class": "CelebA", "size": 64}), papers().named({"class": "CelebA", "size": 128})
        ('CelebA-64', None)
        """
        name, size = self.data.get(settings.get("class", ""), (None, 0))
        return name if settings.get("size", size) == size else None

    def on(self, names: Iterable[str]) -> Papers:
        """The numbers on these data sets alone, such as `CIFAR-10`, whose rows `CIFAR-10 vs SVHN` are among them."""
        beginnings = tuple(f"{name} " for name in names)
        rows = [row for row in self.rows if f"{row.data} ".startswith(beginnings)]
        conflicts = [conflict for conflict in self.conflicts if f"{conflict.data} ".startswith(beginnings)]
        return replace(self, rows=rows, conflicts=conflicts)

    def of(self, data: str, metric: str) -> list[Printed]:
        """The printed numbers for a metric on a data set."""
        return [row for row in self.rows if (row.data, row.metric) == (data, metric)]

    def disputed(self, row: Printed) -> list[Conflict]:
        """The disagreements that include this row."""
        return [conflict for conflict in self.conflicts if conflict.covers(row)]


def where(table: str) -> str:
    """The place in a paper, as text: `Table 1`, `sec 5.1`."""
    return f"Table {table}" if table[0].isdigit() else table


def methods_of(rows: Iterable[Printed]) -> list[str]:
    """The methods of the rows, each once."""
    return list(dict.fromkeys(row.method for row in rows))


@cache
def papers() -> Papers:
    """The numbers that come with the package, `papers.json`."""
    content = json.loads(files("ebmzoo.report.comparison").joinpath("papers.json").read_text(encoding="utf-8"))
    rows = [
        Printed(table["paper"], table["table"], **dict(zip(content["columns"], row, strict=True)))
        for table in content["tables"]
        for row in table["rows"]
    ]
    conflicts = [
        Conflict(
            c["data"],
            c["metric"],
            c["quantity"],
            c["name"],
            tuple((v["paper"], v["table"], v["printed"], v["value"]) for v in c["values"]),
            c.get("note"),
        )
        for c in content["conflicts"]
    ]
    data = {name: (printed, size) for name, (printed, size) in content["data"].items()}
    return Papers(content["papers"], content["classes"], data, rows, conflicts)
