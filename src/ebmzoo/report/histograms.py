"""Histograms of a quantity on several sets of images, and their picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ebmzoo.errors import UserError
from ebmzoo.report.plots import figure, save

Histogram = Mapping[str, Sequence[float]]
"""`edges`, K + 1 numbers, and for each set its K counts."""

OUTER = 0.005
"""The fraction of each set, at either end, that may lie beyond the edges."""


def histogram(sets: Mapping[str, ArrayLike], bins: int = 40) -> dict[str, list[float]]:
    """Count each of the `sets` in equal bins with shared edges; the counts of a set sum to its size.

    The edges span the quantiles `OUTER` to 1 − `OUTER` of every set; values beyond are counted in the first or the last
    bin, so that one outlier does not squeeze all others into one bin.

    Args:
        sets: Numbers of any shape, by the name of the set; infinite ones lie beyond the edges.
        bins: The number K of bins.

    Raises:
        UserError: A set has no finite number.
    """
    values = {name: np.asarray(numbers, dtype=np.float64).ravel() for name, numbers in sets.items()}
    for name, numbers in values.items():
        if not np.isfinite(numbers).any():
            raise UserError(f"{name} has no finite number to draw a histogram of")
    finite = [numbers[np.isfinite(numbers)] for numbers in values.values()]
    low, high = min(np.quantile(v, OUTER) for v in finite), max(np.quantile(v, 1 - OUTER) for v in finite)
    if not low < high:  # a single value: one bin of some width around it
        low, high = low - max(abs(low), 1) / 2, high + max(abs(high), 1) / 2
    edges = np.linspace(low, high, bins + 1)
    counts = {name: np.histogram(numbers.clip(low, high), edges)[0] for name, numbers in values.items()}
    return {"edges": edges.tolist()} | {name: counted.tolist() for name, counted in counts.items()}


def save_histograms(
    panels: Mapping[str, Histogram],
    path: Path,
    labels: Mapping[str, str] | None = None,
    xlabel: str = "score, higher is farther out",
) -> None:
    """Save histograms side by side, one panel each with its name above it, as PNG, SVG and PDF files.

    Each set has area 1. `labels` name the sets in the legend, which is beside the last panel.

    Raises:
        UserError: matplotlib is not installed.
    """
    drawn = figure(3.6 * len(panels) + 1.4, 3)
    rows = drawn.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, panel) in zip(rows, panels.items(), strict=True):
        edges = np.asarray(panel["edges"])
        for name, counts in panel.items():
            if name != "edges":
                density = np.asarray(counts) / (sum(counts) * np.diff(edges))
                axes.stairs(density, edges, fill=True, alpha=0.5, label=(labels or {}).get(name, name))
        axes.set(title=title, xlabel=xlabel, ylabel="density")
        axes.title.set_fontsize(10)
        axes.locator_params(axis="x", nbins=5)
    handles, names = rows[-1].get_legend_handles_labels()
    drawn.legend(handles, names, loc="outside right upper", frameon=False)
    save(drawn, path)
