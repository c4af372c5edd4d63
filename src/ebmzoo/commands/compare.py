"""`ebmzoo compare`: runs side by side, as a table and as a page, from their files alone and without torch."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from ebmzoo.commands.parser import Parser
from ebmzoo.errors import UserError
from ebmzoo.report.comparison.compare import compare
from ebmzoo.report.comparison.formats import comma_separated, latex, markdown, terminal
from ebmzoo.report.comparison.page import page
from ebmzoo.report.comparison.records import read_records

FORMATS = ("terminal", "markdown", "csv", "latex")
PAGE = "compare.html"


def main(args: list[str]) -> None:
    """Compare runs: print a table, and write it into a folder with the page."""
    parser = Parser("compare", "Compare runs in one table and one HTML page.")
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="the folder of a run with results of `ebmzoo test`"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("compare"), help="the folder for tables and page (%(default)s)"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--columns", nargs="+", metavar="NAME", help="the columns to show, such as 'generation/fd_*' 'ood/*'"
    )
    which.add_argument("--all", action="store_true", help="show every column")
    parser.add_argument(
        "--format", choices=FORMATS, default="terminal", help="the format of the printed table (%(default)s)"
    )
    parser.add_argument("--strict", action="store_true", help="stop if protocols differ")
    options = parser.read(args)
    folders = [folder for folder in options.runs if not _is_comparison(folder)]
    if not folders:
        raise UserError(f"compare: {options.runs[0]} holds a comparison; name the folders of runs")
    comparison = compare(read_records(folders), ["*"] if options.all else options.columns, options.strict)
    tables = {"compare.md": markdown(comparison), "compare.csv": comma_separated(comparison)}
    tables |= {"compare.tex": latex(comparison), PAGE: page(comparison)}
    options.out.mkdir(parents=True, exist_ok=True)
    for name, text in tables.items():
        (options.out / name).write_text(text, encoding="utf-8")
    if options.format == "terminal":
        print(terminal(comparison, shutil.get_terminal_size((100, 24)).columns))
        print(f"\ntables and page: {options.out}/{{{','.join(tables)}}}")
    else:
        printed = {"markdown": "compare.md", "csv": "compare.csv", "latex": "compare.tex"}[options.format]
        print(tables[printed], end="")


def _is_comparison(folder: Path) -> bool:
    """Whether the folder is that of an earlier comparison, which `runs/*` matches too; prints that it is skipped."""
    if not (folder / PAGE).is_file() or (folder / "config.yaml").exists():
        return False
    print(f"{folder} holds a comparison, not a run: skipped", file=sys.stderr)
    return True
