"""The results of a run's tasks for W&B: tables, pictures and histograms, read from the tasks' files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ebmzoo.reading import read_json

FIGURES = ("task", "row", "column", "value", "spread", "protocol")
PICTURES = ("task", "picture", "image")
HISTOGRAMS = ("set", "score", "edge_low", "edge_high", "count_in", "count_out")
"""The columns of the tables, with one figure, picture, or bin of an out-of-distribution score per row."""


def tables(folder: Path, tasks: Iterable[str]) -> dict[str, Any]:
    """The values to log for the `<task>.json` in `folder`, by key; a task without a file is skipped.

    `scorecard`, `pictures` and `ood_histograms` are tables with the columns above. A picture is also logged as
    `test/<stem of its file>`, and the counts of a set in a histogram also as `test/<task>/<histogram>/<set>`. Empty
    tables are omitted.
    """
    import numpy as np
    import wandb

    results = [read_json(path) for task in tasks if (path := folder / f"{task}.json").exists()]
    pictures = [(r["task"], path.stem, wandb.Image(str(path))) for r in results for path in _pictures(r)]
    rows = {
        "scorecard": (FIGURES, list(_figures(results))),
        "pictures": (PICTURES, pictures),
        "ood_histograms": (HISTOGRAMS, list(_bins(results))),
    }
    logged: dict[str, Any] = {k: wandb.Table(list(columns), data) for k, (columns, data) in rows.items() if data}
    logged |= {f"test/{name}": image for _, name, image in pictures}
    for key, counts, edges in _counts(results):
        if len(counts) <= wandb.Histogram.MAX_LENGTH:
            logged[key] = wandb.Histogram(np_histogram=(np.array(counts), np.array(edges)))
    return logged


def _figures(results: list[dict[str, Any]]) -> Iterator[tuple[Any, ...]]:
    for result in results:
        protocol = json.dumps(result["protocol"])
        for name, value in result["figures"].items():
            row, _, column = name.rpartition("/")
            yield result["task"], row, column, value, result.get("spread", {}).get(name), protocol


def _pictures(result: dict[str, Any]) -> list[Path]:
    """The picture files that still exist."""
    return [path for path in map(Path, result["pictures"]) if path.is_file()]


def _bins(results: list[dict[str, Any]]) -> Iterator[tuple[Any, ...]]:
    for result in results:
        for name, histogram in result.get("histograms", {}).items():
            if {"in", "out"} <= histogram.keys():
                of, _, score = name.rpartition("/")
                edges = histogram["edges"]
                for counted in zip(edges[:-1], edges[1:], histogram["in"], histogram["out"], strict=True):
                    yield of, score, *counted


def _counts(results: list[dict[str, Any]]) -> Iterator[tuple[str, list[float], list[float]]]:
    for result in results:
        for name, histogram in result.get("histograms", {}).items():
            for of, counts in histogram.items():
                if of != "edges":
                    yield f"test/{result['task']}/{name}/{of}", counts, histogram["edges"]
