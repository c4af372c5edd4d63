"""HTML and SVG with text always escaped: a string is markup only if it is `Html`."""

from __future__ import annotations

from html import escape

VOID = ("img", "meta", "wbr")


class Html(str):
    """Text that is markup; only `tag` and constants create it."""


def tag(element: str, /, *children: str | None, **attributes: str | float | bool | None) -> Html:
    """An element. A child that is not `Html` is text and is escaped, as are all attributes; None is omitted.

    `class_` stands for `class`, and an inner `_` of an attribute's name for `-`.
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if element in VOID:
        return Html(f"<{element}{written}>")
    return Html(f"<{element}{written}>{joined(*children)}</{element}>")


def joined(*children: str | None) -> Html:
    """Concatenate children; those that are not `Html` are escaped."""
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in children if child is not None))
