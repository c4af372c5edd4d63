"""What leaves the machine: a fit and its test online, and offline with `wandb sync`, to a stand-in of the server."""

import csv
import json
import os
import re
import socket
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pytest
import wandb
import yaml
from PIL import Image

from ebmzoo.commands.cli import main
from ebmzoo.report.wandb_runs.loggers import flat
from ebmzoo.report.wandb_runs.tables import FIGURES, HISTOGRAMS
from ebmzoo.tasks import Result, Task
from ebmzoo.training.config_files import config_path, read_config
from support.paths import ROOT
from support.shrinking import shrink
from support.wandb_server import ENTITY, KEY, TELEMETRY, Run, Server, serving

OF_AN_IMAGE = 4
"""Network evaluations of an image in an iteration: two Langevin steps, and the energies of data and of the end."""
HOST, USER, TOKEN = "host-of-someone", "someone-at-this-machine", "token-in-the-address-of-a-repository"
REMOTE = f"""[core]
\trepositoryformatversion = 0
[remote "origin"]
\turl = https://{TOKEN}@example.com/private.git
"""
BINS = {"edges": [0.0, 0.5, 2.0, 3.0], "in": [5, 3, 0], "out": [0, 1, 7]}


class Binned(Task):
    """A task with a known result."""

    name = "ood"

    def __call__(self, method, data, folder=None):
        picture = folder / "known.png"
        Image.new("RGB", (5, 4), (200, 30, 0)).save(picture)
        return Result(
            self.name, {"uniform/auroc_score": 0.75}, {"n": 8}, [str(picture)], histograms={"uniform/score": BINS}
        )


@dataclass
class Logged:
    """A fit and a test in the folder, and what they printed."""

    folder: Path
    server: Server
    printed: str = ""

    @property
    def run(self) -> Run:
        (run,) = self.server.runs.values()
        return run

    def command(self, *args, mode="online"):
        printed = StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), redirect_stderr(printed):
            isolate(patch, self.folder)
            for name, value in self.server.environment(mode).items():
                patch.setenv(name, value)
            wandb.teardown()  # it keeps the variables of its first run
            main(list(args))
            wandb.teardown()
        self.printed += printed.getvalue()
        return printed.getvalue()

    def rows(self, key):
        return [row for row in self.run.history if key in row]


def isolate(patch, folder):
    """Nothing of the account and the machine that run the tests, in a folder of a repository."""
    for name in [name for name in os.environ if name.startswith("WANDB_")] + ["NETRC"]:
        patch.delenv(name, raising=False)
    for name in ("USER", "LOGNAME", "USERNAME"):
        patch.setenv(name, USER)
    patch.setenv("HOME", str(folder / "home"))
    patch.setattr(socket, "gethostname", lambda: HOST)
    patch.chdir(folder)


def fitted_and_tested(folder, server, mode):
    (folder / "home").mkdir()
    for part in ("objects", "refs/heads"):
        (folder / ".git" / part).mkdir(parents=True)
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (folder / ".git" / "config").write_text(REMOTE)
    config = shrink(read_config(config_path("short_run_digits")))
    config["data"] = {"class_path": "support.tiny.TinyData", "init_args": {"n": 16}}
    generation = {"n": 8, "extractors": [{"class_path": "ebmzoo.metrics.Pixels"}]}
    config["tasks"] = [
        {"class_path": "ebmzoo.tasks.Generation", "init_args": generation},
        {"class_path": f"{__name__}.Binned"},
    ]
    config["trainer"] |= {"max_epochs": 2, "max_steps": -1, "log_every_n_steps": 1, "check_val_every_n_epoch": 1}
    config["checkpoint"] = {"monitor": "fd_pixels", "every": 2, "n": 8}
    config |= {"run_dir": "run", "grid_every": 2}
    (folder / "small.yaml").write_text(yaml.safe_dump(config))
    logged = Logged(folder, server)
    logged.command("fit", "--config", "small.yaml", mode=mode)
    logged.command("test", "--ckpt_path", "run/last.ckpt", "--only", "generation,ood", "--trust", "true", mode=mode)
    return logged


@pytest.fixture(scope="module")
def online(tmp_path_factory):
    with serving(code_saving_enabled=True) as server:
        yield fitted_and_tested(tmp_path_factory.mktemp("online"), server, "online")


@pytest.fixture(scope="module")
def synced(tmp_path_factory):
    """The same offline, and then sent by W&B's own reader of such runs."""
    with serving() as server:
        logged = fitted_and_tested(tmp_path_factory.mktemp("offline"), server, "offline")
        assert not server.bodies, "nothing is sent offline"
        folders = sorted(str(path.relative_to(logged.folder)) for path in logged.folder.glob("run/wandb/offline-run-*"))
        assert len(folders) == 2
        mine = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        env = mine | server.environment() | {"HOME": str(logged.folder / "home")}  # not the service of other tests
        call = [sys.executable, "-m", "wandb", "sync", *folders]
        done = subprocess.run(call, env=env, cwd=logged.folder, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        yield logged


@pytest.fixture(params=["online", "synced"])
def logged(request):
    return request.getfixturevalue(request.param)


def test_fit_and_test_are_one_run_with_group_tags_and_config(logged):
    fields = logged.run.fields
    assert (fields["project"], fields["entity"], fields["displayName"]) == ("ebmzoo", ENTITY, "run")
    assert fields["groupName"] == "TinyData"
    assert fields["tags"] == ["ShortRunEBM", "TinyData", "baseline"]
    assert (fields["complete"], fields["exitcode"]) == (True, 0)
    own = {"method": "ShortRunEBM", "data_set": "TinyData", "kind": "baseline"}
    resolved = flat(yaml.safe_load((logged.folder / "run" / "config.yaml").read_text()))
    assert logged.run.config == json.loads(json.dumps(own | resolved))


def test_curves_have_the_values_of_the_csv_file_and_what_they_cost(logged):
    rows = logged.rows("train/energy_gap")
    assert [row["trainer/global_step"] for row in rows] == [0, 1, 2, 3]
    assert [row["cost/images"] for row in rows] == [8, 16, 24, 32]
    assert [row["cost/evaluations"] for row in rows] == [8 * OF_AN_IMAGE * n for n in (1, 2, 3, 4)]
    seconds = [row["cost/seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    with next((logged.folder / "run" / "csv").glob("version_0/metrics.csv")).open(newline="") as file:
        in_csv = [row for row in csv.DictReader(file) if row["train/energy_gap"]]
    for key in ("energy_data", "energy_chain", "energy_gap", "grad_norm", "displacement", "displacement_ratio"):
        assert [row[f"train/{key}"] for row in rows] == pytest.approx([float(row[f"train/{key}"]) for row in in_csv])
    for key, images in (("val/energy_gap", [16, 32]), ("val/fd_pixels", [16, 32])):
        assert [row["cost/images"] for row in logged.rows(key)] == images
        assert all({"cost/seconds", "cost/evaluations"} <= row.keys() for row in logged.rows(key))
    assert not any(key.startswith("cost/") for row in logged.rows("test/generation/fd_pixels") for key in row)


def test_no_key_is_logged_but_those_described(logged):
    described = re.compile(r"(train|val|test|cost)/.+|epoch|trainer/global_step|scorecard|pictures|ood_histograms|_\w+")
    keys = set().union(*logged.run.history)
    assert [key for key in keys if not described.fullmatch(key)] == []
    assert logged.run.streams.keys() <= {"wandb-history.jsonl", "wandb-summary.json", "wandb-events.jsonl"}


def test_pictures_are_those_on_disk(logged):
    def pixels(file):
        return np.asarray(Image.open(file).convert("RGB"))

    run, folder = logged.run, logged.folder / "run"
    for row, name in zip(logged.rows("train/samples"), ("step_0000002.png", "step_0000004.png"), strict=True):
        (path,) = row["train/samples"]["filenames"]
        sent, drawn = pixels(BytesIO(run.files[path])), pixels(folder / "samples" / name)
        assert sent.dtype == np.uint8
        assert np.array_equal(sent, drawn)
        assert 0 <= sent.min() < sent.max() <= 255
    for key in ("test/samples", "test/known"):
        (row,) = logged.rows(key)
        assert np.array_equal(pixels(BytesIO(run.files[row[key]["path"]])), pixels(folder / f"{key}.png"))
    assert pixels(folder / "test" / "known.png").shape == (4, 5, 3)


def test_tables_have_the_figures_pictures_and_bins(logged):
    (row,) = logged.rows("scorecard")
    tables = {
        name: json.loads(logged.run.files[row[name]["path"]]) for name in ("scorecard", "pictures", "ood_histograms")
    }
    assert tables["scorecard"]["columns"] == list(FIGURES)
    figures = {
        f"{task}/{row}/{column}".replace("//", "/"): value
        for task, row, column, value, *_ in tables["scorecard"]["data"]
    }
    for task in ("generation", "ood"):
        written = json.loads((logged.folder / "run" / "test" / f"{task}.json").read_text())["figures"]
        assert {name.partition("/")[2]: value for name, value in figures.items() if name.startswith(task)} == written
    assert {(task, name) for task, name, _ in tables["pictures"]["data"]} >= {
        ("generation", "samples"),
        ("ood", "known"),
    }
    assert tables["ood_histograms"]["columns"] == list(HISTOGRAMS)
    assert tables["ood_histograms"]["data"][2] == ["uniform", "score", 2.0, 3.0, 0, 7]
    assert row["test/ood/uniform/score/out"]["values"] == BINS["out"]
    artifacts = {name.rpartition("-")[2]: files for name, files in logged.server.artifacts.items()}
    for name, table in tables.items():  # in W&B a table is also an artifact, which keeps its pictures
        assert json.loads(artifacts[name][f"{name}.table.json"])["columns"] == table["columns"]
    sent = Image.open(BytesIO(next(data for path, data in artifacts["pictures"].items() if path.endswith("known.png"))))
    assert sent.convert("RGB").getpixel((2, 2)) == (200, 30, 0)


def test_summary_has_the_figures_and_costs_and_notes_the_scorecard(logged):
    summary = logged.run.summary
    assert summary["test/ood/uniform/auroc_score"] == 0.75
    generation = json.loads((logged.folder / "run" / "test" / "generation.json").read_text())["figures"]
    assert summary["test/generation/fd_pixels"] == pytest.approx(generation["fd_pixels"])
    assert (summary["cost/images"], summary["cost/evaluations"]) == (32, 32 * OF_AN_IMAGE)
    notes = logged.run.fields["notes"]
    assert notes.startswith("ShortRunEBM on TinyData")
    assert notes in logged.printed


def test_nothing_else_leaves_the_machine(logged):
    others = [path for path in logged.run.files if not path.startswith(("media/images/", "media/table/"))]
    assert sorted(others) == ["config.yaml", "wandb-summary.json"]
    assert {name.rpartition("-")[2] for name in logged.server.artifacts} == {"scorecard", "pictures", "ood_histograms"}
    staged = re.escape(str(logged.folder / "home/.local/share/wandb/artifacts/staging")) + r"/\w+"
    sent = re.sub(staged, "", logged.server.sent())  # the place of a table's files, which W&B notes with them
    secrets = (KEY, HOST, USER, TOKEN, sys.prefix, sys.executable, str(ROOT), str(logged.folder), "def training_step")
    assert [secret for secret in secrets if secret in sent] == []
    paths = {re.sub(r"/(runs|artifacts)/.*|/files/.*/file_stream", r"/\1", path) for path, _ in logged.server.bodies}
    assert {path for path in paths if TELEMETRY not in path} == {"/graphql", "/runs", "/artifacts", "/"}


def test_the_key_is_in_no_file_and_in_no_message(logged):
    assert KEY not in logged.printed
    assert [path for path in logged.folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []


def test_the_address_of_the_run_is_printed_online_alone(online, synced):
    address = f"W&B: {online.server.address}/{ENTITY}/ebmzoo/runs/{online.run.fields['name']}"
    assert online.printed.count(address) == 2, "once a command"
    assert "W&B" not in synced.printed


def test_online_and_synced_runs_have_the_same_keys(online, synced):
    def keys(row):
        return {key for key in row if not key.startswith("_")}

    assert [keys(row) for row in synced.run.history] == [keys(row) for row in online.run.history]
    left_out = keys(online.run.summary) - keys(synced.run.summary)  # `wandb sync` of a test forgets those of the fit
    assert {key.partition("/")[0] for key in left_out} == {"train", "val"}
    assert keys(synced.run.summary) < keys(online.run.summary)
    assert online.run.summary["train/energy_gap"] == online.rows("train/energy_gap")[-1]["train/energy_gap"]


def test_notes_of_ones_own_on_the_server_stay(online):
    ours = online.run.fields["notes"]
    online.run.fields["notes"] = "mine"
    try:
        online.command("test", "--ckpt_path", "run/last.ckpt", "--only", "ood", "--trust", "true")
        assert online.run.fields["notes"] == "mine"
    finally:
        online.run.fields["notes"] = ours
