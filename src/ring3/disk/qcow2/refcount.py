"""Refcounts of a qcow2 image's clusters, and finding free ones.

QEMU's specification, docs/interop/qcow2.txt, "Host cluster management".  A table of blocks of counts of 1 to
64 bits; a count below 8 bits wide lies in its byte from the low end on.

1. A cluster has a count of 1 on the host's disk before anything there refers to it, and is given back after
   nothing does any more: `release` only notes it, `release_now` counts down once the tables that referred to
   it are written.
2. So what a crash can leave is a cluster that is counted and not used: a leak, never a double use.
3. Changed blocks stay in memory until `write`, in the order that the image asks for.
"""

from array import array
from collections.abc import Iterator

from ring3.disk.file import File
from ring3.disk.qcow2.header import REFCOUNT_TABLE_BYTES_MAX, Header
from ring3.disk.qcow2.table import damaged, read_table, table_bytes, table_from

OFFSET_MASK = ~0x1FF
BLOCKS_CACHED = 256
ALIGNED_MAX, RUN = 16, 64               # clusters
BEHIND_MAX = 1 << 18                    # clusters that a crash may have left counted behind the end


class Refcounts:
    def __init__(self, file: File, header: Header) -> None:
        self.file = file
        self.header = header
        self.cluster_bytes = header.cluster_bytes
        self.bits = header.refcount_bits
        self.per_block = header.cluster_bytes * 8 // self.bits
        length = header.refcount_table_clusters * header.cluster_bytes
        self.table = read_table(file, header.refcount_table_offset, length // 8)
        self.end = -(-file.size_bytes // header.cluster_bytes)      # first cluster behind the file
        self._blocks: dict[int, bytearray] = {}
        self._dirty: set[int] = set()
        self._table_dirty: set[int] = set()
        self._moved_table: tuple[int, int] | None = None            # the old one, to be released
        self._released: list[int] = []
        self._search = 0                # clusters below it were found taken
        # At the end a run of free clusters is taken from one after the other, and counted all at once.
        self._counted = self._next = self._run_end = 0
        self._run_clusters = 1
        self._free: list[int] = []      # found or given back, to be taken from the end

    # --- counts ---

    def get(self, cluster: int) -> int:
        if self._counted <= cluster < self._next:
            self.count_taken()
        block = self._block(cluster // self.per_block)
        return 0 if block is None else self._load(block, cluster % self.per_block)

    def change(self, cluster: int, by: int) -> int:
        """The count after the change."""
        index = cluster // self.per_block
        block = self._block(index) or self._new_block(index)
        count = self._load(block, cluster % self.per_block) + by
        if not 0 <= count < 1 << self.bits:
            raise damaged(f"refcount of cluster {cluster} would be {count}")
        self._store(block, cluster % self.per_block, count)
        self._dirty.add(index)
        return count

    def _load(self, block: bytearray, n: int) -> int:
        if self.bits < 8:
            at, shift = divmod(n * self.bits, 8)
            return block[at] >> shift & (1 << self.bits) - 1
        size = self.bits // 8
        return int.from_bytes(block[n * size : (n + 1) * size], "big")

    def _store(self, block: bytearray, n: int, count: int) -> None:
        if self.bits < 8:
            at, shift = divmod(n * self.bits, 8)
            mask = (1 << self.bits) - 1 << shift
            block[at] = block[at] & ~mask | count << shift
        else:
            size = self.bits // 8
            block[n * size : (n + 1) * size] = count.to_bytes(size, "big")

    # --- blocks ---

    def _block(self, index: int) -> bytearray | None:
        block = self._blocks.get(index)
        if block is not None:
            return block
        offset = self.table[index] & OFFSET_MASK if index < len(self.table) else 0
        if not offset:
            return None
        if offset % self.cluster_bytes:
            raise damaged("a refcount block is not at a cluster's start")
        block = bytearray(self.file.read(offset, self.cluster_bytes))
        if len(self._blocks) >= BLOCKS_CACHED:
            self._drop_clean()
        self._blocks[index] = block
        return block

    def _drop_clean(self) -> None:
        for index in [index for index in self._blocks if index not in self._dirty]:
            del self._blocks[index]

    def _new_block(self, index: int) -> bytearray:
        """A block at the end of the file, where it may count itself."""
        if index >= len(self.table):
            self._grow_table(index + 1)
        cluster = self._take_end(1)
        self.table[index] = cluster * self.cluster_bytes
        self._table_dirty.add(index)
        block = self._blocks[index] = bytearray(self.cluster_bytes)
        self._dirty.add(index)
        self.change(cluster, 1)
        return block

    def _grow_table(self, entries: int) -> None:
        """A longer table at the end of the file; the old one stays valid until the header is rewritten."""
        per_cluster = self.cluster_bytes // 8
        clusters = -(-entries * 3 // 2 // per_cluster) + 1
        if clusters * self.cluster_bytes > REFCOUNT_TABLE_BYTES_MAX:
            raise OSError(27, "the image cannot grow further")
        if self._moved_table is None:
            self._moved_table = (self.header.refcount_table_offset, self.header.refcount_table_clusters)
        else:                           # grown again before it was ever written: nothing refers to it
            self.release(self.header.refcount_table_offset, self.header.refcount_table_clusters)
        self.table.extend([0] * (clusters * per_cluster - len(self.table)))
        first = self._take_end(clusters)
        self.header.refcount_table_offset = first * self.cluster_bytes
        self.header.refcount_table_clusters = clusters
        for cluster in range(first, first + clusters):
            self.change(cluster, 1)

    # --- taking and giving back ---

    def take(self, count: int = 1) -> tuple[int, bool]:
        """Byte offset of so many clusters in a row; and whether they are new, which read as zeros.

        Holes serve single clusters, so that what is written in sequence stays in sequence.
        """
        cluster = self._find_free() if count == 1 else None
        fresh = cluster is None
        if cluster is None:
            cluster = self._take_from_run(count)
        else:
            self._count_first(cluster, 1)
        return cluster * self.cluster_bytes, fresh

    def _take_from_run(self, count: int) -> int:
        """Long pieces begin where their size divides the offset, which the host's page cache likes: single
        clusters get what is left out."""
        align = min(1 << count.bit_length() - 1, ALIGNED_MAX)
        first = -(-self._next // align) * align
        if first + count > self._run_end:
            used_up = self._next == self._run_end
            self._run_clusters = max(min(2 * self._run_clusters, RUN) if used_up else 0, count)
            self._begin_run(self._run_clusters, align)
            first = self._next
        elif first > self._next:
            self.count_taken()
            self._leave_out(self._next, first)
            self._counted = first
        self._next = first + count
        return first

    def _begin_run(self, count: int, align: int) -> None:
        self.count_taken()
        self._leave_out(self._next, self._run_end)
        end = self.end
        self._counted = self._next = self._take_end(count, align)
        self._run_end = self.end
        self._leave_out(end, min(self._next, end + align))

    def _leave_out(self, first: int, last: int) -> None:
        """Free clusters behind `_search` are found when that gets there."""
        self._free[:0] = (n for n in range(first, min(last, self._search)) if not self.get(n))

    def count_taken(self) -> None:
        """What was taken of the run gets its counts."""
        first, self._counted = self._counted, self._next
        self._count_first(first, self._next - first)

    def _take_end(self, count: int, align: int = 1) -> int:
        """Behind the file, and behind what is counted there: a crash may have left that."""
        start = first = -(-self.end // align) * align
        while not self._are_free(first, count):
            first += align
            if first - start > BEHIND_MAX:
                raise damaged("its refcounts go far beyond its end")
        if self._search == self.end:    # so nothing is to be found up to the new end
            self._search = first + count
        self.end = first + count
        return first

    def _are_free(self, first: int, count: int) -> bool:
        for index, n, part in self._by_blocks(first, count):
            block = self._block(index)
            if block is None:
                continue
            if self.bits < 8:
                if any(self._load(block, each) for each in range(n, n + part)):
                    return False
            elif any(block[n * self.bits // 8 : (n + part) * self.bits // 8]):
                return False
        return True

    def _count_first(self, first: int, count: int) -> None:
        """Counts of 1 in the place of 0, many at once: this is what writing in sequence does most."""
        for index, n, part in self._by_blocks(first, count):
            block = self._block(index) or self._new_block(index)
            if self.bits < 8:
                for each in range(n, n + part):
                    self._store(block, each, 1)
            else:
                size = self.bits // 8
                block[n * size : (n + part) * size] = (1).to_bytes(size, "big") * part
            self._dirty.add(index)

    def _by_blocks(self, first: int, count: int) -> Iterator[tuple[int, int, int]]:
        """(block, first in it, how many) of clusters in a row."""
        while count:
            index, n = divmod(first, self.per_block)
            part = min(count, self.per_block - n)
            yield index, n, part
            first, count = first + part, count - part

    def _find_free(self) -> int | None:
        while not self._free and self._search < self.end:
            self._search_block()
        return self._free.pop() if self._free else None

    def _search_block(self) -> None:
        """Free clusters below the file's end, a block at a time, each looked at once."""
        index, start = divmod(self._search, self.per_block)
        last = min((index + 1) * self.per_block, self.end)
        block = self._block(index)
        if block is not None:
            base = index * self.per_block
            free = (n for n in range(start, last - base) if not self._load(block, n))
            found = (n for n in free if not self._counted <= base + n < self._run_end)
            self._free += [base + n for n in found][::-1]
        self._search = last

    def release(self, offset: int, count: int = 1) -> None:
        first = offset // self.cluster_bytes
        self._released += range(first, first + count)

    @property
    def released(self) -> int:
        return len(self._released)

    def release_now(self) -> None:
        """Counts down what was released; the host gets the space of what nobody else uses."""
        released, self._released = self._released, []
        free = [cluster for cluster in released if self.change(cluster, -1) == 0]
        for first, count in runs(sorted(free)):
            self.file.punch(first * self.cluster_bytes, count * self.cluster_bytes)
        self._free += free

    # --- writing ---

    @property
    def dirty(self) -> bool:
        return bool(self._dirty or self._table_dirty or self._moved_table or self._counted < self._next)

    def write(self) -> bool:
        """Changed blocks, then the table's entries; whether the header must follow: the table moved.

        A new block counts itself, so it must be there before the table says so.
        """
        self.count_taken()
        for index in sorted(self._dirty):
            self.file.write(self.table[index] & OFFSET_MASK, self._blocks[index])
        if self._table_dirty or self._moved_table is not None:
            self.file.flush()
        at = self.header.refcount_table_offset
        if self._moved_table is not None:
            self.file.write(at, table_bytes(self.table))
        else:
            for index in self._table_dirty:
                self.file.write(at + 8 * index, self.table[index].to_bytes(8, "big"))
        return self._moved_table is not None

    def written(self) -> None:
        """What `write` wrote has reached the host's disk: until then it may have to be written again."""
        self._dirty.clear()
        self._table_dirty.clear()

    def replace(self, counts: "array[int]", first: int, blocks: int, tables: int) -> None:
        """Writes all counts anew, into clusters from `first` on: blocks, then the table."""
        size, per_block = self.cluster_bytes, self.per_block
        self.table = table_from(bytes(tables * size))
        for index in range(blocks):
            block = bytearray(size)
            for n, count in enumerate(counts[index * per_block : (index + 1) * per_block]):
                if count:
                    self._store(block, n, min(count, (1 << self.bits) - 1))
            self.table[index] = (first + index) * size
            self.file.write((first + index) * size, block)
        self.file.write((first + blocks) * size, table_bytes(self.table))
        self.header.refcount_table_offset = (first + blocks) * size
        self.header.refcount_table_clusters = tables
        self.end = first + blocks + tables
        self._counted = self._next = self._run_end = 0
        self._blocks.clear()

    def header_written(self) -> None:
        """The moved table is in use: the old one is free."""
        if self._moved_table is not None:
            offset, clusters = self._moved_table
            self._moved_table = None
            self.release(offset, clusters)


def runs(clusters: list[int]) -> Iterator[tuple[int, int]]:
    """(first, count) of neighbours in a sorted list."""
    start = 0
    for n in range(1, len(clusters) + 1):
        if n == len(clusters) or clusters[n] != clusters[n - 1] + 1:
            yield clusters[start], n - start
            start = n
