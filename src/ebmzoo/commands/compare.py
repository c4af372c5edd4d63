"""`ebmzoo compare`: runs side by side, as a table and as a page, from their files alone and without torch."""

from __future__ import annotations

import html
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from ebmzoo.commands.outputs import check_free
from ebmzoo.commands.parser import Parser
from ebmzoo.errors import UserError, plain
from ebmzoo.reading import read_text
from ebmzoo.report.comparison.compare import compare
from ebmzoo.report.comparison.formats import comma_separated, latex, markdown, terminal
from ebmzoo.report.comparison.page import page
from ebmzoo.report.comparison.records import is_untrained, no_run, read_records
from ebmzoo.report.comparison.summary import summaries
from ebmzoo.writing import check_local, write_whole

FORMATS = ("terminal", "markdown", "csv", "latex")
TABLES = ("compare.md", "compare.csv", "compare.tex")
PAGE = "compare.html"
"""The page; its last line names the runs, so that their comparison can be made again in the same folder."""


def main(args: list[str]) -> None:
    """Compare runs: print a table, and write it into a folder with the page."""
    parser = Parser("compare", "Compare runs in one table and one HTML page.")
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="the folder of a run with results of `ebmzoo test`"
    )
    parser.add_argument("--out", default="compare", help="the folder for tables and page (%(default)s)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--columns", nargs="+", metavar="NAME", help="the columns to show, such as 'generation/fd_*' 'ood/*'"
    )
    which.add_argument("--all", action="store_true", help="show every column")
    parser.add_argument(
        "--format", choices=FORMATS, default="terminal", help="the format of the printed table (%(default)s)"
    )
    parser.add_argument("--strict", action="store_true", help="stop if protocols differ")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files in --out, such as a comparison of other runs"
    )
    options = parser.read(args)
    check_local(options.out, "--out")
    options.out = Path(options.out)
    skipped = {folder: reason for folder in options.runs if (reason := _no_run(folder)) is not None}
    folders = [folder for folder in options.runs if folder not in skipped]
    if not folders:
        raise UserError(f"compare: {skipped[options.runs[0]]}; name the folders of runs")
    for reason in skipped.values():
        _tell(f"{reason}: skipped")
    made = f"<!-- {html.escape(shlex.join(plain(path) for path in _distinct(folders)), quote=False)} -->"
    of_these = options.overwrite or _last_line(options.out / PAGE) == made
    check_free([options.out / name for name in (*TABLES, PAGE)], of_these)
    comparison = compare(read_records(folders), ["*"] if options.all else options.columns, options.strict)
    texts = (markdown(comparison), comma_separated(comparison), latex(comparison))
    tables = dict(zip(TABLES, texts, strict=True)) | {PAGE: f"{page(comparison, _tell).rstrip()}\n{made}\n"}
    for name, text in tables.items():
        write_whole(options.out / name, text)
    if options.format == "terminal":
        width = shutil.get_terminal_size((100, 24)).columns
        if options.columns is None and (shown := summaries(comparison.records, width)):
            print(f"{shown}\n")
            if any("protocols differ" in note for note in comparison.notes):
                print("! Protocols differ: the tables below keep their figures apart.\n")
        print(terminal(comparison, width))
        print(f"\ntables and page: {options.out}/{{{','.join(tables)}}}")
    else:
        printed = {"markdown": "compare.md", "csv": "compare.csv", "latex": "compare.tex"}[options.format]
        print(tables[printed], end="")


def _distinct(folders: Sequence[Path]) -> list[Path]:
    """The folders without links, each once, in one order."""
    return sorted({folder.resolve() for folder in folders})


def _last_line(path: Path) -> str | None:
    """The last line of a file; None where there is no such text."""
    try:
        return read_text(path).rstrip().rpartition("\n")[2]
    except (OSError, ValueError):
        return None


def _tell(sentence: str) -> None:
    print(plain(sentence), file=sys.stderr)


def _no_run(folder: Path) -> str | None:
    """Why a folder, which `runs/*` may match, is not compared; None if it is to be read as that of a run."""
    try:
        if (folder / PAGE).is_file() and not (folder / "config.yaml").exists():
            return f"{folder} holds a comparison, not a run"
        if is_untrained(folder):
            return f"{folder} holds no run, but a fit that ended before its first iteration"
        return no_run(folder)
    except OSError as error:
        return f"{folder} cannot be read ({error.strerror or error})"
