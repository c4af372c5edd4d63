"""The tables of a comparison's page: the figures of the runs, and AUROC as coloured cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from ebmzoo.report.comparison.compare import Column, Comparison, Words, columns_of
from ebmzoo.report.comparison.formats import method
from ebmzoo.report.comparison.html import Html, tag
from ebmzoo.report.comparison.page_elements import boxed, breakable, bullet_list
from ebmzoo.report.comparison.records import Record
from ebmzoo.report.comparison.svg import swatch

C = TypeVar("C", bound=Column | Words)
SCORES = {
    "score": "the method's own score",
    "energy": "the energy E(x)",
    "gradient": "the gradient |∇E(x)|",
    "drop": "the drop of E over a few steps",
    "reconstruction": "the error of reconstruction",
    "chosen": "the score chosen on other images",
}
"""Names of the scores of out-of-distribution detection."""


WIDTH = 1380
"""The width of a table in pixels that a window of 1440 shows as a whole."""
CHARACTER, PADDING = 10, 22
"""An upper bound of the width of an average bold character, and the space around the text of a cell, in pixels."""
FIRST, WORDS = 320, 224
"""The largest widths of the names of runs and of a column of text, which are wrapped beyond (`page.css`)."""
TITLES = {"ood": "Out-of-distribution detection"}
"""The titles of tables, where they are not the name of the task."""


def figures_section(comparison: Comparison, style: dict[str, int]) -> list[Html]:
    """The figures in tables that need no horizontal scrolling, and the sentences that belong to them.

    It is one table if it fits, otherwise one or more per task.
    """
    records = comparison.records

    def cell(column: Column | Words, record: Record) -> Html:
        text = column.text(record.name)
        if isinstance(column, Words):
            return tag("td", text, class_="words")
        found = column.cells.get(record.name)
        value = None if found is None or math.isnan(found.value) else repr(found.value)
        best = record.name in column.best
        return tag("td", tag("strong", text) if best else text, data_value=value or "", class_="best" if best else None)

    def row(record: Record, columns: Sequence[Column | Words]) -> Html:
        status = tag("span", method(record), class_="error" if record.error else "method")
        name = tag("th", swatch(style[record.name], record.name), breakable(record.name), status, scope="row")
        return tag("tr", name, *(cell(column, record) for column in columns))

    def head(column: Column | Words) -> Html:
        note = tag("small", column.qualifier) if isinstance(column, Column) and column.qualifier else None
        name = column.name.replace(" ↓", "\u00a0↓").replace(" ↑", "\u00a0↑")
        return tag("th", name, note, scope="col", title=column.key)

    def grid(columns: Sequence[Column | Words]) -> Html:
        heads = tag("tr", tag("th", "run", scope="col"), *map(head, columns))
        rows = tag("tbody", *(row(record, columns) for record in records))
        return tag("table", tag("thead", heads), rows, class_="sortable")

    lead = "↓: lower is better, ↑: higher is better; the best value of a column is bold. Click a heading to sort."
    refused = tag("h3", "Not comparable in one column") if comparison.refusals else None
    parts = [tag("p", lead, class_="lead")]
    tables = _tables(comparison)
    for title, columns in tables:
        parts += [tag("h3", title)] if len(tables) > 1 else []
        parts.append(boxed(grid(columns), title))
    parts += [refused, bullet_list(comparison.refusals)] if refused else []
    parts += [tag("h3", "Notes"), bullet_list(comparison.notes)] if comparison.notes else []
    return parts


def _tables(comparison: Comparison) -> list[tuple[str, Sequence[Column | Words]]]:
    """The titles and columns of the tables."""
    columns, records = comparison.columns, comparison.records
    if len(folded(columns, records)) == 1:
        return [("Figures of the runs", columns)]
    found: list[tuple[str, Sequence[Column | Words]]] = []
    for task in dict.fromkeys(column.key.partition("/")[0] for column in columns):
        title = TITLES.get(task, task.replace("_", " ").capitalize())
        groups = folded([column for column in columns if column.key.partition("/")[0] == task], records)
        found += [(title + (", continued" if i else ""), group) for i, group in enumerate(groups)]
    return found


def folded(columns: Sequence[C], records: Sequence[Record]) -> list[list[C]]:
    """The columns in groups, each with the names of the runs at most `WIDTH` pixels wide, or a single column."""
    first = max((len(record.name) for record in records), default=0) * CHARACTER + PADDING + 22
    room = WIDTH - min(FIRST, max(first, 160))
    groups: list[list[C]] = [[]]
    used = 0
    for column in columns:
        own = width(column, [record.name for record in records])
        if groups[-1] and used + own > room:
            groups.append([])
            used = 0
        groups[-1].append(column)
        used += own
    return groups


def width(column: Column | Words, runs: Sequence[str]) -> int:
    """An upper bound of the width of a column in pixels; headings are wrapped at spaces, words within `WORDS`."""
    if isinstance(column, Words):
        return WORDS
    arrow = 2 if column.better else 0  # joined to the word before it, and a mark of the sorted column
    longest = max(len(word) for word in f"{column.label} {column.qualifier}".split() or [""]) + 2 + arrow
    return max(84, CHARACTER * max(longest, *(len(column.text(run)) for run in runs)) + PADDING)


def auroc_section(records: Sequence[Record]) -> list[Html]:
    """AUROC of each run and set as coloured cells, one table per score."""
    keys = list(dict.fromkeys(key for record in records for key in record.figures if key.startswith("ood/")))
    scores = list(dict.fromkeys(k.rpartition("/auroc_")[2] for k in keys if "/auroc_" in k and not k.endswith("_std")))
    parts: list[Html] = []
    for score in sorted(scores, key=lambda s: (s != "score", s != "energy")):
        columns = [c for k in keys if k.endswith(f"/auroc_{score}") for c in columns_of(records, k)]
        rows = [r for r in records if any(r.name in c.cells for c in columns)]
        title = f"AUROC of {SCORES.get(score, score.replace('_', ' '))}"
        parts.append(tag("h3", title))
        for group in folded(columns, rows):
            heads = [tag("th", _set(column), scope="col", title=column.key) for column in group]
            body = [
                tag("tr", tag("th", breakable(r.name), scope="row"), *(_coloured(column, r.name) for column in group))
                for r in rows
            ]
            grid = tag("table", tag("thead", tag("tr", tag("th", "run", scope="col"), *heads)), tag("tbody", *body))
            parts.append(boxed(grid, title, "heat"))
    if not parts:
        return []
    lead = "1 is perfect, 0.5 is chance; below 0.5 the model finds other images more likely than its own test set."
    return [tag("p", lead, class_="lead"), *parts]


def _set(column: Column) -> str:
    name = column.key.split("/")[1].replace("_", " ")
    return f"{name} ({column.qualifier})" if column.qualifier else name


def _coloured(column: Column, run: str) -> Html:
    cell = column.cells.get(run)
    if cell is None or math.isnan(cell.value):
        return tag("td", column.text(run))
    background, text = colours(cell.value)
    return tag("td", f"{cell.value:.3f}", style=f"background:{background};color:{text}")


def colours(value: float) -> tuple[str, str]:
    """Background and text colour of an AUROC: white at 0.5, blue above, orange below, text with the higher contrast."""
    share = min(1.0, abs(value - 0.5) * 2)
    far = (8, 69, 148) if value >= 0.5 else (166, 54, 3)
    red, green, blue = (round(255 + share * (c - 255)) for c in far)
    return f"rgb({red},{green},{blue})", "#fff" if contrast((red, green, blue)) > 4.5 else "#000"


def contrast(rgb: tuple[int, int, int]) -> float:
    """The contrast of white text on a colour, (1 + 0.05)/(L + 0.05), with its relative luminance L (WCAG 2.1)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)
