"""The small files of a run: whole or not at all, and a damaged one blocks no folder."""

import json
import resource
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ebmzoo.commands.benchmark.plan import Run
from ebmzoo.commands.benchmark.runner import _failure, _marker, _trained
from ebmzoo.commands.sample import _save_array
from ebmzoo.report import plots
from ebmzoo.report.csv_rows import WholeRows
from ebmzoo.report.own_files import read_own, read_rows
from ebmzoo.report.pictures import save_png
from ebmzoo.report.wandb_runs.loggers import RunIdentity, ZooCSVLogger
from ebmzoo.tasks import Result
from ebmzoo.tasks.base import is_up_to_date
from ebmzoo.training.callbacks import PredictionsFile
from ebmzoo.training.watchdog import Event, read_events
from ebmzoo.writing import UnwritableError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def full():
    """`full(n)`: no file can become longer than n bytes, as on a full disk; `full(None)` ends that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(n):
        resource.setrlimit(resource.RLIMIT_FSIZE, before if n is None else (n, before[1]))

    yield limit
    limit(None)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"[1]", b'{"b": 1}', b"\xff\x00"])
def test_a_damaged_file_is_named_and_set_aside(content, tmp_path, capsys):
    path = tmp_path / "x.json"
    for expected in (["x.json.damaged"], ["x.json.damaged", "x.json.damaged-2"]):
        path.write_bytes(content)
        assert read_own(path, lambda found: found["a"]) is None
        assert names(tmp_path) == expected
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{path} is damaged (")
        assert line.endswith(f"it is {tmp_path / expected[-1]} now")
    assert read_own(path, dict) is None
    assert capsys.readouterr().err == "", "a file that is not there is not damaged"


def test_half_an_identity_gives_a_new_one(tmp_path, capsys):
    identity = RunIdentity("VAE", "Digits", "baseline")
    assert identity.kept(tmp_path) == identity
    assert RunIdentity("X", "Y", "method").kept(tmp_path) == identity
    whole = (tmp_path / "wandb.json").read_text()
    for damaged in (whole[:20], '{"method": "VAE"}', json.dumps(json.loads(whole) | {"id": 3})):
        (tmp_path / "wandb.json").write_text(damaged)
        new = RunIdentity("VAE", "Digits", "baseline")
        assert new.kept(tmp_path) == new
        assert "wandb.json is damaged" in capsys.readouterr().err
    assert json.loads((tmp_path / "wandb.json").read_text())["id"] == new.id


def test_half_a_line_of_events_hides_no_other(tmp_path, capsys):
    Event(1, "dead_energy", "one").write(tmp_path, echo=False)
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"step": 2, "eve')
    Event(3, "dead_energy", "three").write(tmp_path, echo=False)
    assert [(event.step, event.message) for event in read_events(tmp_path)] == [(1, "one"), (3, "three")]
    assert "events.jsonl: line 2 is no event and is left out" in capsys.readouterr().err


def test_half_a_result_is_made_again(tmp_path):
    under = {"checkpoint_sha256": "a"}
    Result("cost", {"nfe": 1.0}, under).write(tmp_path)
    assert is_up_to_date(tmp_path, "cost", under)
    (tmp_path / "cost.json").write_text((tmp_path / "cost.json").read_text()[:30])
    assert not is_up_to_date(tmp_path, "cost", under)
    assert names(tmp_path) == ["cost.json.damaged"]


def test_half_a_record_does_not_end_a_benchmark(tmp_path):
    run = Run("x", tmp_path / "x.yaml", tmp_path / "run")
    run.run_dir.mkdir()
    (tmp_path / "x.yaml").write_text("trainer: {max_steps: 5}")
    torch.save(
        {"global_step": 5, "state_dict": {}, "ebmzoo": {"format": 3, "config": "model: null"}},
        run.run_dir / "last.ckpt",
    )
    for name in ("training.json", "failed.json", "benchmark.json"):
        (run.run_dir / name).write_text('{"stage": "fit", ')
    assert _trained(run)
    assert _failure(run) is None
    assert _marker(run) is None
    assert len([name for name in names(run.run_dir) if name.endswith(".damaged")]) == 3


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────

PICTURE = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)


def plot(folder):
    plots.save_lines([plots.Panel("y", {"a": ([0, 1], [0, 1])})], "x", folder / "out.png")


def predictions(folder):
    batch = {"energy": torch.rand(500), "ood_score": torch.rand(500), "label": torch.zeros(500)}
    trainer = SimpleNamespace(is_global_zero=True, default_root_dir=str(folder))
    PredictionsFile(overwrite=True).write_on_epoch_end(trainer, None, [batch], None)


WRITERS = {
    "picture": ("out.png", lambda folder: save_png(PICTURE, folder / "out.png")),
    "plot": ("out.png", plot),
    "array": ("out.npz", lambda folder: _save_array(folder / "out.npz", images=PICTURE)),
    "predictions": ("predictions.npz", predictions),
    "result": ("cost.json", lambda folder: Result("cost", {str(i): 1.0 for i in range(200)}).write(folder)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_named_and_leaves_no_half_file(kind, tmp_path, full):
    name, write = WRITERS[kind]
    write(tmp_path)
    before = (tmp_path / name).read_bytes()
    others = names(tmp_path)
    full(500)
    with pytest.raises(UnwritableError, match=rf"{name} cannot be written \(File too large\)"):
        write(tmp_path)
    full(None)
    assert (tmp_path / name).read_bytes() == before
    assert names(tmp_path) == others


def test_an_event_on_a_full_disk_is_missing_and_not_halved(tmp_path, full, capsys):
    Event(1, "dead_energy", "one").write(tmp_path, echo=False)
    before = (tmp_path / "events.jsonl").read_bytes()
    full(len(before) + 20)
    Event(2, "dead_energy", "two").write(tmp_path, echo=False)
    assert (tmp_path / "events.jsonl").read_bytes() == before
    full(None)
    assert "events.jsonl: not written (" in capsys.readouterr().err


# ── curves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rows_are_whole_and_a_new_column_loses_none(tmp_path):
    rows = WholeRows(str(tmp_path / "csv"))
    path = tmp_path / "csv" / "metrics.csv"
    for step, metrics in enumerate([{"a": 1.5}, {"a": 2.5}, {"a": 3.5, "b": 4.5}, {"b": 5.5}]):
        rows.log_metrics(metrics, step)
        rows.save()
    table = [
        {"a": a, "b": b, "step": step}
        for a, b, step in zip(["1.5", "2.5", "3.5", ""], ["", "", "4.5", "5.5"], "0123", strict=True)
    ]
    assert read_rows(path) == table
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    assert read_rows(path) == table[:3], "half a row is none"
    rows.log_metrics({"a": 9.5}, 4)
    rows.save()
    assert read_rows(path)[-1] == {"a": "9.5", "b": "", "step": "4"}


def test_rows_that_do_not_fit_on_the_disk_are_written_later(tmp_path, full, capsys):
    logger = ZooCSVLogger(tmp_path, name="csv")
    logger.log_metrics({"a": 1.5}, 0)
    logger.save()
    path = tmp_path / "csv" / "version_0" / "metrics.csv"
    before = path.read_bytes()
    full(len(before) + 3)
    for metrics in ({"a": 2.5}, {"b": 3.5}):
        logger.log_metrics(metrics, 1)
        logger.save()
        assert path.read_bytes() == before
    full(None)
    assert "curves in" in capsys.readouterr().err
    logger.save()
    assert [(row["a"], row["b"]) for row in read_rows(path)] == [("1.5", ""), ("2.5", ""), ("", "3.5")]
    assert names(path.parent) == ["metrics.csv"]


def test_the_archive_of_samples_holds_what_was_drawn(tmp_path):
    _save_array(tmp_path / "x.NPZ", images=PICTURE)
    assert names(tmp_path) == ["x.NPZ"]
    assert (np.load(tmp_path / "x.NPZ")["images"] == PICTURE.numpy()).all()
