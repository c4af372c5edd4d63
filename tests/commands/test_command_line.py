"""The command line before the parser sees it: its options in order, its configurations complete."""

import pytest
import yaml

from ebmzoo.commands.cli import main
from ebmzoo.commands.command_line import (
    FLAGS,
    Option,
    options,
    ordered,
    prepared,
    settings,
    trusts,
    with_checkpoint_config,
    with_flag_values,
)
from ebmzoo.commands.command_line import with_task_names as named
from ebmzoo.commands.parser import Parser
from ebmzoo.errors import UserError
from support.command_line import CONFIG
from support.paths import DATA

OLD = str(DATA / "format1.ckpt")


def test_options_with_their_values():
    found = options(["fit", "--a", "1", "--b=2", "--c", "-3", "--d", "-h", "--e=", "--f=x=y"])
    assert [(option.name, option.value) for option in found] == [
        ("--a", "1"),
        ("--b", "2"),
        ("--c", "-3"),
        ("--d", None),
        ("-h", None),
        ("--e", ""),
        ("--f", "x=y"),
    ]
    assert options(["fit"]) == []
    assert options(["fit", "stray", "--a", "1", "2"]) == [Option(("stray",)), Option(("--a", "1", "2"))]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--config a", "--config a"),
        ("--x.y 1 --config a", "--config a --x.y 1"),
        ("--x.y -1 -c=a --x.z=2 --config b", "-c=a --config b --x.y -1 --x.z=2"),
        (
            "--model.x 1 --data.y 2 --data D --model M --config a",
            "--config a --data D --model M --model.x 1 --data.y 2",
        ),
        ("--tasks+ A --tasks.n 1 --tasks+ B --tasks.n 2", "--tasks+ A --tasks.n 1 --tasks+ B --tasks.n 2"),
        ("--print_config --config a", "--config a --print_config"),
    ],
)
def test_configurations_and_classes_come_first(line, expected):
    assert ordered(["fit", *line.split()]) == ["fit", *expected.split()]


def shown(capsys, *args):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *map(str, args), "--print_config"])
    assert stopped.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_the_order_of_options_does_not_matter(capsys):
    """Options before `--config` are neither overridden by it nor unknown."""
    config, flags = ["--config", CONFIG], ["--model.gamma", "0.5", "--run_dir=elsewhere", "--trainer.max_epochs", "3"]
    data = ["--data.size", "32", "--data", "ebmzoo.data.ImageFolder", "--data.path", "images"]
    after, before = shown(capsys, *config, *flags), shown(capsys, *flags, *config)
    assert before == after
    assert (before["model"]["init_args"]["gamma"], before["run_dir"]) == (0.5, "elsewhere")
    mixed = shown(capsys, *data, *flags[:2], *config, *flags[2:])
    assert mixed["data"]["class_path"] == "ebmzoo.data.ImageFolder"
    assert mixed["data"]["init_args"]["size"] == 32
    assert mixed["model"]["init_args"]["gamma"] == 0.5
    assert mixed["model"]["init_args"]["generator"]["init_args"]["size"] == 32  # follows the data's


def test_settings_are_those_that_the_parser_reads(tmp_path):
    (tmp_path / "a.yaml").write_text("run_dir: a\nresume: auto\nweights: raw\n")
    (tmp_path / "b.yaml").write_text("run_dir: b\n")
    args = ["fit", "--resume", "null", "--config", f"{tmp_path}/a.yaml", f"--config={tmp_path}/b.yaml"]
    assert settings(ordered(args)) == {"run_dir": "b", "resume": None, "weights": "raw"}
    assert settings(ordered([*args, "--run_dir", "c", "--run_dir=d"]))["run_dir"] == "d"
    assert settings(["fit", "--config", "run_dir: inline"]) == {"run_dir": "inline"}
    assert settings(["fit", "--config", "no/such.yaml", "--ckpt_path"]) == {"ckpt_path": None}


def test_a_checkpoint_brings_its_configuration(tmp_path):
    args = with_checkpoint_config(["test", "--weights", "raw", "--ckpt_path", OLD], tmp_path)
    assert args == ["test", "--config", str(tmp_path / "config.yaml"), "--weights", "raw", "--ckpt_path", OLD]
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["run_dir"] == str(DATA)
    for unchanged in (["fit"], ["test", "--help"], ["fit", "--config", "a.yaml", "--ckpt_path", OLD]):
        assert with_checkpoint_config(unchanged, tmp_path) == unchanged


def test_names_of_tasks():
    assert named(["test", "--tasks", "ood,generation"]) == ["test", "--only=ood,generation"]
    assert named(["test", "--tasks=ood"]) == ["test", "--only=ood"]
    for unchanged in (["fit", "--tasks", "ood"], ["test", "--tasks", "[]"], ["test", "--tasks+", "ood"], ["test"]):
        assert named(unchanged) == unchanged


@pytest.mark.parametrize(
    ("line", "trusted"),
    [
        ("fit --config a --ckpt_path b", True),
        ("fit", True),
        ("fit --ckpt_path b", False),
        ("fit --ckpt_path=b --trust true", True),
        ("fit --ckpt_path b --trust", True),
        ("fit --trust --ckpt_path b", True),
        ("fit --trust=True --ckpt_path b", True),
        ("fit --trust true --ckpt_path b --trust false", False),
    ],
)
def test_only_a_checkpoint_needs_trust(line, trusted):
    assert trusts(line.split()) is trusted


@pytest.mark.parametrize("flag", FLAGS)
def test_flags_need_no_value(flag, tmp_path):
    for line, expected in {
        "test @": "test @=true",
        "test @ --n 3": "test @=true --n 3",
        "test --n 3 @": "test --n 3 @=true",
        "test @ true --n 3": "test @ true --n 3",
        "test @ False": "test @ False",
        "test @=false": "test @=false",
        "test @ maybe": "test @ maybe",
    }.items():
        args = line.replace("@", flag).split()
        assert with_flag_values(args) == expected.replace("@", flag, 1).split()
    words = ["restore", flag, "x.png", flag, "false", "y.png", flag]
    expected = ["restore", f"{flag}=true", "x.png", flag, "false", "y.png", f"{flag}=true"]
    assert with_flag_values(words, positional=True) == expected
    assert f"{flag}=true" in prepared(["test", flag, "--weights", "raw"], tmp_path)


def test_one_parser_for_commands_that_read_files():
    parser = Parser("compare", "Compare runs.")
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--out")
    parser.add_argument("--strict", action="store_true")
    for line in ("a b --out c --strict", "--out c --strict a b", "a --out c b --strict", "--strict a --out=c b"):
        read = parser.read(["compare", *line.split()])
        assert (read.runs, read.out, read.strict) == (["a", "b"], "c", True), line
    for line in ("a --ou c", "a --unknown", "", "a --out"):
        with pytest.raises(UserError, match=r"^compare: .*; `ebmzoo compare --help` lists the options$"):
            parser.read(["compare", *line.split()])


@pytest.mark.parametrize("command", ["compare", "dashboard"])
def test_their_errors_and_help_name_the_command(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--unknown", "x"])
    assert stopped.value.code == 2
    assert f"`ebmzoo {command} --help`" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: ebmzoo {command}")
