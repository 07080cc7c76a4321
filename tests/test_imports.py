"""Imports point downwards only, as ARCHITECTURE.md draws it; and few may touch the extension."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "ring3"

# Each layer may import itself and those above it here; neither half of the second imports the other.
LAYERS = (
    ("errors", "trace"),
    ("config", "result"),
    ("irq", "clock", "state", "char", "disk", "net", "display", "audio"),
    ("devices",),
    ("bus",),
    ("firmware", "boards", "vcpu", "report", "threads", "checkpoint"),
    ("media", "roms"),
    ("machine",),
    ("control", "images"),
    ("testing",),
    ("cli", "__main__"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
CHIPS_SIDE, HOSTS_SIDE = {"irq", "clock", "state"}, {"char", "disk", "net", "display", "audio"}
MAY_USE_NATIVE = {"bus", "vcpu", "checkpoint", "machine"}

FILES = sorted(p for p in SRC.rglob("*.py") if p != SRC / "__init__.py")


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All that can run: not what stands under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from nodes(node)


def imported_modules(path: Path) -> set[str]:
    """Full names of what a file imports, inside functions too."""
    names = set()
    for node in nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def units(path: Path) -> set[str]:
    """The parts of ring3 that a file imports: `ring3.devices.pic` is `devices`."""
    parts = (name.split(".") for name in imported_modules(path))
    return {p[1] for p in parts if p[0] == "ring3" and len(p) > 1 and (p[1] in RANK or p[1] == "_native")}


def unit_of(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_imports_point_downwards(path):
    unit = unit_of(path)
    assert unit in RANK, f"{unit} has no place in the layers"
    for other in units(path) - {"_native"}:
        assert RANK[other] <= RANK[unit], f"{unit} imports {other}"
        assert not (unit in CHIPS_SIDE and other in HOSTS_SIDE), f"{unit} imports {other}"
        assert not (unit in HOSTS_SIDE and other in CHIPS_SIDE), f"{unit} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_only_a_few_use_the_extension(path):
    if unit_of(path) not in MAY_USE_NATIVE:
        assert "_native" not in units(path)
