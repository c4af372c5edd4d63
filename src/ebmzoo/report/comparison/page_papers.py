"""The section of a comparison's page with the numbers that the papers print."""

from __future__ import annotations

from collections.abc import Sequence

from ebmzoo.report.comparison.html import Html, tag
from ebmzoo.report.comparison.page_elements import boxed, bullet_list, scaled_plot
from ebmzoo.report.comparison.papers import Papers, Printed, methods_of, where
from ebmzoo.report.comparison.records import Record
from ebmzoo.report.comparison.svg import Series, swatch

MAIN = {"CIFAR-10": "1"}
"""The table in which every paper compares methods on a data set; its other tables of that set are ablations."""


def papers_section(records: Sequence[Record], printed: Papers) -> list[Html]:
    """The papers' numbers on the data sets of the runs, apart from those measured here, since the protocols differ."""
    names = dict.fromkeys(name for record in records if (name := printed.named(record.data)) is not None)
    printed = printed.on(names)
    if not printed.rows:
        return []
    ran = [printed.classes[r.method] for r in records if r.method is not None and r.method in printed.classes]
    lead = (
        f"Copied from the papers' tables on {', '.join(names)}, each under its paper's own protocol: not comparable "
        "with the figures above. ‡ marks figures in which papers disagree; methods that were run here are bold."
    )
    parts = [tag("p", lead, class_="lead"), tag("div", *_printed_plots(printed), class_="plots")]
    for data in names:
        mine = [row for row in printed.of(data, "FID") if row.method in ran and row.table == MAIN.get(data, row.table)]
        if mine:
            title = f"{data}, FID, of the methods that were run here"
            parts += [tag("h3", title), boxed(_printed_table(mine, printed, ran), title)]
    parts.append(tag("h3", "All tables"))
    for metric in dict.fromkeys(row.metric for row in printed.rows):
        tables = [tag("summary", metric)]
        for data in dict.fromkeys(row.data for row in printed.rows if row.metric == metric):
            grid = _printed_table(printed.of(data, metric), printed, ran)
            tables += [tag("h4", f"{data}, {metric}"), boxed(grid, f"{data}, {metric}")]
        parts.append(tag("details", *tables))
    disagreements = [str(conflict) for conflict in printed.conflicts]
    return [*parts, tag("h3", "‡ Where papers disagree"), bullet_list(disagreements)] if disagreements else parts


def _printed_table(rows: Sequence[Printed], printed: Papers, ran: Sequence[str]) -> Html:
    """A table with one row per printed model and one column per paper."""
    sources = list(dict.fromkeys(row.paper for row in rows))
    names: dict[tuple[str, str], str] = {}
    for row in rows:
        names.setdefault((row.method, row.printed.casefold()), row.printed)

    def entry(row: Printed) -> Html:
        value = "not converged" if row.value is None else f"{row.value:g}"
        beside = [where(row.table)]
        beside += [f"NFE {row.nfe:g}"] if row.nfe is not None else []
        beside += [f"{row.parameters:g}M parameters"] if row.parameters is not None else []
        beside += [row.note] if row.note and row.note != value else []
        disputed = printed.disputed(row)
        mark = tag("abbr", "‡", title="; ".join(map(str, disputed))) if disputed else None
        return tag("div", value, mark, tag("small", ", ".join(beside)))

    def line(method: str, name: str) -> Html:
        mine = [row for row in rows if (row.method, row.printed.casefold()) == (method, name.casefold())]
        cells = [tag("td", *(entry(row) for row in mine if row.paper == paper)) for paper in sources]
        return tag("tr", tag("th", tag("strong", name) if method in ran else name, scope="row"), *cells)

    heads = [tag("th", paper, scope="col", title=printed.titles[paper]) for paper in sources]
    return tag(
        "table",
        tag("thead", tag("tr", tag("th", "as printed", scope="col"), *heads)),
        tag("tbody", *(line(method, name) for (method, _), name in names.items())),
        class_="printed",
    )


def _printed_plots(printed: Papers) -> list[Html]:
    """FID against NFE and parameters, as printed, for the papers' methods and their baselines."""
    sets = dict.fromkeys(row.data for row in printed.rows if row.metric == "FID")
    return [plot for data in sets for plot in _plots_of(data, printed.of(data, "FID"))]


def _plots_of(data: str, rows: Sequence[Printed]) -> list[Html]:
    rows = [r for r in rows if r.role != "other" and r.value is not None]
    names = methods_of(rows)
    plots = []
    for attribute, label in (("nfe", "NFE"), ("parameters", "millions of parameters")):
        series = []
        for method in names:
            mine = [r for r in rows if r.method == method and getattr(r, attribute) is not None]
            points = [(float(getattr(r, attribute)), float(r.value)) for r in mine if r.value is not None]
            words = [
                f"{r.printed}: {x:g} {label}, FID {y:g} ({r.paper} {where(r.table)})"
                for r, (x, y) in zip(mine, points, strict=True)
            ]
            if points:
                series.append(Series(method, names.index(method), points, words=words))
        legend = tag("ul", *(tag("li", swatch(s.style, s.name), s.name) for s in series), class_="legend")
        if len({x for s in series for x, _ in s.points}) > 1:
            drawn = scaled_plot(series, f"{data}, as printed: FID against {label}", label, "FID")
            plots.append(tag("div", drawn, legend))
    return plots
