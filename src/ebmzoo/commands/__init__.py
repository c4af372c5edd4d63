"""The commands of `ebmzoo`, one module each, imported only when its command runs."""

from __future__ import annotations

from importlib import import_module

from ebmzoo.errors import UserError

MODULES = {
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
"""The module of each command; its `main` takes the command line, whose first word is the command."""


def run(args: list[str]) -> None:
    """Run the command `args[0]`; an `OSError` becomes a `UserError` that names the file."""
    try:
        import_module(f"ebmzoo.commands.{MODULES[args[0]]}").main(args)
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        raise UserError(f"{named}{error.strerror or error}") from error
