"""What there is to say about the checkpoints of a directory: a tree of what went on from what."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ring3.checkpoint.contents import Contents
from ring3.checkpoint.format import SUFFIX, Reader
from ring3.errors import CheckpointError


@dataclass(frozen=True)
class Listed:
    tag: str
    path: Path
    size_bytes: int                     # of its file; what it rests on has its own
    parent: str | None = None           # the tag it went on from, or the nearest before that which is left
    created_unix_s: float = 0.0
    memory_bytes: int = 0
    has_picture: bool = False
    error: str = ""                     # what is wrong with it; nothing else is known then


def checkpoints(directory: Path) -> list[Listed]:
    """The oldest first."""
    paths = list(directory.glob(f"[!.]*{SUFFIX}")) if directory.is_dir() else []
    known = {path: _look(path) for path in paths}
    identities = {
        path.name: contents.identity for path, (contents, _, _) in known.items() if contents is not None
    }
    found = []
    for path, (contents, has_picture, error) in known.items():
        size_bytes = path.stat().st_size
        if contents is None:
            found.append(Listed(path.stem, path, size_bytes, error=error))
            continue
        left = (link.name for link in contents.ancestors if identities.get(link.name) == link.identity)
        parent = next((Path(name).stem for name in left), None)
        found.append(Listed(path.stem, path, size_bytes, parent, contents.created_unix_s,
                            contents.memory_bytes, has_picture))
    return sorted(found, key=lambda each: (each.created_unix_s, each.tag))


def _look(path: Path) -> tuple[Contents | None, bool, str]:
    try:
        with Reader(path, only="machine") as reader:
            return reader.record("machine", Contents), "picture" in reader.names, ""
    except CheckpointError as error:
        return None, False, str(error)


def tree(found: list[Listed], parent: str | None = None, indent: str = "") -> Iterator[tuple[str, Listed]]:
    """All of them, children below their parents, with the lines to draw before each."""
    siblings = [each for each in found if each.parent == parent]
    for each in siblings:
        is_root, is_last = parent is None, each is siblings[-1]
        yield ("" if is_root else f"{indent}{'└─ ' if is_last else '├─ '}"), each
        below = "" if is_root else f"{indent}{'   ' if is_last else '│  '}"
        yield from tree(found, each.tag, below)


def picture(path: Path) -> bytes:
    """The screen of a checkpoint, as PNG."""
    with Reader(path, only="picture") as reader:
        if "picture" not in reader.names:
            raise CheckpointError(f"{path}: the machine had no screen")
        return bytes(reader.section("picture"))
