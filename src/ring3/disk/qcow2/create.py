"""A new qcow2 image: version 3, of clusters of 64 KiB, with no data in it."""

from ring3.disk.qcow2.header import NAME_MAX, Header, serialize

CLUSTER_BITS = 16


def create(
    size_bytes: int, *, cluster_bits: int = CLUSTER_BITS, backing: str = "", backing_format: str = ""
) -> bytes:
    """The whole file: header, refcount table, one refcount block, and an L1 table of zeros.

    `backing`: the name of a backing file as it stands in the header, relative to the image's directory.
    """
    cluster = 1 << cluster_bits
    l1_entries = max(-(-size_bytes // (cluster * cluster // 8)), 1)
    l1_clusters = -(-l1_entries * 8 // cluster)
    used = 3 + l1_clusters
    if used > cluster // 2:
        raise ValueError(f"{size_bytes} bytes are too many for clusters of {cluster}")
    if len(backing.encode("utf-8", "surrogateescape")) > NAME_MAX:
        raise ValueError(f"the name of what is behind it may have {NAME_MAX} bytes")
    header = Header(
        cluster_bits=cluster_bits, size_bytes=size_bytes, l1_entries=l1_entries, l1_offset=3 * cluster,
        refcount_table_offset=cluster, refcount_table_clusters=1,
        backing_name=backing, backing_format=backing_format,
    )
    refcount_table = (2 * cluster).to_bytes(8, "big")
    counts = (1).to_bytes(2, "big") * used
    parts = (serialize(header), refcount_table, counts, bytes(l1_clusters * cluster))
    return b"".join(part + bytes(-len(part) % cluster) for part in parts)
