"""`ring3 disk`: images of disks, on the host's side.

DISK is an image's path, or, where it is only read, its URL; `commit` and `discard` take a machine's name as
well, for all of its disks.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from ring3.cli.names import CONTEXT
from ring3.config.places import Place, Url, below, is_url, place_of
from ring3.config.size import format_size, parse_size
from ring3.control import home
from ring3.disk import create_image, modes, open_image, tools, vmdk
from ring3.disk.probe import CREATED, FORMATS
from ring3.disk.remote import cache as kept_blocks
from ring3.disk.transfer import Progress, difference
from ring3.errors import ConfigError, HostError

DIFFERENT = 1                           # exit status of compare, and of check for errors
FORMAT = click.option("--format", "known", type=click.Choice(FORMATS), help="Of DISK, instead of guessing.")
ANYWHERE = click.option("--backing-anywhere", "anywhere", is_flag=True,
                        help="Names in an image may lead out of its directory.")


class PlaceType(click.ParamType[Place]):
    name = "path or URL"

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> Place:
        return place_of(value)


DISK = click.argument("disk", type=click.Path(path_type=Path))
READ = click.argument("disk", type=PlaceType())         # where a URL will do


class DiskGroup(click.Group):
    def invoke(self, context: click.Context) -> Any:
        """What the host refuses, no space for example, is one line."""
        try:
            return super().invoke(context)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise HostError(f"disk: {where}{error.strerror or error}") from error


@click.group(cls=DiskGroup, context_settings=CONTEXT)
def command() -> None:
    """Make, look at and change disk images."""


@command.command()
@DISK
@click.argument("size", required=False)
@click.option("--format", "wanted", type=click.Choice(CREATED), default="qcow2", show_default=True)
@click.option("--backing", default="", metavar="FILE",
              help="Image that shows through, from DISK's directory.")
def create(disk: Path, size: str | None, wanted: str, backing: str) -> None:
    """Make an empty image; SIZE (10G) can be left out with --backing."""
    size_bytes, known = 0, ""
    if backing:
        if wanted != "qcow2":
            raise ConfigError("disk: only qcow2 images have backing images: leave out --format or --backing")
        facts = tools.info(place_of(below(disk.parent, backing)))
        size_bytes, known = facts.size_bytes, facts.format
    if size is not None:
        size_bytes = parse_size("disk", size)
    if not size_bytes or size_bytes % 512:
        raise ConfigError("disk: give a size like 10G, a whole number of sectors")
    create_image(disk, size_bytes, wanted, backing=backing, backing_format=known)


@command.command()
@READ
@FORMAT
@ANYWHERE
def info(disk: Place, known: str | None, anywhere: bool) -> None:
    """Say what an image is."""
    facts = tools.info(disk, known, anywhere=anywhere)
    rows = [("format", facts.format), ("size", f"{format_size(facts.size_bytes)} ({facts.size_bytes} bytes)"),
            ("on the host", format_size(facts.host_bytes)), ("backing image", facts.backing),
            ("snapshots", ", ".join(facts.snapshots))]
    if facts.undecided_bytes is not None:
        rows.append(("undecided changes", format_size(facts.undecided_bytes)))
    for name, value in rows:
        if value:
            click.echo(f"{name:18} {value}")


@command.command()
@READ
@click.argument("target", type=click.Path(path_type=Path))
@FORMAT
@ANYWHERE
@click.option("--to", "wanted", type=click.Choice(tools.WRITTEN), default="qcow2", show_default=True)
@click.option("--type", "kind", type=click.Choice(vmdk.KINDS), default="sparse", show_default=True,
              help="Of a VMDK.")
@click.option("--snapshot", help="An internal one of DISK.")
def convert(
    disk: Place, target: Path, known: str | None, anywhere: bool, wanted: str, kind: str,
    snapshot: str | None,
) -> None:
    """Copy what DISK shows into the new image TARGET; zeros take no space there."""
    source = open_image(disk, read_only=True, format=known, snapshot=snapshot, backing_anywhere=anywhere)
    try:
        with shown("converting") as progress:
            tools.convert(source, target, wanted, progress, kind)
    finally:
        source.close()


@command.command()
@READ
@FORMAT
@ANYWHERE
@click.option("--repair", is_flag=True, help="Count a qcow2 image's clusters anew.")
def check(disk: Place, known: str | None, anywhere: bool, repair: bool) -> int:
    """Look for damage; exit status 1 if there is any."""
    if repair:
        tools.repair(disk, anywhere=anywhere)
    with shown("checking") as progress:
        verdict = tools.verify(disk, known, progress, anywhere=anywhere)
    click.echo(str(verdict))
    return DIFFERENT if verdict.errors else 0


@command.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Though checkpoints need the image as it was.")
@ANYWHERE
def commit(name: str, force: bool, anywhere: bool) -> None:
    """Keep the undecided changes of NAME, a machine or a disk image.

    Of an overlay that is a qcow2 image with a backing image: what it has goes into that.
    """
    for path, known, trusted in disks_of(name):
        with shown(f"keeping the changes of {path}") as progress:
            if modes.undecided(path) is None and isinstance(path, Path):
                tools.commit(path, progress, anywhere=anywhere)
            else:
                modes.keep(path, progress, format=known, backing_anywhere=anywhere or trusted, force=force)


@command.command()
@click.argument("name")
def discard(name: str) -> None:
    """Drop the undecided changes of NAME, a machine or a disk image."""
    for path, _, _ in disks_of(name):
        modes.discard(path)


@command.command()
@click.option("--clear", is_flag=True, help="Forget what is kept of URL, or of all.")
@click.argument("url", required=False)
def cache(clear: bool, url: str | None) -> None:
    """List what is kept here of remote images: space on the host, the image's size, URL."""
    if url is not None and not is_url(url):
        raise ConfigError(f"disk: {url} is no URL: ring3 disk cache lists those that something is kept of")
    if clear:
        kept_blocks.clear(Url(url) if url is not None else None)
        return
    for each in kept_blocks.kept():
        if url in (None, each.url):
            click.echo(f"{format_size(each.host_bytes):>9} of {format_size(each.size_bytes):>9}  {each.url}")


def disks_of(name: str) -> list[tuple[Place, str | None, bool]]:
    """Path, format and whether names in it are trusted: of that image, or of a machine's undecided disks."""
    place = place_of(name)
    if isinstance(place, Url) or place.exists():
        return [(place, None, False)]
    disks = [disk for disk in home.existing(name).config().disks if modes.undecided(disk.path) is not None]
    if not disks:
        raise ConfigError(f"{name} has no disk with undecided changes: nothing is to be done")
    return [(place_of(each.path), None if each.format == "auto" else each.format, each.backing_anywhere)
            for each in disks]


@command.command()
@DISK
@click.option("--backing", required=True, metavar="FILE", help='A path from DISK\'s directory; "" for none.')
@click.option("--contents-equal", is_flag=True, help="It is a copy of the old one: nothing is compared.")
@ANYWHERE
def rebase(disk: Path, backing: str, contents_equal: bool, anywhere: bool) -> None:
    """Give a qcow2 image another backing image; what DISK shows stays the same."""
    with shown("rebasing") as progress:
        tools.rebase(disk, backing, contents_equal=contents_equal, progress=progress, anywhere=anywhere)


@command.command()
@DISK
@click.argument("size")
@FORMAT
@ANYWHERE
@click.option("--shrink", is_flag=True, help="What is at the end may be lost.")
def resize(disk: Path, size: str, known: str | None, anywhere: bool, shrink: bool) -> None:
    """Make a raw or qcow2 image larger, or smaller."""
    tools.resize(disk, parse_size("disk", size), shrink=shrink, format=known, anywhere=anywhere)


@command.command()
@click.argument("first", type=PlaceType())
@click.argument("second", type=PlaceType())
@ANYWHERE
def compare(first: Place, second: Place, anywhere: bool) -> int:
    """Say whether two images show the same disk; exit status 1 if not."""
    with contextlib.ExitStack() as opened:
        images = [open_image(path, read_only=True, backing_anywhere=anywhere) for path in (first, second)]
        for image in images:
            opened.callback(image.close)
        with shown("comparing") as progress:
            at = difference(images[0], images[1], progress)
    click.echo("the same" if at is None else f"different from byte {at} on")
    return 0 if at is None else DIFFERENT


@command.command(name="map")
@READ
@FORMAT
@ANYWHERE
def show_map(disk: Place, known: str | None, anywhere: bool) -> None:
    """List where an image has data: offset, length, kind, and how many images behind it that is."""
    for offset, length, kind, depth in tools.mapped(disk, known, anywhere=anywhere):
        click.echo(f"{offset:#14x} {length:#14x}  {kind:5} {depth}")


@contextlib.contextmanager
def shown(what: str) -> Iterator[Progress]:
    """A progress bar on the terminal, and nothing where standard error is none."""
    from rich.console import Console  # here: it costs more than most verbs
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
