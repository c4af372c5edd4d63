"""What the site changes in docstrings: examples become blocks of code, and lines that group arguments are left out."""

import re
from typing import Any

import griffe

GROUP = re.compile(r"\n*^ +\*\*\w+\*\*:$", re.MULTILINE)
"""A line such as `**Networks**:` among the arguments of a method."""
EXAMPLE = re.compile(r"^( *)>>> .*(?:\n(?! *\n)(?! *$).*)*", re.MULTILINE)
"""A paragraph that begins with a prompt."""


def fenced(found: re.Match[str]) -> str:
    indent = found[1]
    return f"{indent}```pycon\n{found[0]}\n{indent}```"


class Docstrings(griffe.Extension):
    """Griffe's extension of the above."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(fenced, GROUP.sub("", obj.docstring.value))
