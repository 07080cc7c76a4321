"""A qcow2 image: guest clusters through L1 and L2 tables to clusters of the file, or to a backing image.

Theory.  Data is written where it belongs at once.  What refers to it waits in memory until `flush` (or until
much has gathered), which writes in an order that leaves a whole image after a crash at any point:

1. refcounts of what was taken, and tables nobody refers to yet; then the host's disk is waited for;
2. L2 tables that are referred to, and the header if the refcount table moved; the disk is waited for;
3. L1 entries; the disk is waited for;
4. what nothing refers to any more is counted down and may be used again.  Those counts go with the next 1.

So a crash loses writes that the guest had not flushed, and leaks clusters at worst.  A cluster that is shared
(with a snapshot), compressed or zero is never written in place: its successor is a new one.

Not modelled: encryption, extended L2 entries, creating and deleting snapshots, bitmaps (their autoclear bit
is cleared by the first writer, as the specification wants), resizing, lazy refcounts (the counts are kept
anyway; an image that was left dirty gets them anew, see `check.py`).
"""

import errno
import struct
import zlib
from array import array
from collections.abc import Callable, Iterator

from ring3.disk.extents import Extent, Kind
from ring3.disk.file import File
from ring3.disk.image import Image, in_file
from ring3.disk.qcow2.header import ZSTD, Autoclear, Header, Incompatible, Snapshot, parse_snapshot
from ring3.disk.qcow2.refcount import Refcounts
from ring3.disk.qcow2.table import Table, damaged, read_table, table_bytes, table_from
from ring3.errors import ImageError

COPIED, COMPRESSED, ZERO = 1 << 63, 1 << 62, 1
OFFSET = 0x00FF_FFFF_FFFF_FE00
SECTOR = 512
L2_CACHE_BYTES = 32 << 20
DIRTY_TABLES_MAX = 64
RELEASED_MAX = 4096                     # clusters
INFLATED_MAX = 32                       # decompressed clusters kept
SNAPSHOT_TABLE_BYTES_MAX = 16 << 20
AT_INCOMPATIBLE, AT_AUTOCLEAR, AT_REFCOUNT_TABLE = 72, 88, 48      # offsets in the header

# What a piece of the disk is made of.
HOST, ZEROS, BACKING, INFLATE = range(4)
KINDS = (Kind.DATA, Kind.ZERO, Kind.BEHIND, Kind.DATA)
Run = tuple[int, int, int]              # (one of these, where, bytes)


class L2:
    __slots__ = ("dirty", "new", "offset", "table")

    def __init__(self, table: Table, offset: int, new: bool = False) -> None:
        self.table = table
        self.offset = offset
        self.new = new                  # nothing on the disk refers to it yet
        self.dirty = new


class Qcow2:
    FORMAT = "qcow2"

    def __init__(
        self,
        file: File,
        header: Header,
        backing: Image | None = None,
        data_file: File | None = None,
        snapshot: str | None = None,
    ) -> None:
        """`snapshot`: id or name of the one to be read; only without writing."""
        self.file = file
        self.header = header
        self.backing = backing
        self.data = data_file or file
        self.size_bytes = header.size_bytes
        self.read_only = file.read_only
        self._external = data_file is not None
        self._bits = header.cluster_bits
        self._cluster = header.cluster_bytes
        self._per_table = header.l2_entries
        self._zero = ZERO if header.version > 2 else 0
        self._l2: dict[int, L2] = {}
        self._l2_max = max(L2_CACHE_BYTES // self._cluster, 16)
        self._dirty: set[int] = set()   # L1 indices of changed L2 tables
        self._l1_dirty: set[int] = set()
        self._inflated: dict[int, bytes] = {}
        l1_offset, l1_entries = header.l1_offset, header.l1_entries
        if snapshot is not None:
            found = self._find_snapshot(snapshot)
            l1_offset, l1_entries, self.size_bytes = found.l1_offset, found.l1_entries, found.size_bytes
        self._l1 = read_table(file, l1_offset, l1_entries)
        self._check_l1()
        self.refcounts = Refcounts(file, header)

    def _check_l1(self) -> None:
        offsets = [entry & OFFSET for entry in self._l1]
        if any(offset % self._cluster for offset in offsets):
            raise ImageError("is damaged: an L2 table is not at a cluster's start")
        if max(offsets, default=0) + self._cluster > self.file.size_bytes and max(offsets, default=0):
            raise ImageError(f"is truncated: the file ends at byte {self.file.size_bytes}, within its tables")

    @property
    def untouched(self) -> bool:
        """Nothing was ever written to it: all shows through."""
        return not any(self._l1)

    # --- snapshots ---

    def snapshots(self) -> list[Snapshot]:
        return self._snapshot_table()[0]

    def snapshot_table_end(self) -> int:
        return self.header.snapshots_offset + self._snapshot_table()[1]

    def _snapshot_table(self) -> tuple[list[Snapshot], int]:
        """The snapshots, and how many bytes the table has."""
        header = self.header
        left = self.file.size_bytes - header.snapshots_offset
        data = self.file.read(header.snapshots_offset, min(left, SNAPSHOT_TABLE_BYTES_MAX))
        at, found = 0, []
        for _ in range(header.snapshots):
            snapshot, at = parse_snapshot(data, at, header.size_bytes)
            found.append(snapshot)
        return found, at

    def _find_snapshot(self, wanted: str) -> Snapshot:
        known = self.snapshots()
        for snapshot in known:
            if wanted in (snapshot.id, snapshot.name):
                return snapshot
        names = ", ".join(snapshot.name or snapshot.id for snapshot in known) or "none"
        raise ImageError(f"has no snapshot {wanted!r}; there are: {names}")

    # --- reading ---

    def read(self, offset: int, length: int) -> bytes:
        runs = self._runs(offset, length, self._load)
        assert runs is not None
        if len(runs) == 1:
            return self._read_run(runs[0])
        return b"".join(map(self._read_run, runs))

    def read_now(self, offset: int, length: int) -> bytes | None:
        runs = self._runs(offset, length, self._load_now)
        if runs is None:
            return None
        if len(runs) == 1:
            return self._read_run_now(runs[0])
        parts = []
        for run in runs:
            part = self._read_run_now(run)
            if part is None:
                return None
            parts.append(part)
        return b"".join(parts)

    def in_file(self, offset: int, length: int) -> tuple[int, int] | None:
        runs = self._runs(offset, length, self._load_now)
        if runs is None or len(runs) != 1:
            return None
        kind, where, size = runs[0]
        match kind:
            case 0:  # HOST
                return in_file(self.data, where, size)
            case 2:  # BACKING
                inside = self.backing is not None and where + size <= self.backing.size_bytes
                return in_file(self.backing, where, size) if inside else None
        return None

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """What this image has of these bytes, apart from its backing image."""
        span = self._per_table << self._bits
        nothing = Kind.BEHIND if self.backing is not None else Kind.ZERO
        end = offset + length
        while offset < end:
            part = min(span - offset % span, end - offset)
            if not self._l1_offset(offset // span):
                yield Extent(offset, part, nothing)
                offset += part
                continue
            for kind, _, size in self._runs(offset, part, self._load) or ():
                yield Extent(offset, size, KINDS[kind])
                offset += size

    def _runs(self, offset: int, length: int, load: Callable[[int], L2 | None]) -> list[Run] | None:
        """What the bytes are made of, neighbours joined; None if `load` has not the tables."""
        runs: list[Run] = []
        bits, per_table = self._bits, self._per_table
        kind_before, where_before, size_before = -1, 0, 0
        end = offset + length
        while offset < end:
            l1_index, index = divmod(offset >> bits, per_table)
            l2 = self._l2.get(l1_index)
            if l2 is None:
                l2 = load(l1_index)
                if l2 is None:
                    return None
            within = offset & self._cluster - 1
            size = min(self._cluster - within, end - offset)
            kind, where = self._classify(l2.table[index], offset, within)
            joins = kind == ZEROS or (kind != INFLATE and where == where_before + size_before)
            if kind == kind_before and joins:
                size_before += size
            else:
                if size_before:
                    runs.append((kind_before, where_before, size_before))
                kind_before, where_before, size_before = kind, where, size
            offset += size
        runs.append((kind_before, where_before, size_before))
        return runs

    def _classify(self, entry: int, offset: int, within: int) -> tuple[int, int]:
        if entry & COMPRESSED:
            return INFLATE, entry << self._bits | within        # both, in one number
        if entry & self._zero:
            return ZEROS, 0
        where = entry & OFFSET
        if where or (self._external and entry & COPIED):
            if where & self._cluster - 1:
                raise damaged("a cluster is not at a cluster's start")
            return HOST, where + within
        return (BACKING, offset) if self.backing is not None else (ZEROS, 0)

    def _read_run(self, run: Run) -> bytes:
        kind, where, size = run
        match kind:
            case 0:  # HOST
                self._check_there(where, size)
                return self.data.read(where, size)
            case 1:  # ZEROS
                return bytes(size)
            case 2:  # BACKING
                return self._read_backing(where, size)
        within = where & self._cluster - 1
        return self._inflate(where >> self._bits)[within : within + size]

    def _read_run_now(self, run: Run) -> bytes | None:
        kind, where, size = run
        if kind == HOST:
            inside = where + size <= self.data.size_bytes
            return self.data.read_now(where, size) if inside else None
        if kind == BACKING:
            backing = self.backing
            inside = backing is not None and where + size <= backing.size_bytes
            return backing.read_now(where, size) if backing is not None and inside else None
        if kind == INFLATE and where >> self._bits not in self._inflated:
            return None
        return self._read_run(run)

    def _check_there(self, where: int, size: int) -> None:
        """A file may end within its last cluster, not before it."""
        if where + size - 1 & -self._cluster >= self.data.size_bytes:
            raise damaged("the file was truncated")

    def _read_backing(self, offset: int, size: int) -> bytes:
        """Behind the end of a smaller backing image are zeros."""
        backing = self.backing
        there = max(min(size, backing.size_bytes - offset), 0) if backing is not None else 0
        data = backing.read(offset, there) if backing is not None and there else b""
        return data + bytes(size - there)

    def _inflate(self, entry: int) -> bytes:
        data = self._inflated.get(entry)
        if data is not None:
            return data
        offset, length = self._compressed_extent(entry)
        packed = self.file.read(offset, length)
        unpack = unzstd if self.header.compression == ZSTD else undeflate
        data = unpack(packed, self._cluster)
        if len(data) != self._cluster:
            raise damaged("a compressed cluster is too short")
        if len(self._inflated) >= INFLATED_MAX:
            del self._inflated[next(iter(self._inflated))]
        self._inflated[entry] = data
        return data

    def _compressed_extent(self, entry: int) -> tuple[int, int]:
        """Offset and greatest length in the file of a compressed cluster."""
        split = 62 - (self._bits - 8)
        offset = entry & (1 << split) - 1
        sectors = ((entry & COMPRESSED - 1) >> split) + 1
        return offset, sectors * SECTOR - offset % SECTOR

    # --- L2 tables ---

    def _load(self, l1_index: int) -> L2:
        l2 = self._l2.get(l1_index)
        if l2 is not None:
            return l2
        offset = self._l1_offset(l1_index)
        return self._keep(l1_index, offset, self.file.read(offset, self._cluster) if offset else None)

    def _load_now(self, l1_index: int) -> L2 | None:
        offset = self._l1_offset(l1_index)
        data = self.file.read_now(offset, self._cluster) if offset else None
        return None if offset and data is None else self._keep(l1_index, offset, data)

    def _l1_offset(self, l1_index: int) -> int:
        return self._l1[l1_index] & OFFSET if l1_index < len(self._l1) else 0

    def _keep(self, l1_index: int, offset: int, data: bytes | None) -> L2:
        """`data` None: there is no table, which reads as one of zeros."""
        if len(self._l2) >= self._l2_max:
            for index in [index for index in self._l2 if index not in self._dirty][: self._l2_max // 4]:
                del self._l2[index]
        l2 = self._l2[l1_index] = L2(table_from(data or bytes(self._cluster)), offset)
        return l2

    def _writable(self, l1_index: int) -> L2:
        """The table, on a cluster that is this image's alone."""
        l2 = self._load(l1_index)
        if not l2.offset or (not self._l1[l1_index] & COPIED and not l2.new):
            old = l2.offset
            l2.offset, _ = self.refcounts.take()
            l2.new = True
            self._l1[l1_index] = l2.offset | COPIED
            self._l1_dirty.add(l1_index)
            if old:
                self.refcounts.release(old)
        l2.dirty = True
        self._dirty.add(l1_index)
        return l2

    # --- writing ---

    def write(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            l1_index, index = divmod(offset >> self._bits, self._per_table)
            l2 = self._load(l1_index)
            within = offset & self._cluster - 1
            own = self._own(l2.table, index, within + len(view))
            if own:
                count = min(own * self._cluster - within, len(view))
                where = (l2.table[index] & OFFSET) + within
                self.data.write(where, view[:count])
            else:
                count = self._write_new(l1_index, index, within, offset, view)
            offset += count
            view = view[count:]
        if len(self._dirty) > DIRTY_TABLES_MAX:
            self._commit()

    def _own(self, table: Table, index: int, length: int) -> int:
        """How many clusters in a row from `index` on are this image's alone and lie in a row in the file."""
        first = table[index]
        count = 0
        wanted = min(-(-length >> self._bits), self._per_table - index)
        while count < wanted and table[index + count] == first + count * self._cluster:
            count += 1
        return count if self._is_own(first) else 0

    def _is_own(self, entry: int) -> bool:
        plain = entry & COPIED and not entry & (COMPRESSED | self._zero)
        return bool(plain and (entry & OFFSET or self._external))

    def _write_new(self, l1_index: int, index: int, within: int, offset: int, view: memoryview) -> int:
        """Clusters that have to be new ones; how many bytes of `view` went into them."""
        l2 = self._writable(l1_index)
        clusters = self._foreign(l2.table, index, within + len(view))
        count = min(clusters * self._cluster - within, len(view))
        start = offset - within
        if self._external:
            where, fresh = start, False
        else:
            where, fresh = self.refcounts.take(clusters)
        try:
            padded = self._pad(l2.table, index, clusters, start, within, view[:count], fresh)
            self.data.write(where + (within if len(padded) == count else 0), padded)
        except OSError:
            if not self._external:
                self.refcounts.release(where, clusters)
            raise
        before = l2.table[index : index + clusters]
        if any(before):
            for entry in before:
                self._release(entry)
        end = where + clusters * self._cluster
        l2.table[index : index + clusters] = array("Q", range(where | COPIED, end | COPIED, self._cluster))
        return count

    def _foreign(self, table: Table, index: int, length: int) -> int:
        """How many clusters in a row are to be new."""
        wanted = min(-(-length >> self._bits), self._per_table - index)
        count = 1
        while count < wanted and not self._is_own(table[index + count]):
            count += 1
        return count

    def _pad(
        self, table: Table, index: int, clusters: int, start: int, within: int, view: memoryview, fresh: bool
    ) -> bytes | memoryview:
        """The data with what was before and behind it in its clusters; without, if that is zeros anyway."""
        behind = clusters * self._cluster - within - len(view)
        if not within and not behind:
            return view
        ends = (table[index], table[index + clusters - 1])
        if fresh and all(self._classify(entry, start, 0)[0] == ZEROS for entry in ends):
            return view
        end = start + within + len(view)
        there = max(min(behind, self.size_bytes - end), 0)
        tail = self.read(end, there) if there else b""
        head = self.read(start, within) if within else b""
        return b"".join((head, view, tail, bytes(behind - there)))

    def _release(self, entry: int) -> None:
        if self._external:
            return
        if entry & COMPRESSED:
            offset, length = self._compressed_extent(entry)
            first, last = offset >> self._bits, offset + length - 1 >> self._bits
            self.refcounts.release(first << self._bits, last - first + 1)
            self._inflated.pop(entry, None)
        elif entry & OFFSET:
            self.refcounts.release(entry & OFFSET)

    def discard(self, offset: int, length: int) -> None:
        """Whole clusters are given back; the parts of others are overwritten with zeros."""
        end = offset + length
        first, last = -(-offset >> self._bits) << self._bits, end >> self._bits << self._bits
        if end == self.size_bytes:
            last = -(-end >> self._bits) << self._bits
        if first >= last:
            self._write_zeros(offset, length)
            return
        self._write_zeros(offset, first - offset)
        self._write_zeros(last, end - last)
        if self._external:
            self._write_zeros_external(first, min(last, end) - first)
            return
        while first < last:
            first = self._discard_table(first, last)
        if len(self._dirty) > DIRTY_TABLES_MAX or self.refcounts.released > RELEASED_MAX:
            self._commit()

    def _discard_table(self, first: int, last: int) -> int:
        """Clusters within one L2 table; where to go on."""
        l1_index, index = divmod(first >> self._bits, self._per_table)
        count = min(self._per_table - index, last - first >> self._bits)
        after = first + (count << self._bits)
        empty = self._zero if self.backing is not None else 0
        if self.backing is not None and not self._zero:         # version 2 cannot say "zeros" over a backing
            self._write_zeros(first, min(after, self.size_bytes) - first)
            return after
        table = self._load(l1_index).table
        if all(entry == empty for entry in table[index : index + count]):
            return after
        l2 = self._writable(l1_index)
        for n in range(index, index + count):
            self._release(l2.table[n])
            l2.table[n] = empty
        return after

    def _write_zeros(self, offset: int, length: int) -> None:
        while length > 0:
            part = min(length, self._cluster - (offset & self._cluster - 1))
            if any(kind != ZEROS for kind, _, _ in self._runs(offset, part, self._load) or ()):
                self.write(offset, bytes(part))
            offset += part
            length -= part

    def _write_zeros_external(self, offset: int, length: int) -> None:
        """A raw data file must read as the disk does."""
        for kind, where, size in self._runs(offset, length, self._load) or ():
            if (kind == HOST and not self.data.punch(where, size)) or kind == BACKING:
                self._write_zeros(where, size)

    # --- onto the host's disk ---

    def flush(self) -> None:
        if not self._commit():
            self.data.flush()

    def _commit(self) -> bool:
        """Writes the tables in order, see above; whether there was anything to write."""
        refcounts = self.refcounts
        tables = [(index, self._l2[index]) for index in sorted(self._dirty)]
        if not (tables or self._l1_dirty or refcounts.dirty or refcounts.released):
            return False
        moved = refcounts.write()
        for _, l2 in tables:
            if l2.new:
                self._write_l2(l2)
        self._sync()
        for _, l2 in tables:
            if not l2.new:
                self._write_l2(l2)
        if moved:
            self._write_header_refcounts()
        if self._l1_dirty:
            self._sync()
            for index in sorted(self._l1_dirty):
                self.file.write(self.header.l1_offset + 8 * index, self._l1[index].to_bytes(8, "big"))
        self._sync()
        refcounts.written()
        for _, l2 in tables:
            l2.new = l2.dirty = False
        self._dirty.clear()
        self._l1_dirty.clear()
        if moved:
            refcounts.header_written()
        refcounts.release_now()
        return True

    def _sync(self) -> None:
        if self._external:
            self.data.flush()
        self.file.flush()

    def _write_l2(self, l2: L2) -> None:
        self.file.write(l2.offset, table_bytes(l2.table))

    def _write_header_refcounts(self) -> None:
        header = self.header
        place = struct.pack(">QI", header.refcount_table_offset, header.refcount_table_clusters)
        self.file.write(AT_REFCOUNT_TABLE, place)

    def begin_writing(self) -> None:
        """Once, before the first write: features that this writer does not keep are cleared (autoclear)."""
        header = self.header
        keep = header.autoclear & Autoclear.RAW_DATA_FILE
        if header.version > 2 and header.autoclear != keep:
            header.autoclear = keep
            self.file.write(AT_AUTOCLEAR, keep.to_bytes(8, "big"))
            self.file.flush()

    def mark_clean(self) -> None:
        """The refcounts are right again."""
        self.header.incompatible &= ~Incompatible.DIRTY
        self.file.write(AT_INCOMPATIBLE, self.header.incompatible.to_bytes(8, "big"))
        self.file.flush()

    def finish(self) -> None:
        """Everything out, and with it the counts of what was given back last."""
        while self._commit():
            pass

    def close(self) -> None:
        """Everything out, and with it the counts of what was given back last."""
        try:
            if not self.read_only:
                self.finish()
        finally:
            self.file.close()
            if self._external:
                self.data.close()
            if self.backing is not None:
                self.backing.close()


def undeflate(packed: bytes, size: int) -> bytes:
    try:
        return zlib.decompressobj(-15).decompress(packed, size)
    except zlib.error as error:
        raise OSError(errno.EIO, f"the image is damaged: a compressed cluster: {error}") from error


def unzstd(packed: bytes, size: int) -> bytes:
    from backports import zstd

    try:
        return bytes(zstd.ZstdDecompressor().decompress(packed, size))
    except zstd.ZstdError as error:
        raise OSError(errno.EIO, f"the image is damaged: a compressed cluster: {error}") from error
