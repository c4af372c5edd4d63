"""The site of docs/: it builds strictly, asks no other server for anything, and its pages agree with the code."""

import inspect
import os
import re
import runpy
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch

from ebmzoo.tasks import Task
from ebmzoo.training.config_names import config_paths
from support.paths import ROOT
from support.tiny import TinyData, without_latent

DOCS = ROOT / "docs"
NEEDED = ("mkdocs", "material", "mkdocstrings", "latex2mathml", "jupytext")
MISSING = [name for name in NEEDED if find_spec(name) is None]
RESOURCES = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed|object|use)\b[^>]*?(?:src|srcset|data|href)=[\"']?(?P<of>[^\"'\s>]+)"
)
LINKED = re.compile(r"<link\b(?P<tag>[^>]*)>")
IN_CSS = re.compile(r"(?:url\(\s*[\"']?|@import\s+[\"'])([^\"')]+)")
ELSEWHERE = re.compile(r"(?:https?:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` builds it."""
    if MISSING:
        pytest.skip(f"the extra `docs` is not installed: there is no {', '.join(MISSING)}")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", "docs/site/mkdocs.yml"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [*command, "--site-dir", str(folder)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


def requests(text):
    """What a browser asks for when it opens a page."""
    yield from (found["of"] for found in RESOURCES.finditer(text))
    for found in LINKED.finditer(text):
        rel = re.search(r"rel=\"?([\w -]+)", found["tag"])[1]
        if rel not in ("canonical", "next", "prev"):  # which name pages, and load nothing
            yield re.search(r"href=\"?([^\"\s>]+)", found["tag"])[1]
    for style in re.findall(r"<style\b.*?</style>|style=\"[^\"]*\"", text, re.DOTALL):
        yield from IN_CSS.findall(style)


def test_requests_are_found():
    page = (
        '<link rel="stylesheet" href="https://a/b.css"><script src=//c/d.js></script><style>@import "http://e"</style>'
    )
    assert [found for found in requests(page) if ELSEWHERE.match(found)] == ["//c/d.js", "https://a/b.css", "http://e"]


def test_an_opened_page_asks_no_other_server(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        text = page.read_text()
        assert not [found for found in requests(text) if ELSEWHERE.match(found)], page
        # The theme's script loads Mermaid where there is a diagram, and the stars of a repository where one is named.
        assert 'class="mermaid"' not in text, page
        assert 'data-md-component="source"' not in text, page
    for sheet in site.rglob("*.css"):
        assert not [found for found in IN_CSS.findall(sheet.read_text()) if ELSEWHERE.match(found)], sheet


def test_the_script_of_the_theme_loads_nothing_else(site):
    """What it could load from elsewhere, each under a condition that no page here meets, or no browser of today."""
    (script,) = site.glob("assets/javascripts/bundle.*.min.js")
    hosts = set(re.findall(r"https://([\w.]+)/", script.read_text()))
    assert hosts <= {"api.github.com", "unpkg.com", "clipboardjs.com"}, hosts
    loaded = set(re.findall(r"https://unpkg\.com/([\w-]+)", script.read_text()))
    assert loaded <= {"mermaid", "resize-observer-polyfill"}, loaded


def test_equations_are_drawn_without_a_script(site):
    texts = {page: page.read_text() for page in site.rglob("*.html")}
    assert not [page for page, text in texts.items() if 'class="arithmatex"' in text]
    for name in (
        "liebm",
        "dual_mcmc",
        "clel",
        "cdrl",
        "denoising_ebm",
        "energy_matching",
        "equilibrium_matching",
        "jem",
    ):
        text = texts[site / "methods" / f"{name}.html"]
        assert '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block"' in text, name
        assert re.search(r'id="ebmzoo\.methods\.\w+\.iterate"', text), name


def test_every_public_name_has_an_entry(site):
    for file in sorted((ROOT / "src").rglob("__init__.py")):
        if "\n__all__ = " not in file.read_text():
            continue
        package = import_module(".".join(file.parent.relative_to(ROOT / "src").parts))
        text = (site / "reference" / f"{package.__name__}.html").read_text()
        for name in set(package.__all__) - {"__version__"}:
            path = f"{package.__name__}.{name}"
            assert f'id="{path}"' in text or f'id="{path}.{name}"' in text, path  # where a module has that name too


def test_papers_are_cited_as_the_methods_state_them():
    citations = runpy.run_path(str(DOCS / "site" / "citations.py"))
    assert citations["page"]() == (DOCS / "cite.md").read_text(), "python docs/site/citations.py writes the page anew"
    papers = {method.paper for method in citations["methods"]()}
    assert len({citations["key"](paper) for paper in papers}) == len(papers)


def section(target):
    """The text under the heading that a link leads to."""
    path, _, anchor = target.partition("#")
    text = (DOCS / path).read_text()
    if not anchor:
        return text
    parts = re.split(r"^#+ ", text, flags=re.MULTILINE)
    (found,) = (p for p in parts if re.sub(r"[^\w\- ]", "", p.split("\n")[0].lower()).replace(" ", "-") == anchor)
    return found


def test_numbers_of_the_choice_are_those_of_the_pages_that_they_link_to():
    text = (DOCS / "choosing.md").read_text()
    targets = dict(re.findall(r"^\[(\w+)\]: (\S+)$", text, re.MULTILINE))
    numbers = re.findall(r"\[([\d.]+)\]\[(\w+)\]", text)
    assert len(numbers) > 100
    for number, name in numbers:
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)(?!\.\d)", section(targets[name])), (number, name)


def test_every_task_is_in_the_table():
    kinds = [kind for kind in vars(import_module("ebmzoo.tasks")).values() if inspect.isclass(kind)]
    names = {kind.name for kind in kinds if issubclass(kind, Task) and kind is not Task}
    assert names == set(re.findall(r"^\| `(\w+)` \|", (DOCS / "tasks" / "index.md").read_text(), re.MULTILINE))


def test_the_papers_tables_name_configs_and_state_their_estimates():
    text = (DOCS / "howto.md").read_text()
    stated = re.findall(r"`(\w+)` \(([\d,.]+ \w+), ([\d.]+)\)", text)
    assert len(stated) > 35
    table = (DOCS / "estimates.md").read_text()
    estimates = {row.split("|")[1].strip(" `"): row.split("|")[7:9] for row in table.splitlines() if row[:3] == "| `"}
    for config in re.findall(r"`(\w+_\w+)`(?: \(|, | \|)", text[text.index("| paper |") :]):
        assert config in config_paths(), config
    for config, hours, peak in stated:
        if config in estimates:
            assert [cell.strip().split(",")[0] for cell in estimates[config]] == [peak, hours], config


def test_the_task_of_the_page_runs(tmp_path):
    (code,) = re.findall(r"^```python\n(.*?)^```$", (DOCS / "howto.md").read_text(), re.MULTILINE | re.DOTALL)
    space = {}
    exec(code, space)
    method, data = without_latent(), TinyData()
    result = space["Brightness"](n=3)(method, data)
    assert result.figures["real"] == pytest.approx(float(data.test_set.float()[:3].mean()))
    assert result.figures["nfe"] == method.chain_info().nfe


def test_concepts_show_what_their_script_draws():
    drawings = runpy.run_path(str(DOCS / "site" / "drawings.py"))
    shown = re.findall(r"\(pictures/concept_(\w+)\.png\)", (DOCS / "concepts.md").read_text())
    assert sorted(shown) == sorted(drawings["DRAWINGS"])
    assert all((DOCS / "pictures" / f"concept_{name}.png").exists() for name in shown)
    assert len(drawings["draw_chain"]().axes) == 3


def test_the_energy_of_the_drawings_is_normalised():
    """log Z = 0, as its docstring says, and `distance` is a total variation: near 0 of true points, 1 far from all."""
    drawings = runpy.run_path(str(DOCS / "site" / "drawings.py"))
    line = torch.linspace(-5, 5, 201)
    grid = torch.cartesian_prod(line, line)
    assert float(torch.exp(-drawings["energy"](grid)).sum()) * 0.05**2 == pytest.approx(1, abs=1e-3)
    torch.manual_seed(0)
    assert drawings["distance"](drawings["data"](20_000)) < 0.05
    assert drawings["distance"](torch.full((100, 2), 50.0)) == pytest.approx(1, abs=1e-3)
