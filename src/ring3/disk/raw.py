"""Raw images: a file, sparse or not, or a block device, byte for byte the disk.

A file whose size is no whole number of sectors gets zeros at its end.
"""

from ring3.disk.file import HostFile
from ring3.disk.image import SECTOR

ZEROS = bytes(1 << 20)


class Raw:
    def __init__(self, file: HostFile) -> None:
        self.file = file
        self.size_bytes = -(-file.size_bytes // SECTOR) * SECTOR
        self.read_only = file.read_only
        self.read = file.read
        self.read_now = file.read_now
        self.write = file.write
        self.flush = file.flush
        self.close = file.close

    def discard(self, offset: int, length: int) -> None:
        if self.file.punch(offset, length):
            return
        while length:
            part = min(length, len(ZEROS))
            self.file.write(offset, ZEROS[:part])
            offset += part
            length -= part
