"""The W&B report that compares runs: its contents as plain data and as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ebmzoo.errors import UserError
from ebmzoo.reading import read_json, read_text, read_yaml
from ebmzoo.report.wandb_runs.account import RUN_ID
from ebmzoo.report.wandb_runs.axes import AXES

AXIS = "trainer/global_step"
"""The usual x-axis of curves: training batches, for every method, under the name that `WandbLogger` uses."""
COMPARED = {
    "train/energy_gap": "Energy gap, chains minus data",
    "train/displacement_ratio": "Displacement over that of noise alone",
    "train/displacement": "Displacement of chains",
    "val/energy_gap": "Energy gap on validation images",
}
"""Curves that are drawn over batches and over each of `AXES`."""
CURVES = {**COMPARED, "train/grad_norm": "Norm of the energy's gradient"}
OVER = {"cost/images": "images seen", "cost/evaluations": "network evaluations", "cost/seconds": "seconds of training"}
"""What the `AXES` are called."""
LOGARITHMIC = ("train/displacement_ratio", "train/displacement", "train/grad_norm")
NFE = "test/generation/nfe"
MEDIA = {
    "train/samples": "Samples while training",
    "test/samples": "Samples",
    "test/samples_no_mcmc": "Samples without the chain",
}
DISTANCES = ("fd_pixels",)
OOD_SETS = ("uniform", "constant", "inverted", "permuted", "interpolation")
"""The Fréchet distances and out-of-distribution sets to assume without runs; they are available on every machine."""


@dataclass(frozen=True)
class DashboardPanel:
    """One chart. The keys of a scatter are x and y; those of a line are drawn over `x`."""

    title: str
    kind: Literal["line", "scatter", "bar", "media", "table"]
    keys: tuple[str, ...]
    logarithmic: bool = False
    x: str = AXIS

    def __str__(self) -> str:
        keys = ", ".join(self.keys)
        if self.kind == "scatter":
            keys = f"{self.keys[1]} over {self.keys[0]}"
        elif self.kind == "line":
            keys += f" over {self.x}" + (", logarithmic" if self.logarithmic else "")
        return f"{self.kind:<7}  {self.title}: {keys}"


@dataclass(frozen=True)
class PanelGroup:
    """Panels under one heading."""

    name: str
    panels: tuple[DashboardPanel, ...]


@dataclass(frozen=True)
class Section:
    """Panels over a set of runs; `runs` is a W&B filter, and an empty one selects all runs of the project."""

    name: str
    runs: str
    groups: tuple[PanelGroup, ...]

    @property
    def panels(self) -> tuple[DashboardPanel, ...]:
        """Those of all groups."""
        return tuple(panel for group in self.groups for panel in group.panels)


@dataclass(frozen=True)
class RunsReport:
    """A W&B report with one section per data set, since figures on different data are not comparable."""

    title: str
    project: str
    entity: str | None
    sections: tuple[Section, ...]

    def __str__(self) -> str:
        owner = f"{self.entity}/" if self.entity else ""
        lines = [f"'{self.title}' in the project {owner}{self.project}"]
        for section in self.sections:
            lines.append(f"\n{section.name}: runs where {section.runs}" if section.runs else f"\n{section.name}")
            for group in section.groups:
                lines += [f"  {group.name}", *(f"    {panel}" for panel in group.panels)]
        return "\n".join(lines)


def comparison(project: str, entity: str | None, runs: Sequence[Path] = (), only: bool = False) -> RunsReport:
    """The report over the runs in these folders and, unless `only`, the other runs of the project.

    Raises:
        UserError: A folder has no run that was logged to W&B.
    """
    by_data: dict[str, list[Path]] = {}
    known = {run: _identity(run) for run in runs}
    for run, identity in known.items():
        by_data.setdefault(identity["data"], []).append(run)
    sections = []
    for data, of_data in by_data.items():
        ids = ", ".join(f"'{known[run]['id']}'" for run in of_data)
        sections.append(Section(data, f"ID in [{ids}]" if only else f"Group = '{data}'", groups(of_data)))
    if not sections:
        sections.append(Section("all runs", "", groups(())))
    title = "Energy-based models: " + ", ".join(by_data) if by_data else "Energy-based models"
    return RunsReport(title, project, entity, tuple(sections))


def groups(runs: Iterable[Path]) -> tuple[PanelGroup, ...]:
    """Curves over each axis, quality against cost, AUROC, samples and scorecard, for the figures that the runs have."""
    runs = list(runs)
    names = dict.fromkeys(name for run in runs for name in _figures(run))  # in order, once
    distances = [n for n in names if n.startswith("test/generation/fd_") or n == "test/generation/fid"]
    detections = [n for n in names if n.startswith("test/ood/") and n.endswith("/auroc_score")]
    distances = distances or [f"test/generation/{name}" for name in DISTANCES]
    detections = detections or [f"test/ood/{name}/auroc_score" for name in OOD_SETS]
    monitored = list(dict.fromkeys(filter(None, map(_monitored, runs)))) or [f"val/{name}" for name in DISTANCES]
    return (
        *(_against(axis, distances, monitored) for axis in AXES),
        PanelGroup("Against batches", tuple(_curve(key, title, AXIS) for key, title in CURVES.items())),
        PanelGroup("Against evaluations of a sample", tuple(_scatter(NFE, key, "NFE") for key in distances)),
        PanelGroup(
            "Out-of-distribution detection",
            (DashboardPanel("AUROC of out-of-distribution sets", "bar", tuple(detections)),),
        ),
        PanelGroup("Samples", tuple(DashboardPanel(title, "media", (key,)) for key, title in MEDIA.items())),
        PanelGroup("Scorecard", (DashboardPanel("Scorecard", "table", ("scorecard",)),)),
    )


def _against(axis: str, distances: Sequence[str], monitored: Sequence[str]) -> PanelGroup:
    """The panels that compare methods at the same cost of training."""
    curves = [_curve(key, title, axis) for key, title in COMPARED.items()]
    curves += [_curve(key, f"{_last(key)} of samples while training", axis) for key in monitored]
    return PanelGroup(f"Against {OVER[axis]}", (*curves, *(_scatter(axis, key, OVER[axis]) for key in distances)))


def _curve(key: str, title: str, axis: str) -> DashboardPanel:
    return DashboardPanel(title, "line", (key,), key in LOGARITHMIC, axis)


def _scatter(x: str, key: str, name: str) -> DashboardPanel:
    return DashboardPanel(f"{_last(key)} against {name}", "scatter", (x, key))


def _last(key: str) -> str:
    return key.rpartition("/")[2]


def _identity(run: Path) -> dict[str, str]:
    path = run / "wandb.json"
    if not path.exists():
        raise UserError(f"--runs: {run} has no wandb.json, which `ebmzoo fit` writes unless W&B is off")
    identity = read_json(path)
    if not isinstance(identity, dict) or not RUN_ID.fullmatch(str(identity.get("id"))) or "data" not in identity:
        raise UserError(f"--runs: {path} does not state the id and the data of a run: remove it")
    return {key: str(value).replace("'", "") for key, value in identity.items()}  # which filters quote


def _figures(run: Path) -> list[str]:
    """The figures of a run's tasks, under their W&B keys."""
    results = [read_json(path) for path in sorted((run / "test").glob("*.json"))]
    return [f"test/{result['task']}/{name}" for result in results for name in result["figures"]]


def _monitored(run: Path) -> str | None:
    """The key of the distance that a run logs while it trains, for its best checkpoint; None if it does not."""
    path = run / "config.yaml"
    config = read_yaml(read_text(path)) if path.exists() else {}
    chosen = (config.get("checkpoint") if isinstance(config, dict) else None) or {}
    return f"val/{chosen['monitor']}" if chosen.get("every") and chosen.get("monitor") else None
