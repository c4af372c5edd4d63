"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """What the user gave cannot be used; the message is one sentence that names it and says what would be right.

    The command line prints the message alone and exits with code 2; in a notebook it is an ordinary `ValueError`.
    """
