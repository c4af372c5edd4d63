"""`ebmzoo configs`: the configurations that come with the package, listed, and copied to be changed; without torch."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ebmzoo.commands.parser import Parser
from ebmzoo.errors import UserError
from ebmzoo.training.config_names import INDEX, config_folder, config_name, config_path, config_paths, plan_paths
from ebmzoo.writing import write_whole

HEADS = ("name", "method", "data", "size", "parameters")
"""The columns of the list; the size of images is channels×height×width."""

_UNKNOWN = {"model": "-", "data": "-", "size": None, "parameters": None}


def main(args: list[str]) -> None:
    """List configurations, or with `--copy` write one into a file."""
    parser = Parser("configs", "List the configs that come with ebmzoo, or copy one to change it.")
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="list only configs with these words, such as clel cifar"
    )
    parser.add_argument(
        "--copy", nargs=2, metavar=("NAME", "FILE"), help="write the config NAME into FILE, to change it"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the FILE of --copy")
    options = parser.read(args)
    if options.copy is None:
        print(listing(options.words))
        return
    name, path = options.copy[0], Path(options.copy[1])
    text = copied(name, path.stem)
    if os.path.lexists(path) and not options.overwrite:
        raise UserError(f"--copy: {path} would be overwritten; give another file, or --overwrite")
    write_whole(path, text)
    print(f"config: {path}\nnext:   ebmzoo fit --config {path}")


def listing(words: Sequence[str] = ()) -> str:
    """The configurations with all these words in name, method or data: a line each, and the plans of benchmarks.

    Raises:
        UserError: No configuration has them.
    """
    index = json.loads((config_folder() / INDEX).read_text(encoding="utf-8"))
    rows: list[tuple[str, ...]] = [HEADS]
    for name in config_paths():
        row = _row(name, index.get(name, _UNKNOWN))
        if all(word.casefold() in " ".join(row[:3]).casefold() for word in words):
            rows.append(row)
    if len(rows) == 1:
        raise UserError(f"configs: no config has {' and '.join(map(repr, words))} in its name, method or data")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    if not words:
        lines += ["", f"benchmark plans, for `ebmzoo benchmark NAME`: {', '.join(plan_paths())}"]
    return "\n".join(lines)


def _row(name: str, entry: dict[str, Any]) -> tuple[str, ...]:
    size, parameters = entry["size"], entry["parameters"]
    shown = "×".join(map(str, size)) if size else "-"
    return name, entry["model"], entry["data"], shown, "-" if parameters is None else f"{parameters:,}"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    *texts, number = row
    *of_texts, of_number = widths
    return [*(text.ljust(width) for text, width in zip(texts, of_texts, strict=True)), number.rjust(of_number)]


def copied(name: str, stem: str) -> str:
    """The text of a configuration for a file elsewhere: its `run_dir` is `runs/<stem>`, and it extends a name.

    Raises:
        UserError: There is no configuration called `name`.
    """
    path = config_path(name)
    text = path.read_text(encoding="utf-8")

    def by_name(match: re.Match[str]) -> str:
        return f"extends: {config_name(path.parent / match[1])}"

    text = re.sub(r"^extends: *(\S+)", by_name, text, count=1, flags=re.MULTILINE)
    folder = f"runs/{stem}" if re.fullmatch(r"[\w.-]+", stem) else json.dumps(f"runs/{stem}", ensure_ascii=False)
    return re.sub(r"^run_dir: .*$", lambda _: f"run_dir: {folder}", text, count=1, flags=re.MULTILINE)
