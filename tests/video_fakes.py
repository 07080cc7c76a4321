"""Video memory without native code: bytes, and what a chip told it."""


class FakeVideoMemory:
    changed_fd = -1

    def __init__(self, size_bytes=1 << 20):
        self.size_bytes = size_bytes
        self.data = bytearray(size_bytes)
        self.latch = 0
        self.window = None
        self.views = {}
        self.registers = None
        self.signals = 0

    def _check(self, offset, length):
        assert 0 <= offset <= offset + length <= self.size_bytes

    def read(self, offset, length):
        self._check(offset, length)
        return bytes(self.data[offset : offset + length])

    def write(self, offset, data):
        self._check(offset, len(data))
        self.data[offset : offset + len(data)] = data

    def clear(self, offset, length):
        self.write(offset, bytes(length))

    def map_window(self, base):
        self.window = base

    def map_view(self, base, size, offset):
        assert base % 4096 == size % 4096 == offset % 4096 == 0
        self._check(offset, size)
        self.views[base] = (size, offset)

    def unmap_view(self, base):
        self.views.pop(base, None)

    def set_registers(self, misc_output, sequencer, graphics, bank):
        self.registers = (misc_output, sequencer, graphics, bank)

    def signal(self):
        self.signals += 1

    def collect(self):
        return []

    def disarm(self):
        pass

    def pixels(self, picture, x, y, width, height):
        return bytes(4 * width * height)

    def cells(self, picture):
        columns, rows = picture.width // picture.cell[0], -(-picture.height // picture.cell[1])
        return b" " * (columns * rows), b"\x07" * (columns * rows)

    def font(self, picture, number):
        return bytes(8192)

    def find_text(self, picture, scale, fonts):
        return None
