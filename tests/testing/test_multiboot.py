"""The smallest kernel (ring3.testing.multiboot)."""

import struct

from ring3.testing.multiboot import entry, multiboot


def test_the_header_sums_to_zero_and_the_code_follows_it():
    image = multiboot(b"\xf4")
    magic, flags, checksum, *_, entry_address = struct.unpack_from("<8I", image)
    assert (magic + flags + checksum) % (1 << 32) == 0
    assert entry_address == entry()
    assert image[32:] == b"\xf4"


def test_the_load_addresses_cover_the_image():
    image = multiboot(bytes(100))
    load, load_end, bss_end = struct.unpack_from("<3I", image, 16)
    assert load_end - load == len(image)
    assert bss_end > load_end
