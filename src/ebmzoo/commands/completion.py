"""`ebmzoo completion`: the script by which a shell completes commands, options, and names of configs and classes.

It is the script that jsonargparse makes by shtab, of a parser with the options that `--help` shows: the parser of
Lightning's commands has every argument of every class, and its script 80 MB.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from importlib.util import find_spec
from typing import Literal

from jsonargparse import ArgumentParser

import ebmzoo.tasks
from ebmzoo.commands import MODULES, run
from ebmzoo.commands.cli import COMMANDS
from ebmzoo.commands.command_line import FLAGS
from ebmzoo.commands.help import DATA_SETS, class_names
from ebmzoo.commands.parser import Parser
from ebmzoo.errors import UserError
from ebmzoo.methods import Method
from ebmzoo.tasks import Task
from ebmzoo.tasks.budget import BUDGETS
from ebmzoo.training.config_names import config_paths, plan_paths
from ebmzoo.training.plugins import plugins

SHELLS = ("bash", "zsh")
OF_LIGHTNING = ("--model", "--data", "--data.path", "--data.size", "--data.channels", "--data.batch_size", "--tasks+")
"""Options of `fit` and its kin that `--help` only shows in examples."""

_NAMES_OR_FILES = {
    "bash": '_ebmzoo_configs() {{ compgen -W "{names}" -- "$1"; compgen -f -- "$1"; }}',
    "zsh": "_ebmzoo_configs() {{ _alternative 'names:config:({names})' 'files:file:_files' }}",
}


def main(args: list[str]) -> None:
    """Print the script for a shell.

    Raises:
        UserError: shtab is not installed.
    """
    parser = Parser("completion", 'Print the completion script of a shell: eval "$(ebmzoo completion bash)".')
    parser.add_argument("shell", choices=SHELLS, help="the shell")
    shell = parser.read(args).shell
    if find_spec("shtab") is None:
        raise UserError("completion needs the package shtab: pip install 'ebmzoo[completion]'")
    print(script(shell))


def script(shell: str) -> str:
    """The completion script for one of `SHELLS`."""
    names = " ".join(config_paths())
    text = completed_parser().get_completion_script(
        f"shtab-{shell}", preambles=[_NAMES_OR_FILES[shell].format(names=names)]
    )
    return str(text)


def completed_parser() -> ArgumentParser:
    """A parser with every command and the options that its help shows, whose values are the names that there are."""
    values = _values()
    parser = ArgumentParser(prog="ebmzoo")
    commands = parser.add_subcommands(required=False)
    for command, what in COMMANDS.items():
        one = ArgumentParser()
        of_lightning = MODULES[command] == "lightning"
        for option in dict.fromkeys([*_options_in_help(command), *OF_LIGHTNING * of_lightning]):
            if option in FLAGS:
                one.add_argument(option, action="store_true")
                continue
            action = one.add_argument(option, type=Literal[tuple(values[option])] if option in values else str)
            if option == "--config":
                action.complete = dict.fromkeys(SHELLS, "_ebmzoo_configs")
        if command == "benchmark":
            one.add_argument("plan", type=Literal[tuple(plan_paths())])
        commands.add_subcommand(command, one, help=what)
    return parser


def _values() -> Mapping[str, Sequence[str]]:
    """The values of options that have names for them."""

    def installed(*kinds: str) -> list[str]:
        return [plugin.class_path for plugin in plugins() if plugin.kind in kinds]

    methods = [
        f"{package.__name__}.{name}"
        for package in (ebmzoo.methods, ebmzoo.methods.baselines)
        for name in class_names(package, Method)
    ]
    tasks = [f"ebmzoo.tasks.{name}" for name in class_names(ebmzoo.tasks, Task)] + installed("tasks")
    data = [f"ebmzoo.data.{name}" for name in class_names(ebmzoo.data, *DATA_SETS)] + installed("data")
    models = methods + installed("methods")
    return {
        "--model": models,
        "--model.help": [*models, *installed("networks")],
        "--data": data,
        "--data.help": data,
        "--tasks+": tasks,
        "--tasks.help": tasks,
        "--budget": list(BUDGETS),
        "--weights": ["ema", "raw"],
        "--resume": ["auto"],
        "--copy": list(config_paths()),
        "--trainer.accelerator": ["auto", "cpu", "gpu"],
    }


def _options_in_help(command: str) -> list[str]:
    """The options that begin a line of a command's help."""
    printed = io.StringIO()
    with redirect_stdout(printed), suppress(SystemExit):
        run([command, "--help"])
    found = re.findall(r"^ +(?:-\w, )?(--[\w.]+)", printed.getvalue(), re.MULTILINE)
    return [option for option in found if option != "--help"]
