"""A report that compares runs as the objects of W&B's library: a report, or a workspace for each data set."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ebmzoo.errors import UserError
from ebmzoo.report.wandb_runs.dashboard import DashboardPanel, RunsReport

NAME = 128
"""The length of the longest name that W&B takes."""


def build(report: RunsReport) -> Any:
    """Build the report as a `wandb_workspaces.reports.v2.Report`; others can see it after its `save`.

    Raises:
        UserError: W&B's library of reports is not installed.
    """
    wr = _library("reports.v2")
    blocks: list[Any] = []
    for section in report.sections:
        blocks.append(wr.H1(text=section.name))
        for group in section.groups:
            runs = wr.Runset(name=section.name, filters=section.runs, visible_columns=["config:method.value"])
            panels = [_panel(wr, panel) for panel in group.panels]
            blocks += [wr.H2(text=group.name), wr.PanelGrid(runsets=[runs], panels=panels)]
    owner = {} if report.entity is None else {"entity": report.entity}  # W&B's default is the account's own entity
    return wr.Report(project=report.project, title=report.title[:NAME], width="fluid", blocks=blocks, **owner)


def workspaces(report: RunsReport, entity: str) -> list[Any]:
    """Build a `wandb_workspaces.workspaces.Workspace` for each data set; each is a view of its own after its `save`.

    Raises:
        UserError: W&B's library of workspaces is not installed.
    """
    ws, wr = _library("workspaces"), _library("reports.v2")
    return [
        ws.Workspace(
            entity=entity,
            project=report.project,
            name=f"Energy-based models: {section.name}"[:NAME],
            sections=[
                ws.Section(name=group.name, panels=[_panel(wr, panel) for panel in group.panels], is_open=True)
                for group in section.groups
            ],
            runset_settings=ws.RunsetSettings(filters=section.runs),
        )
        for section in report.sections
    ]


def _library(name: str) -> Any:
    try:
        return import_module(f"wandb_workspaces.{name}")
    except ModuleNotFoundError as error:
        raise UserError("W&B's reports need its package wandb-workspaces: pip install 'ebmzoo[dashboard]'") from error


def _panel(wr: Any, panel: DashboardPanel) -> Any:
    keys = list(panel.keys)
    if panel.kind == "line":
        return wr.LinePlot(title=panel.title, x=panel.x, y=keys, log_y=panel.logarithmic)
    if panel.kind == "scatter":
        x, y = (wr.SummaryMetric(key) for key in keys)
        return wr.ScatterPlot(title=panel.title, x=x, y=y)
    if panel.kind == "bar":
        return wr.BarPlot(title=panel.title, metrics=keys)
    if panel.kind == "media":
        return wr.MediaBrowser(title=panel.title, media_keys=keys)
    return wr.WeavePanelSummaryTable(table_name=keys[0], layout=wr.Layout(w=24, h=12))
