"""EDID 1.3 of the virtual display (VESA "Enhanced EDID Standard", release A, 1999): 128 bytes.

It takes any mode of its video chip; the preferred one is 1024×768 at 60 Hz with VESA's timing (DMT 10h).
"""

PREFERRED_DOT_CLOCK_10KHZ = 6500
WIDTH, H_FRONT_PORCH, H_SYNC, H_BACK_PORCH = 1024, 24, 136, 160
HEIGHT, V_FRONT_PORCH, V_SYNC, V_BACK_PORCH = 768, 3, 6, 29
WIDTH_MM, HEIGHT_MM = 270, 203          # 96 dots an inch
NAME = b"Ring3 display"

# Standard timings: (width, aspect code of §3.9), all at 60 Hz.
STANDARD = ((1280, 2), (1440, 0), (1600, 1), (1680, 0), (1920, 3))


def edid() -> bytes:
    data = bytearray(b"\x00\xff\xff\xff\xff\xff\xff\x00")
    data += _manufacturer("RNG").to_bytes(2, "big")
    data += (0x1111).to_bytes(2, "little") + bytes(4)           # product, no serial number
    data += bytes((1, 2024 - 1990, 1, 3))                       # week and year, EDID 1.3
    data += bytes((0x80, WIDTH_MM // 10, HEIGHT_MM // 10, 120, 0x0A))   # digital; gamma 2.2
    data += bytes((0xEE, 0x91, 0xA3, 0x54, 0x4C, 0x99, 0x26, 0x0F, 0x50, 0x54))     # sRGB's primaries
    data += bytes((0x21, 0x08, 0x00))                           # 640×480, 800×600, 1024×768 at 60 Hz
    for width, aspect in STANDARD:
        data += bytes((width // 8 - 31, aspect << 6))
    data += b"\x01\x01" * (8 - len(STANDARD))
    data += _preferred() + _limits() + _text(0xFC, NAME) + _text(0xFE, b"")
    data.append(0)                                              # no extensions
    data.append(-sum(data) & 0xFF)
    return bytes(data)


def _manufacturer(letters: str) -> int:
    """Five bits a letter."""
    value = 0
    for letter in letters:
        value = value << 5 | ord(letter) - ord("A") + 1
    return value


def _preferred() -> bytes:
    """A detailed timing descriptor."""
    h_blank = H_FRONT_PORCH + H_SYNC + H_BACK_PORCH
    v_blank = V_FRONT_PORCH + V_SYNC + V_BACK_PORCH
    return PREFERRED_DOT_CLOCK_10KHZ.to_bytes(2, "little") + bytes((
        WIDTH & 0xFF, h_blank & 0xFF, WIDTH >> 8 << 4 | h_blank >> 8,
        HEIGHT & 0xFF, v_blank & 0xFF, HEIGHT >> 8 << 4 | v_blank >> 8,
        H_FRONT_PORCH, H_SYNC, V_FRONT_PORCH << 4 | V_SYNC, 0,
        WIDTH_MM & 0xFF, HEIGHT_MM & 0xFF, WIDTH_MM >> 8 << 4 | HEIGHT_MM >> 8,
        0, 0, 0x18,                                             # no border; separate syncs, both negative
    ))  # fmt: skip


def _limits() -> bytes:
    """50–125 Hz, 30–160 kHz, up to 600 MHz."""
    return bytes((0, 0, 0, 0xFD, 0, 50, 125, 30, 160, 60, 0, 0x0A)) + b" " * 6


def _text(kind: int, text: bytes) -> bytes:
    return bytes((0, 0, 0, kind, 0)) + (text + b"\n").ljust(13)[:13]
