"""`ebmzoo dashboard`: one description for the text and the W&B report; and the sweeps, with the real parser."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from ebmzoo.commands.cli import main
from ebmzoo.errors import UserError
from ebmzoo.metrics import Pixels
from ebmzoo.report.wandb_runs.axes import AXES
from ebmzoo.report.wandb_runs.dashboard import AXIS, comparison
from ebmzoo.report.wandb_runs.views import build, workspaces
from support.paths import ROOT
from support.wandb_server import ENTITY, serving

# W&B's library of reports is written for pydantic's first version.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path):
    for name in ("API_KEY", "IDENTITY_TOKEN_FILE", "BASE_URL", "MODE", "PROJECT", "ENTITY"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def run_of(name, data, figures=()):
    """A run folder with the files that the dashboard reads."""
    folder = Path("runs") / name
    (folder / "test").mkdir(parents=True)
    identity = {"id": f"id-{name}", "method": "LIEBM", "data": data, "kind": "method"}
    (folder / "wandb.json").write_text(json.dumps(identity))
    for task, found in dict(figures).items():
        (folder / "test" / f"{task}.json").write_text(json.dumps({"task": task, "figures": found}))
    return folder


MEASURED = {
    "generation": {"nfe": 3, "fd_classifier": 1.0, "no_mcmc/fd_classifier": 2.0, "fid": 9.0},
    "ood": {"SVHN/auroc_score": 0.9, "SVHN/auroc_energy": 0.8, "SVHN/fpr95_score": 0.3},
}


@pytest.fixture
def three_runs():
    return [run_of("a", "Digits"), run_of("b", "CIFAR10", MEASURED), run_of("c", "Digits")]


def spec_of(view):
    """A report or workspace as it is sent to W&B."""
    return json.loads(view._to_model().model_dump_json(by_alias=True, exclude_none=True))["spec"]


def grids(spec):
    """The groups of panels of a report: the headings above each, its set of runs, and its panels."""
    found, above = [], {}
    for block in spec["blocks"]:
        if block["type"] == "heading":
            above[block["level"]] = block["children"][0]["text"]
        elif block["type"] == "panel-grid":
            (runs,) = block["metadata"]["runSets"]
            found.append((above[1], above[2], runs, block["metadata"]["panelBankSectionConfig"]["panels"]))
    return found


def described(planned):
    """The same of a report's description: data set, group, and panels."""
    return [(section.name, group.name, group.panels) for section in planned.sections for group in section.groups]


def all_of(panel):
    return panel.kind, panel.keys, panel.logarithmic, panel.x


def keys_of(panel):
    """The kind of a panel of W&B's, the keys that it draws, whether logarithmically, and the x-axis of a line."""
    config = panel["config"]
    kind = panel["viewType"]
    if kind == "Run History Line Plot":
        return "line", tuple(config["metrics"]), config.get("yLogScale", False), config["xAxis"]
    if kind == "Scatter Plot":
        return "scatter", tuple(config[axis].removeprefix("summary:") for axis in ("xAxis", "yAxis")), False, AXIS
    if kind == "Bar Chart":
        return "bar", tuple(config["metrics"]), False, AXIS
    if kind == "Media Browser":
        return "media", tuple(config["mediaKeys"]), False, AXIS
    assert kind == "Weave"
    return "table", ("scorecard",) if '"scorecard"' in json.dumps(config) else (), False, AXIS


def test_the_text_and_the_built_report_agree(three_runs):
    pytest.importorskip("wandb_workspaces")
    planned = comparison("p", "e", three_runs)
    report = build(planned)
    assert (report.project, report.entity, report.title) == ("p", "e", planned.title)
    assert [section.name for section in planned.sections] == ["Digits", "CIFAR10"]
    text = str(planned)
    for (data, name, runs, panels), (of, group, expected) in zip(
        grids(spec_of(report)), described(planned), strict=True
    ):
        assert (data, name, runs["name"]) == (of, group, of)
        (filtered,) = runs["filters"]["filters"]
        assert (filtered["key"]["name"], filtered["op"], filtered["value"]) == ("group", "=", of)
        assert [keys_of(panel) for panel in panels] == [all_of(panel) for panel in expected]
        assert group in text
        assert all(key in text for panel in expected for key in (*panel.keys, panel.title))


def test_a_workspace_has_the_panels_of_a_data_set_in_sections(three_runs):
    pytest.importorskip("wandb_workspaces")
    planned = comparison("p", None, three_runs)
    for workspace, section in zip(workspaces(planned, "owner"), planned.sections, strict=True):
        assert (workspace.entity, workspace.project) == ("owner", "p")
        assert workspace.name == f"Energy-based models: {section.name}"
        spec = spec_of(workspace)["section"]
        (runs,) = spec["runSets"]
        (filtered,) = runs["filters"]["filters"]
        assert (filtered["key"]["name"], filtered["op"], filtered["value"]) == ("group", "=", section.name)
        parts = spec["panelBankConfig"]["sections"]
        built = [(part["name"], [keys_of(panel) for panel in part["panels"]]) for part in parts]
        assert built == [(group.name, [all_of(panel) for panel in group.panels]) for group in section.groups]


def test_methods_are_compared_over_images_evaluations_and_seconds(three_runs):
    (run_dir,) = three_runs[:1]
    (run_dir / "config.yaml").write_text(yaml.safe_dump({"checkpoint": {"monitor": "fd_classifier", "every": 100}}))
    for section, distance in zip(comparison("p", None, three_runs).sections, ("classifier", "pixels"), strict=True):
        over = {group.name: group.panels for group in section.groups}
        names = ("Against images seen", "Against network evaluations", "Against seconds of training")
        for name, axis in zip(names, AXES, strict=True):
            lines = [panel.keys[0] for panel in over[name] if panel.kind == "line" and panel.x == axis]
            compared = ["train/energy_gap", "train/displacement_ratio", "train/displacement", "val/energy_gap"]
            assert lines == [*compared, f"val/fd_{distance}"]
            scatters = [panel.keys for panel in over[name] if panel.kind == "scatter"]
            assert scatters
            assert all(x == axis and y.startswith("test/generation/f") for x, y in scatters)
            assert len(lines) + len(scatters) == len(over[name])


def test_panels_are_of_the_figures_that_runs_have(three_runs):
    digits, cifar = comparison("p", None, three_runs).sections
    nfe = "test/generation/nfe"
    scatters = [panel.keys for panel in cifar.panels if panel.kind == "scatter" and panel.keys[0] == nfe]
    assert scatters == [(nfe, "test/generation/fd_classifier"), (nfe, "test/generation/fid")]
    assert [panel.keys for panel in cifar.panels if panel.kind == "bar"] == [("test/ood/SVHN/auroc_score",)]
    assert {panel.keys[1] for panel in digits.panels if panel.kind == "scatter"} == {"test/generation/fd_pixels"}
    lines = {panel.keys[0] for panel in digits.panels if panel.kind == "line"}
    assert {"train/energy_gap", "train/displacement_ratio", "train/grad_norm"} <= lines


def test_only_the_listed_runs(three_runs):
    digits, _ = comparison("p", "e", three_runs, only=True).sections
    assert digits.runs == "ID in ['id-a', 'id-c']"
    pytest.importorskip("wandb_workspaces")
    _, _, run_set, _ = grids(spec_of(build(comparison("p", "e", three_runs, only=True))))[0]
    (filtered,) = run_set["filters"]["filters"]
    assert (filtered["key"]["name"], filtered["op"], filtered["value"]) == ("name", "IN", ["id-a", "id-c"])


def test_without_a_key_it_prints_the_report(three_runs, capsys):
    main(["dashboard", "--project", "mine", "--entity", "us"])
    text = capsys.readouterr().out
    for part in ("no W&B key", "us/mine", "Digits", "CIFAR10", "train/energy_gap", "SVHN", "wandb login"):
        assert part in text
    main(["dashboard", "--runs", str(three_runs[1])])
    text = capsys.readouterr().out
    assert "id-b" in text
    assert "Digits" not in text


def test_without_runs_it_has_the_keys_that_all_have(capsys):
    main(["dashboard"])
    text = capsys.readouterr().out
    assert "all runs" in text
    assert "test/ood/uniform/auroc_score" in text
    pytest.importorskip("wandb_workspaces")
    built = grids(spec_of(build(comparison("p", "e"))))
    assert all(runs["filters"]["filters"] == [] for _, _, runs, _ in built)
    assert sum(len(panels) for *_, panels in built) == text.count("\n    ")


def test_switched_off_it_builds_nothing(monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", "offline")
    main(["dashboard"])
    assert "WANDB_MODE is offline" in capsys.readouterr().out


@pytest.mark.usefixtures("three_runs")
@pytest.mark.parametrize("options", [[], ["--workspace"]])
def test_with_a_key_it_is_saved_on_the_server(options, monkeypatch, capsys):
    pytest.importorskip("wandb_workspaces")
    with serving() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        wandb.teardown()
        main(["dashboard", *options])
        wandb.teardown()
    runs = sorted(Path("runs").iterdir())
    planned = comparison("ebmzoo", ENTITY, runs)
    views = [json.loads(view["spec"]) for view in server.views]
    if options:
        names = [f"Energy-based models: {section.name}" for section in planned.sections]
        sent = [part["panels"] for spec in views for part in spec["section"]["panelBankConfig"]["sections"]]
    else:
        names = [planned.title]
        sent = [panels for *_, panels in grids(views[0])]
    assert [view["displayName"] for view in server.views] == names
    assert {(view["entityName"], view["projectName"]) for view in server.views} == {(ENTITY, "ebmzoo")}
    assert [[keys_of(panel) for panel in panels] for panels in sent] == [
        [all_of(panel) for panel in panels] for *_, panels in described(planned)
    ]
    addresses = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith(f"{server.address}/{ENTITY}/")
    ]
    assert len(addresses) == len(names)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--runs", "nowhere"], ["--runs", "nowhere", "wandb.json"]),
        (["--proj", "x"], ["--proj"]),
        (["--runs"], ["--runs"]),
    ],
)
def test_wrong_command_lines_end_in_one_sentence(args, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["dashboard", *args])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ebmzoo: ")
    assert all(word in line for word in words)


def test_an_error_of_wandb_is_one_sentence(monkeypatch, capsys):
    def refused():
        raise ConnectionError("no\nline")

    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr("ebmzoo.commands.dashboard.build", lambda planned: SimpleNamespace(save=refused))
    with pytest.raises(SystemExit):
        main(["dashboard"])
    assert "W&B did not accept the report (ConnectionError: no line)" in capsys.readouterr().err


def test_without_wandbs_reports_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(UserError, match=r"ebmzoo\[dashboard\]"):
        build(comparison("p", "e"))


def test_without_a_key_neither_torch_nor_wandb_is_loaded():
    code = (
        "import sys; from ebmzoo.commands.cli import main; main(['dashboard']);"
        "sys.exit(any(m in sys.modules for m in HEAVY))"
    )
    code = code.replace("HEAVY", repr(("torch", "lightning", "numpy", "wandb", "wandb_workspaces")))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"no W&B key" in done.stdout


# ── sweeps ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def calls_of(sweep, values, folder, monkeypatch):
    """The command lines of `ebmzoo` in a sweep's run, according to the code of W&B's agent."""
    fake = folder / "ebmzoo"
    fake.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    made = create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
    made["env"] = ["/usr/bin/env"]
    command = []
    for part in create_sweep_command(sweep["command"]):
        command += made[part[2:-1]] if part.startswith("${") else [part]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_sweep_is_taken_by_the_real_parser(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    sweep = yaml.safe_load(path.read_text())
    assert sweep["method"] in ("grid", "random", "bayes")
    assert sweep["metric"]["goal"] in ("minimize", "maximize")
    assert all(set(parameter) == {"values"} for parameter in sweep["parameters"].values())
    for values in zip(*(parameter["values"] for parameter in sweep["parameters"].values()), strict=True):
        chosen = dict(zip(sweep["parameters"], values, strict=True))
        fit, test = calls_of(sweep, chosen, tmp_path, monkeypatch)
        assert fit[0] == "fit"
        with pytest.raises(SystemExit) as stopped:
            main([*fit, "--print_config"])
        shown = capsys.readouterr()
        assert stopped.value.code == 0, shown.err
        config = yaml.safe_load(shown.out)
        assert config["run_dir"] == "runs/sweeps/abc", "runs of one sweep do not share a folder"
        for key, value in chosen.items():
            at = config
            for part in key.split("."):
                at = at[part] if part in at else at["init_args"][part]
            assert at == value, key
        assert test == ["test", "--ckpt_path", "runs/sweeps/abc/last.ckpt", "--only", "generation"]
    (generation,) = [task for task in config["tasks"] if task["class_path"].endswith(".Generation")]
    assert "ebmzoo.metrics.Pixels" in [e["class_path"] for e in generation["init_args"]["extractors"]]
    assert sweep["metric"]["name"] == f"test/generation/{Pixels().fd_name}", "what the test logs"
