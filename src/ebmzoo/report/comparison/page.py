"""A comparison as one self-contained HTML page: style, script, pictures and plots are in it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from ebmzoo.errors import UserError, plain
from ebmzoo.reading import read_bytes
from ebmzoo.report.comparison.compare import Comparison
from ebmzoo.report.comparison.html import Html, tag
from ebmzoo.report.comparison.page_papers import papers_section
from ebmzoo.report.comparison.page_plots import cost_section, curves_section
from ebmzoo.report.comparison.page_tables import auroc_section, figures_section
from ebmzoo.report.comparison.papers import papers
from ebmzoo.report.comparison.records import Record

POLICY = "; ".join(
    (
        "default-src 'none'",
        "img-src data:",
        "style-src 'unsafe-inline'",
        "script-src 'unsafe-inline'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
"""The page's content security policy: a browser loads nothing from outside."""
WIDEST = 1024
"""The largest width of a picture in the page, in pixels; wider ones are shrunk."""
MOST_BYTES, MOST_PIXELS = 2**25, 2**26
"""The largest file and the most pixels of a picture that the page shows: 32 MiB and 67 million."""


def page(comparison: Comparison, told: Callable[[str], None] = lambda sentence: None) -> str:
    """The page of a comparison.

    Args:
        comparison: The runs and columns.
        told: A function that is called with a sentence about each picture or file of curves that cannot be shown.
    """
    records = comparison.records
    style = {record.name: index for index, record in enumerate(records)}
    sections = [
        _section("Figures", "figures", *figures_section(comparison, style)),
        _section("Samples", "samples", *_samples(records, told)),
        _section("Quality against cost", "cost", *cost_section(records, style)),
        _section("Out-of-distribution detection", "ood", *auroc_section(records)),
        _section("Learning curves", "curves", *curves_section(records, style, told)),
        _section("What the papers print", "papers", *papers_section(records, papers())),
        _section("Protocols", "protocols", *_protocols(records)),
    ]
    shown = [section for section in sections if section is not None]
    title = f"ebmzoo: {len(records)} {'run' if len(records) == 1 else 'runs'} compared"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(_part("page.css"))),
    )
    links = [tag("a", name, href=f"#{anchor}") for name, anchor, _ in shown]
    body = tag(
        "body",
        tag("header", tag("h1", title), tag("nav", *links, aria_label="Sections")),
        tag("main", *(content for _, _, content in shown)),
        tag("script", Html(_part("page.js"))),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _part(name: str) -> str:
    return files("ebmzoo.report.comparison").joinpath(name).read_text(encoding="utf-8")


def _section(name: str, anchor: str, *content: Html) -> tuple[str, str, Html] | None:
    """A section with its heading; None if it has no content."""
    return (name, anchor, tag("section", tag("h2", name), *content, id=anchor)) if content else None


def _samples(records: Sequence[Record], told: Callable[[str], None]) -> list[Html]:
    """The samples of each run, after real images if a test drew them."""
    shown: list[Html] = []
    real = next(((r, path) for r in records if (path := r.real()) is not None), None)
    if real is not None and (image := _picture(real[1], "real images", told)) is not None:
        shown.append(tag("figure", image, tag("figcaption", f"real images (of {real[0].name})")))
    for record in records:
        path = record.samples()
        image = None if path is None else _picture(path, f"samples of {record.name}", told)
        if path is None or image is None:
            continue
        when = "" if path.parent.name == "test" else f", drawn during training: {path.stem.replace('_', ' ')}"
        shown.append(tag("figure", image, tag("figcaption", record.name + when)))
    return [tag("div", *shown, class_="grids")] if shown else []


def _picture(path: Path, words: str, told: Callable[[str], None]) -> Html | None:
    """A PNG file as an image in the page; None if it is not a PNG file, or too large for a picture of samples."""
    try:
        content = _png(path)
    except (UserError, OSError, SyntaxError, ValueError) as error:  # Pillow raises each of these
        told(str(error) if isinstance(error, UserError) else f"{path} is no picture ({error})")
        return None
    return tag("img", src=f"data:image/png;base64,{base64.b64encode(content).decode()}", alt=words, loading="lazy")


def _png(path: Path) -> bytes:
    """A PNG file of at most `WIDEST` pixels in width.

    Raises:
        UserError: It is no PNG file, or too large.
        OSError: It cannot be read, or is damaged, of which Pillow also raises `SyntaxError` and `ValueError`.
    """
    content = read_bytes(path, MOST_BYTES)
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise UserError(f"{path} is no PNG file")
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    if width * height > MOST_PIXELS:
        raise UserError(f"{path} has {width}×{height} pixels, too many for a picture of samples")
    if width > WIDEST:
        from PIL import Image

        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            small = image.convert("RGB")
            small.thumbnail((WIDEST, 100 * WIDEST))
            file = io.BytesIO()
            small.save(file, "PNG", optimize=True)
        content = file.getvalue()
    return content


def _protocols(records: Sequence[Record]) -> list[Html]:
    """The protocols of all figures of each run."""
    return [
        tag(
            "details",
            tag("summary", record.name),
            tag("p", plain(record.folder), class_="lead"),
            *(
                tag("pre", f"{task}: {json.dumps(result['protocol'], indent=2, ensure_ascii=False)}")
                for task, result in record.results.items()
            ),
        )
        for record in records
        if record.results
    ]
