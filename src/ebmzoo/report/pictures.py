"""Pictures of samples, curves, scatter plots and densities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.utils import make_grid

from ebmzoo.data.images import to_uint8
from ebmzoo.errors import UserError


def grid(images: Tensor, columns: int | None = None, least: int = 32) -> Tensor:
    """Arrange images `(n, C, H, W)` in [-1, 1] as one uint8 picture `(3, H, W)`, each at least `least` pixels wide.

    W&B and PNG files get uint8: a float picture in [0, 1] comes out black in W&B.
    """
    x = to_uint8(images.detach().cpu())
    factor = max(1, math.ceil(least / x.shape[-1]))
    if factor > 1:
        x = interpolate(x, scale_factor=factor, mode="nearest")
    columns = columns or math.ceil(math.sqrt(len(x)))
    picture: Tensor = make_grid(x, nrow=columns, padding=2, pad_value=255)
    return picture


def save_png(picture: Tensor, path: Path) -> None:
    """Save a uint8 picture `(3, H, W)` as a PNG file, creating the folder if necessary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)


def save_grid(images: Tensor, path: Path, columns: int | None = None) -> None:
    """Save images `(n, C, H, W)` in [-1, 1] as one PNG file."""
    save_png(grid(images, columns), path)


def save_strips(strips: Tensor, path: Path) -> None:
    """Save images `(rows, columns, C, H, W)` in [-1, 1] as one PNG file, with one strip per row."""
    save_grid(strips.flatten(0, 1), path, columns=strips.shape[1])


def save_curves(curves: Mapping[str, Sequence[float]], xlabel: str, path: Path) -> None:
    """Save curves over steps 0, 1, 2, …, one panel each with its name above it, as a PNG file.

    Raises:
        UserError: matplotlib is not installed.
    """
    figure = _figure(4.2 * len(curves), 3.2)
    for axes, (name, values) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        axes.plot(range(len(values)), values, marker=".")
        axes.set(title=name, xlabel=xlabel)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.locator_params(axis="x", integer=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def save_scatter(plane: Tensor, labels: Tensor, classes: Sequence[str], title: str, path: Path) -> None:
    """Save points `(N, 2)` coloured by class, as a PNG file.

    Raises:
        UserError: matplotlib is not installed.
    """
    figure = _figure(7, 6)
    axes = figure.subplots()
    for index, name in enumerate(classes):
        chosen = plane[labels == index]
        axes.scatter(chosen[:, 0].numpy(), chosen[:, 1].numpy(), s=6, label=name)
    axes.set(title=title, xticks=[], yticks=[])
    if len(classes) <= 20:
        axes.legend(markerscale=2, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def save_confusion(matrix: Tensor, classes: Sequence[str], title: str, path: Path) -> None:
    """Save a confusion matrix `(K, K)` in [0, 1], true classes in rows and predictions in columns, as a PNG file.

    Raises:
        UserError: matplotlib is not installed.
    """
    side = min(20.0, 2 + 0.45 * len(classes))
    figure = _figure(side + 0.8, side)
    axes = figure.subplots()
    axes.imshow(matrix.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set(title=title, xlabel="predicted class", ylabel="class")
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, rotation=90)
    axes.set_yticks(ticks, classes)
    if len(classes) <= 20:
        for row in ticks:
            for column in ticks:
                share = float(matrix[row, column])
                colour = "white" if share > 0.5 else "black"
                axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=colour, fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def scatter(points: Tensor, half_width: float) -> Tensor:
    """Draw points `(n, 2)` as one uint8 picture `(3, H, W)` of the square of that half-width around 0.

    Raises:
        UserError: matplotlib is not installed.
    """
    figure = _figure(4, 4)
    _window(figure.subplots(), half_width).scatter(*points.detach().cpu().float().numpy().T, s=1, c="black")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba()))[..., :3].permute(2, 0, 1).contiguous()


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
    """Save rows of data, fitted density, exact density and samples, one column per density, as a PNG file.

    The two densities of a column share one colour scale.

    Raises:
        UserError: matplotlib is not installed.
    """
    figure = _figure(1.9 * len(columns) + 0.3, 8)
    rows = figure.subplots(4, len(columns), squeeze=False)
    for at, panels in enumerate(columns):
        w, most = panels.half_width, float(panels.exact.max())
        kinds = {"data": panels.data, "fitted": panels.fitted, "exact": panels.exact, "samples": panels.samples}
        for (kind, shown), row in zip(kinds.items(), rows, strict=True):
            axes = _window(row[at], w)
            if at == 0:
                axes.set_ylabel(kind)
            if shown is None:
                axes.spines[:].set_visible(False)
            elif kind in ("fitted", "exact"):
                axes.imshow(shown.T.numpy(), origin="lower", extent=(-w, w, -w, w), vmin=0, vmax=most)
            else:
                axes.scatter(*shown.numpy().T, s=0.3, c="black", linewidths=0)
        rows[0][at].set_title(f"{panels.title}, ±{w:.3g}", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _window(axes: Any, half_width: float) -> Any:
    axes.set(xlim=(-half_width, half_width), ylim=(-half_width, half_width), aspect="equal", xticks=[], yticks=[])
    return axes


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError("the plot needs matplotlib: pip install 'ebmzoo[all]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def save_against(
    x: Sequence[float], curves: Mapping[str, Sequence[float]], xlabel: str, path: Path, log: bool = False
) -> None:
    """Save curves over the values `x`, one panel each with its name above it, as a PNG file.

    With `log` the x-axis is logarithmic, and linear below 1, so that it includes 0.

    Raises:
        UserError: matplotlib is not installed.
    """
    figure = _figure(4.2 * len(curves), 3.2)
    for axes, (name, values) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        axes.plot(x, values, marker=".")
        axes.set(title=name, xlabel=xlabel)
        if log:
            axes.set_xscale("symlog", linthresh=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
