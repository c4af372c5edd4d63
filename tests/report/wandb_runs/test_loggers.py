"""Where curves go: CSV, and W&B with the same keys, config, tags and group for every method; W&B after a test.

`test_offline_run_holds_all_of_it` reads the `.wandb` files of a whole run back.
"""

import csv
import importlib
import inspect
import json
import pkgutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
import yaml
from lightning.pytorch.loggers import Logger
from PIL import Image

import ebmzoo.methods
from ebmzoo.commands.cli import main
from ebmzoo.data import ImageFolder
from ebmzoo.methods import EquilibriumMatching, Method
from ebmzoo.methods.baselines import MDSM, VAE, DivergenceTriangle, ScoreNetwork
from ebmzoo.report.comparison.summary import DETAILS
from ebmzoo.report.wandb_runs.account import has_key
from ebmzoo.report.wandb_runs.loggers import (
    RunIdentity,
    ZooCSVLogger,
    ZooWandbLogger,
    closing_wandb,
    flat,
    log_scorecard,
    loggers,
)
from ebmzoo.report.wandb_runs.privacy import NOT_SENT, private
from ebmzoo.report.wandb_runs.tables import FIGURES, HISTOGRAMS, tables
from ebmzoo.ssrl import Pretraining, SimCLR
from ebmzoo.tasks import Result, Task
from ebmzoo.training.callbacks import SampleGrid
from ebmzoo.training.config_files import config_path, read_config
from support import tiny
from support.clel import clel
from support.marginal import igebm, improved_cd, short_run
from support.paths import ROOT
from support.shrinking import shrink
from support.tiny import TinyData, trainer
from support.wandb_file import logged

IDENTITY = RunIdentity("LIEBM", "TinyData", "method")


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path):
    for name in ("API_KEY", "IDENTITY_TOKEN_FILE", "BASE_URL", "RUN_ID", "PROJECT", "TAGS", "RUN_GROUP"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)


@pytest.mark.parametrize("host", ["api.wandb.ai", "api.forge.coreweave.com"])  # where `wandb login` keeps it for
def test_key_is_found_without_a_prompt(host, monkeypatch, tmp_path):
    assert not has_key()
    (tmp_path / ".netrc").write_text(f"machine {host} login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://other.example")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert has_key()
    monkeypatch.delenv("WANDB_API_KEY")
    (tmp_path / "elsewhere").write_text("machine other.example login user password secret\n")
    (tmp_path / "elsewhere").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "elsewhere"))
    assert has_key()


def test_without_a_key_wandb_is_offline_and_one_run_has_one_identity(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    plain, first = loggers(tmp_path / "run", IDENTITY)
    again = loggers(tmp_path / "run", RunIdentity("LIEBM", "TinyData", "ablation"))[1]
    assert type(plain) is ZooCSVLogger
    assert first._offline
    assert first._id == again._id
    assert first._wandb_init["tags"] == again._wandb_init["tags"] == ["LIEBM", "TinyData", "method"]
    assert loggers(tmp_path / "other", RunIdentity("LIEBM", "TinyData", "method"))[1]._id != first._id


def test_a_relative_folder_is_that_of_the_command_wherever_wandb_was_started(tmp_path, monkeypatch):
    """W&B's process outlives a run, and opened a later run's file in the working directory of the first."""
    for k, here in enumerate((tmp_path / "first", tmp_path / "second")):
        here.mkdir()
        monkeypatch.chdir(here)
        with closing_wandb():
            loggers(Path("run"), IDENTITY)[1].log_metrics({"gap": float(k)}, step=0)
    wandb.teardown()
    (folder,) = (tmp_path / "second" / "run" / "wandb").glob("offline-run-*")
    assert [row["gap"] for row in logged([folder])["history"]] == [1.0]


def test_agent_of_a_sweep_gives_the_run_its_id(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "swept")
    assert loggers(tmp_path / "run", RunIdentity("LIEBM", "TinyData", "method"))[1]._id == "swept"


def test_without_wandb_there_is_csv(monkeypatch, tmp_path):
    monkeypatch.setattr("ebmzoo.report.wandb_runs.loggers.find_spec", lambda name: None)
    chosen = loggers(tmp_path, IDENTITY)
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert [type(logger) for logger in chosen] == [ZooCSVLogger]
    trainer(tmp_path, max_steps=1, logger=chosen).fit(tiny.without_latent(), TinyData())
    assert (tmp_path / "csv" / "version_0").exists()


def test_wandb_can_be_switched_off(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert [type(logger) for logger in loggers(tmp_path, IDENTITY)] == [ZooCSVLogger]
    assert not (tmp_path / "wandb.json").exists()


def test_what_is_not_sent_can_be_sent_after_all(monkeypatch):
    assert private() == NOT_SENT
    assert wandb.Settings(**private()).x_disable_meta is True, "a setting that wandb does not know is an error"
    monkeypatch.setenv("WANDB_DISABLE_GIT", "false")
    monkeypatch.setenv("WANDB__DISABLE_META", "false")
    assert private().keys() == NOT_SENT.keys() - {"disable_git", "x_disable_meta"}


@pytest.mark.parametrize(
    ("make", "config", "method", "kind"),
    [
        (tiny.without_latent, "configs/liebm/digits.yaml", "LIEBM", "method"),
        (tiny.without_latent, "configs/liebm/ablations/no_latent_cifar.yaml", "LIEBM", "ablation"),
        (short_run, "configs/short_run/digits.yaml", "ShortRunEBM", "baseline"),
        (lambda: Pretraining(tiny.encoder(), SimCLR()), "configs/simclr/digits.yaml", "Pretraining", "network"),
    ],
)
def test_identity_is_method_data_and_kind(make, config, method, kind):
    identity = RunIdentity.of(make(), TinyData(), [ROOT / config])
    assert (identity.method, identity.data, identity.kind) == (method, "TinyData", kind)


@pytest.mark.parametrize(("path", "name"), [("photos", "photos"), ("a/site.tar.xz", "site"), (".", "here")])
def test_images_of_ones_own_are_grouped_by_the_name_of_their_folder(path, name, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert RunIdentity.of(tiny.without_latent(), ImageFolder(path, size=8)).data == name


@pytest.mark.parametrize(("offline", "lines"), [(False, ["W&B: https://wandb.example/run"]), (True, [])])
def test_the_address_of_a_run_online_is_printed_once(offline, lines, monkeypatch, tmp_path, capsys):
    class Run:
        url = "https://wandb.example/run"

    monkeypatch.setattr("lightning.pytorch.loggers.wandb.WandbLogger.experiment", property(lambda self: Run()))
    logger = ZooWandbLogger(save_dir=str(tmp_path), offline=offline)
    assert isinstance(logger.experiment, Run)
    assert isinstance(logger.experiment, Run)
    assert capsys.readouterr().err.splitlines() == lines


def test_flat_config_has_the_names_of_the_command_line():
    nested = {
        "run_dir": "runs/x",
        "model": {"class_path": "a.B", "init_args": {"gamma": 0.1, "sampler": {"steps": 2}, "range": [-1, 1]}},
        "data": {"init_args": {"ood": [{"class_path": "c.D", "init_args": {"n": 3}}, {"class_path": "e.F"}]}},
        "tasks": [],
    }
    assert flat(nested) == {
        "run_dir": "runs/x",
        "model.class_path": "a.B",
        "model.gamma": 0.1,
        "model.sampler.steps": 2,
        "model.range": [-1, 1],
        "data.ood.0.class_path": "c.D",
        "data.ood.0.n": 3,
        "data.ood.1.class_path": "e.F",
        "tasks": [],
    }


# ── the same keys for every method ──────────────────────────────────────────────────────────────────────────────────

COMMON = {"train/energy_data", "train/energy_chain", "train/energy_gap", "train/grad_norm", "train/displacement"}
NO_ENERGY_OF_CHAINS = COMMON - {"train/grad_norm"}
LACKS = {
    VAE: NO_ENERGY_OF_CHAINS,  # trained by its bound alone
    MDSM: NO_ENERGY_OF_CHAINS,  # trained by score matching
    EquilibriumMatching: NO_ENERGY_OF_CHAINS,  # trained on its gradient alone
    ScoreNetwork: NO_ENERGY_OF_CHAINS,
    DivergenceTriangle: {"train/displacement"},  # its generator stands in for the chain
}
"""The common keys that do not apply to a method."""
MAKERS = {
    "CDRL": tiny.cdrl,
    "CLEL": clel,
    "LIEBM": lambda: tiny.liebm(encoder_stage=tiny.stage(epochs=0)),
    "DenoisingEBM": tiny.denoising_ebm,
    "DualMCMC": tiny.dual_mcmc,
    "EnergyMatching": lambda: tiny.energy_matching(regression_steps=0),
    "EquilibriumMatching": tiny.equilibrium_matching,
    "CoopNets": tiny.coopnets,
    "DivergenceTriangle": tiny.triangle,
    "DRL": tiny.drl,
    "HatEBM": tiny.hat_ebm,
    "IGEBM": igebm,
    "ImprovedCD": improved_cd,
    "JEM": tiny.jem,
    "MDSM": tiny.mdsm,
    "ScoreNetwork": tiny.score_network,
    "ShortRunEBM": short_run,
    "VAE": tiny.vae,
}


def every_method():
    """The concrete methods of the package."""
    for module in pkgutil.walk_packages(ebmzoo.methods.__path__, "ebmzoo.methods."):
        importlib.import_module(module.name)
    open_, found = [Method], {}
    while open_:
        children = open_.pop().__subclasses__()
        open_ += children
        found |= {
            c.__name__: c for c in children if not inspect.isabstract(c) and c.__module__.startswith("ebmzoo.methods.")
        }
    return found


class Memory(Logger):
    """Keeps what is logged."""

    name, version = "memory", 0

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, params):
        pass


def test_every_method_has_a_maker():
    assert set(MAKERS) == set(every_method())


@pytest.mark.parametrize("name", MAKERS)
def test_common_keys_are_logged_by_every_method(name, tmp_path):
    memory, method = Memory(), MAKERS[name]()
    fit = trainer(tmp_path, max_steps=2, max_epochs=-1, logger=memory, log_every_n_steps=1, limit_val_batches=1)
    fit.fit(method, TinyData(n=16))
    rows = [(step, metrics) for step, metrics in memory.rows if any(key.startswith("train/") for key in metrics)]
    assert [step for step, _ in rows] == [0, 1], "one row a batch, whatever the number of optimizers"
    for _, metrics in rows:
        assert COMMON & set(metrics) == COMMON - LACKS.get(type(method), set())
    validated = set().union(*(metrics for _, metrics in memory.rows))
    assert {"val/energy_data", "val/energy_chain", "val/energy_gap"} <= validated
    assert all(key.startswith(("train/", "val/")) or key == "epoch" for key in validated)


# ── W&B that fails ──────────────────────────────────────────────────────────────────────────────────────────────────


class Broken:
    """A W&B run that accepts one call and then fails."""

    id = "broken"

    def __init__(self):
        self.calls = 0
        self.config = self

    def log(self, *_args, **_kwargs):
        self.calls += 1
        if self.calls > 1:
            raise ConnectionResetError("the service\nhas gone")

    update = log


def lines_of(folder):
    with next(folder.glob("csv/version_0/metrics.csv")).open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["train/energy_gap"]]


def test_an_error_of_wandb_is_reported_once_and_the_run_continues(tmp_path, capsys):
    run = Broken()
    chosen = [ZooCSVLogger(tmp_path, name="csv"), ZooWandbLogger(experiment=run, offline=True)]
    fit = trainer(tmp_path, max_epochs=2, logger=chosen, log_every_n_steps=1, callbacks=[SampleGrid(3, n=4)])
    fit.fit(tiny.without_latent(), TinyData())
    assert fit.global_step == len(lines_of(tmp_path)) == 8
    assert run.calls == 2, "after the error it is not called again"
    err = capsys.readouterr().err
    assert err.count("W&B failed (ConnectionResetError: the service has gone)") == err.count("W&B") == 1
    assert len(list((tmp_path / "samples").iterdir())) == 3
    log_scorecard(chosen, tmp_path, [])
    chosen[1].log_hyperparams({"a": 1})
    assert run.calls == 2


def test_wandb_that_cannot_start_does_not_stop_the_run(tmp_path, capsys, monkeypatch):
    def refused(**_):
        raise wandb.errors.CommError("timed out")

    chosen = loggers(tmp_path, IDENTITY)
    monkeypatch.setattr(wandb, "init", refused)
    fit = trainer(tmp_path, max_steps=2, logger=chosen, log_every_n_steps=1)
    fit.fit(tiny.without_latent(), TinyData())
    assert len(lines_of(tmp_path)) == 2
    assert capsys.readouterr().err.count("W&B failed (CommError: timed out)") == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [(None, f"new, {DETAILS}"), (f"old, {DETAILS}", f"new, {DETAILS}"), ("of my own", "of my own")],
)
def test_the_summary_becomes_the_notes_of_the_run_but_replaces_no_one_elses(tmp_path, before, after):
    run = SimpleNamespace(id="x", notes=before, log=lambda _: None, config=None, summary={})
    log_scorecard([ZooWandbLogger(experiment=run, offline=True)], tmp_path, [], f"new, {DETAILS}")
    assert run.notes == after


# ── W&B after a test ────────────────────────────────────────────────────────────────────────────────────────────────

EDGES = [0.0, 0.5, 2.0, 3.0]
BINS = {"edges": EDGES, "in": [5, 3, 0], "out": [0, 1, 7]}


class Binned(Task):
    """A task with a known result."""

    name = "ood"

    def __call__(self, method, data, folder=None):
        picture = folder / "known.png"
        Image.new("RGB", (5, 4), (200, 30, 0)).save(picture)
        figures = {"uniform/auroc_score": 0.75, "plain": 2.0}
        return Result(self.name, figures, {"n": 8}, [str(picture)], histograms={"uniform/score": BINS})


def test_tables_hold_figures_pictures_and_histograms(tmp_path):
    picture = tmp_path / "known.png"
    Image.new("RGB", (5, 4)).save(picture)
    figures = {"uniform/auroc_score": 0.75, "a/b/c": float("nan"), "plain": 2.0}
    Result(
        "ood", figures, {"n": 8}, [str(picture), "gone.png"], histograms={"uniform/score": BINS}, spread={"plain": 0.1}
    ).write(tmp_path)
    made = tables(tmp_path, ["ood", "never_run"])
    assert set(made) == {
        "scorecard",
        "pictures",
        "ood_histograms",
        "test/known",
        "test/ood/uniform/score/in",
        "test/ood/uniform/score/out",
    }
    assert made["scorecard"].columns == list(FIGURES)
    assert [row[:5] for row in made["scorecard"].data] == [
        ["ood", "uniform", "auroc_score", 0.75, None],
        ["ood", "a/b", "c", None, None],
        ["ood", "", "plain", 2.0, 0.1],
    ]
    assert {row[5] for row in made["scorecard"].data} == {json.dumps({"n": 8})}
    assert made["ood_histograms"].columns == list(HISTOGRAMS)
    assert made["ood_histograms"].data == [
        ["uniform", "score", 0.0, 0.5, 5, 0],
        ["uniform", "score", 0.5, 2.0, 3, 1],
        ["uniform", "score", 2.0, 3.0, 0, 7],
    ]
    assert made["test/ood/uniform/score/out"].histogram == [0, 1, 7]
    assert made["test/ood/uniform/score/out"].bins == EDGES
    assert tables(tmp_path, []) == {}


def test_offline_run_holds_all_of_it(tmp_path, monkeypatch, capsys):
    """After fit and test without a key, the run folder holds everything that `wandb sync` would send."""
    monkeypatch.chdir(tmp_path)
    config = shrink(read_config(config_path("short_run_digits")))
    config["data"] = {"class_path": "support.tiny.TinyData", "init_args": {"n": 16}}
    generation = {"n": 8, "extractors": [{"class_path": "ebmzoo.metrics.Pixels"}]}
    config["tasks"] = [
        {"class_path": "ebmzoo.tasks.Generation", "init_args": generation},
        {"class_path": "test_loggers.Binned"},
    ]
    config["trainer"] |= {"max_epochs": 2, "max_steps": -1, "log_every_n_steps": 1, "check_val_every_n_epoch": 1}
    config |= {"run_dir": str(tmp_path / "run"), "grid_every": 2}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", "small.yaml"])
    assert wandb.run is None, "the run of a command ends with it"
    main(["test", "--ckpt_path", "run/last.ckpt", "--only", "generation,ood", "--trust", "true"])
    assert wandb.run is None
    wandb.teardown()  # its process writes behind the run's back, and is done when it has ended

    folders = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    found = logged(folders)
    run = found["run"]
    assert (run.project, run.run_group, run.display_name) == ("ebmzoo", "TinyData", "run")
    assert list(run.tags) == ["ShortRunEBM", "TinyData", "baseline"]
    assert {logged([folder])["run"].run_id for folder in folders} == {run.run_id}
    assert found["config"]["method"] == "ShortRunEBM"
    assert found["config"]["kind"] == "baseline"
    assert found["config"]["model.sampler.steps"] == 2
    assert found["config"]["data.class_path"] == "support.tiny.TinyData"
    assert {m.step_metric for m in found["metrics"] if m.glob_name == "*"} == {"trainer/global_step"}

    rows = [row for row in found["history"] if "train/energy_gap" in row]
    assert [row["trainer/global_step"] for row in rows] == [0, 1, 2, 3]
    with next((tmp_path / "run" / "csv").glob("version_0/metrics.csv")).open(newline="") as file:
        in_csv = [float(row["train/energy_gap"]) for row in csv.DictReader(file) if row["train/energy_gap"]]
    assert [row["train/energy_gap"] for row in rows] == pytest.approx(in_csv)
    keys = set().union(*found["history"])
    assert keys >= COMMON | {"val/energy_gap", "test/generation/fd_pixels", "test/ood/uniform/auroc_score"}
    drawn = [row for row in found["history"] if "train/samples/filenames" in row]
    assert [row["trainer/global_step"] for row in drawn] == [2, 4]

    files = {
        name: next(f / "files" / name for f in folders if (f / "files" / name).exists()) for name in found["files"]
    }
    media = {name: path for name, path in files.items() if name.startswith("media/")}
    (known,) = [path for name, path in media.items() if name.startswith("media/images/test/known")]
    assert Image.open(known).convert("RGB").getpixel((2, 2)) == (200, 30, 0), "pictures keep their colours"
    for name in ("train/samples", "test/samples"):
        pictures = [
            path for name_in_history, path in media.items() if name_in_history.startswith(f"media/images/{name}_")
        ]
        assert pictures, name
        assert all(max(high for _, high in Image.open(p).convert("RGB").getextrema()) > 0 for p in pictures), (
            "not black"
        )
    (scorecard,) = [path for name, path in media.items() if name.startswith("media/table/scorecard")]
    table = json.loads(scorecard.read_text())
    assert table["columns"] == list(FIGURES)
    (row,) = [row for row in table["data"] if row[:3] == ["ood", "uniform", "auroc_score"]]
    assert row[3] == 0.75
    assert json.loads(row[5])["weights"] == "ema"
    assert {row[0] for row in table["data"]} == {"generation", "ood"}
    (binned,) = [path for name, path in media.items() if name.startswith("media/table/ood_histograms")]
    assert json.loads(binned.read_text())["data"][2] == ["uniform", "score", 2.0, 3.0, 0, 7]
    histogram = next(row for row in found["history"] if "test/ood/uniform/score/out/values" in row)
    assert histogram["test/ood/uniform/score/out/values"] == [0, 1, 7]
    assert "W&B failed" not in capsys.readouterr().err
