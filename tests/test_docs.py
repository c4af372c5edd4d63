"""The documents: links, paths, names and numbers that they state are right for this checkout."""

import ast
import inspect
import re
from importlib import import_module
from itertools import product

import pytest

import ebmzoo
from ebmzoo.methods import Method
from ebmzoo.training.config_files import config_paths
from support.paths import ROOT

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("configs/*.md")])
PRESENT = [page for page in PAGES if page.name != "CHANGELOG.md"]
"""The pages that are about this version alone."""
OF_A_USER = (DOCS / "extending.md",)
"""Pages that name files of a user's own package."""
SOURCE = ROOT / "src" / "ebmzoo"


def named(path):
    return str(path.relative_to(ROOT))


def resolve(name):
    """The object of a dotted name.

    Raises:
        AttributeError: A part is neither a module, an attribute, an annotation nor an argument of the constructor.
    """
    found, parts = ebmzoo, name.split(".")[1:]
    for at, part in enumerate(parts):
        if hasattr(found, part):
            found = getattr(found, part)
        elif inspect.ismodule(found):
            try:
                found = import_module(".".join(["ebmzoo", *parts[: at + 1]]))
            except ModuleNotFoundError as error:
                raise AttributeError(name) from error
        elif part in fields_of(found) and at == len(parts) - 1:
            return None
        else:
            raise AttributeError(name)
    return found


def fields_of(cls):
    """Arguments of a class's constructor, and what it and its bases annotate."""
    annotated = {key for base in cls.__mro__ for key in vars(base).get("__annotations__", {})}
    return annotated | set(inspect.signature(cls.__init__).parameters)


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def expanded(path):
    """A path with braces, such as `{a,b}/{c,d}.yaml`, as all paths that it stands for."""
    pieces = [piece.strip("{}").split(",") if piece[:1] == "{" else [piece] for piece in re.split(r"(\{.*?\})", path)]
    return ["".join(choice) for choice in product(*pieces)]


def tables(text):
    """The rows of each table: lists of cells, the heading's included."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        yield [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines()]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_relative_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), target


@pytest.mark.parametrize("page", PRESENT, ids=named)
def test_configs_are_where_pages_say(page):
    for found in re.findall(r"configs/[\w./{},*-]+\.yaml", page.read_text()):
        for path in expanded(found):
            assert list(ROOT.glob(path)) or "<" in path, path


@pytest.mark.parametrize("page", PRESENT, ids=named)
def test_files_of_the_package_and_the_tests_are_where_pages_say(page):
    if page in OF_A_USER:
        return
    for found in re.findall(r"`((?:[\w.{},]+/)*[\w{},]+\.py)\b", page.read_text()):
        for path in expanded(found):
            places = (ROOT, ROOT / "tests", SOURCE, SOURCE / "methods" / "baselines")
            assert any((place / path).exists() for place in places), path


@pytest.mark.parametrize("page", PRESENT, ids=named)
def test_dotted_names_exist(page):
    for name in re.findall(r"\bebmzoo(?:\.[a-zA-Z_]\w*)+", page.read_text()):
        resolve(name)


def test_every_symbol_has_a_code_name_that_exists():
    rows = [row for table in tables((DOCS / "symbols.md").read_text()) for row in table[2:]]
    assert len(rows) > 100
    for symbol, meaning, code, equation in rows:
        assert symbol, meaning
        assert meaning, symbol
        assert equation, symbol
        resolve(code.strip("`"))


def test_the_summary_of_results_states_numbers_of_the_pages():
    for table in tables((DOCS / "results.md").read_text()):
        if table[0][0] != "data":
            continue
        for row in table[2:]:
            linked = re.findall(r"\]\(([^)#]+)", " ".join(row))
            known = " ".join((DOCS / target).read_text() for target in linked if "methods/" not in target)
            for number in re.findall(r"\d[\d.]*", " ".join(re.sub(r"\]\([^)]*\)", "]", cell) for cell in row[2:])):
                assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d])", known), (row[:2], number)


def concrete(cls):
    for child in cls.__subclasses__():
        yield from concrete(child)
        if not inspect.isabstract(child) and child.__module__.startswith("ebmzoo."):
            yield child


@pytest.mark.parametrize("cls", sorted(set(concrete(Method)), key=lambda c: c.__name__), ids=lambda c: c.__name__)
def test_readme_names_the_paper_of_each_method(cls):
    assert cls.paper is not None
    (row,) = (line for line in (ROOT / "README.md").read_text().splitlines() if cls.paper.title in line)
    for fact in (cls.paper.authors, cls.paper.venue, str(cls.paper.year), cls.paper.arxiv or ""):
        assert fact in row, fact


def test_index_of_configs_names_every_folder():
    index = (ROOT / "configs" / "README.md").read_text()
    for path in config_paths().values():
        assert f"`{path.relative_to(ROOT / 'configs').parts[0]}`" in index, path


def test_the_picture_of_the_layout_has_every_folder():
    readme = (ROOT / "README.md").read_text()
    for path in SOURCE.iterdir():
        if path.is_dir() and path.name != "__pycache__":
            assert re.search(rf"^ +{path.name}/ +\w", readme, re.MULTILINE), path.name


def test_folders_import_only_what_contributing_lists_below_them():
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    order = re.findall(r"^\| `(\w+)/` \|", contributing, re.MULTILINE)
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert set(order) == folders
    for path in SOURCE.rglob("*.py"):
        folder = path.relative_to(SOURCE).parts[0]
        if folder not in order:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ebmzoo."):
                other = node.module.split(".")[1]
                assert other not in order or order.index(other) >= order.index(folder), f"{path} imports {other}"
