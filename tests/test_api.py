"""The public names: `docs/api.md` lists them all, each can be imported, and configs name no class that is not public.

`python tests/test_api.py` writes the page anew from the docstrings.
"""

import ast
import inspect
import re
import subprocess
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

import ebmzoo
from support.paths import ROOT

PAGE = ROOT / "docs" / "api.md"
PACKAGES = ("ebmzoo", "ebmzoo.methods", "ebmzoo.methods.baselines", "ebmzoo.networks", "ebmzoo.ssrl")
PACKAGES += (
    "ebmzoo.networks.autoencoder",
    "ebmzoo.sampling",
    "ebmzoo.data",
    "ebmzoo.data.degradations",
    "ebmzoo.metrics",
    "ebmzoo.tasks",
    "ebmzoo.commands.benchmark",
)
ALIASES = {"Energy": "ebmzoo.energy", "LogValues": "ebmzoo.methods.base.log_values"}
"""Names of types, which have no docstring of their own, with the module that tells of them."""
HEAD = """# Public names

These names are stable when imported from the package that they stand under, and so are their arguments by keyword. What
else is stable, and how a name goes, is in [CONTRIBUTING](../CONTRIBUTING.md#what-is-stable).

The docstring of a name has its equation, source, shapes, ranges and errors: `help(ebmzoo.Langevin)`. The sentences here
are their first lines: `python tests/test_api.py` writes this page.
"""


def alias_told(name):
    """The string under the assignment of a name."""
    body = ast.parse(inspect.getsource(import_module(ALIASES[name]))).body
    (told,) = (after for node, after in pairwise(body) if ast.unparse(node).startswith(f"{name} = "))
    return told.value.value


def sentence(package, name):
    """The first line of a name's own docstring."""
    found = getattr(package, name)
    if name in ALIASES:
        told = alias_told(name)
    else:
        told = vars(found).get("__doc__") if inspect.isclass(found) else found.__doc__
    assert told, f"{package.__name__}.{name} has no docstring"
    return told.strip().splitlines()[0]


def page():
    sections = []
    for path in PACKAGES:
        package = import_module(path)
        names = (
            [name for name in package.__all__ if name != "__version__"]
            if path == "ebmzoo"
            else sorted(package.__all__, key=str.lower)
        )
        lines = [f"- `{name}`: {sentence(package, name)}" for name in names]
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
