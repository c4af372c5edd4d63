"""The plots of a comparison's page: quality against cost, and learning curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from ebmzoo.errors import UserError
from ebmzoo.report.comparison.compare import Column, columns_of
from ebmzoo.report.comparison.curves import read_curves, smooth
from ebmzoo.report.comparison.figures import known
from ebmzoo.report.comparison.html import Html, tag
from ebmzoo.report.comparison.page_elements import legend, scaled_plot
from ebmzoo.report.comparison.records import Record
from ebmzoo.report.comparison.svg import Kind, Series, plot

CURVES: tuple[tuple[str, Kind], ...] = (
    ("train/energy_gap", "asinh"),
    ("train/displacement_ratio", "log"),
    ("train/grad_norm", "log"),
    ("train/agreement", "linear"),
)
"""The learning curves to draw, each with the scale of its axis."""
POINTS = 200
"""The largest number of points of a curve."""
At = Callable[[Record, str], float | None]
"""The x-coordinate of a run in a plot, for its samples with the chain, "", and without it, "no_mcmc/"."""


def cost_section(records: Sequence[Record], style: dict[str, int]) -> list[Html]:
    """Plots of the Fréchet distance against NFE, parameters and seconds per protocol, as in LIEBM's Figure 2."""
    keys = list(dict.fromkeys(key for record in records for key in record.figures))
    distances = [key for key in keys if key.startswith(("generation/fd_", "generation/fid"))]
    plots = [
        drawn
        for key in distances
        for column in columns_of(records, key)
        for name, at in _against(records).items()
        if (drawn := _scatter(records, column, name, at, style)) is not None
    ]
    plots += _along(records, keys, style)
    if not plots:
        return []
    lead = (
        "One point per run; a hollow point, joined by a line, is the same run without the chain (w/o MCMC). "
        "All points of a plot have one protocol, and seconds come from one kind of machine."
    )
    return [tag("p", lead, class_="lead"), legend(records, style), tag("div", *plots, class_="plots")]


def _against(records: Sequence[Record]) -> dict[str, At]:
    """The quantities that the Fréchet distance is drawn against."""
    timed = columns_of(records, "generation/seconds")
    alike = timed[0].cells if timed else {}  # seconds of different machines are not comparable

    def seconds(record: Record, row: str) -> float | None:
        return record.figures.get(f"generation/{row}seconds") if record.name in alike else None

    def parameters(record: Record, row: str) -> float | None:
        return None if row else record.figures.get("training/parameters")

    def nfe(record: Record, row: str) -> float | None:
        return record.figures.get(f"generation/{row}nfe")

    return {"NFE": nfe, "parameters": parameters, "seconds": seconds}


def _scatter(records: Sequence[Record], column: Column, name: str, at: At, style: dict[str, int]) -> Html | None:
    """A plot of the Fréchet distance under one protocol against a quantity; None if all points have the same x."""
    series: list[Series] = []
    measure = column.key.partition("/")[2]
    for record in [record for record in records if record.name in column.cells]:
        places: list[tuple[float, float]] = []
        for row in ("", "no_mcmc/"):
            x, y = at(record, row), record.figures.get(f"generation/{row}{measure}")
            if x is not None and y is not None and math.isfinite(x) and math.isfinite(y):
                text = f"{record.name}: {name} {x:.4g}, {column.label} {y:.4g}"
                series.append(Series(record.name, style[record.name], [(x, y)], hollow=row != "", words=[text]))
                places.append((x, y))
        if len(places) > 1:
            series.append(Series(record.name, style[record.name], places, line=True, marks=False))
    title = f"{column.label}{f' ({column.qualifier})' if column.qualifier else ''} against {name}"
    return scaled_plot(series, title, name, column.label) if len({x for s in series for x, _ in s.points}) > 1 else None


def _along(records: Sequence[Record], keys: Iterable[str], style: dict[str, int]) -> list[Html]:
    """Plots of the Fréchet distance over chain lengths, the rows `steps_k` of the task `cost`, one line per run."""
    rows = [key.rpartition("/") for key in keys if key.startswith("cost/steps_")]
    plots = []
    for measure in dict.fromkeys(m for _, _, m in rows if m == "fid" or m.startswith("fd_")):
        lines: dict[str, list[tuple[float, float]]] = {}
        for row in [row for row, _, m in rows if m == measure]:
            alike = columns_of(records, f"{row}/{measure}")[0].cells
            for record in [r for r in records if r.name in alike and f"{row}/nfe" in r.figures]:
                lines.setdefault(record.name, []).append((record.figures[f"{row}/nfe"], alike[record.name].value))
        series = [Series(name, style[name], sorted(points), line=True) for name, points in lines.items()]
        label = known(f"generation/{measure}")[0]
        if series:
            plots.append(scaled_plot(series, f"{label} of chains of other lengths", "NFE", label))
    return plots


def curves_section(records: Sequence[Record], style: dict[str, int], told: Callable[[str], None]) -> list[Html]:
    """The learning curves as running means over ten logged values, one plot per quantity."""
    plots = []
    found: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    for record in records:
        try:
            found[record.name] = read_curves(record.folder, [key for key, _ in CURVES])
        except UserError as error:
            told(str(error))
    for key, kind in CURVES:
        series = []
        for record in records:
            if key not in found.get(record.name, {}):
                continue  # the method has no such curve, or the run has none at all
            steps, values = found[record.name][key]
            stride = math.ceil(len(steps) / POINTS)
            points = list(zip(map(float, steps), smooth(values, 10), strict=True))[stride - 1 :: stride]
            series.append(Series(record.name, style[record.name], points, line=True, marks=False))
        if series:
            plots.append(plot(series, key, "iteration", key.rpartition("/")[2].replace("_", " "), "linear", kind))
    if not plots:
        return []
    lead = "Running means of ten logged values. The energy gap's axis is linear near zero, and logarithmic beyond."
    return [tag("p", lead, class_="lead"), legend(records, style), tag("div", *plots, class_="plots")]
