"""`ebmzoo configs` and configs by name, in a folder without any."""

from pathlib import Path

import pytest
import yaml

from ebmzoo.commands.benchmark import Plan
from ebmzoo.commands.cli import main
from ebmzoo.training.config_files import EXTENDS, read_config
from ebmzoo.training.config_names import config_paths, plan_paths
from support.command_line import fails


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_list_has_every_config_with_method_data_size_and_parameters(capsys):
    main(["configs"])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "method", "data", "size", "parameters"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[: lines.index("")]}
    assert rows.keys() == config_paths().keys()
    assert all(row[-1].replace(",", "").isdecimal() for row in rows.values())
    assert rows["liebm_cifar"][:3] == ["LIEBM", "CIFAR10", "3×32×32"]
    assert rows["clel_checkerboard"][2] == "2×1×1"  # points of the plane
    assert all(name in lines[-1] for name in plan_paths())


def test_words_choose_among_them(capsys):
    main(["configs", "CLEL", "mnist"])
    _, *lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == {
        name for name in config_paths() if name.startswith("clel") and name.endswith("mnist")
    }
    assert "'nothing'" in fails(capsys, "configs", "clel", "nothing")


@pytest.mark.parametrize(("name", "base"), [("clel_cifar", None), ("clel_beta01_cifar", "clel_cifar")])
def test_a_copy_is_the_same_run_in_a_folder_of_its_own(name, base, capsys):
    main(["configs", "--copy", name, "deep/my.yaml"])
    assert "ebmzoo fit --config deep/my.yaml" in capsys.readouterr().out
    assert read_config("deep/my.yaml") == read_config(config_paths()[name]) | {"run_dir": "runs/my"}
    assert yaml.safe_load(Path("deep/my.yaml").read_text()).get(EXTENDS) == base
    assert "--overwrite" in fails(capsys, "configs", "--copy", "liebm_digits", "deep/my.yaml")
    main(["configs", "--copy", "liebm_digits", "deep/my.yaml", "--overwrite"])
    assert read_config("deep/my.yaml")["model"]["class_path"] == "ebmzoo.methods.LIEBM"


def test_every_ablation_can_be_copied():
    for name, path in config_paths().items():
        if path.parent.name == "ablations":
            main(["configs", "--copy", name, f"{name}.yaml"])
            assert read_config(f"{name}.yaml") == read_config(path) | {"run_dir": f"runs/{name}"}, name


def test_a_misspelt_name_is_suggested(capsys):
    assert "did you mean 'clel_cifar'?" in fails(capsys, "configs", "--copy", "clel_cifr", "x.yaml")
    assert "did you mean 'clel_cifar'?" in fails(capsys, "fit", "--config", "clel_cifr")
    assert "`ebmzoo configs` lists them" in fails(capsys, "fit", "--config", "zzz")
    assert "did you mean 'digits'?" in fails(capsys, "benchmark", "digit")


def test_paths_in_configs_and_names_in_extends_work_without_a_checkout(tmp_path):
    (tmp_path / "own.yaml").write_text("extends: clel_beta01_cifar\nrun_dir: runs/own\n")
    assert read_config("own.yaml") == read_config(config_paths()["clel_beta01_cifar"]) | {"run_dir": "runs/own"}
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", "configs/liebm_cifar.yaml", "--print_config"])
    assert stopped.value.code == 0


def test_a_name_in_extends_that_there_is_not_is_suggested(tmp_path, capsys):
    (tmp_path / "own.yaml").write_text("extends: clel_beta01_cifr\n")
    told = fails(capsys, "fit", "--config", "own.yaml")
    assert "own.yaml: extends" in told
    assert "did you mean 'clel_beta01_cifar'?" in told


@pytest.mark.parametrize("name", plan_paths())
def test_plans_are_read_by_name(name):
    plan = Plan.read(name)
    assert plan == Plan.read(plan_paths()[name])
    assert all(run.config.is_file() for run in (*plan.runs, *plan.prepare))


def test_a_file_of_the_working_folder_comes_before_the_packages(tmp_path):
    own = tmp_path / "configs" / "benchmarks" / "digits.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("run_dir: mine\nruns: [clel_digits]\n")
    assert str(Plan.read("configs/benchmarks/digits.yaml").run_dir) == "mine"
    assert str(Plan.read("digits").run_dir) == "runs/benchmarks/digits"
