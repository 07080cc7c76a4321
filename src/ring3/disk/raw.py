"""Raw images: a file, sparse or not, or a block device, byte for byte the disk.

A file whose size is no whole number of sectors gets zeros at its end.
"""

from collections.abc import Iterator

from ring3.disk.extents import Extent, Kind
from ring3.disk.file import File
from ring3.disk.image import SECTOR, in_file

ZEROS = bytes(1 << 20)


class Raw:
    FORMAT = "raw"

    def __init__(self, file: File) -> None:
        self.file = file
        self.size_bytes = -(-file.size_bytes // SECTOR) * SECTOR
        self.read_only = file.read_only
        self.read = file.read
        self.read_now = file.read_now
        self.write = file.write
        self.flush = file.flush
        self.close = file.close

    def in_file(self, offset: int, length: int) -> tuple[int, int] | None:
        return in_file(self.file, offset, length)

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        end = offset + length
        while offset < end:
            data = self.file.data_at(offset)
            data = end if data is None else min(max(data, offset), end)
            if data > offset:
                yield Extent(offset, data - offset, Kind.ZERO)
            if data < end:
                hole = min(max(self.file.hole_at(data), data + 1), end)
                yield Extent(data, hole - data, Kind.DATA)
                data = hole
            offset = data

    def discard(self, offset: int, length: int) -> None:
        if self.file.punch(offset, length):
            return
        while length:
            part = min(length, len(ZEROS))
            self.file.write(offset, ZEROS[:part])
            offset += part
            length -= part
