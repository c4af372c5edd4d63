"""The public names: `docs/api.md` lists them all, each can be imported, and configs name no class that is not public.

`python tests/test_api.py` writes the page anew from the docstrings.
"""

import ast
import inspect
import os
import re
import subprocess
import sys
from functools import cache, partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

import ebmzoo
from support.paths import ROOT

PAGE = ROOT / "docs" / "api.md"
PACKAGES = ("ebmzoo", "ebmzoo.methods", "ebmzoo.methods.baselines", "ebmzoo.methods.families", "ebmzoo.networks")
PACKAGES += (
    "ebmzoo.ssrl",
    "ebmzoo.networks.autoencoder",
    "ebmzoo.sampling",
    "ebmzoo.data",
    "ebmzoo.data.degradations",
    "ebmzoo.metrics",
    "ebmzoo.tasks",
    "ebmzoo.commands.benchmark",
)
ALIASES = {
    "Energy": "ebmzoo.energy",
    "LogValues": "ebmzoo.methods.base.log_values",
    "OPERATORS": "ebmzoo.data.degradations",
}
"""Names of types and values, which have no docstring of their own, with the module that has one below them."""
HEAD = """# Public names

These names are stable when imported from the package that they stand under, and so are their arguments by keyword. What
else is stable, and how a name goes, is in [CONTRIBUTING](../CONTRIBUTING.md#what-is-stable).

Each entry has the signature, the first sentence of the docstring, and an example, or where the name is used. The
docstring has the equation, source, shapes, ranges and errors: `help(ebmzoo.Langevin)`. This page is
written by `python tests/test_api.py`.
"""
SHOWN = 90
"""The longest default value that a signature shows."""


def alias_docstring(name):
    """The string under the assignment of a name."""
    body = ast.parse(inspect.getsource(import_module(ALIASES[name]))).body
    (docstring,) = (after for node, after in pairwise(body) if re.match(rf"{name}(: .*?)? = ", ast.unparse(node)))
    return docstring.value.value


def docstring(package, name):
    """A name's own docstring."""
    found = getattr(package, name)
    if name in ALIASES:
        own = alias_docstring(name)
    else:
        own = vars(found).get("__doc__") if inspect.isclass(found) else found.__doc__
    assert own, f"{package.__name__}.{name} has no docstring"
    return own


def sentence(text):
    """The first sentence of a docstring, which may take several lines; a heading of an equation ends with a colon."""
    paragraph = " ".join(line.strip() for line in text.strip().split("\n\n")[0].splitlines())
    return re.split(r"(?<=[.:])\s+(?=[A-Z>])", paragraph)[0].rstrip(":").rstrip(".") + "."


def default(value):
    if isinstance(value, partial):
        return f"{value.func.__name__}(…)"
    if inspect.isclass(value) or inspect.isfunction(value):
        return value.__name__
    shown = re.sub(r" at 0x\w+", "", repr(value))
    return shown if len(shown) <= SHOWN else f"{type(value).__name__}(…)"


def signature(name, found):
    """A name with its arguments and their defaults."""
    if name in ALIASES or not callable(found):
        return name
    try:
        arguments = list(inspect.signature(found).parameters.values())
    except ValueError:  # an exception's
        return name
    parts, star = [], False
    for each in arguments:
        if each.kind is each.KEYWORD_ONLY and not star:
            parts.append("*")
            star = True
        star = star or each.kind is each.VAR_POSITIONAL
        mark = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "")
        parts.append(mark + each.name + ("" if each.default is each.empty else f"={default(each.default)}"))
    return f"{name}({', '.join(parts)})"


@cache
def usages():
    """The files that show how names are used, in the order in which they are looked through: configs, then pages."""
    configs = sorted((ROOT / "configs").rglob("*.yaml"), key=lambda path: ("digits" not in path.name, str(path)))
    pages = [path for path in sorted((ROOT / "docs").rglob("*.md")) if path != PAGE]
    return [(path, path.read_text()) for path in [*configs, *pages]]


def example(package, name, text):
    """The example in a docstring, or a link to a configuration or a page that uses the name."""
    if ">>>" in text:
        lines = inspect.cleandoc(text).splitlines()
        first = next(i for i, line in enumerate(lines) if line.startswith(">>>"))
        ends = (i for i, line in enumerate(lines) if i > first and not line.strip())
        return "\n".join(["", "  ```python", *(f"  {line}" for line in lines[first : next(ends, len(lines))]), "  ```"])
    whole, word = re.compile(rf"class_path: {re.escape(package.__name__)}\.{name}\b"), re.compile(rf"\b{name}\b")
    for path, content in usages():
        if (whole if path.suffix == ".yaml" else word).search(content):
            return f" Used in [{path.relative_to(ROOT)}]({os.path.relpath(path, PAGE.parent)})."
    raise AssertionError(f"{package.__name__}.{name} has no example, and no configuration or page uses it")


def page():
    sections = []
    for path in PACKAGES:
        package = import_module(path)
        names = (
            [name for name in package.__all__ if name != "__version__"]
            if path == "ebmzoo"
            else sorted(package.__all__, key=str.lower)
        )
        lines = []
        for name in names:
            text = docstring(package, name)
            entry = f"- `{signature(name, getattr(package, name))}`: {sentence(text)}"
            lines.append(entry + example(package, name, text))
        sections.append(f"\n## `{path}`\n\n" + "\n".join(lines) + "\n")
    return HEAD + "".join(sections)


def test_the_page_says_what_the_docstrings_say():
    assert page() == PAGE.read_text(), "python tests/test_api.py writes the page anew"


def test_every_package_that_exports_names_is_on_the_page():
    source = Path(ebmzoo.__file__).parent
    exporting = {
        ".".join(("ebmzoo", *path.relative_to(source).with_suffix("").parts)).removesuffix(".__init__")
        for path in source.rglob("*.py")
        if re.search(r"^__all__ = ", path.read_text(), re.MULTILINE)
    }
    assert exporting == set(PACKAGES)


@pytest.mark.parametrize("path", PACKAGES)
def test_every_name_can_be_imported_once(path):
    package = import_module(path)
    assert len(set(package.__all__)) == len(package.__all__)
    assert all(hasattr(package, name) for name in package.__all__)


def test_type_checkers_see_the_names_that_there_are():
    """`ebmzoo` resolves its names when asked; what it tells type checkers is written beside and must agree."""
    tree = ast.parse(Path(ebmzoo.__file__).read_text())
    (typed,) = (node for node in tree.body if isinstance(node, ast.If))
    names = {alias.name: node.module for node in typed.body for alias in node.names}
    assert names == ebmzoo._HOME
    assert set(names) | {"__version__"} == set(ebmzoo.__all__)
    with pytest.raises(AttributeError, match="'ebmzoo' has no attribute 'Nonsense'"):
        _ = ebmzoo.Nonsense


def test_a_name_is_loaded_when_it_is_asked_for():
    told = "import sys, ebmzoo; ebmzoo.UserError; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", told], text=True).strip() == "False"


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/**/*.yaml")), ids=lambda p: str(p.relative_to(ROOT)))
def test_configs_name_public_classes_only(path):
    for found in re.findall(r"class_path: *(ebmzoo[\w.]+)", path.read_text()):
        package, _, name = found.rpartition(".")
        assert package in PACKAGES, found
        assert name in import_module(package).__all__, found


if __name__ == "__main__":
    PAGE.write_text(page())
