"""The W&B report that compares runs: its contents as plain data, as text, and as W&B's objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from ebmzoo.errors import UserError
from ebmzoo.reading import read_json
from ebmzoo.report.wandb_runs.account import RUN_ID

AXIS = "trainer/global_step"
"""The x-axis of all curves: training batches, for every method, under the name that `WandbLogger` uses."""
CURVES = {
    "train/energy_gap": "Energy gap, chains minus data",
    "train/displacement_ratio": "Displacement over that of noise alone",
    "train/displacement": "Displacement of chains",
    "train/grad_norm": "Norm of the energy's gradient",
    "val/energy_gap": "Energy gap on validation images",
}
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
    """One chart. The keys of a scatter are x and y; those of a line are drawn over `AXIS`."""

    title: str
    kind: Literal["line", "scatter", "bar", "media", "table"]
    keys: tuple[str, ...]
    logarithmic: bool = False


@dataclass(frozen=True)
class Section:
    """Panels over a set of runs; `runs` is a W&B filter, and an empty one selects all runs of the project."""

    name: str
    runs: str
    panels: tuple[DashboardPanel, ...]


@dataclass(frozen=True)
class RunsReport:
    """A W&B report with one section per data set, since figures on different data are not comparable."""

    title: str
    project: str
    entity: str | None
    sections: tuple[Section, ...]

    def __str__(self) -> str:
        owner = f"{self.entity}/" if self.entity else ""
        lines = [f"report '{self.title}' in the project {owner}{self.project}"]
        for section in self.sections:
            lines.append(f"\n{section.name}: runs where {section.runs}" if section.runs else f"\n{section.name}")
            for panel in section.panels:
                keys = ", ".join(panel.keys)
                if panel.kind == "scatter":
                    keys = f"{panel.keys[1]} over {panel.keys[0]}"
                elif panel.kind == "line":
                    keys += f" over {AXIS}" + (", logarithmic" if panel.logarithmic else "")
                lines.append(f"  {panel.kind:<7}  {panel.title}: {keys}")
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
        sections.append(Section(data, f"ID in [{ids}]" if only else f"Group = '{data}'", panels(of_data)))
    if not sections:
        sections.append(Section("all runs", "", panels(())))
    title = "Energy-based models: " + ", ".join(by_data) if by_data else "Energy-based models"
    return RunsReport(title, project, entity, tuple(sections))


def panels(runs: Iterable[Path]) -> tuple[DashboardPanel, ...]:
    """Curves, quality against cost, AUROC, samples and scorecard, for the figures that the runs have."""
    names = dict.fromkeys(name for run in runs for name in _figures(run))  # in order, once
    distances = [n for n in names if n.startswith("test/generation/fd_") or n == "test/generation/fid"]
    detections = [n for n in names if n.startswith("test/ood/") and n.endswith("/auroc_score")]
    distances = distances or [f"test/generation/{name}" for name in DISTANCES]
    detections = detections or [f"test/ood/{name}/auroc_score" for name in OOD_SETS]
    return (
        *(DashboardPanel(title, "line", (key,), key in LOGARITHMIC) for key, title in CURVES.items()),
        *(DashboardPanel(f"{key.rpartition('/')[2]} against NFE", "scatter", (NFE, key)) for key in distances),
        DashboardPanel("AUROC of out-of-distribution sets", "bar", tuple(detections)),
        *(DashboardPanel(title, "media", (key,)) for key, title in MEDIA.items()),
        DashboardPanel("Scorecard", "table", ("scorecard",)),
    )


def build(report: RunsReport) -> Any:
    """Build the report as a `wandb_workspaces.reports.v2.Report`; others can see it after its `save`.

    Raises:
        UserError: W&B's library of reports is not installed.
    """
    try:
        wr = import_module("wandb_workspaces.reports.v2")
    except ModuleNotFoundError as error:
        raise UserError("W&B's reports need its package wandb-workspaces: pip install 'ebmzoo[dashboard]'") from error
    blocks: list[Any] = []
    for section in report.sections:
        runs = wr.Runset(name=section.name, filters=section.runs, visible_columns=["config:method.value"])
        blocks += [
            wr.H2(text=section.name),
            wr.PanelGrid(runsets=[runs], panels=[_panel(wr, panel) for panel in section.panels]),
        ]
    owner = {} if report.entity is None else {"entity": report.entity}  # W&B's default is the account's own entity
    return wr.Report(project=report.project, title=report.title[:128], width="fluid", blocks=blocks, **owner)


def _panel(wr: Any, panel: DashboardPanel) -> Any:
    keys = list(panel.keys)
    if panel.kind == "line":
        return wr.LinePlot(title=panel.title, x=AXIS, y=keys, log_y=panel.logarithmic)
    if panel.kind == "scatter":
        x, y = (wr.SummaryMetric(key) for key in keys)
        return wr.ScatterPlot(title=panel.title, x=x, y=y)
    if panel.kind == "bar":
        return wr.BarPlot(title=panel.title, metrics=keys)
    if panel.kind == "media":
        return wr.MediaBrowser(title=panel.title, media_keys=keys)
    return wr.WeavePanelSummaryTable(table_name=keys[0], layout=wr.Layout(w=24, h=12))


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
