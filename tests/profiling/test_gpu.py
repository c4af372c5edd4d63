"""The command for the first GPU, rehearsed: each part runs, and none can take what another has measured."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ebmzoo.errors import UserError
from ebmzoo.networks import ResNetEncoder
from ebmzoo.training.migration import FORMAT, KEY
from profiling.__main__ import main
from profiling.gpu import session
from profiling.gpu.options import Options
from profiling.gpu.record import Record

ENCODER = {"in_channels": 3, "width": 4, "blocks": [1, 1], "latent": 16, "hidden": 8}


@pytest.fixture
def given(tmp_path):
    """Images and an encoder as files."""
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", train_images=images[:48], test_images=images[48:])
    encoder = ResNetEncoder(**ENCODER)
    model = {"init_args": {"encoder": {"class_path": "ebmzoo.networks.ResNetEncoder", "init_args": ENCODER}}}
    own = {"format": FORMAT, "version": "0", "config": yaml.safe_dump({"model": model})}
    weights = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    torch.save({"state_dict": weights, KEY: own}, tmp_path / "encoder.ckpt")
    return {"images": tmp_path / "images.npz", "encoder": tmp_path / "encoder.ckpt"}


def test_a_rehearsal_runs_every_part_without_a_dashboard(tmp_path, given):
    without = tmp_path / "without"
    without.mkdir()
    (without / "wandb.py").write_text("raise ModuleNotFoundError('wandb is not there')")
    out = tmp_path / "out"
    flags = [f"--{name}={path}" for name, path in given.items()]
    command = [sys.executable, "-m", "profiling", "--gpu", "--rehearse", "--minutes", "60", f"--out={out}", *flags]
    done = subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": f"{without}:src"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == ["gpu.json", "real.png", "samples.png"]
    told = json.loads((out / "gpu.json").read_text())
    parts = told["parts"]
    assert {name: part["status"] for name, part in parts.items()} == dict.fromkeys(
        ("tests", "chain", "iterations", "liebm"), "ended"
    ), done.stderr
    assert "failed" not in json.dumps(parts), parts
    assert sum(parts["tests"]["outcomes"].values()) > 0
    assert {"plain loop", "ebmzoo, fp32", "ebmzoo, bf16"} <= set(parts["chain"]["LIEBM"])
    assert all(of["ms"] > 0 < of["of_bf16_rate"] for of in parts["chain"]["LIEBM"].values())
    assert parts["iterations"]["methods"]["LIEBM"]["timed"] == 1
    liebm = parts["liebm"]
    assert liebm["config"]["init_args"]["energy_net"]["init_args"]["latent"] == ENCODER["latent"]
    assert liebm["iterations"] == liebm["curve"][-1]["iteration"] == 3
    assert (liebm["samples"], liebm["distances"]["encoder"]["n"]) == (16, 16)
    assert liebm["distances"]["encoder"]["fd_encoder"] > 0


WORKS = "import json, sys; from pathlib import Path; put = lambda **of: Path(sys.argv[1]).write_text(json.dumps(of))\n"


def with_parts(monkeypatch, shares, codes):
    """Parts that are lines of Python, which write to the file of their name."""
    popen = subprocess.Popen

    def started(command, **options):
        name = command[3]
        out = Path(command[command.index("--out") + 1]) / f"{name}.json"
        return popen([sys.executable, "-c", WORKS + codes[name], str(out)], **options)

    monkeypatch.setattr(session, "PARTS", tuple(session.Part(name, share) for name, share in shares.items()))
    monkeypatch.setattr(session.subprocess, "Popen", started)
    monkeypatch.setattr(session.profiling, "BEGUN", time.monotonic())


def test_a_part_that_fails_or_hangs_costs_no_other_and_keeps_what_it_measured(tmp_path, monkeypatch):
    codes = {
        "hangs": "put(status='cut', figure=1); import time; time.sleep(600)",
        "crashes": "put(status='cut', figure=2); import os; os.abort()",
        "fails": "sys.exit(1)",
        "ends": "put(status='ended', figure=3)",
    }
    with_parts(monkeypatch, {"hangs": 0.2, "crashes": 0.2, "fails": 0.2, "ends": 0.2}, codes)
    told = session.run(Options(tmp_path), 0.5)["parts"]
    assert (told["hangs"]["figure"], told["hangs"]["failure"]) == (1, "ended at 6 s")
    assert (told["crashes"]["figure"], told["crashes"]["failure"]) == (2, "its process ended with -6")
    assert told["fails"]["status"] == "failed"
    assert (told["ends"]["status"], told["ends"]["figure"]) == ("ended", 3)
    assert json.loads((tmp_path / "gpu.json").read_text())["parts"] == told
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.json"]


def test_a_part_that_does_not_fit_is_skipped_and_the_rest_is_not(tmp_path, monkeypatch):
    codes = {"long": "put(status='ended')", "last": "put(status='ended')"}
    with_parts(monkeypatch, {"long": 0.9, "last": 0.1}, codes)
    monkeypatch.setattr(session.profiling, "BEGUN", time.monotonic() - 36)
    told = session.run(Options(tmp_path), 1)["parts"]
    assert told["long"]["status"] == "skipped"
    assert told["long"]["skipped"].endswith(" s left, 27 needed")
    assert told["last"]["status"] == "ended"


def test_a_record_is_whole_after_each_figure_and_a_failure_is_one_of_them(tmp_path):
    record = Record(tmp_path / "part.json", 10)
    record.add("chains", "first", 1)
    with record.failures_of("chains", "second"):
        raise RuntimeError("out of\nmemory")
    assert json.loads(record.path.read_text()) == {
        "chains": {"first": 1, "second": {"failed": "RuntimeError: out of memory"}}
    }
    assert 0 < record.left <= 10


def test_a_missing_package_or_file_is_told_before_a_minute_is_spent(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        main(["--gpu", "--images", str(tmp_path / "nowhere.zip"), "--out", str(tmp_path / "out")])
    assert "--images: there is no" in capsys.readouterr().err
    monkeypatch.setattr(session, "find_spec", lambda name: None if name == "jsonargparse" else name)
    with pytest.raises(UserError, match=r"jsonargparse missing: .* --no-index --find-links wheels/ jsonargparse"):
        session.run(Options(tmp_path / "out"), 12)
    assert not (tmp_path / "out").exists()
