"""Errors that the user can correct."""


class UserError(ValueError):
    """A value, file or key from the user is invalid; the message is one sentence that names it and what is valid.

    The command line prints the message alone and exits with code 2; in a notebook it is an ordinary `ValueError`.

    >>> from ebmzoo import Langevin
    >>> try:
    ...     Langevin(steps=-1, step_size=0.1)
    ... except UserError as error:
    ...     print(type(error).__name__)
    UserError
    """


class Misread(SystemExit):
    """A parser's error message that passes handlers of `ValueError`; uncaught, it ends the program with exit code 2."""

    def __init__(self, sentence: str) -> None:
        super().__init__(2)
        self.sentence = sentence


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
