"""What W&B's client would take from a machine by itself, and does not here."""

from __future__ import annotations

import os
from typing import Any

NOT_SENT = {
    "save_code": False,
    "disable_code": True,
    "disable_git": True,  # the address of the remote, which may hold a token, the commit, and the changes since
    "x_disable_meta": True,  # the machine's name, paths of programs and folders, the command line
    "x_save_requirements": False,  # the names of all packages that are installed
    "host": "",
    "program": "ebmzoo",  # in place of its path
}
"""Settings of W&B's client."""


def private() -> dict[str, Any]:
    """`NOT_SENT` without those that the environment sets: `x_disable_meta` is WANDB__DISABLE_META there."""
    given = {name for name in NOT_SENT if f"WANDB_{name.removeprefix('x').upper()}" in os.environ}
    return {name: value for name, value in NOT_SENT.items() if name not in given}
