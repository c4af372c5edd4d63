"""The commands behind `ebmzoo`, one file each; a file is imported when its command is asked for."""

from __future__ import annotations

from importlib import import_module

from ebmzoo.errors import UserError

HOME = {
    "fit": "lightning",
    "validate": "lightning",
    "test": "lightning",
    "predict": "lightning",
    "sample": "sample",
    "restore": "restore",
    "import": "importing.command",
    "compare": "compare",
    "benchmark": "benchmark.command",
    "dashboard": "dashboard",
}
"""The file of each command; its `main` takes the command line from the command's name on."""


def run(args: list[str]) -> None:
    """Run the command `args[0]`, with errors that the user can mend as `UserError`."""
    try:
        import_module(f"ebmzoo.commands.{HOME[args[0]]}").main(args)
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        raise UserError(f"{named}{error.strerror or error}") from error
