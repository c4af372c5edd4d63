"""Runs side by side: which figures may share a column, and which may not, and why."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

from ebmzoo.errors import UserError
from ebmzoo.report.comparison.figures import Better, known, number
from ebmzoo.report.comparison.protocols import condition_text, conditions
from ebmzoo.report.comparison.records import Record

DEFAULT = (
    "generation/fid",
    "generation/fd_*",
    "generation/is",
    "generation/is_*",
    "generation/precision_*",
    "generation/recall_*",
    "ood/near/auroc_score",
    "ood/far/auroc_score",
    "ood/mean/auroc_score",
    "ood/*/auroc_score",
    "representation/*/knn",
    "classification/clean/accuracy",
    "classification/clean/ece",
    "training/parameters",
    "training/seconds_per_iteration",
)
"""The default columns; NFE and chain are added to the figures of samples."""


@dataclass(frozen=True)
class Cell:
    """A figure, NaN if it was not finite, with its standard deviation over seeds if there are several."""

    value: float
    spread: float | None = None

    def __str__(self) -> str:
        return number(self.value, self.spread)


@dataclass(frozen=True)
class Column:
    """Comparable figures, all of one name and under one protocol; `cells` are keyed by the name of the run.

    `qualifier` holds the conditions in which the protocol differs from the other columns of the figure; it is empty for
    an only column.
    """

    key: str
    label: str
    better: Better | None
    cells: Mapping[str, Cell]
    qualifier: str = ""

    @property
    def name(self) -> str:
        return self.label + {"lower": " ↓", "higher": " ↑", None: ""}[self.better]

    @property
    def heading(self) -> str:
        return self.name + (f" ({self.qualifier})" if self.qualifier else "")

    @cached_property
    def best(self) -> set[str]:
        """The runs with the best value; none if all are equal, or if there is only one."""
        finite = {name: cell.value for name, cell in self.cells.items() if math.isfinite(cell.value)}
        if self.better is None or len(set(finite.values())) < 2:
            return set()
        best = min(finite.values()) if self.better == "lower" else max(finite.values())
        return {name for name, value in finite.items() if value == best}

    def text(self, name: str) -> str:
        return str(self.cells[name]) if name in self.cells else number(None)


@dataclass(frozen=True)
class Words:
    """A column of text, keyed by the name of the run: the chain that the samples beside it came from."""

    key: str
    name: str
    cells: Mapping[str, str]

    @property
    def heading(self) -> str:
        return self.name

    def text(self, name: str) -> str:
        return self.cells.get(name, "–")


@dataclass(frozen=True)
class Comparison:
    """Runs and the columns that compare them.

    `refusals` are sentences that say which figures need several columns, and why; `notes` are other sentences that
    qualify the figures.
    """

    records: Sequence[Record]
    columns: Sequence[Column | Words]
    refusals: Sequence[str]
    notes: Sequence[str]


def compare(records: Sequence[Record], patterns: Sequence[str] | None = None, strict: bool = False) -> Comparison:
    """Compare runs in the columns that match `patterns`, those of `DEFAULT` if None.

    Figures of one name whose protocols differ are put into one column per protocol.

    Args:
        records: The runs, in the order of the rows.
        patterns: Names of figures, such as `generation/fd_*` or `ood/*`, in the order of the columns.
        strict: Whether differing protocols are an error.

    Raises:
        UserError: A pattern matches no figure, or with `strict` protocols differ.
    """
    columns: list[Column | Words] = []
    refusals: list[tuple[str, str]] = []
    for key in _chosen(records, patterns):
        if key.rpartition("/")[2] == "chain":
            columns.append(_chains(records, key))
            continue
        of_figure = columns_of(records, key)
        if len(of_figure) > 1:
            where = "; ".join(f"{column.qualifier} for {', '.join(column.cells)}" for column in of_figure)
            refusals.append((key, f"{len(of_figure)} columns, not one, because protocols differ: {where}"))
        columns += of_figure
    if strict and refusals:
        key, reason = refusals[0]
        raise UserError(f"{key} needs {reason}; test the runs with the same settings, or omit --strict")
    return Comparison(records, columns, _merged(refusals), _notes(records, columns))


def columns_of(records: Sequence[Record], key: str) -> list[Column]:
    """The columns of one figure, one for each protocol that it was measured under, the most common first."""
    groups: dict[tuple[tuple[str, str], ...], dict[str, Cell]] = {}
    for record in records:
        if (value := record.figures.get(key)) is not None:
            under = tuple(sorted(conditions(key, record).items()))
            groups.setdefault(under, {})[record.name] = Cell(value, record.spread(key))
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    every = [dict(under) for under, _ in ordered]
    differing = [c for c in dict.fromkeys(c for under in every for c in under) if len({u.get(c) for u in every}) > 1]
    label, better = known(key)
    return [
        Column(key, label, better, cells, ", ".join(condition_text(c, under.get(c)) for c in differing))
        for under, (_, cells) in zip(every, ordered, strict=True)
    ]


def _chosen(records: Sequence[Record], patterns: Sequence[str] | None) -> list[str]:
    """The matching figures, in the order of the patterns, with those that must stand beside them."""
    every = list(dict.fromkeys(key for record in records for key in record.figures))
    chosen: list[str] = []
    for pattern in patterns or DEFAULT:
        fitting = [key for key in every if fnmatchcase(key, pattern)]
        if patterns and every and not fitting:
            near = difflib.get_close_matches(pattern, every, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'?" if near else f"there are figures of {', '.join(_tasks(every))}"
            raise UserError(f"--columns: no run has a figure '{pattern}'; {hint}")
        chosen += [key for key in fitting if key not in chosen]
    beside: dict[str, list[str]] = {}
    for key in chosen:
        beside.setdefault(key.rpartition("/")[0], []).append(key)
    complete: list[str] = []
    for row, keys in beside.items():
        nfe = [key for key in every if key.rpartition("/")[0] == row and key.rpartition("/")[2].startswith("nfe")]
        complete += [*keys, *(key for key in nfe if key not in keys)]
        if any(_chain(record, row) for record in records):
            complete.append(f"{row}/chain")
    return complete


def _chain(record: Record, row: str) -> str | None:
    """The chain that the samples of a row of a task's figures came from, in words."""
    task, _, name = row.partition("/")
    chains = record.results.get(task, {}).get("protocol", {}).get("chains") or {}
    chain = chains.get(name or "full") or chains.get("full")
    has_row = any(key.rpartition("/")[0] == row for key in record.figures)
    if not chain or not has_row or name == "real":
        return None
    if not chain["steps"]:
        return f"no chain, from {chain['start'].rstrip(',')}"
    temperature = chain.get("temperature")
    at = f", temperature {temperature:.3g}" if isinstance(temperature, float | int) else ""
    return f"{chain['steps']} steps from {chain['start'].rstrip(',')}{at}"


def _chains(records: Sequence[Record], key: str) -> Words:
    row = key.removesuffix("/chain")
    cells = {record.name: chain for record in records if (chain := _chain(record, row)) is not None}
    of_row = row.partition("/")[2]
    task = row.partition("/")[0]
    heading = "chain" if task == "generation" else f"{task} chain"
    return Words(key, f"{heading} {of_row}".rstrip().replace("no_mcmc", "w/o MCMC"), cells)


def _tasks(keys: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(key.partition("/")[0] for key in keys))


def _merged(refusals: Sequence[tuple[str, str]]) -> list[str]:
    """Figures that need several columns for the same reason, as one sentence."""
    reasons: dict[str, list[str]] = {}
    for figure, reason in refusals:
        reasons.setdefault(reason, []).append(figure)
    return [f"{', '.join(figures)}: {reason}" for reason, figures in reasons.items()]


def _notes(records: Sequence[Record], columns: Sequence[Column | Words]) -> list[str]:
    """The notes in the files of the runs, each sentence once, with the names of its runs."""
    runs: dict[str, list[str]] = {}
    shown = {column.key.partition("/")[0] for column in columns}
    for record in records:
        sentences = [*([f"failed: {record.error}"] if record.error else record.missing), *record.damaged]
        for task, result in record.results.items():
            sentences += [f"{task}: {note}" for note in result.get("notes", []) if task in shown]
        for sentence in sentences:
            runs.setdefault(sentence, []).append(record.name)
    notes = [f"{', '.join(names)}: {sentence}" for sentence, names in runs.items()]
    spread = any(cell.spread is not None for c in columns if isinstance(c, Column) for cell in c.cells.values())
    return notes + (["± is the standard deviation over seeds (divisor S − 1)"] if spread else [])
