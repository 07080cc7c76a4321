"""Counting what a qcow2 image refers to: to check its refcounts, and to make them anew where they are dirty.

An image with lazy refcounts whose writer was stopped has its dirty bit set; before it is written again all
counts are made from the tables, into a new refcount table at the end of the file, and the header then points
there in one write.
"""

from array import array
from dataclasses import dataclass

from ring3.disk.qcow2.image import COMPRESSED, OFFSET, Qcow2
from ring3.disk.qcow2.refcount import OFFSET_MASK
from ring3.disk.qcow2.table import Table, read_table
from ring3.errors import ImageError

CLUSTERS_MAX = 1 << 28                  # 1 GiB of counts


@dataclass(frozen=True)
class Check:
    leaks: int                          # clusters counted more often than used
    errors: int                         # … less often: they would be overwritten


def references(image: Qcow2) -> "array[int]":
    """How often each cluster of the file is referred to, refcount structures left out."""
    header, size = image.header, image.header.cluster_bytes
    if image.refcounts.end > CLUSTERS_MAX:
        raise ImageError(f"has {image.refcounts.end} clusters, too many to be counted: convert it")
    counts = array("I", bytes(4 * image.refcounts.end))

    def use(offset: int, length: int) -> None:
        last = -(-(offset + length) // size)
        if last > len(counts):
            raise ImageError(f"is damaged: it refers to byte {offset}, beyond the file's end")
        for cluster in range(offset // size, last):
            counts[cluster] += 1

    def use_tables(l1: Table) -> None:
        seen = set()                    # or a small image could keep this busy for days
        for entry in l1:
            offset = entry & OFFSET
            if offset in seen:
                raise ImageError(f"is damaged: two L1 entries lead to the L2 table at byte {offset}")
            if offset:
                seen.add(offset)
                use(offset, size)
                for cluster in read_table(image.file, offset, size // 8):
                    use_cluster(cluster)

    def use_cluster(entry: int) -> None:
        if entry & COMPRESSED:
            offset, length = image._compressed_extent(entry)
            use(offset, min(length, max(image.file.size_bytes - offset, 1)))
        elif entry & OFFSET and image.data is image.file:
            use(entry & OFFSET, size)

    use(0, size)
    use(header.l1_offset, header.l1_entries * 8)
    use_tables(read_table(image.file, header.l1_offset, header.l1_entries))
    if header.snapshots:
        use(header.snapshots_offset, image.snapshot_table_end() - header.snapshots_offset)
        for snapshot in image.snapshots():
            use(snapshot.l1_offset, snapshot.l1_entries * 8)
            use_tables(read_table(image.file, snapshot.l1_offset, snapshot.l1_entries))
    return counts


def check(image: Qcow2) -> Check:
    counts, refcounts, size = references(image), image.refcounts, image.header.cluster_bytes
    table_first = image.header.refcount_table_offset // size
    for cluster in range(table_first, table_first + image.header.refcount_table_clusters):
        counts[cluster] += 1
    for entry in refcounts.table:
        cluster = (entry & OFFSET_MASK) // size
        if cluster >= len(counts):
            raise ImageError("is damaged: a refcount block lies behind the file's end")
        if cluster:
            counts[cluster] += 1
    leaks = errors = 0
    for cluster, used in enumerate(counts):
        stored = refcounts.get(cluster)
        leaks += stored > used
        errors += stored < used
    return Check(leaks, errors)


def rebuild(image: Qcow2) -> None:
    """New refcounts for all of the image; then it is clean."""
    header, size = image.header, image.header.cluster_bytes
    per_block = size * 8 // header.refcount_bits
    counts = references(image)
    first = len(counts)
    blocks = tables = 0
    while True:                         # the new structures count themselves
        total = first + blocks + tables
        need_blocks = -(-total // per_block)
        need_tables = -(-need_blocks * 8 // size)
        if (need_blocks, need_tables) == (blocks, tables):
            break
        blocks, tables = need_blocks, need_tables
    counts.extend([1] * (blocks + tables))
    image.refcounts.replace(counts, first, blocks, tables)
    image.file.flush()
    image._write_header_refcounts()
    image.file.flush()
    image.mark_clean()
