"""Runs side by side: which figures stand in one column, and which are refused one, and why."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ebmzoo.errors import UserError
from ebmzoo.report.comparison.figures import Better, known, number
from ebmzoo.report.comparison.protocols import conditions, protocol_lines
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
    "training/parameters",
    "training/seconds_per_iteration",
)
"""The columns where none are asked for; NFE and chain come with the figures of samples."""


@dataclass(frozen=True)
class Cell:
    """A figure, NaN where it was not finite, with its standard deviation over seeds where there are several."""

    value: float
    spread: float | None = None

    def __str__(self) -> str:
        return number(self.value, self.spread)


@dataclass(frozen=True)
class Column:
    """Figures that may be compared: all of one name and under one protocol; `cells` by the name of the run.

    `told` is what the protocol has that those of the figure's other columns have not, empty for an only column.
    """

    key: str
    label: str
    better: Better | None
    cells: Mapping[str, Cell]
    told: str = ""

    @property
    def name(self) -> str:
        return self.label + {"lower": " ↓", "higher": " ↑", None: ""}[self.better]

    @property
    def heading(self) -> str:
        return self.name + (f" ({self.told})" if self.told else "")

    def best(self) -> set[str]:
        """The runs that no other is better than; none where all are equal, or where there is only one."""
        finite = {name: cell.value for name, cell in self.cells.items() if math.isfinite(cell.value)}
        if self.better is None or len(set(finite.values())) < 2:
            return set()
        best = min(finite.values()) if self.better == "lower" else max(finite.values())
        return {name for name, value in finite.items() if value == best}

    def text(self, name: str) -> str:
        return str(self.cells[name]) if name in self.cells else number(None)


@dataclass(frozen=True)
class Words:
    """A column of words, by the name of the run: how the samples beside it were drawn."""

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
    """Runs and the columns that hold them against each other.

    `refusals` are sentences that say which figures stand in several columns, and why; `notes` what else a reader of
    the figures must know.
    """

    records: Sequence[Record]
    columns: Sequence[Column | Words]
    refusals: Sequence[str]
    notes: Sequence[str]


def compare(records: Sequence[Record], patterns: Sequence[str] | None = None, strict: bool = False) -> Comparison:
    """Hold runs against each other in the columns that fit `patterns`, those of `DEFAULT` where None.

    Figures of one name whose protocols differ are not put in one column, but in one for each protocol.

    Args:
        records: the runs, in the order of the rows.
        patterns: names of figures, such as `generation/fd_*` or `ood/*`, in the order of the columns.
        strict: differing protocols are an error.

    Raises:
        UserError: a pattern fits no figure, or with `strict` protocols differ.
    """
    columns: list[Column | Words] = []
    refusals: list[tuple[str, str]] = []
    for key in _chosen(records, patterns):
        if key.rpartition("/")[2] == "chain":
            columns.append(_chains(records, key))
            continue
        of_figure = columns_of(records, key)
        if len(of_figure) > 1:
            where = "; ".join(f"{column.told} for {', '.join(column.cells)}" for column in of_figure)
            refusals.append((key, f"{len(of_figure)} columns, not one, because protocols differ: {where}"))
        columns += of_figure
    if strict and refusals:
        key, reason = refusals[0]
        raise UserError(f"{key} needs {reason}; test the runs alike, or leave out --strict")
    return Comparison(records, columns, _merged(refusals), _notes(records, columns))


def columns_of(records: Sequence[Record], key: str) -> list[Column]:
    """The columns of one figure, one for each protocol under which it was found, that of most runs first."""
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
        Column(key, label, better, cells, ", ".join(protocol_lines(c, under.get(c)) for c in differing))
        for under, (_, cells) in zip(every, ordered, strict=True)
    ]


def _chosen(records: Sequence[Record], patterns: Sequence[str] | None) -> list[str]:
    """The figures that fit, in the order of the patterns, with those that must stand beside them."""
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
    """How the samples of a row of a task's figures were drawn."""
    task, _, name = row.partition("/")
    chains = record.results.get(task, {}).get("protocol", {}).get("chains") or {}
    told = chains.get(name or "full") or chains.get("full")
    has_row = any(key.rpartition("/")[0] == row for key in record.figures)
    if not told or not has_row:
        return None
    if not told["steps"]:
        return f"no chain, from {told['start'].rstrip(',')}"
    temperature = told.get("temperature")
    at = f", temperature {temperature:.3g}" if isinstance(temperature, float | int) else ""
    return f"{told['steps']} steps from {told['start'].rstrip(',')}{at}"


def _chains(records: Sequence[Record], key: str) -> Words:
    row = key.removesuffix("/chain")
    cells = {record.name: told for record in records if (told := _chain(record, row)) is not None}
    of_row = row.partition("/")[2]
    task = row.partition("/")[0]
    named = "chain" if task == "generation" else f"{task} chain"
    return Words(key, f"{named} {of_row}".rstrip().replace("no_mcmc", "w/o MCMC"), cells)


def _tasks(keys: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(key.partition("/")[0] for key in keys))


def _merged(refusals: Sequence[tuple[str, str]]) -> list[str]:
    """Figures that are refused one column for the same reason, as one sentence."""
    reasons: dict[str, list[str]] = {}
    for figure, reason in refusals:
        reasons.setdefault(reason, []).append(figure)
    return [f"{', '.join(figures)}: {reason}" for reason, figures in reasons.items()]


def _notes(records: Sequence[Record], columns: Sequence[Column | Words]) -> list[str]:
    """What the runs' files tell that their figures do not, each sentence once, with the runs that it is of."""
    runs: dict[str, list[str]] = {}
    shown = {column.key.partition("/")[0] for column in columns}
    for record in records:
        said = [f"failed: {record.error}"] if record.error else list(record.missing)
        for task, result in record.results.items():
            said += [f"{task}: {note}" for note in result.get("notes", []) if task in shown]
        for sentence in said:
            runs.setdefault(sentence, []).append(record.name)
    notes = [f"{', '.join(names)}: {sentence}" for sentence, names in runs.items()]
    spread = any(cell.spread is not None for c in columns if isinstance(c, Column) for cell in c.cells.values())
    return notes + (["± is the standard deviation over seeds (divisor S − 1)"] if spread else [])
