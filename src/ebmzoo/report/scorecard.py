"""The scorecard: the figures of a run's tasks as a table, read from the files that the tasks wrote."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ebmzoo.reading import read_json


def table(rows: Iterable[tuple[str, ...]], head: tuple[str, ...], width: int | None = None) -> str:
    """Format rows of text in aligned columns, the first aligned left and the others right.

    A table wider than `width` is folded: columns that do not fit are below, beside the first one again.

    >>> print(table([("a", "1", "2")], ("", "one", "two"), width=8))
       one
    ──────
    a    1
    <BLANKLINE>
       two
    ──────
    a    2
    """
    first, *columns = zip(head, *rows, strict=True)
    blocks = [[first]]
    for column in columns:
        if width is not None and len(blocks[-1]) > 1 and _wide(*blocks[-1], column) > width:
            blocks.append([first])
        blocks[-1].append(column)
    return "\n\n".join(map(_aligned, blocks))


def _wide(*columns: Sequence[str]) -> int:
    return sum(max(map(len, column)) for column in columns) + 2 * (len(columns) - 1)


def _aligned(columns: Sequence[Sequence[str]]) -> str:
    cells = list(zip(*columns, strict=True))
    first, *rest = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join([name.ljust(first), *(cell.rjust(w) for cell, w in zip(row, rest, strict=True))]).rstrip()
        for name, *row in cells
    ]
    return "\n".join([lines[0], "─" * _wide(*columns), *lines[1:]])


def scorecard(folder: Path, tasks: Iterable[str], width: int | None = None, details: bool = True) -> str:
    """The tables of the `<task>.json` in `folder`, each with its protocol; a task without a file is skipped.

    Args:
        folder: The folder of the results.
        tasks: The names of the tasks, in order.
        width: Columns of the terminal, into which the lines are folded; None for lines of any length.
        details: Whether every metric of every score is shown, or the AUROC alone.
    """
    paths = [path for task in tasks if (path := folder / f"{task}.json").exists()]
    return "\n\n".join(_section(read_json(path), width, details) for path in paths)


def _section(result: dict[str, Any], width: int | None, details: bool) -> str:
    spread = result.get("spread", {})
    within = result["protocol"].get("intervals", {})
    figures = {
        name: _number(value, spread.get(name)) + _interval(within.get(name))
        for name, value in result["figures"].items()
    }
    lines = _folded(f"{result['task']}  ({_protocol(result)})", width)
    rows, columns = _pivot(figures)
    blocks = _blocks(columns) if "scores" in result["protocol"] else [columns]
    for shown in blocks if details else blocks[:1]:
        if rows:
            cells = ((name, *(found.get(c, _number(None)) for c in shown)) for name, found in rows.items())
            lines.append(table(cells, ("", *shown), width))
    for note in result["notes"]:
        lines += _folded(f"! {note}", width)
    if result["pictures"]:
        lines += _folded("pictures: " + ", ".join(result["pictures"]), width)
    return "\n".join(lines)


def _folded(text: str, width: int | None) -> list[str]:
    if width is None:
        return [text]
    return textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _pivot(figures: dict[str, str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """A table of `row/column` names; with two ways of sampling, or two ends of a chain, these are the columns.

    >>> _pivot({"fd_x": "5", "no_mcmc/fd_x": "6", "real/fd_x": "0.5"})
    ({'fd_x': {'with MCMC': '5', 'w/o MCMC': '6', 'real images': '0.5'}}, ['with MCMC', 'w/o MCMC', 'real images'])
    """
    rows: dict[str, dict[str, str]] = {}
    columns: list[str] = []
    kinds = {name.rpartition("/")[0] for name in figures}
    with_chain = "no_mcmc" in kinds
    beside = {"": "with MCMC" if with_chain else "samples", "no_mcmc": "w/o MCMC", "real": "real images"}
    with_ends = any(name.endswith("_start") for name in figures)
    for name, value in figures.items():
        row, _, column = name.rpartition("/")
        if with_chain or kinds == {"", "real"}:
            row, column = column, beside.get(row, row)
        elif with_ends:
            row, column = (
                name.removesuffix("_start").removesuffix("_end"),
                "start" if name.endswith("_start") else "end",
            )
        elif not row:
            row, column = name, "value"
        rows.setdefault(row, {})[column] = value
        if column not in columns:
            columns.append(column)
    return rows, columns


def _blocks(columns: list[str]) -> list[list[str]]:
    """Columns `<metric>_<score>` grouped by metric, for one table each: a single table would be too wide to read."""
    blocks: dict[str, list[str]] = {}
    for column in columns:
        metric = next(m for m in ("auroc", "aupr_in", "aupr", "fpr95", "") if column.startswith(m))
        blocks.setdefault(metric, []).append(column)
    return list(blocks.values())


def _interval(ends: list[float] | None) -> str:
    return "" if ends is None else f" [{ends[0]:.3g}, {ends[1]:.3g}]"


def _number(value: float | None, spread: float | None = None) -> str:
    if value is None:
        return "–"
    if spread:
        return f"{value:.4g} ± {spread:.2g}"
    if float(value).is_integer() and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.4g}"


PHRASES = {
    "samples_a_class": "{} samples per class",
    "encoded_a_class": "conditioned on the mean latent of at most {} training images",
    "samples_a_combination": "{} samples per combination",
    "encoded_a_value": "conditioned on the mean latents of at most {} training images",
    "samples_an_image": "{} samples conditioned on a test image's latent",
    "guidance": "guidance {}",
    "timed": "seconds of {} samples",
    "images_of_training": "means of {} training images",
    "repeats": "{} repeats",
    "cells": "{} cells on either axis",
    "test_points": "{} test points",
    "base": "log Z from a density {}",
    "annealed": "{}",
    "reverse": "reverse chains from {}",
    "refuted": "{}",
    "crossed": "{}",
    "importance_samples": "importance bound of {} samples",
    "decoder_sigma": "decoder's σ = {:.3g}",
    "left_out": "{}",
    "trace": "R̂ and ESS of {}",
    "bins": "{} bins of the confidence",
    "input_noise": "noised by σ = {:g}",
    "attack": "{0[images]} images attacked by {0[steps]} steps of projected gradient descent",
}
"""Phrases for the entries of a protocol."""


def _protocol(result: dict[str, Any]) -> str:
    protocol = result["protocol"]
    parts = [f"n = {protocol['n']}"] if "n" in protocol else []
    if "pairs" in protocol:
        parts.append(f"{protocol['pairs']} {protocol['kind']} strips of {protocol['points']} images")
    if "real_images" in protocol:
        parts.append(f"{protocol['real_images']} real images of {protocol['split']}")
    for name, chain in protocol.get("chains", {}).items():
        if chain["steps"]:
            prefix = "" if name in ("full", "no_mcmc") else f"{name}: "
            steps = f"{chain['steps']} Langevin steps from {chain['start']}"
            parts.append(f"{prefix}{steps} at temperature {chain['temperature']:.3g}")
        elif name == "full":
            parts.append(f"no chain, from {chain['start']}")
    parts += [phrase.format(protocol[key]) for key, phrase in PHRASES.items() if key in protocol]
    parts += [f"classifier {name} {sha or ''}".rstrip() for name, sha in protocol.get("classifiers", {}).items()]
    if "images" in protocol:
        parts.append(f"{protocol['images']} test images of {protocol.get('data', 'the data')}")
    if "image_range" in protocol:
        low, high = protocol["image_range"]
        parts.append(f"MSE in units of [{low:g}, {high:g}]")
    if "ssim_window" in protocol:
        parts.append(f"SSIM window {protocol['ssim_window']}")
    if "latent_chain" in protocol:
        parts.append(_latent_chain(protocol["latent_chain"]))
    if "in_images" in protocol:
        parts.append(f"{protocol['in_images']} images of {protocol['in']}")
        parts += [f"{score}: {what}" for score, what in protocol.get("scores", {}).items()]
    if near := [name for name, kind in protocol.get("kinds", {}).items() if kind == "near"]:
        parts.append(f"near: {', '.join(near)}")
    if "chosen" in protocol:
        parts.append(f"chosen: {protocol['chosen']['score']}, on the other halves of all sets")
    if "intervals" in protocol:
        parts.append("{level:.0%} intervals of {resamples} resamples".format(**protocol["intervals"]))
    if "train_images" in protocol:
        parts.append(f"{protocol['train_images']} training, {protocol['test_images']} test images")
    if protocol.get("seeds", 1) > 1:
        parts.append(f"mean ± standard deviation of {protocol['seeds']} seeds")
    parts.append(f"{protocol.get('weights', '?')} weights")
    return "; ".join(parts)


def _latent_chain(chain: dict[str, Any]) -> str:
    if not any(chain["steps"]):
        return "no latent chain"
    steps = ", ".join(map(str, chain["steps"]))
    origin = "the method's" if chain["of_method"] else "not the method's own"
    return f"latent chain of {steps} steps, σ = {chain['sigma']:.3g}, temperature {chain['temperature']:.3g}, {origin}"
