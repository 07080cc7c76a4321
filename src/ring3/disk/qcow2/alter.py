"""Changes to a qcow2 image's header: another size, another backing image.  Each is one write."""

from ring3.disk.qcow2.header import L1_BYTES_MAX, Autoclear, serialize
from ring3.disk.qcow2.image import Qcow2
from ring3.disk.qcow2.table import Table, table_bytes
from ring3.errors import ImageError


def resize(image: Qcow2, size_bytes: int) -> None:
    """A larger disk has zeros at its end; a smaller one loses what was there."""
    header, old = image.header, image.size_bytes
    if header.snapshots and size_bytes < old:
        raise ImageError("has internal snapshots: convert it, and shrink the copy")
    if size_bytes < old:
        image.discard(size_bytes, old - size_bytes)
        image.finish()
        header.size_bytes = image.size_bytes = size_bytes
        write_header(image)
        return
    _lengthen_l1(image, -(-size_bytes // (image._cluster * image._per_table)))
    backing = image.backing
    image.size_bytes = size_bytes
    if backing is not None and backing.size_bytes > old:    # must not show through
        image.discard(old, min(backing.size_bytes, size_bytes) - old)
        image.finish()
    header.size_bytes = size_bytes
    write_header(image)


def _lengthen_l1(image: Qcow2, entries: int) -> None:
    """The longer table is written before the header leads to it, and the old one is free after that."""
    header, cluster = image.header, image._cluster
    if entries <= header.l1_entries:
        return
    if entries * 8 > L1_BYTES_MAX:
        raise ImageError(f"cannot grow that far with clusters of {cluster} bytes: convert it")
    image.finish()
    table: Table = image._l1[:]
    table.extend([0] * (entries - len(table)))
    clusters = -(-entries * 8 // cluster)
    offset, _ = image.refcounts.take(clusters)
    data = table_bytes(table)
    image.file.write(offset, data + bytes(-len(data) % cluster))
    image.finish()
    old, old_clusters = header.l1_offset, -(-header.l1_entries * 8 // cluster)
    header.l1_offset, header.l1_entries, image._l1 = offset, entries, table
    write_header(image)
    image.refcounts.release(old, old_clusters)


def set_backing(image: Qcow2, name: str, known: str) -> None:
    """`known`: the backing image's format."""
    image.header.backing_name, image.header.backing_format = name, known
    write_header(image)


def write_header(image: Qcow2) -> None:
    """Whole and in one write; version 2 becomes 3, and bitmaps are forgotten, which nobody keeps up."""
    header = image.header
    header.autoclear &= Autoclear.RAW_DATA_FILE
    data = serialize(header)
    if len(data) > header.cluster_bytes:
        raise ImageError("has no room in its header for so long a name")
    image.file.flush()
    image.file.write(0, data)
    image.file.flush()
    header.version = 3
    image._zero = 1
