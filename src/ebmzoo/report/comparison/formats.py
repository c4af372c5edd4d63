"""A comparison as a table for a terminal and in Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence

from ebmzoo.report.comparison.compare import Column, Comparison, Words
from ebmzoo.report.comparison.records import Record

TEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "±": r"$\pm$",
    "–": "--",
    "−": "$-$",
    "×": r"$\times$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


def terminal(comparison: Comparison, width: int = 100) -> str:
    """The table, folded if it is wider than the terminal; * marks the best value of a column."""
    names = [record.name + (" (failed)" if record.error else "") for record in comparison.records]
    blocks = [
        _aligned(names, [[*_head(column), *(_starred(column, r) for r in comparison.records)] for column in columns])
        for columns in _folded(comparison, width - max(map(len, names), default=0))
    ]
    if any(isinstance(column, Column) and column.best for column in comparison.columns):
        blocks[-1] += "\n* the best value of a column"
    sentences = [f"! {sentence}" for sentence in (*comparison.refusals, *comparison.notes)]
    return "\n\n".join([*blocks, *(["\n".join(sentences)] if sentences else [])])


def markdown(comparison: Comparison) -> str:
    """The table in GitHub's Markdown; the best value of a column is bold."""

    def bold(column: Column | Words, record: Record) -> str:
        text = _cell(column.text(record.name))
        return f"**{text}**" if _is_best(column, record) else text

    head = ["run", "method", *(_cell(column.heading) for column in comparison.columns)]
    lines = [head, ["---", "---", *("---:" if isinstance(c, Column) else "---" for c in comparison.columns)]]
    lines += [
        [_cell(record.name), _cell(method(record)), *(bold(c, record) for c in comparison.columns)]
        for record in comparison.records
    ]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    sentences = "\n".join(f"- {_cell(sentence)}" for sentence in (*comparison.refusals, *comparison.notes))
    return f"{rows}\n\n{sentences}\n" if sentences else f"{rows}\n"


def comma_separated(comparison: Comparison) -> str:
    """The table with all digits, one row per run; figures over several seeds have a column of standard deviations."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    text = _no_formula
    columns = comparison.columns
    spreads = {
        c.heading for c in columns if isinstance(c, Column) and any(x.spread is not None for x in c.cells.values())
    }
    heads: list[str] = ["run", "method", "data", "failed"]
    for column in columns:
        head = f"{column.key} ({column.qualifier})" if isinstance(column, Column) and column.qualifier else column.key
        head = text(head)
        heads += [head, f"{head} std"] if column.heading in spreads else [head]
    writer.writerow(heads)
    for record in comparison.records:
        of_run = (record.name, record.method or "", str(record.data.get("class", "")), record.error or "")
        row: list[str] = [text(cell) for cell in of_run]
        for column in columns:
            if isinstance(column, Words):
                row.append(text(column.cells.get(record.name, "")))
                continue
            cell = column.cells.get(record.name)
            row.append("" if cell is None else _digits(cell.value))
            if column.heading in spreads:
                row.append("" if cell is None or cell.spread is None else _digits(cell.spread))
        writer.writerow(row)
    return file.getvalue()


def _no_formula(text: str) -> str:
    """Text as a cell that spreadsheets do not compute; they take it for a formula if it begins in one of these ways.

    >>> _no_formula("=1+1"), _no_formula("clel")
    ("'=1+1", 'clel')
    """
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@", "\t", "\r")) else text


def latex(comparison: Comparison) -> str:
    """The table as a `tabular` with the rules of booktabs; the best value of a column is bold.

    A second line of headings has the conditions in which columns of one figure differ.
    """

    def bold(column: Column | Words, record: Record) -> str:
        text = escaped(column.text(record.name))
        return rf"\textbf{{{text}}}" if _is_best(column, record) else text

    qualifiers = [c.qualifier if isinstance(c, Column) else "" for c in comparison.columns]
    lines = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{tabular}}{{ll{''.join('r' if isinstance(c, Column) else 'l' for c in comparison.columns)}}}",
        r"\toprule",
        " & ".join(["run", "method", *(escaped(c.name) for c in comparison.columns)]) + r" \\",
    ]
    if any(qualifiers):
        lines.append(" & ".join(["", "", *(rf"{{\small {escaped(q)}}}" if q else "" for q in qualifiers)]) + r" \\")
    lines.append(r"\midrule")
    lines += [
        " & ".join([escaped(r.name), escaped(method(r)), *(bold(c, r) for c in comparison.columns)]) + r" \\"
        for r in comparison.records
    ]
    sentences = [f"% {' '.join(sentence.split())}" for sentence in (*comparison.refusals, *comparison.notes)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *sentences]) + "\n"


def method(record: Record) -> str:
    """The method of a run, or the reason why it failed."""
    return f"failed: {record.error}" if record.error else record.method or "?"


def escaped(text: str) -> str:
    """Escape text for LaTeX."""
    return "".join(TEX.get(character, character) for character in " ".join(text.split()))


def _starred(column: Column | Words, record: Record) -> str:
    return column.text(record.name) + ("*" if _is_best(column, record) else "")


def _is_best(column: Column | Words, record: Record) -> bool:
    return isinstance(column, Column) and record.name in column.best


HEAD = 3
"""Lines of a heading on a terminal."""


def _head(column: Column | Words) -> list[str]:
    """The heading in `HEAD` lines, as narrow as they allow; no line begins with an arrow or an equals sign."""
    heading = re.sub(r" ?= ?| (?=[↓↑])", lambda found: found.group().replace(" ", "\u00a0"), column.heading)
    widths = range(1, 1 + len(heading))
    wrapped = (textwrap.wrap(heading, w, break_long_words=False, break_on_hyphens=False) for w in widths)
    lines = [line.replace("\u00a0", " ") for line in next(lines for lines in wrapped if len(lines) <= HEAD)]
    return [""] * (HEAD - len(lines)) + lines


def _aligned(names: Sequence[str], columns: Sequence[Sequence[str]]) -> str:
    """Rows of text: the names aligned left, the columns right, a rule below the lines of the headings."""
    first = ["" if i < HEAD else names[i - HEAD] for i in range(HEAD + len(names))]
    cells = [_padded(first, str.ljust), *(_padded(column, str.rjust) for column in columns)]
    lines = ["  ".join(row).rstrip() for row in zip(*cells, strict=True)]
    heads = [line for line in lines[:HEAD] if line]
    return "\n".join([*heads, "─" * max(map(len, lines)), *lines[HEAD:]])


def _padded(column: Sequence[str], pad: Callable[[str, int], str]) -> list[str]:
    width = max(map(len, column))
    return [pad(text, width) for text in column]


def _folded(comparison: Comparison, width: int) -> Iterator[Sequence[Column | Words]]:
    """The columns in groups, each as wide as fits, at least one column; a single group if there are no columns."""
    group: list[Column | Words] = []
    used = 0
    for column in comparison.columns:
        own = 2 + max(map(len, [*_head(column), *(_starred(column, record) for record in comparison.records)]))
        if group and used + own > width:
            yield group
            group, used = [], 0
        group.append(column)
        used += own
    yield group


def _cell(text: str) -> str:
    for character in "\\|*_<>[]`":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def _digits(value: float) -> str:
    return "nan" if math.isnan(value) else repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
