"""Imports point downwards only, and only what must touches the extension (ARCHITECTURE.md, layout)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src/ring3"

LAYERS = (                              # lowest first; members of one line don't import each other
    {"errors", "trace"},
    {"config", "result"},
    {"irq", "clock", "state", "char", "disk", "audio"},
    {"display"},
    {"devices"},
    {"bus"},
    {"firmware", "vcpu", "report", "threads"},
    {"boards"},
    {"media", "roms", "checkpoint"},
    {"machine"},
    {"control"},
    {"testing"},
    {"cli"},
    {"__main__"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MAY_IMPORT_NATIVE = {"bus", "vcpu", "machine"}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    """The file's or folder's name below ring3/."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Parts of ring3 that a file imports when it runs; imports for type checkers don't count."""
    for node in running(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names]
            case ast.ImportFrom(module="ring3", names=names):
                modules = [f"ring3.{alias.name}" for alias in names]
            case ast.ImportFrom(module=str(module)):
                modules = [module]
            case _:
                modules = []
        yield from (module.split(".")[1] for module in modules if module.startswith("ring3."))


def running(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from running(child)


@pytest.mark.parametrize("path", [p for p in SOURCES if part(p) != "__init__"],
                         ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    own = part(path)
    assert own in LEVEL, f"{own} has no layer: give it one in LAYERS and in ARCHITECTURE.md"
    upwards = {name for name in imports(path)
               if name not in (own, "_native") and LEVEL[name] >= LEVEL[own]}
    assert upwards == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_what_must_imports_the_extension(path):
    assert "_native" not in imports(path) or part(path) in MAY_IMPORT_NATIVE
