"""Runs of strangers, compared: what their files say commands neither a terminal nor a spreadsheet, and has an end."""

import csv
import io
import json
import os
import signal

import pytest
import yaml

from ebmzoo.commands.cli import main
from ebmzoo.errors import UserError
from ebmzoo.report.comparison.curves import read_curve
from ebmzoo.report.comparison.records import read_records
from ebmzoo.report.scorecard import scorecard
from ebmzoo.report.wandb_runs.dashboard import comparison
from ebmzoo.report.wandb_runs.loggers import RunIdentity
from ebmzoo.tasks.base import Result
from ebmzoo.training.training_data import TrainingData
from ebmzoo.training.watchdog import read_events

ESCAPE = "\x1b]0;title\x07\x9b2J\u202e\n<script>"
FORMULA = '=HYPERLINK("http://x")'


@pytest.fixture(autouse=True)
def no_hang():
    """What would be read without end fails here."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def run(folder, text):
    """A run whose files have a text wherever they have one."""
    folder.mkdir(parents=True)
    model = {"class_path": f"ebmzoo.methods.{text}"}
    data = {"class_path": f"ebmzoo.data.{text}", "init_args": {text: text}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": data}, allow_unicode=False))
    chains = {"full": {"start": text, "steps": 3, "temperature": 1.0}}
    protocol = {"n": 10, "split": text, "weights": text, "chains": chains, text: text}
    result = Result("generation", {f"fd_{text}": 3.0, f"{text}/fd_pixels": 1.5}, protocol, notes=[text])
    (folder / "test").mkdir()
    content = vars(result) | {"pictures": [text]}
    (folder / "test" / "generation.json").write_text(json.dumps(content))
    (folder / "failed.json").write_text(json.dumps({"stage": "fit", "error": text}))
    (folder / "training.json").write_text(json.dumps({"iterations": 3, "device": text, "parameters": {text: 3}}))
    return folder


def test_escapes_reach_no_terminal_and_no_file(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = [run(tmp_path / f"a{ESCAPE.replace('/', '')}", ESCAPE), run(tmp_path / "b", "plain")]
    for kind in ("terminal", "markdown", "csv", "latex"):
        main(["compare", *map(str, folders), "--all", "--overwrite", "--format", kind])
        printed = capsys.readouterr()
        for text in (printed.out, printed.err):
            assert all(line.isprintable() for line in text.splitlines()), kind
            assert "title" in printed.out
    for path in (tmp_path / "compare").iterdir():
        assert all(line.isprintable() for line in path.read_text().replace("\xa0", " ").split("\n")), path
        assert "<script>title" not in path.read_text()
    assert "&lt;script&gt;" in (tmp_path / "compare" / "compare.html").read_text()


@pytest.mark.parametrize("start", ["=", "+", "-", "@", " =", "\t=", "\r="])
def test_no_cell_is_a_formula(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = f"{start}{FORMULA[1:]}"
    folders = [run(tmp_path / "b", "plain"), run(tmp_path / text.replace("/", ""), text)]
    main(["compare", *map(str, folders), "--all"])
    rows = list(csv.reader(io.StringIO((tmp_path / "compare" / "compare.csv").read_text())))
    cells = [cell for row in rows for cell in row]
    assert any("HYPERLINK" in cell for cell in cells)
    for cell in cells:
        assert not cell.lstrip().startswith(("=", "+", "@")), cell
        assert not cell.lstrip().startswith("-") or float(cell) < 0, cell


def test_negative_figures_stay_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = run(tmp_path / "a", "plain")
    Result("density", {"log_likelihood": -3.25}, {"n": 3}).write(folder / "test")
    main(["compare", str(folder), "--columns", "density/*"])
    (row,) = csv.DictReader((tmp_path / "compare" / "compare.csv").open())
    assert row["density/log_likelihood"] == "-3.25"


def test_scorecards_and_events_of_a_run_are_shown_in_plain(tmp_path):
    folder = run(tmp_path / "a", ESCAPE)
    shown = scorecard(folder / "test", ["generation"])
    assert "title" in shown
    assert all(line.isprintable() for line in shown.splitlines())
    (folder / "events.jsonl").write_text(json.dumps({"step": 3, "event": ESCAPE, "told": ESCAPE}) + "\n")
    (event,) = read_events(folder)
    assert event.message.isprintable()
    assert event.event.isprintable()
    record = {part: {"name": ESCAPE, "n": 3, "digest": ESCAPE} for part in ("train", "test")}
    data = TrainingData.read({"data": {"classes": [ESCAPE], "record": record}})
    assert data.classes[0].isprintable()
    assert (
        data.change(TrainingData.read({"data": {"record": {"train": record["test"] | {"n": 4}}}})) or ""
    ).isprintable()


def pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def test_a_pipe_in_a_run_is_named_and_not_waited_for(tmp_path):
    folder = run(tmp_path / "a", "plain")
    for name in ("config.yaml", "training.json", "failed.json", "test/generation.json"):
        content = (folder / name).read_text()
        pipe(folder / name)
        (damaged,) = read_records([folder])[0].damaged
        assert f"{name} is not a regular file but a pipe" in damaged
        (folder / name).unlink()
        (folder / name).write_text(content)
    (folder / "csv" / "version_0").mkdir(parents=True)
    pipe(folder / "csv" / "version_0" / "metrics.csv")
    with pytest.raises(UserError, match="pipe"):
        read_curve(folder, "train/energy_gap")


def test_pictures_without_end_are_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = run(tmp_path / "a", "plain")
    header = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + b"IHDR" + (2**15).to_bytes(4, "big") * 2
    for make in (lambda path: path.write_bytes(header), pipe, lambda path: path.symlink_to("/dev/zero")):
        path = folder / "test" / "samples.png"
        path.unlink(missing_ok=True)
        make(path)
        main(["compare", "a", "--overwrite"])
        assert "data:image" not in (tmp_path / "compare" / "compare.html").read_text()


def test_configs_without_end_are_named(tmp_path):
    folder = run(tmp_path / "a", "plain")
    aliases = "\n".join(["a0: &a0 [1]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))])
    for text in ("model: &a [*a]", aliases, "[" * 10**5):
        (folder / "config.yaml").write_text(text)
        (damaged,) = read_records([folder])[0].damaged
        assert "config.yaml is not YAML" in damaged
    (folder / "config.yaml").write_text("{}")
    (folder / "training.json").write_text("[" * 10**5)
    (damaged,) = read_records([folder])[0].damaged
    assert "training.json is not JSON" in damaged


IDS = ["../../elsewhere", "a/b", "a" * 65, "", "a\n", "a'] or True or ID in ['b"]


@pytest.mark.parametrize("own_id", IDS)
def test_the_id_of_a_run_is_no_path_and_no_filter(own_id, tmp_path, capsys, monkeypatch):
    """W&B makes a folder of it, and the dashboard a filter."""
    monkeypatch.chdir(tmp_path)
    identity = {"method": "LIEBM", "data": "Digits", "kind": "method", "id": own_id}
    (tmp_path / "wandb.json").write_text(json.dumps(identity))
    with pytest.raises(UserError, match=r"wandb\.json does not state the id"):
        comparison("ebmzoo", None, [tmp_path])
    kept = RunIdentity("LIEBM", "Digits", "method", "own").kept(tmp_path)
    assert kept.id == "own"
    (tmp_path / "wandb.json").write_text(json.dumps(identity | {"id": "good-1", "data": "x' or ID = 'y"}))
    (section,) = comparison("ebmzoo", None, [tmp_path]).sections
    assert section.runs == "Group = 'x or ID = y'"
