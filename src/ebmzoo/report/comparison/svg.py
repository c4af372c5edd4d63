"""Plots as SVG for an HTML page: points and lines on linear, logarithmic and inverse-sinh axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ebmzoo.report.comparison.html import Html, joined, tag

Kind = Literal["linear", "log", "asinh"]
WIDTH, HEIGHT = 400, 260
LEFT, RIGHT, TOP, BOTTOM = 62, 10, 8, 42
COLOURS = 10
SHAPES = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class Series:
    """Points `(x, y)` of one colour and shape, numbered by `style`, optionally with a line through them.

    `hollow` draws them unfilled. `words` are the tooltips, one per point; if empty, the name of the series.
    """

    name: str
    style: int
    points: Sequence[tuple[float, float]]
    line: bool = False
    marks: bool = True
    hollow: bool = False
    words: Sequence[str] = ()


@dataclass(frozen=True)
class Axis:
    """v ↦ t(v) ∈ [0, 1], t linear, log v, or asinh(v/c): linear below c, logarithmic above, of either sign."""

    kind: Kind
    low: float
    high: float
    unit: float = 1.0

    @classmethod
    def of(cls, values: Sequence[float], kind: Kind) -> Axis:
        """An axis that shows all values, and 0 if asinh, with a margin; logarithmic only if all values are positive."""
        finite = [v for v in values if math.isfinite(v)]
        if kind == "log" and min(finite, default=0) <= 0:
            kind = "linear"
        unit = sorted(map(abs, finite))[len(finite) // 2] or 1.0 if finite else 1.0
        finite += [0.0] if kind == "asinh" else []
        axis = cls(kind, 0.0, 1.0, unit)
        ends = [axis._warp(v) for v in (min(finite, default=0.0), max(finite, default=1.0))]
        margin = 0.06 * (ends[1] - ends[0]) or 0.5
        return cls(kind, ends[0] - margin, ends[1] + margin, unit)

    def __call__(self, value: float) -> float:
        return (self._warp(value) - self.low) / (self.high - self.low)

    def _warp(self, value: float) -> float:
        if self.kind == "log":
            return math.log10(value)
        return math.asinh(value / self.unit) if self.kind == "asinh" else value

    def ticks(self) -> list[float]:
        """At most seven round values within the axis."""
        if self.kind == "linear":
            return _round_steps(self.low, self.high)
        if self.kind == "log":
            decades = range(math.floor(self.low), math.ceil(self.high) + 1)
            fine = [m * 10.0**k for k in decades for m in ((1, 2, 5) if self.high - self.low < 2 else (1,))]
            inside = [v for v in fine if 0 <= self(v) <= 1]
            if len(inside) < 2:
                inside = [v for v in _round_steps(10**self.low, 10**self.high) if v > 0]
            return inside[:: math.ceil(len(inside) / 7)]
        far = max(abs(self.low), abs(self.high))
        powers = [10.0**k for k in range(math.floor(math.log10(self.unit * math.sinh(far))), -40, -1)]
        kept: list[float] = []
        for value in (0.0, *(v for power in powers for v in (power, -power))):  # the largest first
            if 0 <= self(value) <= 1 and all(abs(self(value) - self(other)) >= 0.12 for other in kept):
                kept.append(value)
        return sorted(kept)


def _round_steps(low: float, high: float) -> list[float]:
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= 6)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def plot(
    series: Sequence[Series], title: str, x: str, y: str, x_kind: Kind = "linear", y_kind: Kind = "linear"
) -> Html:
    """A `figure` with its title as caption and labelled axes; points that are not finite are omitted."""
    drawn = [[p for p in s.points if all(map(math.isfinite, p))] for s in series]
    across = Axis.of([p[0] for points in drawn for p in points], x_kind)
    up = Axis.of([p[1] for points in drawn for p in points], y_kind)

    def at(point: tuple[float, float]) -> tuple[float, float]:
        u, v = across(point[0]), up(point[1])
        return LEFT + u * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - v * (HEIGHT - TOP - BOTTOM)

    lines, marks = [], []
    for s, points in zip(series, drawn, strict=True):
        places = [at(point) for point in points]
        if s.line and len(places) > 1:
            path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
            lines.append(
                tag("polyline", tag("title", s.name), points=path, class_=f"line s{s.style % COLOURS} {_dash(s)}")
            )
        if s.marks:
            words = s.words or [s.name] * len(points)
            marks += [mark(s.style, a, b, words[i], s.hollow) for i, (a, b) in enumerate(places)]
    drawing = tag(
        "svg",
        _grid(across, up),
        *lines,
        *marks,
        tag("text", x, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 6, class_="name middle"),
        tag("text", y, class_="name middle", transform=f"translate(12 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        aria_label=title,
        class_="plot",
    )
    return tag("figure", tag("figcaption", title, class_="heading"), drawing)


def mark(style: int, x: float, y: float, words: str, hollow: bool = False, r: float = 4.5) -> Html:
    """The mark of a style: one of ten colours, and a shape that changes after every ten styles."""
    kind = f"mark s{style % COLOURS}" + (" hollow" if hollow else "")
    shape, tooltip = SHAPES[style // COLOURS % len(SHAPES)], tag("title", words)
    if shape == "circle":
        return tag("circle", tooltip, cx=f"{x:.1f}", cy=f"{y:.1f}", r=r, class_=kind)
    corners = {
        "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "triangle": ((0, -1.2), (1.1, 0.9), (-1.1, 0.9)),
        "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    }[shape]
    path = " ".join(f"{x + r * a:.1f},{y + r * b:.1f}" for a, b in corners)
    return tag("polygon", tooltip, points=path, class_=kind)


def swatch(style: int, words: str) -> Html:
    """A single mark, for a legend."""
    return tag("svg", mark(style, 8, 8, words), viewBox="0 0 16 16", class_="swatch", aria_hidden="true")


def _dash(s: Series) -> str:
    return f"d{s.style // COLOURS % len(SHAPES)}"


def _grid(across: Axis, up: Axis) -> Html:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [tag("rect", x=LEFT, y=TOP, width=right - LEFT, height=bottom - TOP, class_="frame")]
    for value in across.ticks():
        x = f"{LEFT + across(value) * (right - LEFT):.1f}"
        parts.append(tag("line", x1=x, x2=x, y1=TOP, y2=bottom, class_="tick"))
        parts.append(tag("text", _tick_label(value), x=x, y=bottom + 15, class_="middle"))
    for value in up.ticks():
        y = bottom - up(value) * (bottom - TOP)
        parts.append(tag("line", x1=LEFT, x2=right, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="tick"))
        parts.append(tag("text", _tick_label(value), x=LEFT - 5, y=f"{y + 4:.1f}", class_="end"))
    return joined(*parts)


def _tick_label(value: float) -> str:
    size = abs(value)
    if size >= 1e5:
        label = f"{value / 1e6:g}M" if size < 1e9 else f"{value:.0e}"
    else:
        label = f"{value:.6g}" if size >= 1 or size < 1e-4 else f"{value:.3g}"
    return label.replace("e-0", "e-").replace("e+0", "e").replace("-", "−")
