"""`docs/extending.md`: its files and commands, run as they stand on the page, and its tables, which are complete."""

import inspect
import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from ebmzoo.cli import main
from ebmzoo.methods import StartsFromImages, families
from ebmzoo.methods.base import capabilities
from ebmzoo.report.wandb_runs.loggers import RunIdentity
from ebmzoo.tasks.suite import _kinds
from ebmzoo.training.checkpoint import load
from support.command_line import fails
from support.paths import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text()
FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files of the page, in which its commands have been run."""
    folder = tmp_path_factory.mktemp("extending")
    for _, name, text in FENCE.findall(PAGE):
        if name:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
    (shell,) = (text for kind, _, text in FENCE.findall(PAGE) if kind == "sh")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        for line in shell.splitlines():
            path, ebmzoo, *arguments = shlex.split(line)
            assert [path, ebmzoo] == ["PYTHONPATH=.", "ebmzoo"]
            if arguments[0] == "sample":  # one of them in a process of its own, which must find the package by itself
                environment = os.environ | {"PYTHONPATH": "."}
                subprocess.run([sys.executable, "-m", ebmzoo, *arguments], check=True, env=environment)
            else:
                main(arguments)
    return folder


def test_the_commands_make_what_they_say(folder):
    assert (folder / "samples.png").stat().st_size > 0
    assert (folder / "compare" / "compare.html").stat().st_size > 0
    table = (folder / "compare" / "compare.csv").read_text()
    assert "pcd_digits" in table
    assert "pcd_short" in table
    figures = json.loads((folder / "runs" / "pcd_digits" / "test" / "generation.json").read_text())["figures"]
    assert any(name.startswith("fd_") for name in figures)
    assert (folder / "runs" / "pcd_digits" / "test" / "restoration.json").exists()
    curves = (folder / "runs" / "pcd_digits" / "csv" / "version_0" / "metrics.csv").read_text().splitlines()[0]
    for name in ("energy_data", "energy_chain", "energy_gap", "displacement", "displacement_ratio", "grad_norm"):
        assert f"train/{name}" in curves.split(","), name


def test_facts_of_the_chain_agree_with_a_sample(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    method = load(folder / "runs" / "pcd_digits" / "last.ckpt", trust=True)
    for steps in (None, 0, 3):
        samples = method.sample(2, steps=steps)
        assert samples.chain == method.chain_info(steps)
        assert samples.images.shape == (2, *method.image_shape)
    assert RunIdentity.of(method, None).kind == "method"
    monkeypatch.setattr(type(method), "is_baseline", True)
    assert RunIdentity.of(method, None).kind == "baseline"


def first_column():
    """The names in the first column of the page's tables."""
    return re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)


def test_the_tables_have_every_capability_and_every_family():
    abstract = {name for name, kind in vars(capabilities).items() if inspect.isclass(kind) and is_capability(kind)}
    assert len(abstract) == 19
    assert abstract | {StartsFromImages.__name__} | set(families.__all__) <= set(first_column())
    assert len(set(first_column())) == len(first_column())


def is_capability(kind):
    return kind.__module__ == capabilities.__name__ and not hasattr(kind, "__dataclass_fields__")


def test_the_page_has_every_task():
    assert set(_kinds()) <= set(re.findall(r"\*(\w+)\*", PAGE))


def test_a_class_that_lacks_members_is_refused_with_their_names(folder, capsys, monkeypatch):
    whole = (folder / "my_zoo" / "methods.py").read_text()
    (folder / "my_zoo" / "unfinished.py").write_text(whole[: whole.index("    def chain_energy")])
    config = (folder / "pcd_digits.yaml").read_text().replace("my_zoo.methods", "my_zoo.unfinished")
    (folder / "unfinished.yaml").write_text(config)
    monkeypatch.syspath_prepend(folder)
    message = "my_zoo.unfinished.PersistentCD is abstract: it must define chain_energy, chain_steps, long_chain"
    assert message in fails(capsys, "fit", "--config", folder / "unfinished.yaml")


def test_a_checkpoint_of_a_foreign_class_needs_trust(folder, capsys):
    told = fails(capsys, "sample", "--ckpt_path", folder / "runs" / "pcd_digits" / "last.ckpt")
    assert "'my_zoo.methods.PersistentCD'" in told
    assert "--trust" in told
