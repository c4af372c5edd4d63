"""Errors that the user can correct, and text of anyone that is safe to show."""

from typing import Any


def plain(text: object) -> str:
    """Return text as one line without control characters, which could command a terminal or hide what it says.

    Each character that is not printable, such as a line break, ESC or a mark that reverses the direction of writing,
    becomes its escape; so does a byte of a file's name that is no text.

    >>> plain("évil\\n\\x1b[2Jname")
    'évil\\\\n\\\\x1b[2Jname'

    Args:
        text: The text, or an object with one.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def plain_content(content: Any) -> Any:
    """Return the content of a JSON or YAML file with `plain` applied to all in it but numbers, the keys included."""
    if isinstance(content, dict):
        return {plain(key): plain_content(value) for key, value in content.items()}
    if isinstance(content, list):
        return [plain_content(value) for value in content]
    return content if content is None or isinstance(content, bool | int | float) else plain(content)


class UserError(ValueError):
    """A value, file or key from the user is invalid; the message is one sentence that names it and what is valid.

    The command line prints the message alone and exits with code 2; in a notebook it is an ordinary `ValueError`.

    >>> from ebmzoo import Langevin
    >>> try:
    ...     Langevin(steps=-1, step_size=0.1)
    ... except UserError as error:
    ...     print(type(error).__name__)
    UserError

    Args:
        message: The sentence; see `plain` for the names from files and folders in it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))


class Misread(SystemExit):
    """A parser's error message that passes handlers of `ValueError`; uncaught, it ends the program with exit code 2."""

    def __init__(self, sentence: str) -> None:
        super().__init__(2)
        self.sentence = plain(sentence)


def at_least(least: float, **numbers: float | None) -> None:
    """Check that no number is below `least`; None is skipped.

    >>> at_least(1, width=8, depth=0)
    Traceback (most recent call last):
        ...
    ebmzoo.errors.UserError: depth: 0 must be 1 or more

    Raises:
        UserError: If a number is below `least` or NaN; the error names the first one.
    """
    for name, number in numbers.items():
        if number is not None and not number >= least:
            raise UserError(f"{name}: {number} must be {least} or more")


SEEDS = 2**32
"""The number of seeds: those that NumPy takes, which Lightning sets with torch's."""


def check_seed(**seeds: int) -> None:
    """Check that each seed is one of the whole numbers below `SEEDS`.

    >>> check_seed(seed=3, point_seed=-1)
    Traceback (most recent call last):
        ...
    ebmzoo.errors.UserError: point_seed: -1 must be between 0 and 4294967295

    Raises:
        UserError: If one is not; the error names the first.
    """
    for name, seed in seeds.items():
        if not 0 <= seed < SEEDS:
            raise UserError(f"{name}: {seed} must be between 0 and {SEEDS - 1}")
