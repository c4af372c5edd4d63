"""What the site adds to the Markdown files of docs/: MathML, the API's pages, notebooks, and pages from outside docs/.

MkDocs calls these functions (https://www.mkdocs.org/dev-guide/plugins/#events).
"""

import html
import os
import re
from pathlib import Path

import jupytext
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).resolve().parent.parent
ROOT = DOCS.parent
SOURCE = ROOT / "src" / "ebmzoo"
WRAPPED = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "configs/README.md": "configs.md"}
"""Files from outside docs/, by their paths in the repository, and what they are called on the site."""
for _card in sorted(SOURCE.glob("training/sharing/models/*/*")):
    if _card.name in ("README.md", "config.yaml", "samples.png"):
        WRAPPED[str(_card.relative_to(ROOT))] = f"models/{_card.parent.name}{_card.suffix}"
PAGES = WRAPPED | {"README.md": "index.md", "docs/api.md": "reference/index.md"}
PAGES |= {f"docs/notebooks/{path.name}": f"notebooks/{path.stem}.md" for path in DOCS.glob("notebooks/*.py")}
"""All that has another name on the site than in the repository."""
LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
FENCED = re.compile(r"^(?P<fence>```+).*?^(?P=fence)\s*$", re.MULTILINE | re.DOTALL)


def packages() -> list[str]:
    """The packages that list their public names."""
    exporting = (path for path in SOURCE.rglob("__init__.py") if re.search(r"^__all__ = ", path.read_text(), re.M))
    return sorted(".".join(("ebmzoo", *path.parent.relative_to(SOURCE).parts)) for path in exporting)


def source_path(page: File) -> Path:
    """Where a page's text lies in the repository."""
    wrapped = {uri: ROOT / path for path, uri in WRAPPED.items()}
    return wrapped.get(page.src_uri, DOCS / page.src_uri)


def links(page: File, text: str) -> list[tuple[re.Match[str], str]]:
    """The relative links outside of fenced code, each with its target's path in the repository."""
    at = source_path(page).parent
    blank = FENCED.sub(lambda found: " " * len(found[0]), text)
    return [(found, os.path.relpath(os.path.normpath(at / found[2]), ROOT)) for found in LINK.finditer(blank)]


def reference(package: str) -> str:
    """The page of a package; griffe finds a module before a function of its name, whose full path is then needed."""
    folder = SOURCE.joinpath(*package.split(".")[1:])
    names = re.findall(r'^ +"(\w+)",$', (folder / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    hidden = [name for name in names if (folder / f"{name}.py").exists()]
    shown = {"show_root_heading": True, "show_root_toc_entry": True, "show_root_full_path": False}
    entries = [f"::: {package}.{name}.{name}\n    options: {shown}\n" for name in hidden]
    return "\n".join([f"# `{package}`\n", f"::: {package}\n", *entries])


def index_of_packages() -> str:
    lines = [f"- [`{package}`]({package}.md)" for package in packages()]
    return (
        "# Public names\n\nThese names are stable when imported from the package that they stand under, and so are "
        "their arguments by keyword ([what is stable](../contributing.md#what-is-stable)).\n\n" + "\n".join(lines)
    )


def notebook(script: Path) -> str:
    """The cells of a notebook, which is kept as a script."""
    cells = jupytext.read(script).cells
    return "\n\n".join(f"```python\n{cell.source}\n```" if cell.cell_type == "code" else cell.source for cell in cells)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the API, the notebooks, and the pages from outside docs/."""

    def add(uri: str, content: str | bytes) -> None:
        files.append(File.generated(config, uri, content=content))

    add("reference/index.md", index_of_packages())
    for package in packages():
        add(f"reference/{package}.md", reference(package))
    for path, uri in WRAPPED.items():
        add(uri, (ROOT / path).read_bytes())
    for script in sorted(DOCS.glob("notebooks/*.py")):
        add(f"notebooks/{script.stem}.md", notebook(script))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links that leave docs/ to the site's copy, and show a method's algorithm beside its code."""
    text = markdown
    for found, target in reversed(links(page.file, markdown)):
        uri = PAGES.get(target, target.removeprefix("docs/"))
        there = os.path.relpath(uri, os.path.dirname(page.file.src_uri))
        text = text[: found.start(2)] + there + text[found.end(2) :]
    if page.file.src_uri.startswith("methods/"):
        head, choices = re.search(r"^(.*?\n## .*?\n)(## .*)$", text, re.DOTALL).groups()
        text = head + iteration(page.file.src_uri, markdown) + choices
    return text


def iteration(uri: str, markdown: str) -> str:
    """The code of a method's iteration, which the page's table of equations names first."""
    found = re.search(r"`(\w+)\.iterate`", markdown)
    if found is None:
        raise ValueError(f"docs/{uri} names no `<method>.iterate` in its table of equations")
    options = "{show_source: true, show_root_heading: true, heading_level: 3, separate_signature: true}"
    return f"## One iteration in code\n\n::: ebmzoo.methods.{found[1]}.iterate\n    options: {options}\n\n"


def mathml(found: re.Match[str]) -> str:
    display = "block" if found["tag"] == "div" else "inline"
    return convert(html.unescape(found["tex"]).strip()[2:-2], display=display)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn TeX into MathML, which browsers draw without a script, and open the code of a method's iteration."""
    content = content.replace('<details class="mkdocstrings-source">', '<details class="mkdocstrings-source" open>')
    return re.sub(r'<(?P<tag>div|span) class="arithmatex">(?P<tex>.*?)</(?P=tag)>', mathml, content, flags=re.DOTALL)
