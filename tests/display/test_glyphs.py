"""Fonts found in ROMs and in a guest's memory."""

from ring3.display.glyphs import EFI_HEIGHT, SMILEYS, find_fonts, fonts_in_memory


def font(height):
    glyphs = bytes(height) + SMILEYS[height]
    return glyphs + bytes(range(7)) * ((256 * height - len(glyphs)) // 7 + 1)


def rom(*heights):
    return b"\x55\xaa code" + b"".join(font(h)[: 256 * h] for h in heights) + b"the end"


def test_a_rom_has_fonts_of_several_heights():
    found = find_fonts(rom(16, 8, 14))
    assert {height: len(glyphs) for height, glyphs in found.items()} == {8: 2048, 14: 3584, 16: 4096}


def test_half_a_font_at_the_end_has_blank_glyphs():
    found = find_fonts(rom(8)[:1024])
    assert len(found[8]) == 2048
    assert found[8].endswith(bytes(1024))


def search(memory):
    def search(needle, most):
        hits, at = [], memory.find(needle)
        while at >= 0 and len(hits) < most:
            hits.append(at)
            at = memory.find(needle, at + 1)
        return hits

    return fonts_in_memory(search, lambda address, length: memory[address : address + length])


def test_fonts_in_memory_are_found_once_each():
    fonts = search(rom(8, 16) + rom(16))
    assert [height for height, _ in fonts] == [8, 16]


def test_smileys_without_a_font_are_none():
    assert search(b"\x01" * 32 + SMILEYS[16] + SMILEYS[8]) == []


def efi_records(codes):
    def lines(code):
        return bytes(EFI_HEIGHT) if code == 0x20 else bytes([code & 0xFF]) * EFI_HEIGHT

    return b"".join(code.to_bytes(2, "little") + b"\0" + lines(code) for code in codes)


def test_a_uefi_font_becomes_one_of_code_page_437():
    memory = bytes(99) + efi_records([*range(0x20, 0x7F), 0xE9, 0x2502]) + bytes(30_000)
    ((height, glyphs),) = search(memory)
    assert (height, len(glyphs)) == (19, 256 * 19)
    assert glyphs[0x41 * 19] == 0x41
    assert glyphs["é".encode("cp437")[0] * 19] == 0xE9
    assert glyphs["│".encode("cp437")[0] * 19] == 0x02


def test_half_a_uefi_font_is_none():
    assert search(efi_records(range(0x20, 0x60)) + bytes(30_000)) == []
