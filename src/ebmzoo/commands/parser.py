"""The parser of the commands that only read files: without torch, and so without jsonargparse."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from ebmzoo.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are a `UserError`, and whose options and positional arguments may stand in any order.

    Args:
        command: The name of the command.
        description: What it does, for `--help`.
    """

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"ebmzoo {command}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        command = self.prog.removeprefix("ebmzoo ")
        raise UserError(f"{command}: {message}; `{self.prog} --help` lists the options")

    def read(self, args: Sequence[str]) -> argparse.Namespace:
        """The values of a command line, whose first word is the command.

        >>> parser = Parser("compare", "Compare runs.")
        >>> _ = parser.add_argument("runs", nargs="+")
        >>> _ = parser.add_argument("--strict", action="store_true")
        >>> parser.read(["compare", "a", "--strict", "b"]).runs
        ['a', 'b']

        Raises:
            UserError: An option is unknown, or a value is missing or not valid.
        """
        return self.parse_intermixed_args(args[1:])
