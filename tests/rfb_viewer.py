"""A viewer for tests: what an RFB server's bytes draw, decoded from the specification, not by our code.

`Picture.feed` takes server-to-client bytes after the handshake; pixels are kept as 0xRRGGBB.
"""

import struct
import zlib
from collections.abc import Generator


class Picture:
    """True colour of 32 bits, little-endian, red at 16 (the server's default)."""

    def __init__(self, width: int, height: int) -> None:
        self.size = (width, height)
        self.rows = [[None] * width for _ in range(height)]
        self.messages: list[tuple] = []         # (name, …) of each message and pseudo-rectangle
        self.encodings: list[int] = []          # of each rectangle
        self._buffer = b""
        self._zrle = zlib.decompressobj()
        self._tight = [zlib.decompressobj() for _ in range(4)]
        self._parser = self._parse()
        self._needed = next(self._parser)

    def feed(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= self._needed:
            chunk, self._buffer = self._buffer[: self._needed], self._buffer[self._needed :]
            self._needed = self._parser.send(chunk)

    @property
    def idle(self) -> bool:
        """No message is half here."""
        return self._needed == 1 and not self._buffer

    def pixels(self) -> bytes:
        """BGRX; what was never drawn shows as magenta."""
        return b"".join((0xFF00FF if pixel is None else pixel).to_bytes(4, "little")
                        for row in self.rows for pixel in row)

    # --- the protocol ---

    def _parse(self) -> Generator[int, bytes, None]:
        while True:
            match (yield 1)[0]:
                case 0:
                    (count,) = struct.unpack(">xH", (yield 3))
                    yield from self._update(count)
                case 1:
                    first, count = struct.unpack(">xHH", (yield 5))
                    self.messages.append(("colour map", first, count, (yield 6 * count)))
                case 3:
                    (length,) = struct.unpack(">3xi", (yield 7))
                    self.messages.append(("cut text", length < 0, (yield abs(length))))
                case 150:
                    self.messages.append(("end of continuous updates",))
                case 248:
                    flags, length = struct.unpack(">3xIB", (yield 8))
                    self.messages.append(("fence", flags, (yield length)))
                case kind:
                    raise AssertionError(f"server message {kind}")

    def _update(self, count: int) -> Generator[int, bytes, None]:
        streamed = count == 0xFFFF
        while count:
            count -= 1
            x, y, width, height, encoding = struct.unpack(">HHHHi", (yield 12))
            if streamed and encoding == -224:
                break
            self.encodings.append(encoding)
            match encoding:
                case 0:
                    self._put_all(x, y, width, height, _words((yield 4 * width * height)))
                case 1:
                    self._copy(x, y, width, height, *struct.unpack(">HH", (yield 4)))
                case 7:
                    yield from self._tight_rectangle(x, y, width, height)
                case 16:
                    (length,) = struct.unpack(">I", (yield 4))
                    self._zrle_rectangle(x, y, width, height, self._zrle.decompress((yield length)))
                case -223:
                    self._resize(width, height)
                case -239:
                    data = yield width * height * 4 + (width + 7) // 8 * height
                    self.messages.append(("cursor", width, height, data))
                case -308:
                    screens = (yield 4)[0]
                    yield 16 * screens
                    if x == 0:
                        self._resize(width, height)
                    self.messages.append(("extended desktop size", x, y, width, height))
                case -257:
                    self.messages.append(("pointer type", x))
                case -258:
                    self.messages.append(("qemu keys",))
                case -261:
                    self.messages.append(("leds", (yield 1)[0]))
                case _:
                    raise AssertionError(f"encoding {encoding}")
        self.messages.append(("update",))

    def _resize(self, width: int, height: int) -> None:
        if (width, height) != self.size:
            self.size = (width, height)
            self.rows = [[None] * width for _ in range(height)]
            self.messages.append(("size", width, height))

    def _put_all(self, x: int, y: int, width: int, height: int, pixels: list[int]) -> None:
        assert x + width <= self.size[0]
        assert y + height <= self.size[1]
        assert len(pixels) == width * height
        for row in range(height):
            self.rows[y + row][x : x + width] = pixels[row * width : (row + 1) * width]

    def _copy(self, x: int, y: int, width: int, height: int, from_x: int, from_y: int) -> None:
        old = [row[from_x : from_x + width] for row in self.rows[from_y : from_y + height]]
        for row, pixels in enumerate(old):
            self.rows[y + row][x : x + width] = pixels

    # --- ZRLE ---

    def _zrle_rectangle(self, x: int, y: int, width: int, height: int, data: bytes) -> None:
        at = 0
        for top in range(y, y + height, 64):
            for left in range(x, x + width, 64):
                tile_width, tile_height = min(64, x + width - left), min(64, y + height - top)
                pixels, at = _zrle_tile(data, at, tile_width, tile_height)
                self._put_all(left, top, tile_width, tile_height, pixels)
        assert at == len(data)

    # --- Tight ---

    def _tight_rectangle(self, x: int, y: int, width: int, height: int) -> Generator[int, bytes, None]:
        control = (yield 1)[0]
        assert not control & 0x0F, "streams are never reset"
        if control >> 4 == 8:
            self._put_all(x, y, width, height, [_rgb((yield 3))] * (width * height))
            return
        assert control < 0x80
        stream, palette, bits = control >> 4 & 3, None, 24
        if control & 0x40:
            assert (yield 1)[0] == 1, "palette filter"
            count = (yield 1)[0] + 1
            colours = yield 3 * count
            palette = [_rgb(colours[3 * i : 3 * i + 3]) for i in range(count)]
            bits = 1 if count == 2 else 8
        size = (width * bits + 7) // 8 * height
        if size < 12:
            data = yield size
        else:
            length = shift = 0
            while True:
                byte = (yield 1)[0]
                length |= (byte if shift == 14 else byte & 0x7F) << shift
                shift += 7
                if shift == 21 or not byte & 0x80:
                    break
            data = self._tight[stream].decompress((yield length))
        assert len(data) == size
        self._put_all(x, y, width, height, _tight_pixels(data, width, height, bits, palette))


def _words(data: bytes) -> list[int]:
    return [word & 0xFFFFFF for word in struct.unpack(f"<{len(data) // 4}I", data)]


def _rgb(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _compact(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 3], "little")


def _tight_pixels(data, width, height, bits, palette):
    if palette is None:
        return [_rgb(data[at : at + 3]) for at in range(0, len(data), 3)]
    if bits == 8:
        return [palette[index] for index in data]
    stride = (width + 7) // 8
    return [palette[data[row * stride + column // 8] >> (7 - column % 8) & 1]
            for row in range(height) for column in range(width)]


def _zrle_tile(data, at, width, height):
    kind, at = data[at], at + 1
    count = width * height
    if kind == 0:
        return [_compact(data, at + 3 * i) for i in range(count)], at + 3 * count
    colours = kind if kind < 128 else kind - 128
    palette = [_compact(data, at + 3 * i) for i in range(colours)]
    at += 3 * colours
    if kind == 1:
        return palette * count, at
    if kind < 128:
        assert kind <= 16
        bits = 1 if kind == 2 else 2 if kind <= 4 else 4
        stride = (width * bits + 7) // 8
        pixels = []
        for row in range(height):
            for column in range(width):
                byte = data[at + row * stride + column * bits // 8]
                pixels.append(palette[byte >> (8 - bits - column * bits % 8) & (1 << bits) - 1])
        return pixels, at + stride * height
    pixels = []
    while len(pixels) < count:
        if kind == 128:
            colour, at = _compact(data, at), at + 3
            run = True
        else:
            colour, run = palette[data[at] & 0x7F], bool(data[at] & 0x80)
            at += 1
        length = 1
        while run:
            length += data[at]
            at += 1
            run = data[at - 1] == 255
        pixels += [colour] * length
    assert len(pixels) == count
    return pixels, at
