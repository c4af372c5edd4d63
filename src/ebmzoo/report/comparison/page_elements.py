"""HTML elements that the sections of a comparison's page share."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from ebmzoo.report.comparison.html import Html, joined, tag
from ebmzoo.report.comparison.records import Record
from ebmzoo.report.comparison.svg import Kind, Series, plot, swatch


def breakable(name: str) -> Html:
    """A name with line breaks allowed after underscores and slashes."""
    parts = re.split(r"(?<=[_/])", name)
    return joined(parts[0], *(joined(tag("wbr"), part) for part in parts[1:]))


def bullet_list(sentences: Iterable[str]) -> Html:
    return tag("ul", *(tag("li", sentence) for sentence in sentences), class_="notes")


def boxed(grid: Html, name: str, kind: str = "") -> Html:
    """A table in a scrollable box, which can also be scrolled with the keyboard."""
    return tag("div", grid, class_=f"box {kind}".rstrip(), tabindex="0", role="region", aria_label=name)


def legend(records: Sequence[Record], style: dict[str, int]) -> Html:
    return tag("ul", *(tag("li", swatch(style[r.name], r.name), r.name) for r in records), class_="legend")


def scaled_plot(series: Sequence[Series], title: str, x: str, y: str) -> Html:
    """A plot with logarithmic axes where the values span a large range."""
    points = [point for s in series for point in s.points]
    return plot(series, title, x, y, *(_kind([point[i] for point in points]) for i in (0, 1)))


def _kind(values: Sequence[float]) -> Kind:
    """Logarithmic if positive values span more than a factor of 20."""
    finite = [v for v in values if math.isfinite(v)]
    return "log" if finite and min(finite) > 0 and max(finite) > 20 * min(finite) else "linear"
