"""A comparison as one self-contained HTML page: style, script, pictures and plots are in it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

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


def page(comparison: Comparison) -> str:
    """The page of a comparison."""
    records = comparison.records
    style = {record.name: index for index, record in enumerate(records)}
    sections = [
        _section("Figures", "figures", *figures_section(comparison, style)),
        _section("Samples", "samples", *_samples(records)),
        _section("Quality against cost", "cost", *cost_section(records, style)),
        _section("Out-of-distribution detection", "ood", *auroc_section(records)),
        _section("Learning curves", "curves", *curves_section(records, style)),
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


def _samples(records: Sequence[Record]) -> list[Html]:
    """The samples of each run, after real images if a test drew them."""
    shown: list[Html] = []
    real = next(((r, path) for r in records if (path := r.real()) is not None), None)
    if real is not None and (image := _picture(real[1], "real images")) is not None:
        shown.append(tag("figure", image, tag("figcaption", f"real images (of {real[0].name})")))
    for record in records:
        path = record.samples()
        image = None if path is None else _picture(path, f"samples of {record.name}")
        if path is None or image is None:
            continue
        when = "" if path.parent.name == "test" else f", drawn during training: {path.stem.replace('_', ' ')}"
        shown.append(tag("figure", image, tag("figcaption", record.name + when)))
    return [tag("div", *shown, class_="grids")] if shown else []


def _picture(path: Path, words: str) -> Html | None:
    """A PNG file as an image in the page; None if it is not a PNG file."""
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return None
    width = int.from_bytes(content[16:20], "big")
    if width > WIDEST:
        from PIL import Image

        with Image.open(path) as image:
            small = image.convert("RGB")
            small.thumbnail((WIDEST, 100 * WIDEST))
            file = io.BytesIO()
            small.save(file, "PNG", optimize=True)
        content = file.getvalue()
    return tag("img", src=f"data:image/png;base64,{base64.b64encode(content).decode()}", alt=words, loading="lazy")


def _protocols(records: Sequence[Record]) -> list[Html]:
    """The protocols of all figures of each run."""
    return [
        tag(
            "details",
            tag("summary", record.name),
            tag("p", f"{record.folder}", class_="lead"),
            *(
                tag("pre", f"{task}: {json.dumps(result['protocol'], indent=2, ensure_ascii=False)}")
                for task, result in record.results.items()
            ),
        )
        for record in records
        if record.results
    ]
