"""`docs/extending.md`: its files and commands, run as they stand on the page, and its tables, which are complete."""

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib

import pytest

from ebmzoo import UserError
from ebmzoo.commands.cli import main
from ebmzoo.commands.completion import completed_parser
from ebmzoo.commands.help import page
from ebmzoo.methods import StartsFromImages, families
from ebmzoo.methods.base import capabilities
from ebmzoo.report.wandb_runs.loggers import RunIdentity
from ebmzoo.tasks.suite import _kinds
from ebmzoo.training.checkpoint import load
from ebmzoo.training.config import ZooParser, build_model
from ebmzoo.training.plugins import KINDS, Plugin, plugins
from ebmzoo.training.trust import shell_command
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
    assert len(abstract) == 21
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
    assert "an entry point of its package in a group such as ebmzoo.methods makes it a plug-in" in told


@pytest.fixture
def installed(folder, tmp_path, monkeypatch):
    """The page's package, installed as far as Python sees it: importable, and with the entry points of the page."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = tmp_path / "site" / "my_zoo-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(points))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.syspath_prepend(info.parent)
    return project


def test_a_plugin_is_listed_completed_and_needs_no_trust(folder, installed, tmp_path, capsys):
    assert plugins() == [Plugin("methods", "my_zoo.methods.PersistentCD", "my-zoo 1.0")]
    checkpoint = folder / "runs" / "pcd_digits" / "last.ckpt"
    assert type(load(checkpoint)).__name__ == "PersistentCD"
    main(["sample", "--ckpt_path", str(checkpoint), "--n", "2", "--out", str(tmp_path / "x.png")])
    assert (tmp_path / "x.png").exists()
    assert "--trust" not in shell_command("test", checkpoint, (folder / "runs/pcd_digits/config.yaml").read_text())
    assert re.search(r"my_zoo\.methods\.PersistentCD +of my-zoo 1\.0", page("fit"))
    assert "my_zoo.methods.PersistentCD" in completed_parser().get_completion_script("shtab-bash")
    parser = ZooParser()
    hint = parser.sentence("No module named 'my_zoo.persistent': class_path='my_zoo.persistent.PersistentCD'")
    assert hint.endswith("did you mean 'my_zoo.methods.PersistentCD'?")


@pytest.mark.parametrize("name", ["my_zoo.methods.Langevin", "my_zoo.methods.math.sqrt", "my_zoo.other.PersistentCD"])
def test_a_plugin_trusts_no_more_than_the_class_it_names(name, folder, installed):
    (folder / "my_zoo" / "other.py").write_text("class PersistentCD:\n    pass\n")
    with pytest.raises(UserError, match="--trust"):
        build_model(f"model: {{class_path: {name}}}", trust=False)


def test_the_page_has_every_group_of_plugins():
    assert re.findall(r"^\| `ebmzoo\.(\w+)` \|", PAGE, re.MULTILINE) == list(KINDS)
