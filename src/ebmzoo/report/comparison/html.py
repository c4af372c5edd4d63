"""HTML and SVG written so that text is always escaped: what is not `Html` cannot be markup."""

from __future__ import annotations

from html import escape

VOID = ("img", "meta", "wbr")


class Html(str):
    """Text that is markup; only `tag` and constants make it."""


def tag(element: str, /, *children: str | None, **attributes: str | float | bool | None) -> Html:
    """An element. A child that is not `Html` is text and is escaped, as every attribute is; None is left out.

    `class_` stands for `class`, and an inner `_` of an attribute's name for `-`.
    """
    told = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if element in VOID:
        return Html(f"<{element}{told}>")
    return Html(f"<{element}{told}>{joined(*children)}</{element}>")


def joined(*children: str | None) -> Html:
    """Children one after the other; what is not `Html` is escaped."""
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in children if child is not None))
