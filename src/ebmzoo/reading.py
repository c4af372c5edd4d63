"""Reading files of anyone: regular files alone, within a size, and YAML and JSON that stay small in memory."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from ebmzoo.errors import UserError, plain_content

TEXT_BYTES = 2**26
"""The largest number of bytes of a text file that is read as a whole: 64 MiB."""
CONFIG_BYTES = 2**20
"""The largest number of bytes of a YAML text: 1 MiB."""
NODES = 100_000
"""The largest number of values of a YAML text, each counted as often as aliases repeat it."""
DEPTH = 100
"""The deepest nesting of a YAML text."""


class TooLargeError(yaml.YAMLError):
    """A structure is refused, because in memory it would be without end or far larger than in its file."""


def check_regular(path: str | Path) -> None:
    """Check that `path`, if it exists, is a regular file: a pipe or a device could be read without end.

    >>> check_regular("no_such_file")
    >>> try:
    ...     check_regular("/dev/zero")
    ... except UserError as error:
    ...     print(error)
    /dev/zero is not a regular file but a device

    Raises:
        UserError: It is something else.
    """
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):  # there is none, or it is no name of a file
        return
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
        raise UserError(f"{path} is not a regular file but a {kinds.get(stat.S_IFMT(mode), 'device')}")


def read_bytes(path: str | Path, most: int = TEXT_BYTES) -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    Raises:
        UserError: It is not a regular file, or is larger.
        OSError: There is no such file, or it cannot be read.
    """
    check_regular(path)
    with Path(path).open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise UserError(f"{path} has more than {most / 2**20:.3g} MiB, and is not read")
    return content


def read_text(path: str | Path, most: int = TEXT_BYTES) -> str:
    """Return the text of a regular file in UTF-8; raises the errors of `read_bytes`, and `UnicodeDecodeError`."""
    return read_bytes(path, most).decode("utf-8")


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file, with `plain` texts.

    Raises:
        UserError: It is not a regular file, is too large, or is no JSON.
        OSError: There is no such file, or it cannot be read.
    """
    try:
        content = json.loads(read_text(path))
        check_size(content, _values, most=TEXT_BYTES)
        return plain_content(content)
    except (ValueError, RecursionError, TooLargeError) as error:
        if isinstance(error, UserError):
            raise
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"{path} is not JSON ({reason})") from error


def limited(kind: Any) -> Any:
    """Return a subclass of a loader of PyYAML that refuses repeated keys and what is no small finite structure."""

    class Limited(kind):  # type: ignore[misc]
        def __init__(self, stream: Any) -> None:
            if isinstance(stream, str | bytes) and len(stream) > CONFIG_BYTES:
                raise TooLargeError(f"it has more than {CONFIG_BYTES / 2**20:.3g} MiB")
            super().__init__(stream)

        def get_single_node(self) -> Any:
            try:
                node = super().get_single_node()
            except RecursionError as error:
                raise TooLargeError(f"it is nested more than {DEPTH} deep") from error
            check_size(node, _children)
            return node

        def get_single_data(self) -> Any:
            try:
                return super().get_single_data()
            except (ValueError, ArithmeticError) as error:  # a date or a number that Python cannot represent
                raise yaml.YAMLError(f"a value cannot be read ({error})") from error

    return Limited


_Loader = limited(getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def read_yaml(text: str) -> Any:
    """Return the content of a YAML text, plain values alone.

    >>> read_yaml("{a: &x [1, 2], b: *x}")
    {'a': [1, 2], 'b': [1, 2]}

    Raises:
        yaml.YAMLError: It is no YAML, names objects of Python, repeats a key, or is a `TooLargeError`.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def check_size(root: object, children: Callable[[Any], Iterable[Any]], most: int = NODES, deepest: int = DEPTH) -> None:
    """Check the number of values of a structure, counting one that is there several times as often as it is there.

    Args:
        root: The structure.
        children: A function that returns the values in a value.
        most: The largest number of values.
        deepest: The largest number of levels.

    Raises:
        TooLargeError: There are more, or the structure contains itself.
    """
    measured: dict[int, tuple[int, int] | None] = {}  # the numbers of values and levels; None while they are counted

    def measure(node: object, depth: int) -> tuple[int, int]:
        if depth > deepest:
            raise TooLargeError(f"it is nested more than {deepest} deep")
        if id(node) in measured:
            known = measured[id(node)]
            if known is None:
                raise TooLargeError("it contains itself")
            return known
        inner = list(children(node))
        if inner:
            measured[id(node)] = None
        number, levels = 1, 1
        for child in inner:
            values, below = measure(child, depth + 1)
            number, levels = number + values, max(levels, below + 1)
            if number > most:
                raise TooLargeError(f"it has more than {most:,} values")
            if levels > deepest:
                raise TooLargeError(f"it is nested more than {deepest} deep")
        if inner:
            measured[id(node)] = number, levels
        return number, levels

    measure(root, 0)


def _values(content: Any) -> list[Any]:
    """The values in one of JSON."""
    if isinstance(content, dict):
        return [*content.values()]
    return content if isinstance(content, list) else []


def _children(node: yaml.Node | None) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if not isinstance(node, yaml.MappingNode):
        return []
    keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    if len(set(keys)) < len(keys):
        repeated = next(key for _, key in keys if [k for _, k in keys].count(key) > 1)
        line = node.start_mark.line + 1 if node.start_mark is not None else "?"
        raise yaml.YAMLError(f"the key '{repeated}' is there twice in the mapping of line {line}")
    return [part for pair in node.value for part in pair]
