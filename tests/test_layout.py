"""The layout of the code: few folders, imports without cycles, short files, and tests that mirror the package."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import ebmzoo

SOURCE = Path(ebmzoo.__file__).parent
TESTS = Path(__file__).parent
LINES = 300
REASON = "One file because"
UPWARD: dict[tuple[str, str], str] = {}
"""Lazy imports, as (importing module, imported module), that go upwards, each with the reason."""


def is_cached(path):
    return "__pycache__" in path.parts


def module_name(path):
    parts = ("ebmzoo", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(SOURCE.rglob("*.py")) if not is_cached(path)}


def walk(node: ast.AST, lazy: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """The nodes that run, with whether a function contains them; blocks under `TYPE_CHECKING` never run."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield child, inside
        yield from walk(child, inside)


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """The imported modules, relative imports aside, with whether the import is lazy."""
    for node, lazy in walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from ((name if name in MODULES else node.module, lazy) for name in names)


def import_graph(lazy: bool) -> dict[str, set[str]]:
    """For each module of the package the modules of the package that it imports, at import time or `lazy` too."""
    return {
        name: {other for other, is_lazy in imports(path) if other in MODULES and (lazy or not is_lazy)}
        for name, path in MODULES.items()
    }


def folder(module: str) -> str:
    """The part of the package that a module belongs to: a folder, or a file beside the folders."""
    return ".".join(module.split(".")[:2])


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """Some cycle of a directed graph, and an empty list if there is none."""
    finished: set[str] = set()

    def search(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in finished:
            return []
        for successor in sorted(graph.get(node, ())):
            if found := search(successor, [*path, node]):
                return found
        finished.add(node)
        return []

    return next((found for node in sorted(graph) if (found := search(node, []))), [])


def test_a_cycle_is_found():
    assert cycle({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) == []
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}}) == ["b", "c", "d", "b"]


def test_the_package_has_few_folders_and_files():
    entries = [path for path in SOURCE.iterdir() if not path.name.startswith((".", "__pycache__"))]
    assert len([path for path in entries if path.is_dir()]) <= 10
    assert len([path for path in entries if path.suffix == ".py"]) <= 8


def test_modules_import_each_other_without_cycles():
    assert cycle(import_graph(lazy=False)) == []


def test_folders_import_each_other_without_cycles():
    graph: dict[str, set[str]] = {}
    for module, imported in import_graph(lazy=False).items():
        graph.setdefault(folder(module), set()).update({folder(other) for other in imported} - {folder(module)})
    assert cycle(graph) == []


def test_lazy_imports_go_downwards_or_have_a_reason():
    graph = import_graph(lazy=True)
    for importing, imported in UPWARD:
        assert imported in graph[importing], f"{importing} no longer imports {imported}"
        graph[importing].remove(imported)
    assert cycle(graph) == []


def test_long_files_state_their_reason():
    long = {name: path for name, path in MODULES.items() if len(path.read_text(encoding="utf-8").splitlines()) > LINES}
    without = [
        name for name, path in long.items() if REASON not in (ast.get_docstring(ast.parse(path.read_text())) or "")
    ]
    assert without == [], f"over {LINES} lines without a sentence that begins with '{REASON}' in the docstring"


def test_tests_share_code_only_through_support():
    for path in TESTS.rglob("test_*.py"):
        for name, _ in imports(path):
            first, *rest = name.split(".")
            assert first != "tests", f"{path} imports {name}"
            assert not any(part.startswith("test_") for part in (first, *rest)), f"{path} imports {name}"


def test_tests_mirror_the_package():
    for path in TESTS.rglob("test_*.py"):
        place = path.parent.relative_to(TESTS)
        assert place.parts[:1] == ("profiling",) or (SOURCE / place).is_dir(), path


def test_no_two_classes_have_one_name():
    trees = [ast.parse(path.read_text()) for path in MODULES.values()]
    names = [node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    assert {name for name in names if names.count(name) > 1} == set()
