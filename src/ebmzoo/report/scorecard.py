"""The scorecard: the figures of a run's tasks as a table, read from the files that the tasks wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def table(rows: Iterable[tuple[str, ...]], head: tuple[str, ...]) -> str:
    """Rows of text in aligned columns, the first flush left and the others flush right."""
    cells = [head, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]

    def line(row: tuple[str, ...]) -> str:
        first, *rest = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join([first, *rest]).rstrip()

    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([line(head), rule, *(line(row) for row in cells[1:])])


def scorecard(folder: Path, tasks: Iterable[str]) -> str:
    """The tables of the `<task>.json` in `folder`, each under its protocol; a task that has no file is left out."""
    paths = [path for task in tasks if (path := folder / f"{task}.json").exists()]
    return "\n\n".join(_section(json.loads(path.read_text())) for path in paths)


def _section(result: dict[str, Any]) -> str:
    figures: dict[str, float | None] = result["figures"]
    lines = [f"{result['task']}  ({_protocol(result)})"]
    rows, columns = _pivot(figures)
    if rows:
        lines.append(
            table(((name, *(_number(cells.get(c)) for c in columns)) for name, cells in rows.items()), ("", *columns))
        )
    lines += [f"! {note}" for note in result["notes"]]
    if result["pictures"]:
        lines.append("pictures: " + ", ".join(result["pictures"]))
    return "\n".join(lines)


def _pivot(figures: dict[str, float | None]) -> tuple[dict[str, dict[str, float | None]], list[str]]:
    """`row/column` names to a table; for figures with and without a chain the columns are the two ways to sample."""
    rows: dict[str, dict[str, float | None]] = {}
    columns: list[str] = []
    with_chain = any(name.startswith("no_mcmc/") for name in figures)
    for name, value in figures.items():
        row, _, column = name.rpartition("/")
        if with_chain:
            row, column = column, "w/o MCMC" if row == "no_mcmc" else "with MCMC"
        elif not row:
            row, column = name, "value"
        rows.setdefault(row, {})[column] = value
        if column not in columns:
            columns.append(column)
    return rows, columns


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    if float(value).is_integer() and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.4g}"


def _protocol(result: dict[str, Any]) -> str:
    told = result["protocol"]
    parts = [f"n = {told['n']}"] if "n" in told else []
    if "split" in told:
        parts.append(f"{told['real_images']} real images of {told['split']}")
    for name, chain in told.get("chains", {}).items():
        if chain["steps"]:
            parts.append(
                f"{chain['steps']} Langevin steps from {chain['start']} at temperature {chain['temperature']:.3g}"
            )
        elif name == "full":
            parts.append(f"no chain, from {chain['start']}")
    if "in_images" in told:
        parts.append(f"{told['in_images']} images of {told['in']}; energy: E(x); score: the method's own")
    if "train_images" in told:
        parts.append(f"{told['train_images']} training, {told['test_images']} test images")
    parts.append(f"{told.get('weights', '?')} weights")
    return "; ".join(parts)
