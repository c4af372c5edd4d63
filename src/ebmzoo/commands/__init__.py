"""The commands of `ebmzoo`, one module each, imported only when its command runs."""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise

from ebmzoo.errors import UserError
from ebmzoo.training.signals import Stopped, end_with_parent, stopping_on_signals

MODULES = {
    "fit": "lightning",
    "validate": "lightning",
    "test": "lightning",
    "predict": "lightning",
    "sample": "sample",
    "restore": "restore",
    "export": "exporting.command",
    "import": "importing.command",
    "estimate": "estimate.command",
    "configs": "configs",
    "animate": "animate",
    "play": "play.command",
    "compare": "compare",
    "benchmark": "benchmark.command",
    "dashboard": "dashboard",
    "completion": "completion",
    "push": "push",
}
"""The module of each command; its `main` takes the command line, whose first word is the command."""

_MODEL = {"--pretrained", "--ckpt_path"}
_EMPTY = re.compile(r"(--?[\w.]+)=")
_OPTION = re.compile(r"--?[a-z][\w.]*")


def run(args: list[str], own_process: bool = False) -> None:
    """Run the command `args[0]`; an `OSError` becomes a `UserError` that names the file.

    On SIGTERM and Ctrl-C it stops where it is, with one sentence; `fit` has its own way once it trains.

    Args:
        args: The command line.
        own_process: Whether this process is the command's own, in which what is loaded for it stays.

    Raises:
        UserError: An argument is empty, or as of the command.
        Stopped: A signal has stopped it.
    """
    check_not_empty(args)
    try:
        with stopping_on_signals():
            end_with_parent()
            if _MODEL & {word.partition("=")[0] for word in args}:
                args = import_module("ebmzoo.commands.shared_models").with_shared_model(args)
            if own_process:
                load(args[0])
            import_module(f"ebmzoo.commands.{MODULES[args[0]]}").main(args)
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of our pipe, such as `head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except Stopped as stopped:
        print(f"ebmzoo: {stopped}", file=sys.stderr)
        raise
    except UserError:  # some are an `OSError` too
        raise
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        raise UserError(f"{named}{error.strerror or error}") from error


def load(command: str) -> None:
    """Load a command's module, without a search for garbage in between or, later, in what it has loaded."""
    gc.disable()
    import_module(f"ebmzoo.commands.{MODULES[command]}")
    gc.freeze()
    gc.enable()


def check_not_empty(args: Sequence[str]) -> None:
    """Check that no word of a command line is empty, as that of an unset variable of a shell is.

    >>> try:
    ...     check_not_empty(["sample", "--out", ""])
    ... except UserError as error:
    ...     print(error)
    sample: --out is empty; give it a value, or leave it out

    Raises:
        UserError: A word is empty, or an option has nothing after its `=`.
    """
    for before, word in pairwise(args):
        named = _EMPTY.fullmatch(word)
        if named is not None or not word:
            name = named[1] if named else before if _OPTION.fullmatch(before) else "an argument"
            raise UserError(f"{args[0]}: {name} is empty; give it a value, or leave it out")
