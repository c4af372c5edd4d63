"""Learning curves of runs side by side: `python -m ebmzoo.report.comparison.curves RUN RUN --out curves.png`."""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Sequence
from pathlib import Path

from ebmzoo.errors import UserError
from ebmzoo.report.own_files import read_rows
from ebmzoo.report.plots import figure, save

KEYS = ("train/energy_gap", "train/displacement_ratio", "train/agreement")


def read_curve(run: Path, key: str) -> tuple[list[int], list[float]]:
    """The steps and values of `key` in the CSV files of a run, ordered by step.

    Raises:
        UserError: The run has no curves, or none of that name.
    """
    found = read_curves(run, [key])
    if key not in found:
        raise UserError(f"{run} has no curve of {key}; a run that `ebmzoo fit` made has csv/version_*/metrics.csv")
    return found[key]


def read_curves(run: Path, keys: Sequence[str]) -> dict[str, tuple[list[int], list[float]]]:
    """The steps and values, as of `read_curve`, of those of `keys` of which the run has a curve.

    Raises:
        UserError: A CSV file of the run cannot be read.
    """
    found: dict[str, dict[int, float]] = {}
    for path in sorted(run.glob("csv/version_*/metrics.csv"), key=_version):
        try:
            for row in read_rows(path):
                for key in keys:
                    if row.get(key):
                        found.setdefault(key, {})[_step(row["step"])] = float(row[key])
        except UserError:
            raise
        except (csv.Error, KeyError, OSError, TypeError, ValueError) as error:
            raise UserError(f"{path} holds no curves ({type(error).__name__}: {error})") from error
    return {key: ([*sorted(curve)], [curve[step] for step in sorted(curve)]) for key, curve in found.items()}


def _version(path: Path) -> tuple[int, str]:
    number = path.parent.name.removeprefix("version_")
    return (int(number) if number.isdecimal() and len(number) < 20 else -1, number)


def _step(text: str) -> int:
    step = int(text)
    if abs(step) >= 2**63:
        raise ValueError(f"the step {text:.30} is too large")
    return step


def smooth(values: Sequence[float], window: int) -> list[float]:
    """The running mean over the last `window` values, or over all so far if there are fewer."""
    return [math.fsum(values[max(0, i + 1 - window) : i + 1]) / min(i + 1, window) for i in range(len(values))]


def draw_curves(runs: Sequence[Path], keys: Sequence[str], out: Path, window: int = 10) -> None:
    """Draw one panel per key and one line per run, each a running mean over `window` logged values.

    SVG and PDF files are written beside `out`.

    Raises:
        UserError: A run has no such curve, or matplotlib is not installed.
    """
    drawn = figure(4.2 * len(keys), 3.2)
    for axes, key in zip(drawn.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        for run in runs:
            steps, values = read_curve(run, key)
            axes.plot(steps, smooth(values, window), label=run.name)
        if key == "train/displacement_ratio":
            axes.set_yscale("log")
            axes.axhline(1, color="grey", linewidth=0.8, linestyle="--")
        axes.set(title=key, xlabel="iteration", ylabel=f"{key.rpartition('/')[2].replace('_', ' ')}, running mean")
        axes.legend(frameon=False)
    save(drawn, out)


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(prog="python -m ebmzoo.report.comparison.curves", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--out", type=Path, default=Path("curves.png"))
    parser.add_argument("--keys", nargs="+", default=list(KEYS))
    flags = parser.parse_args()
    try:
        draw_curves(flags.runs, flags.keys, flags.out)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
