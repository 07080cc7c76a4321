"""Fonts found in ROMs and in a guest's memory."""

from ring3.display.glyphs import SMILEYS, find_fonts, fonts_in_memory


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
