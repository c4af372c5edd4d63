"""Plots for a paper: lines, scatter plots, confusion matrices and densities, as PNG, SVG and PDF files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ebmzoo.errors import UserError
from ebmzoo.writing import write_whole

if TYPE_CHECKING:  # `ebmzoo.report.comparison.curves` plots without torch
    from torch import Tensor

Line = tuple[Sequence[float], Sequence[float]]
"""The x- and the y-coordinates of a line."""
VECTOR: Any = {"svg.fonttype": "none", "svg.hashsalt": "ebmzoo", "pdf.fonttype": 42}
"""Text stays text, in TrueType fonts, which publishers ask for; equal plots are equal files."""


def figure(width: float, height: float, dpi: int = 110, layout: Literal["constrained"] | None = "constrained") -> Any:
    """An empty figure of matplotlib, its size in inches.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError("the plot needs matplotlib: pip install 'ebmzoo[all]'") from error
    return Figure(figsize=(width, height), dpi=dpi, layout=layout)


def save(drawn: Any, path: Path) -> None:
    """Save a figure to `path`, and as SVG and PDF beside it, creating the folder if necessary."""
    import matplotlib

    with matplotlib.rc_context(VECTOR):
        for kind, dated in {path.suffix: None, ".svg": "Date", ".pdf": "CreationDate"}.items():
            settings: dict[str, Any] = {"format": kind[1:], "metadata": {dated: None} if dated else None}
            write_whole(path.with_suffix(kind), partial(drawn.savefig, **settings), flush=False)
            drawn.set_layout_engine(None)  # laid out once, for all three


def window(axes: Any, half_width: float) -> Any:
    """Show the square of that half-width around 0 of the plane."""
    ticks, labels = (-half_width, 0, half_width), (f"−{half_width:.3g}", "0", f"{half_width:.3g}")
    axes.set(xlim=(-half_width, half_width), ylim=(-half_width, half_width), aspect="equal", xlabel="x₁", ylabel="x₂")
    axes.set_xticks(ticks, labels)
    axes.set_yticks(ticks, labels)
    return axes


@dataclass(frozen=True)
class Panel:
    """Lines of one quantity, which `ylabel` names with its unit.

    `lines` and `levels`, the heights of dashed horizontal lines, are keyed by their names in the legend.
    """

    ylabel: str
    lines: Mapping[str, Line]
    levels: Mapping[str, float] = field(default_factory=dict)
    title: str = ""


def save_lines(panels: Sequence[Panel], xlabel: str, path: Path, log: bool = False) -> None:
    """Save panels side by side as PNG, SVG and PDF files.

    With `log` the x-axis is logarithmic, and linear below 1, so that it includes 0.

    Raises:
        UserError: matplotlib is not installed.
    """
    drawn = figure(4.2 * len(panels), 3.2)
    for axes, panel in zip(drawn.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, (x, y) in panel.lines.items():
            axes.plot(x, y, marker=".", label=name)
        for index, (name, level) in enumerate(panel.levels.items()):
            axes.axhline(level, color=f"C{len(panel.lines) + index}", linestyle="--", linewidth=1, label=name)
        axes.set(title=panel.title, xlabel=xlabel, ylabel=panel.ylabel)
        axes.ticklabel_format(axis="y", useOffset=False)
        if log:
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xlim(left=min(value for x, _ in panel.lines.values() for value in x))
        elif all(float(value).is_integer() for x, _ in panel.lines.values() for value in x):
            axes.locator_params(axis="x", integer=True)
        axes.legend(frameon=False, fontsize=8)
    save(drawn, path)


def save_scatter(plane: Tensor, labels: Tensor, classes: Sequence[str], title: str, path: Path) -> None:
    """Save a projection of points to the plane, `(N, 2)`, coloured by class, as PNG, SVG and PDF files.

    More than 20 classes have a colour scale for a legend.

    Raises:
        UserError: matplotlib is not installed.
    """
    drawn = figure(7, 6, dpi=120)
    axes = drawn.subplots()
    if len(classes) > 20:
        points = axes.scatter(*plane.numpy().T, s=6, c=labels.numpy(), vmin=0, vmax=len(classes) - 1, cmap="turbo")
        drawn.colorbar(points, label="class, by its index")
    else:
        import matplotlib

        colours = matplotlib.colormaps["tab10" if len(classes) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
        for index, name in enumerate(classes):
            axes.scatter(*plane[labels == index].numpy().T, s=6, color=colours[index], label=name)
        axes.legend(title="class", markerscale=2, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    axes.set(title=title, xlabel="first coordinate, no unit", ylabel="second coordinate, no unit")
    save(drawn, path)


def save_confusion(matrix: Tensor, classes: Sequence[str], title: str, path: Path) -> None:
    """Save a confusion matrix `(K, K)` in [0, 1], a row per true class, as PNG, SVG and PDF files.

    Raises:
        UserError: matplotlib is not installed.
    """
    side = min(20.0, 2 + 0.45 * len(classes))
    drawn = figure(side + 1.6, side)
    axes = drawn.subplots()
    drawn.colorbar(axes.imshow(matrix.numpy(), cmap="Blues", vmin=0, vmax=1), label="share of the class's samples")
    axes.set(title=title, xlabel="predicted class", ylabel="requested class")
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, rotation=90)
    axes.set_yticks(ticks, classes)
    if len(classes) <= 20:
        for row in ticks:
            for column in ticks:
                share = float(matrix[row, column])
                colour = "white" if share > 0.5 else "black"
                axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=colour, fontsize=7)
    save(drawn, path)


@dataclass(frozen=True)
class Panels:
    """One density on the square of `half_width` around 0: data, fitted and exact density, and samples.

    `data` and `samples` are points `(n, 2)`; `fitted` and `exact` are the probabilities `(K, K)` of the cells of a
    grid, x first. A panel that is None is left blank.
    """

    title: str
    half_width: float
    data: Tensor
    fitted: Tensor | None
    exact: Tensor
    samples: Tensor | None


def save_densities(columns: Sequence[Panels], path: Path) -> None:
    """Save rows of data, fitted density, exact density and samples, one column per density, as PNG, SVG and PDF files.

    The colours of a column are probabilities relative to the largest exact one in it.

    Raises:
        UserError: matplotlib is not installed.
    """
    drawn = figure(1.9 * len(columns) + 0.6, 8.6)
    rows = drawn.subplots(4, len(columns), squeeze=False)
    for at, panels in enumerate(columns):
        w, most = panels.half_width, float(panels.exact.max())
        kinds = {"data": panels.data, "fitted": panels.fitted, "exact": panels.exact, "samples": panels.samples}
        for (kind, shown), row in zip(kinds.items(), rows, strict=True):
            axes = window(row[at], w)
            axes.tick_params(labelsize=7, labelleft=at == 0, labelbottom=kind == "samples")
            axes.set_ylabel(f"{kind}\nx₂" if at == 0 else "")
            axes.set_xlabel("x₁" if kind == "samples" else "")
            if shown is None:
                axes.spines[:].set_visible(False)
                axes.set(xticks=[], yticks=[])
            elif kind in ("fitted", "exact"):
                image = axes.imshow(shown.T.numpy() / most, origin="lower", extent=(-w, w, -w, w), vmin=0, vmax=1)
            else:
                axes.scatter(*shown.numpy().T, s=0.3, c="black", linewidths=0, rasterized=True)
        rows[0][at].set_title(panels.title, fontsize=9)
    scale = drawn.colorbar(image, ax=rows.ravel().tolist(), orientation="horizontal", aspect=30, fraction=0.03)
    scale.set_label("probability of a cell\n(1: the largest exact one)", fontsize=7)
    scale.ax.tick_params(labelsize=7)
    save(drawn, path)
