"""A comparison as one HTML page that needs nothing else: style, script, pictures and plots are in it."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from pathlib import Path

from ebmzoo.errors import UserError
from ebmzoo.report.comparison.compare import Column, Comparison, Words, columns_of
from ebmzoo.report.comparison.curves import read_curve, smooth
from ebmzoo.report.comparison.figures import known
from ebmzoo.report.comparison.formats import method
from ebmzoo.report.comparison.html import Html, joined, tag
from ebmzoo.report.comparison.papers import Papers, Printed, methods_of, papers, where
from ebmzoo.report.comparison.records import Record
from ebmzoo.report.comparison.svg import Kind, Series, plot, swatch

POLICY = "; ".join(
    (
        "default-src 'none'",
        "img-src data:",
        "style-src 'unsafe-inline'",
        "script-src 'unsafe-inline'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
"""What a browser may load for the page: nothing that is not in it."""
CURVES: tuple[tuple[str, Kind], ...] = (
    ("train/energy_gap", "asinh"),
    ("train/displacement_ratio", "log"),
    ("train/grad_norm", "log"),
    ("train/agreement", "linear"),
)
"""The learning curves that are drawn, each with the scale of its axis."""
POINTS = 200
"""The most points that are drawn of a curve."""
WIDEST = 1024
"""Pictures wider than so many pixels are made smaller before they are put into the page."""


def page(comparison: Comparison) -> str:
    """The page of a comparison."""
    records = comparison.records
    style = {record.name: index for index, record in enumerate(records)}
    sections = [
        _section("Figures", "figures", *_figures(comparison, style)),
        _section("Samples", "samples", *_samples(records)),
        _section("Quality against cost", "cost", *_costs(records, style)),
        _section("Out-of-distribution detection", "ood", *_heat(records)),
        _section("Learning curves", "curves", *_curves(records, style)),
        _section("What the papers print", "papers", *_papers(records, papers())),
        _section("Protocols", "protocols", *_protocols(records)),
    ]
    shown = [section for section in sections if section is not None]
    title = f"ebmzoo: {len(records)} {'run' if len(records) == 1 else 'runs'} compared"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(_part("page.css"))),
    )
    links = [tag("a", name, href=f"#{anchor}") for name, anchor, _ in shown]
    body = tag(
        "body",
        tag("header", tag("h1", title), tag("nav", *links, aria_label="Sections")),
        tag("main", *(content for _, _, content in shown)),
        tag("script", Html(_part("page.js"))),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _part(name: str) -> str:
    return files("ebmzoo.report.comparison").joinpath(name).read_text(encoding="utf-8")


def _section(name: str, anchor: str, *content: Html) -> tuple[str, str, Html] | None:
    """A section with its heading; None where it has no content."""
    return (name, anchor, tag("section", tag("h2", name), *content, id=anchor)) if content else None


def _figures(comparison: Comparison, style: dict[str, int]) -> list[Html]:
    """The table, and the sentences that belong to it."""

    def cell(column: Column | Words, record: Record) -> Html:
        text = column.text(record.name)
        if isinstance(column, Words):
            return tag("td", text, class_="words")
        found = column.cells.get(record.name)
        value = None if found is None or math.isnan(found.value) else repr(found.value)
        best = record.name in column.best()
        return tag("td", tag("strong", text) if best else text, data_value=value or "", class_="best" if best else None)

    def row(record: Record) -> Html:
        told = tag("span", method(record), class_="error" if record.error else "method")
        name = tag("th", swatch(style[record.name], record.name), _breakable(record.name), told, scope="row")
        return tag("tr", name, *(cell(column, record) for column in comparison.columns))

    def head(column: Column | Words) -> Html:
        told = tag("small", column.told) if isinstance(column, Column) and column.told else None
        return tag(
            "th", column.name.replace(" ↓", "\u00a0↓").replace(" ↑", "\u00a0↑"), told, scope="col", title=column.key
        )

    heads = [head(column) for column in comparison.columns]
    grid = tag(
        "table",
        tag("thead", tag("tr", tag("th", "run", scope="col"), *heads)),
        tag("tbody", *map(row, comparison.records)),
        class_="sortable",
    )
    lead = "↓: lower is better, ↑: higher; the best of a column is bold. A press on a heading sorts."
    refused = tag("h3", "Not in one column") if comparison.refusals else None
    parts = [tag("p", lead, class_="lead"), _boxed(grid, "Figures of the runs")]
    parts += [refused, _list(comparison.refusals)] if refused else []
    parts += [tag("h3", "Notes"), _list(comparison.notes)] if comparison.notes else []
    return parts


def _samples(records: Sequence[Record]) -> list[Html]:
    """The samples of each run, real images first where a test drew them."""
    shown: list[Html] = []
    real = next(((r, path) for r in records if (path := r.real()) is not None), None)
    if real is not None and (image := _picture(real[1], "real images")) is not None:
        shown.append(tag("figure", image, tag("figcaption", f"real images (of {real[0].name})")))
    for record in records:
        path = record.samples()
        image = None if path is None else _picture(path, f"samples of {record.name}")
        if path is None or image is None:
            continue
        when = "" if path.parent.name == "test" else f", drawn while training: {path.stem.replace('_', ' ')}"
        shown.append(tag("figure", image, tag("figcaption", record.name + when)))
    return [tag("div", *shown, class_="grids")] if shown else []


def _picture(path: Path, words: str) -> Html | None:
    """A PNG file as an image in the page; None where it is not one."""
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    width = int.from_bytes(content[16:20], "big")
    if width > WIDEST:
        from PIL import Image

        with Image.open(path) as image:
            small = image.convert("RGB")
            small.thumbnail((WIDEST, 100 * WIDEST))
            file = io.BytesIO()
            small.save(file, "PNG", optimize=True)
        content = file.getvalue()
    return tag("img", src=f"data:image/png;base64,{base64.b64encode(content).decode()}", alt=words, loading="lazy")


def _costs(records: Sequence[Record], style: dict[str, int]) -> list[Html]:
    """The Fréchet distances of each protocol against NFE, parameters and seconds, as LIEBM's Figure 2 does."""
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
        "One point a run; hollow, with a line to it, are the same run's samples without the chain (w/o MCMC). "
        "A plot holds one protocol, and seconds of one kind of machine."
    )
    return [tag("p", lead, class_="lead"), _legend(records, style), tag("div", *plots, class_="plots")]


At = Callable[[Record, str], float | None]
"""The number of a run that a plot's x-axis shows, for its samples with the chain, "", and without, "no_mcmc/"."""


def _against(records: Sequence[Record]) -> dict[str, At]:
    """What the Fréchet distance is drawn against."""
    timed = columns_of(records, "generation/seconds")
    alike = timed[0].cells if timed else {}  # seconds of another machine would be no comparison

    def seconds(record: Record, row: str) -> float | None:
        return record.figures.get(f"generation/{row}seconds") if record.name in alike else None

    def parameters(record: Record, row: str) -> float | None:
        return None if row else record.figures.get("training/parameters")

    def nfe(record: Record, row: str) -> float | None:
        return record.figures.get(f"generation/{row}nfe")

    return {"NFE": nfe, "parameters": parameters, "seconds": seconds}


def _scatter(records: Sequence[Record], column: Column, name: str, at: At, style: dict[str, int]) -> Html | None:
    """A Fréchet distance of one protocol against another number; None where all points have one x."""
    series: list[Series] = []
    measure = column.key.partition("/")[2]
    for record in [record for record in records if record.name in column.cells]:
        places: list[tuple[float, float]] = []
        for row in ("", "no_mcmc/"):
            x, y = at(record, row), record.figures.get(f"generation/{row}{measure}")
            if x is not None and y is not None and math.isfinite(x) and math.isfinite(y):
                told = f"{record.name}: {name} {x:.4g}, {column.label} {y:.4g}"
                series.append(Series(record.name, style[record.name], [(x, y)], hollow=row != "", words=[told]))
                places.append((x, y))
        if len(places) > 1:
            series.append(Series(record.name, style[record.name], places, line=True, marks=False))
    title = f"{column.label}{f' ({column.told})' if column.told else ''} against {name}"
    return _plot(series, title, name, column.label) if len({x for s in series for x, _ in s.points}) > 1 else None


def _plot(series: Sequence[Series], title: str, x: str, y: str) -> Html:
    """A plot whose axes are logarithmic where the values ask for it."""
    points = [point for s in series for point in s.points]
    return plot(series, title, x, y, *(_kind([point[i] for point in points]) for i in (0, 1)))


def _along(records: Sequence[Record], keys: Iterable[str], style: dict[str, int]) -> list[Html]:
    """The Fréchet distance along the chain: the rows `steps_k` of the task `cost`, one line a run."""
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
            plots.append(_plot(series, f"{label} of chains of other lengths", "NFE", label))
    return plots


def _kind(values: Sequence[float]) -> Kind:
    """Logarithmic where positive values span more than a factor 20."""
    finite = [v for v in values if math.isfinite(v)]
    return "log" if finite and min(finite) > 0 and max(finite) > 20 * min(finite) else "linear"


def _legend(records: Sequence[Record], style: dict[str, int]) -> Html:
    return tag("ul", *(tag("li", swatch(style[r.name], r.name), r.name) for r in records), class_="legend")


SCORES = {
    "score": "the method's own score",
    "energy": "the energy E(x)",
    "gradient": "the gradient |∇E(x)|",
    "drop": "the drop of E over a few steps",
    "reconstruction": "the error of reconstruction",
    "chosen": "the score chosen on other images",
}
"""What the scores of out-of-distribution detection are called."""


def _heat(records: Sequence[Record]) -> list[Html]:
    """AUROC of each run and set as coloured cells, a table for each score."""
    keys = list(dict.fromkeys(key for record in records for key in record.figures if key.startswith("ood/")))
    scores = list(dict.fromkeys(k.rpartition("/auroc_")[2] for k in keys if "/auroc_" in k and not k.endswith("_std")))
    parts: list[Html] = []
    for score in sorted(scores, key=lambda s: (s != "score", s != "energy")):
        columns = [c for k in keys if k.endswith(f"/auroc_{score}") for c in columns_of(records, k)]
        rows = [r for r in records if any(r.name in c.cells for c in columns)]
        heads = [tag("th", _set(column), scope="col", title=column.key) for column in columns]
        body = [
            tag("tr", tag("th", _breakable(r.name), scope="row"), *(_coloured(column, r.name) for column in columns))
            for r in rows
        ]
        grid = tag("table", tag("thead", tag("tr", tag("th", "run", scope="col"), *heads)), tag("tbody", *body))
        named = SCORES.get(score, score.replace("_", " "))
        parts += [tag("h3", f"AUROC of {named}"), _boxed(grid, f"AUROC of {named}", "heat")]
    if not parts:
        return []
    lead = (
        "1 is perfect, 0.5 is chance, below it the model takes what is outside for more likely than its own test set."
    )
    return [tag("p", lead, class_="lead"), *parts]


def _set(column: Column) -> str:
    name = column.key.split("/")[1].replace("_", " ")
    return f"{name} ({column.told})" if column.told else name


def _coloured(column: Column, run: str) -> Html:
    cell = column.cells.get(run)
    if cell is None or math.isnan(cell.value):
        return tag("td", column.text(run))
    background, text = colours(cell.value)
    return tag("td", f"{cell.value:.3f}", style=f"background:{background};color:{text}")


def colours(value: float) -> tuple[str, str]:
    """Background and text of an AUROC: white at chance, blue above, orange below; the text is what contrasts more."""
    share = min(1.0, abs(value - 0.5) * 2)
    far = (8, 69, 148) if value >= 0.5 else (166, 54, 3)
    red, green, blue = (round(255 + share * (c - 255)) for c in far)
    return f"rgb({red},{green},{blue})", "#fff" if contrast((red, green, blue)) > 4.5 else "#000"


def contrast(rgb: tuple[int, int, int]) -> float:
    """The contrast of white text on a colour, (1 + 0.05)/(L + 0.05) with L its relative luminance (WCAG 2.1)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in rgb)]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)


def _curves(records: Sequence[Record], style: dict[str, int]) -> list[Html]:
    """The learning curves, running means of ten logged values, one plot a quantity."""
    plots = []
    for key, kind in CURVES:
        series = []
        for record in records:
            try:
                steps, values = read_curve(record.folder, key)
            except UserError:
                continue  # a method has no such curve, or the run has none at all
            stride = math.ceil(len(steps) / POINTS)
            points = list(zip(map(float, steps), smooth(values, 10), strict=True))[stride - 1 :: stride]
            series.append(Series(record.name, style[record.name], points, line=True, marks=False))
        if series:
            plots.append(plot(series, key, "iteration", key.rpartition("/")[2].replace("_", " "), "linear", kind))
    if not plots:
        return []
    lead = "Running means of ten logged values. The gap's axis is logarithmic away from zero, of either sign."
    return [tag("p", lead, class_="lead"), _legend(records, style), tag("div", *plots, class_="plots")]


def _papers(records: Sequence[Record], printed: Papers) -> list[Html]:
    """What the papers print: never beside what was measured here, for their protocols are others."""
    ran = [printed.classes[r.method] for r in records if r.method is not None and r.method in printed.classes]
    lead = (
        "Restated from the papers' tables, each under its paper's own protocol: none may be held against a figure "
        "above. ‡ marks figures in which papers disagree; methods that were run here are bold."
    )
    parts = [tag("p", lead, class_="lead"), tag("div", *_printed_plots(printed), class_="plots")]
    if mine := [row for row in printed.of("CIFAR-10", "FID") if row.method in ran and row.table == "1"]:
        named = "CIFAR-10, FID, of the methods that were run here"
        parts += [tag("h3", named), _boxed(_printed_table(mine, printed, ran), named)]
    parts.append(tag("h3", "All tables"))
    for metric in dict.fromkeys(row.metric for row in printed.rows):
        tables = [tag("summary", metric)]
        for data in dict.fromkeys(row.data for row in printed.rows if row.metric == metric):
            grid = _printed_table(printed.of(data, metric), printed, ran)
            tables += [tag("h4", f"{data}, {metric}"), _boxed(grid, f"{data}, {metric}")]
        parts.append(tag("details", *tables))
    disagreements = [str(conflict) for conflict in printed.conflicts]
    return [*parts, tag("h3", "‡ Where papers disagree"), _list(disagreements)]


def _printed_table(rows: Sequence[Printed], printed: Papers, ran: Sequence[str]) -> Html:
    """One row a model as printed, one column a paper."""
    sources = list(dict.fromkeys(row.paper for row in rows))
    names: dict[tuple[str, str], str] = {}
    for row in rows:
        names.setdefault((row.method, row.printed.casefold()), row.printed)

    def told(row: Printed) -> Html:
        value = "not converged" if row.value is None else f"{row.value:g}"
        beside = [where(row.table)]
        beside += [f"NFE {row.nfe:g}"] if row.nfe is not None else []
        beside += [f"{row.parameters:g}M parameters"] if row.parameters is not None else []
        beside += [row.note] if row.note and row.note != value else []
        disputed = printed.disputed(row)
        mark = tag("abbr", "‡", title="; ".join(map(str, disputed))) if disputed else None
        return tag("div", value, mark, tag("small", ", ".join(beside)))

    def line(called: str, name: str) -> Html:
        mine = [row for row in rows if (row.method, row.printed.casefold()) == (called, name.casefold())]
        cells = [tag("td", *(told(row) for row in mine if row.paper == paper)) for paper in sources]
        return tag("tr", tag("th", tag("strong", name) if called in ran else name, scope="row"), *cells)

    heads = [tag("th", paper, scope="col", title=printed.titles[paper]) for paper in sources]
    return tag(
        "table",
        tag("thead", tag("tr", tag("th", "as printed", scope="col"), *heads)),
        tag("tbody", *(line(called, name) for (called, _), name in names.items())),
        class_="printed",
    )


def _printed_plots(printed: Papers) -> list[Html]:
    """CIFAR-10's FID against NFE and parameters, as printed, of the papers' methods and their baselines."""
    rows = [r for r in printed.of("CIFAR-10", "FID") if r.role != "other" and r.value is not None]
    names = methods_of(rows)
    plots = []
    for attribute, label in (("nfe", "NFE"), ("parameters", "millions of parameters")):
        series = []
        for method_ in names:
            mine = [r for r in rows if r.method == method_ and getattr(r, attribute) is not None]
            points = [(float(getattr(r, attribute)), float(r.value)) for r in mine if r.value is not None]
            words = [
                f"{r.printed}: {x:g} {label}, FID {y:g} ({r.paper} {where(r.table)})"
                for r, (x, y) in zip(mine, points, strict=True)
            ]
            if points:
                series.append(Series(method_, names.index(method_), points, words=words))
        legend = tag("ul", *(tag("li", swatch(s.style, s.name), s.name) for s in series), class_="legend")
        drawn = _plot(series, f"CIFAR-10, as printed: FID against {label}", label, "FID")
        plots.append(tag("div", drawn, legend))
    return plots


def _protocols(records: Sequence[Record]) -> list[Html]:
    """All that the figures of each run rest on."""
    return [
        tag(
            "details",
            tag("summary", record.name),
            tag("p", f"{record.folder}", class_="lead"),
            *(
                tag("pre", f"{task}: {json.dumps(result['protocol'], indent=2, ensure_ascii=False)}")
                for task, result in record.results.items()
            ),
        )
        for record in records
        if record.results
    ]


def _breakable(name: str) -> Html:
    """A name that may go on in the next line after an underscore or a slash."""
    parts = re.split(r"(?<=[_/])", name)
    return joined(parts[0], *(joined(tag("wbr"), part) for part in parts[1:]))


def _list(sentences: Iterable[str]) -> Html:
    return tag("ul", *(tag("li", sentence) for sentence in sentences), class_="notes")


def _boxed(grid: Html, name: str, kind: str = "") -> Html:
    """A table in a box of its own that scrolls, with the keyboard too."""
    return tag("div", grid, class_=f"box {kind}".rstrip(), tabindex="0", role="region", aria_label=name)
