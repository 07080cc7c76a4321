"""Expansion ROMs: their base address register, and when they are decoded (PCI 2.1, §6.2.5.2)."""

from dataclasses import dataclass, field

import pytest

from ring3.devices.face import RomFace
from ring3.devices.pci.config import ROM, Bar, Command, PciFunction, Reg, image

BASE = 0xFEB0_0000


@dataclass(slots=True)
class State:
    config: bytearray = field(default_factory=lambda: bytearray(image()))


class Card(PciFunction):
    """A card with one region of memory and a ROM of 16 KiB, or none."""

    state: State

    def __init__(self, rom_bytes=0x4000):
        self.moves = []
        super().__init__(
            State(), image((Reg.COMMAND, 2, 7)), bars=(Bar(4096),), rom_bytes=rom_bytes,
            moved=lambda region, base: self.moves.append((region, base)),
        )

    def enable(self, address, *, rom=True, memory=True):
        self.write_config(Reg.COMMAND, Command.MEMORY if memory else 0, 2)
        self.moves.clear()
        self.write_config(Reg.ROM, address | rom, 4)


@pytest.fixture
def card():
    return Card()


def test_all_ones_read_back_as_size_and_enable_bit(card):
    card.write_config(Reg.ROM, 0xFFFF_FFFF, 4)
    assert card.read_config(Reg.ROM, 4) == 0xFFFF_C001


def test_without_a_rom_the_register_reads_0():
    card = Card(rom_bytes=0)
    card.enable(0xFFFF_F800)
    assert card.read_config(Reg.ROM, 4) == 0
    assert card.rom_base() is None
    assert card.moves == []


def test_the_rom_is_decoded_while_it_and_memory_are_enabled(card):
    card.enable(BASE)
    assert card.moves == [(ROM, BASE)]
    card.write_config(Reg.ROM, BASE, 4)
    assert card.moves[1:] == [(ROM, None)]


@pytest.mark.parametrize(("rom", "memory"), [(True, False), (False, True)])
def test_one_of_the_two_enable_bits_is_not_enough(card, rom, memory):
    card.enable(BASE, rom=rom, memory=memory)
    assert (ROM, BASE) not in card.moves


def test_the_command_register_turns_it_off_and_on(card):
    card.enable(BASE)
    card.write_config(Reg.COMMAND, 0, 2)
    assert card.moves[-1] == (ROM, None)
    card.write_config(Reg.COMMAND, Command.MEMORY, 2)
    assert card.moves[-1] == (ROM, BASE)


def test_a_restored_card_has_its_rom_where_it_was(card):
    card.enable(BASE)
    twin = Card()
    twin.state = State(bytearray(card.state.config))
    twin.restore_config()
    assert (ROM, BASE) in twin.moves


def test_the_rom_reads_as_it_is_and_takes_no_writes():
    face = RomFace(b"\x55\xaa\x10\xe9")
    face.write(0, 0, 4)
    assert face.read(0, 2) == 0xAA55
    assert face.read(0, 4) == 0xE910AA55
    assert face.read(3, 1) == 0xE9
