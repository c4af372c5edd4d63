"""Configurations that extend another one."""

import pytest
import yaml

from ebmzoo import UserError
from ebmzoo.commands.cli import main
from ebmzoo.training.config_files import merged, read_config


@pytest.mark.parametrize(
    ("base", "overlay", "expected"),
    [
        ({"a": 1, "b": 2}, {"b": 3}, {"a": 1, "b": 3}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3, "d": 4}}, {"a": {"b": 1, "c": 3, "d": 4}}),
        ({"a": [1, 2, 3]}, {"a": [4]}, {"a": [4]}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": None}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        (
            {"m": {"class_path": "A", "init_args": {"x": 1, "y": 2}}},
            {"m": {"init_args": {"y": 3}}},
            {"m": {"class_path": "A", "init_args": {"x": 1, "y": 3}}},
        ),
        (
            {"m": {"class_path": "A", "init_args": {"x": 1}}},
            {"m": {"class_path": "B", "init_args": {"z": 1}}},
            {"m": {"class_path": "B", "init_args": {"z": 1}}},
        ),
        (
            {"m": {"class_path": "A", "init_args": {"x": 1}}},
            {"m": {"class_path": "A", "init_args": {"z": 1}}},
            {"m": {"class_path": "A", "init_args": {"x": 1, "z": 1}}},
        ),
    ],
)
def test_merge(base, overlay, expected):
    before = yaml.safe_dump(base)
    assert merged(base, overlay) == expected
    assert yaml.safe_dump(base) == before


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def test_files_extend_files_in_other_folders(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path, base="run_dir: a\nmodel: {x: 1, y: 2}\n", middle="extends: base.yaml\nmodel: {y: 3}\n")
    write(tmp_path / "deep", last="extends: ../middle.yaml\nrun_dir: b\n")
    assert read_config(tmp_path / "deep" / "last.yaml") == {"run_dir": "b", "model": {"x": 1, "y": 3}}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("extends: nowhere.yaml", ["nowhere.yaml", "there is no file"]),
        ("extends: x.yaml", ["x.yaml extends itself"]),
        ("extends: [a]", ["extends is ['a']"]),
        ("extends: ''", ["extends is ''"]),
        ("extends: list.yaml", ["list.yaml cannot be used"]),
    ],
)
def test_errors_of_extends_name_their_cause(tmp_path, text, words):
    write(tmp_path, x=text, list="- 1\n")
    with pytest.raises(UserError) as caught:
        read_config(tmp_path / "x.yaml")
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_cycle_of_two_is_an_error(tmp_path):
    write(tmp_path, a="extends: b.yaml", b="extends: a.yaml")
    with pytest.raises(UserError, match="extends itself"):
        read_config(tmp_path / "a.yaml")


def test_the_command_line_resolves_it_before_anything_else(tmp_path, capsys):
    base = "run_dir: runs/base\nmodel: {class_path: ebmzoo.ssrl.SimCLR}\ntrainer: {max_epochs: 3, devices: 1}\n"
    write(tmp_path, base=base, x="extends: base.yaml\nrun_dir: runs/overlay\ntrainer: {max_epochs: 4}\nmodel: null\n")
    for flags in (
        ["--config", str(tmp_path / "x.yaml")],
        [f"--config={tmp_path / 'x.yaml'}"],
        ["-c", str(tmp_path / "x.yaml")],
    ):
        with pytest.raises(SystemExit):
            main(["fit", *flags, "--data", "ebmzoo.data.Digits", "--print_config"])
        printed = yaml.safe_load(capsys.readouterr().out)
        assert (printed["run_dir"], printed["trainer"]["max_epochs"], printed["trainer"]["devices"]) == (
            "runs/overlay",
            4,
            1,
        )
        assert "extends" not in printed
