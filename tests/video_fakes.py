"""Video memory without native code: bytes, and what a chip told it; a guest that sets modes."""


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
        self.registers = (misc_output, bytes(sequencer), bytes(graphics), bank)

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


# Registers as the VGA BIOS sets them: miscellaneous output, sequencer, graphics controller, CRTC.
MODES = {
    3: ("67", "0300030002", "0000000000100e0fff",
        "5f4f50825581bf1f004f0d0e00000000" "9c8e8f281f96b9a3ff", "0c000f0800"),
    4: ("63", "0309030002", "0000000000300f0fff",
        "2d2728902b80bf1f00c1000000000000" "9c8e8f140096b9a2ff", "0100030000"),
    0x12: ("e3", "03010f0006", "000000000000050fff",
           "5f4f508254800b3e0040000000000000" "ea8cdf2800e704e3ff", "01000f0000"),
    0x13: ("63", "03010f000e", "000000000040050fff",
           "5f4f50825480bf1f0041000000000000" "9c8e8f284096b9a3ff", "41000f0000"),
}  # fmt: skip


class Guest:
    """Ports as a guest uses them."""

    def __init__(self, vga):
        self.vga = vga

    def out(self, port, value, size=1):
        self.vga.write(port - 0x3B0, value, size)

    def inb(self, port):
        return self.vga.read(port - 0x3B0, 1)

    def index(self, port, index, value):
        self.out(port, index | value << 8, 2)

    def read_index(self, port, index):
        self.out(port, index)
        return self.inb(port + 1)

    def attribute(self, index, value):
        self.inb(0x3DA)
        self.out(0x3C0, index)
        self.out(0x3C0, value)

    def mode(self, number):
        misc, sequencer, graphics, crtc, attribute = map(bytes.fromhex, MODES[number])
        self.out(0x3C2, misc[0])
        for index, value in enumerate(sequencer):
            self.index(0x3C4, index, value)
        for index, value in enumerate(graphics):
            self.index(0x3CE, index, value)
        self.index(0x3D4, 0x11, 0)
        for index, value in enumerate(crtc):
            self.index(0x3D4, index, value)
        for index in range(16):
            self.attribute(index, index)
        for index, value in enumerate(attribute, start=0x10):
            self.attribute(index, value)
        self.out(0x3C0, 0x20)
