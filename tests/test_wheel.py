"""The distributions: a wheel, built from the source distribution, without the checkout on the path of Python."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

import ebmzoo
from ebmzoo.training.config_names import config_paths
from ebmzoo.training.sharing.zoo import FOLDER
from ebmzoo.training.sharing.zoo import names as names_of_models
from support.paths import CONFIGS, ROOT

FOLDERS = ("src", "configs", "docs", "tests", "profiling")
USE = """
import json, os, sys
from pathlib import Path
import ebmzoo
from ebmzoo.commands.cli import main
from ebmzoo.training.config_names import config_folder, config_paths, plan_paths

def run(*args):
    try:
        main(list(args))
    except SystemExit as end:
        assert not end.code, (args, end.code)

run("--version")
run("configs", "clel", "cifar")
run("configs", "--copy", "clel_beta01_cifar", "my.yaml")
run("fit", "--config", "my.yaml", "--print_config")
run("fit", "--config", "configs/baselines/vae_digits.yaml", "--trainer.max_steps", "2", "--run_dir", "run",
    "--trainer.max_epochs", "-1", "--trainer.accelerator", "cpu", "--trainer.limit_val_batches", "0")
run("sample", "--pretrained", "dual_mcmc_digits", "--n", "4", "--out", "s.png")
from ebmzoo.commands.benchmark import Plan
from ebmzoo.training.plugins import plugins
found = {
    "package": str(Path(ebmzoo.__file__).parent),
    "configs": str(config_folder()),
    "names": list(config_paths()),
    "plans": [len(Plan.read(name).runs) for name in plan_paths()],
    "plugins": [plugin.class_path for plugin in plugins()],
    "path": [path for path in sys.path if path],
}
Path("found.json").write_text(json.dumps(found))
"""
PLUGIN = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "my-zoo"
version = "1.0"

[project.entry-points."ebmzoo.networks"]
Wide = "my_zoo:Wide"

[tool.setuptools]
packages = ["my_zoo"]
"""


def pip(*args):
    """Run pip without its network."""
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    done = subprocess.run([sys.executable, "-m", "pip", args[0], *options, *map(str, args[1:])], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The source distribution and the wheel built from it, of a copy: a build leaves files beside its sources."""
    folder = tmp_path_factory.mktemp("distributions")
    copy = folder / "copy"
    copy.mkdir()
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, copy)
    build = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", build, str(folder)], cwd=copy, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    (source,) = folder.glob("*.tar.gz")
    pip("wheel", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("*.whl")
    return source, wheel


def test_the_source_distribution_has_what_its_tests_and_wheel_need(distributions):
    source, _ = distributions
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.py", "LICENSE", "CHANGELOG.md", "Makefile", "docs/extending.md", "tests/support/paths.py"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(("runs/", "build/"))]


def test_the_wheel_has_the_package_and_every_config(distributions):
    _, wheel = distributions
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    package = Path(ebmzoo.__file__).parent
    sources = {f"ebmzoo/{path.relative_to(package).as_posix()}" for path in package.rglob("*.py")}
    configs = {f"ebmzoo/configs/{path.relative_to(CONFIGS).as_posix()}" for path in CONFIGS.rglob("*.*")}
    models = {f"ebmzoo/{path.relative_to(package).as_posix()}" for path in FOLDER.glob("*/*")}
    assert len(models) == 4 * len(names_of_models())
    wanted = sources | configs | models | {"ebmzoo/py.typed", "ebmzoo/report/comparison/page.css"}
    assert wanted <= names
    assert not [name for name in names if not name.startswith(("ebmzoo/", "ebmzoo-"))]


def test_the_installed_wheel_finds_its_configs_and_an_installed_plugin(distributions, tmp_path):
    """In a process whose path is the installation and the libraries: without `site`, no `.pth` adds the checkout."""
    _, wheel = distributions
    plugin, site, empty = tmp_path / "plugin", tmp_path / "site", tmp_path / "empty"
    for folder in (plugin / "my_zoo", empty):
        folder.mkdir(parents=True)
    (plugin / "pyproject.toml").write_text(PLUGIN)
    (plugin / "my_zoo" / "__init__.py").write_text("class Wide: ...\n")
    pip("install", "--target", site, wheel, plugin)
    paths = [str(site), *{sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}]
    environment = {"PATH": os.environ["PATH"], "HOME": str(empty), "PYTHONPATH": os.pathsep.join(paths)}
    environment |= {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-S", "-P", "-c", USE], cwd=empty, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads((empty / "found.json").read_text())
    assert not [path for path in found["path"] if Path(path).is_relative_to(ROOT) and path not in paths]
    assert found["package"] == str(site / "ebmzoo")
    assert found["configs"] == str(site / "ebmzoo" / "configs")
    assert found["names"] == list(config_paths())
    assert all(found["plans"])
    assert found["plugins"] == ["my_zoo.Wide"]
    assert (empty / "run" / "last.ckpt").is_file()
    out = done.stdout.decode()
    assert f"ebmzoo {ebmzoo.__version__}" in out
    assert "clel_beta01_cifar" in out
    assert {path.name for path in empty.iterdir() if not path.name.startswith(".")} == {
        "found.json",
        "my.yaml",
        "run",
        "s.png",
    }
