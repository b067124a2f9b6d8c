"""Modules are small, functions short, and imports run one way, those inside functions too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

MOST_LINES = 400
MOST_LINES_OF_TESTS = 450
MOST_LINES_OF_A_FUNCTION = 60
"""Without its docstring."""

LONG = {
    "platform/rayscale/cli/batch.py::batch": "the options of a command, which calls one function",
    "platform/rayscale/cli/prepare.py::prepare": "the options of a command, which calls one function",
    "platform/rayscale/cli/sweep.py::sweep": "the options of a command, which calls one function",
    "platform/rayscale/cli/train.py::train": "the options of a command, which calls one function",
    "platform/rayscale/serving/routes/batches.py::router": "the endpoints of a path, each a function of a few lines",
    "platform/rayscale/serving/routes/inference.py::router": "the endpoints of a protocol, each a function of a few lines",
}
"""Functions that may be longer, and why."""


def _sources(checkout: Path) -> Iterator[Path]:
    for folder in ("platform", "jobs", "tune", "serve", "benchmarks", "docs"):
        yield from sorted((checkout / folder).rglob("*.py"))


def test_files_are_small(checkout: Path) -> None:
    most = dict.fromkeys(_sources(checkout), MOST_LINES)
    most |= dict.fromkeys((checkout / "tests").rglob("*.py"), MOST_LINES_OF_TESTS)
    assert len(most) > 300
    lines = {path: len(path.read_text().splitlines()) for path in most}
    long = {
        str(path.relative_to(checkout)): lines[path] for path in most if lines[path] > most[path]
    }
    assert not long, "cut them along their nouns"


def test_functions_are_short(checkout: Path) -> None:
    long = {}
    for path in _sources(checkout):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            length = _length(node)
            if ast.get_docstring(node) is not None:
                length -= _length(node.body[0])
            if length > MOST_LINES_OF_A_FUNCTION:
                long[f"{path.relative_to(checkout)}::{node.name}"] = length
    assert long.keys() == LONG.keys()


def _length(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_modules_import_in_no_circle(checkout: Path) -> None:
    """What is imported for types alone is left out."""
    root = checkout / "platform"
    modules = {_name(path, root): path for path in (root / "rayscale").rglob("*.py")}
    imports = {name: _imports(path, modules) - {name} for name, path in modules.items()}
    assert sum(map(len, imports.values())) > 500
    circle = _find_circle(imports)
    assert circle is None, " -> ".join(circle)


def test_a_circle_is_found() -> None:
    assert _find_circle({"a": {"b"}, "b": {"c"}, "c": set()}) is None
    assert _find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import rayscale.a", {"rayscale.a"}),
        ("from rayscale import a", {"rayscale.a"}),
        ("from rayscale.a import b", {"rayscale.a"}),
        ("def f():\n    from rayscale.a import b", {"rayscale.a"}),
        ("if TYPE_CHECKING:\n    import rayscale.a", set()),
    ],
)
def test_imports_are_found(tmp_path: Path, code: str, found: set[str]) -> None:
    (tmp_path / "m.py").write_text(code)
    assert _imports(tmp_path / "m.py", {"rayscale": tmp_path, "rayscale.a": tmp_path}) == found


def _name(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _imports(path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules that a file imports, at its top or in a function."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else str(node.module) for name in names}
    return found & modules.keys()


def _find_circle(imports: dict[str, set[str]]) -> list[str] | None:
    """Modules each of which imports the next, the first again at the end; None where there are none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        for other in sorted(imports[name]):
            if (circle := visit(other, [*path, name])) is not None:
                return circle
        done.add(name)
        return None

    return next((circle for name in sorted(imports) if (circle := visit(name, []))), None)
