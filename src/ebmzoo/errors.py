"""What means: the user can mend this."""


class UserError(ValueError):
    """What the user gave cannot be used; the message is one sentence that names it and says what would be right.

    The command line prints the message alone and exits with code 2; in a notebook it is an ordinary `ValueError`.
    """


class Misread(SystemExit):
    """A parser's sentence, on its way past handlers of `ValueError`; who does not meet it ends with exit code 2."""

    def __init__(self, sentence: str) -> None:
        super().__init__(2)
        self.sentence = sentence


def at_least(least: float, **numbers: float | None) -> None:
    """Raise a `UserError` about the first of the named numbers that is below `least`; None is no number."""
    for name, number in numbers.items():
        if number is not None and not number >= least:
            raise UserError(f"{name}: {number} must be {least} or more")
