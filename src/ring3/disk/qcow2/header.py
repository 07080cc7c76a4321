"""The qcow2 header, its extensions and the snapshot table, from bytes and to bytes.

QEMU's published specification, docs/interop/qcow2.txt (section "Header" and following); all numbers are big
endian.  No files here: who reads the bytes passes them in.
"""

import struct
from dataclasses import dataclass, field

from ring3.disk.image import SECTOR
from ring3.errors import ImageError

MAGIC = b"QFI\xfb"
V2_BYTES, V3_BYTES = 72, 104
CLUSTER_BITS = range(9, 22)
L1_BYTES_MAX = 32 << 20
REFCOUNT_TABLE_BYTES_MAX = 8 << 20
SNAPSHOTS_MAX = 65_536
NAME_MAX = 1023                         # bytes of a backing file's name
BLANK = 0


class Incompatible:  # features that a reader must know
    DIRTY, CORRUPT, DATA_FILE, COMPRESSION, EXTENDED_L2 = 0x01, 0x02, 0x04, 0x08, 0x10
    KNOWN = DIRTY | CORRUPT | DATA_FILE | COMPRESSION


class Autoclear:  # features that a writer clears unless it keeps what they promise
    BITMAPS, RAW_DATA_FILE = 0x01, 0x02


class Extension:
    END, BACKING_FORMAT, FEATURE_NAMES = 0x0000_0000, 0xE279_2ACA, 0x6803_F857
    BITMAPS, DATA_FILE = 0x2385_2875, 0x4441_5441


DEFLATE, ZSTD = 0, 1                    # compression types
FIXED = struct.Struct(">4sIQIIQIIQQIIQ")
FEATURES = struct.Struct(">QQQII")


@dataclass
class Header:
    version: int = 3
    backing_name_offset: int = 0
    backing_name_bytes: int = 0
    cluster_bits: int = 16
    size_bytes: int = 0
    encryption: int = 0
    l1_entries: int = 0
    l1_offset: int = 0
    refcount_table_offset: int = 0
    refcount_table_clusters: int = 0
    snapshots: int = 0
    snapshots_offset: int = 0
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    length: int = V3_BYTES
    compression: int = DEFLATE
    backing_name: str = ""
    backing_format: str = ""
    data_file: str = ""
    feature_names: dict[tuple[int, int], str] = field(default_factory=dict)     # (kind, bit) → name

    @property
    def cluster_bytes(self) -> int:
        return 1 << self.cluster_bits

    @property
    def l2_entries(self) -> int:
        return self.cluster_bytes // 8

    @property
    def refcount_bits(self) -> int:
        return 1 << self.refcount_order


def parse(data: bytes, file_bytes: int) -> Header:
    """From a file's first bytes, as many as a header with its names may take.  ImageError: what is wrong."""
    if len(data) < V2_BYTES:
        raise ImageError("is cut off in its header")
    values = FIXED.unpack_from(data)
    header = Header(*values[1:])
    if header.version not in (2, 3):
        raise ImageError(f"is qcow2 version {header.version}, and 2 and 3 are known")
    if header.version == 3:
        _parse_features(header, data)
    else:
        header.length = V2_BYTES
    _check_layout(header, file_bytes)
    _parse_extensions(header, data)
    _check_features(header)
    if header.backing_name_offset:
        name = data[header.backing_name_offset :][: header.backing_name_bytes]
        if header.backing_name_bytes > NAME_MAX or len(name) < header.backing_name_bytes:
            raise ImageError("has a damaged header: its backing file's name is outside of it")
        header.backing_name = name.decode("utf-8", "surrogateescape")
    return header


def _parse_features(header: Header, data: bytes) -> None:
    if len(data) < V3_BYTES:
        raise ImageError("is cut off in its header")
    features = FEATURES.unpack_from(data, V2_BYTES)
    header.incompatible, header.compatible, header.autoclear, header.refcount_order, header.length = features
    if header.length < V3_BYTES or header.length > len(data) or header.length % 8:
        raise ImageError(f"has a damaged header: {header.length} bytes are no length of one")
    if header.length > V3_BYTES:
        header.compression = data[V3_BYTES]


def _check_layout(header: Header, file_bytes: int) -> None:
    """Sizes and places of the tables, so that nothing later trusts a number that the file made up."""
    if header.cluster_bits not in CLUSTER_BITS:
        raise ImageError(f"has a damaged header: clusters of 2^{header.cluster_bits} bytes")
    cluster = header.cluster_bytes
    covered = cluster * header.l2_entries
    if header.l1_entries * 8 > L1_BYTES_MAX or header.l1_entries * covered < header.size_bytes:
        raise ImageError("has a damaged header: its L1 table does not fit its size")
    if header.refcount_order > 6 or header.refcount_table_clusters * cluster > REFCOUNT_TABLE_BYTES_MAX:
        raise ImageError("has a damaged header: its refcounts make no sense")
    if header.snapshots > SNAPSHOTS_MAX:
        raise ImageError(f"has a damaged header: {header.snapshots} snapshots")
    for name, offset, length in (
        ("L1 table", header.l1_offset, header.l1_entries * 8),
        ("refcount table", header.refcount_table_offset, header.refcount_table_clusters * cluster),
        ("snapshot table", header.snapshots_offset, 0),
    ):
        if offset % cluster:
            raise ImageError(f"has a damaged header: its {name} is not at a cluster's start")
        if length and offset + length > file_bytes:
            end = offset + length
            raise ImageError(f"is truncated: its {name} ends at byte {end}, the file at {file_bytes}")


def _parse_extensions(header: Header, data: bytes) -> None:
    at = header.length
    end = header.backing_name_offset or len(data)
    while at + 8 <= end:
        kind, length = struct.unpack_from(">II", data, at)
        body = data[at + 8 : at + 8 + length]
        if kind == Extension.END:
            return
        if len(body) < length:
            raise ImageError("has a damaged header: an extension goes beyond it")
        match kind:
            case Extension.BACKING_FORMAT:
                header.backing_format = body.decode("ascii", "replace")
            case Extension.DATA_FILE:
                header.data_file = body.decode("utf-8", "surrogateescape")
            case Extension.FEATURE_NAMES:
                for n in range(0, length - 47, 48):
                    name = body[n + 2 : n + 48].rstrip(b"\0").decode("ascii", "replace")
                    header.feature_names[body[n], body[n + 1]] = name
        at += 8 + (length + 7 & ~7)


def _check_features(header: Header) -> None:
    unknown = header.incompatible & ~Incompatible.KNOWN
    if unknown:
        bits = [bit for bit in range(64) if unknown >> bit & 1]
        names = [header.feature_names.get((0, bit), f"bit {bit}") for bit in bits]
        raise ImageError(f"needs a feature that is not known here: {', '.join(names)}")
    if header.encryption:
        raise ImageError("is encrypted: convert it to one that is not, with qemu-img convert")
    if header.compression not in (DEFLATE, ZSTD):
        raise ImageError(f"is compressed in a way that is not known here: type {header.compression}")
    if header.incompatible & Incompatible.DATA_FILE and not header.data_file:
        raise ImageError("has its data in another file, and does not say in which")


def serialize(header: Header) -> bytes:
    """A version 3 header with its extensions and the backing file's name behind them."""
    extensions = b""
    texts = ((Extension.BACKING_FORMAT, header.backing_format), (Extension.DATA_FILE, header.data_file))
    for kind, text in texts:
        body = text.encode("utf-8", "surrogateescape")
        if body:
            extensions += struct.pack(">II", kind, len(body)) + body + bytes(-len(body) % 8)
    extensions += struct.pack(">II", Extension.END, 0)
    length = V3_BYTES + 8
    name = header.backing_name.encode("utf-8", "surrogateescape")
    fixed = FIXED.pack(
        MAGIC, 3, length + len(extensions) if name else 0, len(name), header.cluster_bits, header.size_bytes,
        header.encryption, header.l1_entries, header.l1_offset, header.refcount_table_offset,
        header.refcount_table_clusters, header.snapshots, header.snapshots_offset,
    )
    features = FEATURES.pack(
        header.incompatible, header.compatible, header.autoclear, header.refcount_order, length
    )
    return fixed + features + bytes((header.compression,)) + bytes(7) + extensions + name


@dataclass(frozen=True)
class Snapshot:
    """An entry of the snapshot table: the disk as it was once."""

    id: str
    name: str
    l1_offset: int
    l1_entries: int
    size_bytes: int


SNAPSHOT = struct.Struct(">QIHHIIQII")


def parse_snapshot(data: bytes, at: int, size_bytes: int) -> tuple[Snapshot, int]:
    """One entry of the table, and where the next begins.  `size_bytes`: if the entry has none, the disk's."""
    if at + SNAPSHOT.size > len(data):
        raise ImageError("is truncated in its snapshot table")
    l1_offset, l1_entries, id_bytes, name_bytes, _, _, _, _, extra = SNAPSHOT.unpack_from(data, at)
    at += SNAPSHOT.size
    if extra >= 16 and at + 16 <= len(data):
        size_bytes = int.from_bytes(data[at + 8 : at + 16], "big")
    at += extra
    identity = data[at : at + id_bytes].decode("utf-8", "replace")
    name = data[at + id_bytes : at + id_bytes + name_bytes].decode("utf-8", "replace")
    at += id_bytes + name_bytes
    if l1_entries * 8 > L1_BYTES_MAX or size_bytes % SECTOR:
        raise ImageError("has a damaged snapshot table")
    return Snapshot(identity, name, l1_offset, l1_entries, size_bytes), at + 7 & ~7
