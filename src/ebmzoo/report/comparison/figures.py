"""What the name of a figure implies: its label in a table, and whether lower or higher values are better."""

from __future__ import annotations

import math
import re
from typing import Literal

Better = Literal["lower", "higher"]
NAMES: tuple[tuple[str, str, Better | None], ...] = (
    (r"fid", "FID", "lower"),
    (r"kid", "KID", "lower"),
    (r"is", "IS", "higher"),
    (r"fd_(.+)", r"FD \1", "lower"),
    (r"kd_(.+)", r"KD \1", "lower"),
    (r"is_(.+)", r"IS \1", "higher"),
    (r"precision_(.+)", r"precision \1", "higher"),
    (r"recall_(.+)", r"recall \1", "higher"),
    (r"auroc_score", "AUROC", "higher"),
    (r"auroc_(.+)_std", r"AUROC \1 std", None),
    (r"auroc_(.+)", r"AUROC \1", "higher"),
    (r"aupr_score", "AUPR", "higher"),
    (r"aupr_in_score", "AUPR in", "higher"),
    (r"aupr_(.+)", r"AUPR \1", "higher"),
    (r"fpr95_score", "FPR95", "lower"),
    (r"fpr95_(.+)", r"FPR95 \1", "lower"),
    (r"knn", "k-NN", "higher"),
    (r"linear", "linear probe", "higher"),
    (r"(hidden_)?psnr(.*)", r"\1PSNR\2", "higher"),
    (r"(hidden_)?ssim(.*)", r"\1SSIM\2", "higher"),
    (r"(hidden_|end_)?mse(.*)", r"\1MSE\2", "lower"),
    (r"perceptual_(.+)", r"perceptual \1", "lower"),
    (r"accuracy", "accuracy", "higher"),
    (r"nll", "NLL", "lower"),
    (r"ece", "ECE", "lower"),
    (r"total_variation", "total variation", "lower"),
    (r"bits_per_dimension(.*)", r"bits/dim\1", None),  # a bound is not better for being tighter
    (r"nfe(.*)", r"NFE\1", None),  # a choice, not a result
    (r"seconds", "seconds", "lower"),
    (r"parameters", "parameters", None),
    (r"seconds_per_iteration", "s/iteration", "lower"),
    (r"cpu_seconds_per_iteration", "CPU s/iteration", "lower"),
)
"""A pattern for the last part of a figure's name, its label, and which value is better, None if neither is."""
ROWS = {"no_mcmc": "w/o MCMC", "real": "of real images"}
PLAIN = ("generation", "ood", "representation", "training")
"""The tasks that a heading does not name."""


def known(key: str) -> tuple[str, Better | None]:
    """The label of the figure `<task>/<row>/<column>` or `<task>/<column>`, and which value of it is better."""
    task, _, name = key.partition("/")
    row, _, column = name.rpartition("/")
    label, better = column.replace("_", " "), None
    for pattern, name_in_table, which in NAMES:
        if (match := re.fullmatch(pattern, column)) is not None:
            label, better = match.expand(name_in_table).replace("_", " "), which
            break
    if row == "real":
        better = None  # what the data have, which no run is better at
    if row:
        label = f"{label} {ROWS.get(row, row.replace('_', ' ').replace('/', ' '))}"
    return (label if task in PLAIN else f"{task} {label}"), better


def number(value: float | None, spread: float | None = None) -> str:
    """Format a figure for a table: – if it was not measured, nan if it was not finite."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "nan"
    if spread and not math.isnan(spread):
        return f"{value:.4g} ± {spread:.2g}"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    return str(int(value)) if value.is_integer() else f"{value:.4g}"
