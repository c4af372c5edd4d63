"""A run in at most 20 lines of 80 columns: what model, on what, at what cost, and its main figures."""

from __future__ import annotations

import math
import re
import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple

from ebmzoo.errors import plain
from ebmzoo.progress import duration
from ebmzoo.report.comparison.figures import number
from ebmzoo.report.comparison.records import Record
from ebmzoo.report.scorecard import table

WIDTH = 80
DETAILS = "or `ebmzoo test` with --details"
"""The end of every summary."""


class Row(NamedTuple):
    """A line of the summary: what was measured, the model's figure, and what it is to be compared with."""

    what: str
    figure: str
    reference: str = ""


def summary(record: Record) -> str:
    """The summary of a run; tasks without results are left out, and ↓ and ↑ say which values are better."""
    rows = _rows(record)
    lines = textwrap.wrap(_headline(record), WIDTH)[:2] + textwrap.wrap(_cost(record), WIDTH)[:1]
    if rows:
        wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["─" * min(WIDTH, sum(wide) + 4)]
        lines += [f"{row.what:{wide[0]}}  {row.figure:>{wide[1]}}  {row.reference}".rstrip() for row in rows]
    notes = sum(len(result.get("notes", ())) for result in record.results.values())
    if notes:
        lines.append(f"! {notes} note{'s' * (notes > 1)} on what could not be measured: see the details")
    folder = shlex.quote(str(record.folder / "test"))
    lines.append(f"details: {folder}, {DETAILS}")
    return "\n".join(line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…" for line in map(plain, lines))


def summaries(records: Sequence[Record], width: int = WIDTH) -> str:
    """The figures of the summaries of several runs beside each other, folded at `width`; empty if there are none."""
    found = [{row.what: row.figure for row in _rows(record)} for record in records]
    rows = dict.fromkeys(what for figures in found for what in figures)
    if not rows:
        return ""
    cells = ((plain(what), *(figures.get(what, "–") for figures in found)) for what in rows)
    return table(cells, ("", *(record.name for record in records)), width)


def _rows(record: Record) -> list[Row]:
    return [row for part in PARTS for row in part(record)]


def _headline(record: Record) -> str:
    data = record.data.get("class")
    parameters = record.training.get("parameters") or {}
    first: Mapping[str, Any] = next(iter(record.results.values()), {})
    weights = {"ema": "EMA weights", "raw": "raw weights"}
    parts = [
        f"{record.method or record.name}{f' on {data}' if data else ''}",
        f"{sum(parameters.values()):,} parameters" if parameters else "",
        f"{n:,} iterations" if (n := record.training.get("iterations")) else "",
        weights.get(first.get("protocol", {}).get("weights", ""), ""),
    ]
    return ", ".join(part for part in parts if part)


def _cost(record: Record) -> str:
    """What training took, and what a sample takes."""
    seconds, device = record.training.get("seconds"), record.training.get("device", "")
    nfe = _figures(record, "generation").get("nfe")
    parts = [
        f"training {duration(seconds)}{f' on {device}' if device else ''}" if seconds else "",
        f"a sample {number(nfe)} network evaluation{'s' * (nfe != 1)}" if nfe is not None else "",
    ]
    joined = ", ".join(part for part in parts if part)
    return f"cost: {joined}" if joined else ""


def _figures(record: Record, task: str) -> dict[str, float]:
    """The finite figures of a task; empty if it was not run."""
    found = record.results.get(task, {}).get("figures", {})
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}


def _extractor(figures: Mapping[str, float]) -> str | None:
    """The extractor that the samples are judged by: the first whose features are not the pixels, if there is one."""
    prefixes = ("fid", "fd_")
    names = [name for name in figures if name.startswith(prefixes) and "/" not in name]
    return next((name for name in names if name != "fd_pixels"), names[0] if names else None)


def _generation(record: Record) -> Iterator[Row]:
    figures = _figures(record, "generation")
    if (distance := _extractor(figures)) is None:
        return
    of = distance.removeprefix("fd_").replace("fid", "inception")
    reference = [f"{number(real)} real"] if (real := figures.get(f"real/{distance}")) is not None else []
    if (start := figures.get(f"no_mcmc/{distance}")) is not None:
        reference.append(f"{number(start)} no chain")
    yield Row(f"distance by {of} ↓", number(figures[distance]), ", ".join(reference))
    if {f"precision_{of}", f"recall_{of}"} <= set(figures):
        both = f"{figures[f'precision_{of}']:.2f} / {figures[f'recall_{of}']:.2f}"
        yield Row("precision / recall ↑", both)


def _density(record: Record) -> Iterator[Row]:
    figures = _figures(record, "density")
    if (samples := figures.get("samples/total_variation")) is not None:
        real = figures.get("real/total_variation")
        reference = "" if real is None else f"{number(real)} for true points"
        yield Row("total variation of samples ↓", number(samples), reference)
    if (density := figures.get("total_variation")) is not None:
        yield Row("total variation of the density ↓", number(density), "0 for the true density")


def _detection(record: Record) -> Iterator[Row]:
    figures = _figures(record, "ood")
    marked = "/auroc_"
    scores = {name.partition(marked)[2] for name in figures if marked in name and not name.endswith("_std")}
    groups = [group for group in ("near", "far") if any(name.startswith(f"{group}{marked}") for name in figures)]
    if not groups:
        groups = sorted({name.partition(marked)[0] for name in figures if marked in name})[:3]
    known = [score for score in scores if all(f"{group}{marked}{score}" in figures for group in groups)]
    if not groups or not known:
        return
    best = max(sorted(known), key=lambda score: mean(figures[f"{group}{marked}{score}"] for group in groups))
    for which, score in (("energy", "energy"), ("best score", best)):
        if score in known and (which, best) != ("best score", "energy"):
            values = " / ".join(f"{figures[f'{group}{marked}{score}']:.3f}" for group in groups)
            reference = "" if which == "energy" else f"{score}, of {len(known)}"
            yield Row(f"AUROC {' / '.join(groups)} by {which} ↑", values, reference)


def _likelihood(record: Record) -> Iterator[Row]:
    figures = _figures(record, "likelihood")
    gaussian = figures.get("gaussian/bits_per_dimension_upper")
    beside = "" if gaussian is None else f"; Gaussian {gaussian:.3g}"
    for name in figures:
        row, _, column = name.rpartition("/")
        if column == "bits_per_dimension_lower" and row != "gaussian":
            upper = figures.get(f"{row}/bits_per_dimension_upper")
            ends = f"{figures[name]:.3g} to {'?' if upper is None else f'{upper:.3g}'}"
            yield Row("bits per dimension ↓", ends, f"at {row.replace('_', ' ')}{beside}")
            return
    if (bound := figures.get("generator/bits_per_dimension_upper")) is not None:
        yield Row("bits per dimension ↓", f"≤ {bound:.3g}", f"of the generator{beside}")


def _classification(record: Record) -> Iterator[Row]:
    figures = _figures(record, "classification")
    if (accuracy := figures.get("clean/accuracy")) is not None:
        yield Row("classification accuracy ↑", f"{accuracy:.3f}")
    figures = _figures(record, "conditional")
    if (accuracy := figures.get("all/accuracy")) is not None:
        real = figures.get("real/accuracy")
        reference = "" if real is None else f"{real:.3f} for real images"
        yield Row("samples of the class asked for ↑", f"{accuracy:.3f}", reference)
    figures = _figures(record, "representation")
    if knn := {name: value for name, value in figures.items() if name.endswith("/knn")}:
        best = max(knn, key=lambda name: knn[name])
        yield Row("k-NN accuracy ↑", f"{knn[best]:.3f}", f"on features of the {best.removesuffix('/knn')}")


def _restoration(record: Record) -> Iterator[Row]:
    figures = _figures(record, "restoration")
    gains = []
    for name, before in figures.items():
        degradation, _, rest = name.partition("/")
        if rest == "start/psnr":
            after = [
                value
                for name, value in figures.items()
                if re.fullmatch(rf"{re.escape(degradation)}/(?!start).*/psnr", name)
            ]
            gains += [max(after) - before] if after else []
    if gains:
        yield Row("PSNR gained by restoration ↑", f"{mean(gains):+.1f} dB", f"mean of {len(gains)} degradations")


def _stability(record: Record) -> Iterator[Row]:
    figures = _figures(record, "stability")
    lengths = sorted({int(match[1]) for name in figures if (match := re.match(r"times_(\d+)/fd_", name))})
    if len(lengths) < 2:
        return
    names = [name.partition("/")[2] for name in figures if name.startswith(f"times_{lengths[-1]}/fd_")]
    distance = next((name for name in names if name != "fd_pixels"), names[0])
    first, last = (figures.get(f"times_{k}/{distance}") for k in (lengths[0], lengths[-1]))
    if first is not None and last is not None:
        yield Row(f"distance after {lengths[-1]} × the chain ↓", number(last), f"{number(first)} after {lengths[0]} ×")


PARTS = (_generation, _density, _detection, _likelihood, _classification, _restoration, _stability)
"""The parts of the summary, in order."""
