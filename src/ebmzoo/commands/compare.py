"""`ebmzoo compare`: runs side by side, as a table and as a page; it reads files only and needs no torch."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import NoReturn

from ebmzoo.errors import UserError
from ebmzoo.report.comparison.compare import compare
from ebmzoo.report.comparison.formats import comma_separated, latex, markdown, terminal
from ebmzoo.report.comparison.page import page
from ebmzoo.report.comparison.records import read_records

FORMATS = ("terminal", "markdown", "csv", "latex")
PAGE = "compare.html"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are a `UserError`, like those of the other commands."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"compare: {message}; `ebmzoo compare --help` lists what can be given")


def main(args: list[str]) -> None:
    """Read the flags after `compare`, print the table and write it, with the page, into a folder."""
    parser = Parser(prog="ebmzoo compare", description="Hold runs against each other: one table, and one HTML page.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder, that `ebmzoo test` wrote to")
    parser.add_argument("--out", type=Path, default=Path("compare"), help="the folder for the files (%(default)s)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--columns", nargs="+", metavar="NAME", help="the figures to show, such as 'generation/fd_*' 'ood/*'"
    )
    which.add_argument("--all", action="store_true", help="show every figure")
    parser.add_argument("--format", choices=FORMATS, default="terminal", help="what is printed (%(default)s)")
    parser.add_argument("--strict", action="store_true", help="stop where protocols differ")
    given = parser.parse_args(args[1:])
    folders = [folder for folder in given.runs if not _is_comparison(folder)]
    if not folders:
        raise UserError(f"compare: {given.runs[0]} holds a comparison; name the folders of runs")
    comparison = compare(read_records(folders), ["*"] if given.all else given.columns, given.strict)
    tables = {"compare.md": markdown(comparison), "compare.csv": comma_separated(comparison)}
    tables |= {"compare.tex": latex(comparison), PAGE: page(comparison)}
    given.out.mkdir(parents=True, exist_ok=True)
    for name, text in tables.items():
        (given.out / name).write_text(text, encoding="utf-8")
    if given.format == "terminal":
        print(terminal(comparison, shutil.get_terminal_size((100, 24)).columns))
        print(f"\ntables and page: {given.out}/{{{','.join(tables)}}}")
    else:
        printed = {"markdown": "compare.md", "csv": "compare.csv", "latex": "compare.tex"}[given.format]
        print(tables[printed], end="")


def _is_comparison(folder: Path) -> bool:
    """Whether it is the folder of an earlier comparison, which `runs/*` names too; it is passed over, and told."""
    if not (folder / PAGE).is_file() or (folder / "config.yaml").exists():
        return False
    print(f"{folder} holds a comparison, not a run: passed over", file=sys.stderr)
    return True
