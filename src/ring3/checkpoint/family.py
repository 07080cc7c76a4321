"""Checkpoints that rest on others: each stores the pages that changed since the one before it.

The table of pages of such a checkpoint is complete; its extents lead to its own file and to those of other
checkpoints in the same directory, its *sources*, by name and identity.  Before a source goes, or is written
over, those who need it get its pages (`free`): their files are written anew, each at once, with the new pages
behind the old ones, so that who needs those finds them where they were.

1. Who makes or removes checkpoints of a directory holds its lock (flock(2), which ends with the process).
2. A compressed checkpoint has no sources and is none: its pages couldn't be mapped.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from ring3.checkpoint.contents import Contents, Link
from ring3.checkpoint.format import PAGE, SUFFIX, Reader, write
from ring3.checkpoint.pages import OWN, Extent, Extents, table
from ring3.errors import CheckpointError

SOURCES_MAX = 8
ANCESTORS_MAX = 100
FileId = tuple[int, int]                # device and inode


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """What killed processes have left half written goes."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        for path in directory.glob(f".*{SUFFIX}.*.new"):
            path.unlink(missing_ok=True)
        yield
    finally:
        os.close(fd)


def read(path: Path) -> tuple[Reader, Contents, list[Reader]]:
    """A checkpoint and its sources, checked."""
    reader = Reader(path)
    sources: list[Reader] = []
    try:
        contents: Contents = reader.record("machine", Contents)
        for link in contents.sources:
            sources.append(_source(reader, link))
        return reader, contents, sources
    except BaseException:
        for each in (reader, *sources):
            each.close()
        raise


def _source(reader: Reader, link: Link) -> Reader:
    if Path(link.name).name != link.name:
        raise reader.damaged(f"{link.name!r} is no file's name")
    try:
        source = Reader(reader.path.with_name(link.name))
    except CheckpointError as error:
        raise CheckpointError(f"{reader.path}: it rests on another: {error}") from error
    contents: Contents = source.record("machine", Contents)
    if contents.identity != link.identity:
        source.close()
        raise CheckpointError(f"{reader.path}: it rests on {link.name}, which is another checkpoint now")
    return source


def free(path: Path) -> None:
    """Nobody needs the checkpoint there any more, which is about to go; the caller holds the lock."""
    own = _contents(path)
    for other in path.parent.glob(f"[!.]*{SUFFIX}"):
        contents = _contents(other) if other != path else None
        for link in contents.sources if contents is not None else ():
            if link.name == path.name and (own is None or link.identity == own.identity):
                try:
                    _absorb(other, link)
                except CheckpointError as error:
                    raise CheckpointError(f"{other} rests on it: remove that first: {error}") from error


def _contents(path: Path) -> Contents | None:
    """None: it is damaged, or not there."""
    try:
        with Reader(path, only="machine") as reader:
            contents: Contents = reader.record("machine", Contents)
            return contents
    except CheckpointError:
        return None


def _absorb(path: Path, link: Link) -> None:
    """Writes a checkpoint anew that has the pages which it needs of a source."""
    reader, contents, sources = read(path)
    try:
        gone = contents.sources.index(link) + 1
        extents = Extents(reader, contents.memory_bytes + contents.video_bytes, sources)
        taken = _Taken(len(extents.pages[OWN]) // PAGE)
        moved: list[Extent] = []
        for first, count, stored, file in extents.list:
            if file == gone:
                moved += taken.take(first, count, stored)
            else:
                moved.append((first, count, stored, file - (file > gone)))
        contents.sources.remove(link)
        pages = extents.pages[gone]
        pieces = [pages[start * PAGE : (start + count) * PAGE] for start, count in taken.runs]
        sections: dict[str, list[Any]] = {"machine": [msgspec.msgpack.encode(contents)]}
        if reader.has("picture"):
            sections["picture"] = [reader.section("picture")]
        sections |= {"extents": [table(moved)], "pages": [extents.pages[OWN], *pieces]}
        write(path, sections)
    finally:
        for each in (reader, *sources):
            each.close()


class _Taken:
    """Pages of a source that go behind a checkpoint's own, each once."""

    def __init__(self, count: int) -> None:
        self.runs: list[tuple[int, int]] = []       # of the source's stored pages
        self._count = count
        self._known: dict[int, int] = {}

    def take(self, first: int, count: int, stored: int) -> Iterator[Extent]:
        """The extents that an extent of the source becomes."""
        start, place = first, -1
        for n in range(count):
            now = self._place(stored + n)
            if now != place + (first + n - start) or place < 0:
                if place >= 0:
                    yield start, first + n - start, place, OWN
                start, place = first + n, now
        yield start, first + count - start, place, OWN

    def _place(self, page: int) -> int:
        place = self._known.get(page)
        if place is None:
            place = self._known[page] = self._count
            self._count += 1
            if self.runs and sum(self.runs[-1]) == page:
                self.runs[-1] = (self.runs[-1][0], self.runs[-1][1] + 1)
            else:
                self.runs.append((page, 1))
        return place


def in_use(links: list[Link], extents: list[Extent]) -> tuple[list[Link], list[Extent]]:
    """The sources that extents lead to, and those with their new numbers."""
    used = sorted({file for _, _, _, file in extents} - {OWN})
    numbers = {OWN: OWN} | {file: n for n, file in enumerate(used, 1)}
    return [links[file - 1] for file in used], [(*extent[:3], numbers[extent[3]]) for extent in extents]


class Basis:
    """What a machine's RAM was at its newest checkpoint: the next one stores what changed since."""

    def __init__(
        self, path: Path, contents: Contents, extents: list[Extent], image: Any, *, is_raw: bool
    ) -> None:
        """`image`: RAM as it was then (`_native.RamImage`)."""
        self._path = path
        self._link = Link(path.name, contents.identity)
        self._sources = list(contents.sources)
        self._extents = extents
        self._files = self._found() if is_raw and contents.identity else None
        self._ancestors = [self._link, *contents.ancestors][:ANCESTORS_MAX]
        self.image = image

    def _found(self) -> list[FileId] | None:
        """The files, if they are all there."""
        try:
            found = [self._path.with_name(link.name).stat() for link in (self._link, *self._sources)]
        except OSError:
            return None
        return [(each.st_dev, each.st_ino) for each in found]

    def ancestors_of(self, path: Path) -> list[Link]:
        """Of a checkpoint in that file: those in its directory."""
        return self._ancestors if path.parent == self._path.parent else []

    def serves(self, path: Path) -> bool:
        """A checkpoint in that file can rest on it: no file was removed or written anew since."""
        names = [self._link.name, *(link.name for link in self._sources)]
        near = path.parent == self._path.parent and path.name not in names
        return near and len(names) <= SOURCES_MAX and self._files is not None and self._files == self._found()

    def inherited(self) -> tuple[list[Link], list[Extent]]:
        """Sources and extents of a checkpoint that rests on it, and in which nothing has changed."""
        extents = [(first, count, stored, file + 1) for first, count, stored, file in self._extents]
        return [self._link, *self._sources], extents
