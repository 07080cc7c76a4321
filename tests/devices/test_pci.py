from dataclasses import dataclass, field

import pytest

from ring3.devices.pci.config import Bar, Command, PciBus, PciFunction, Reg, image
from ring3.devices.pci.host import PAM0, I440Fx
from ring3.devices.pci.isa_bridge import PIRQRC, Piix3
from ring3.devices.reset import ResetControl
from ring3.irq import IrqLine


@dataclass(slots=True)
class CardState:
    config: bytearray = field(
        default_factory=lambda: bytearray(image((Reg.VENDOR, 2, 0x1234), (Reg.BAR0, 4, 1)))
    )


class Card(PciFunction):
    """Two regions: 32 ports and 64 KiB of memory."""

    state: CardState

    def __init__(self, moves):
        writable = image((Reg.COMMAND, 2, 0x0007), (Reg.INTERRUPT_LINE, 1, 0xFF))
        bars = (Bar(32, io=True), Bar(0x1_0000))
        status = image((Reg.STATUS, 2, 0xF900))
        super().__init__(CardState(), writable, clearable=status, bars=bars, moved=lambda *m: moves.append(m))


@pytest.fixture
def resets():
    return []


@pytest.fixture
def isa():
    return [IrqLine() for _ in range(16)]


@pytest.fixture
def bridge(isa):
    return Piix3(isa)


@pytest.fixture
def moves():
    return []


@pytest.fixture
def card(moves):
    return Card(moves)


@pytest.fixture
def bus(bridge, card, resets):
    pci = PciBus(bridge.pirq, ResetControl(lambda: resets.append("hard"), lambda: resets.append("init")))
    pci.add(0, 0, I440Fx())
    pci.add(1, 0, bridge)
    pci.add(3, 0, card)
    return pci


def select(bus, device, register, *, enable=True, number=0):
    bus.write(0, enable << 31 | number << 16 | device << 11 | register, 4)


def config(bus, device, register, size=4):
    select(bus, device, register & ~3)
    return bus.read(4 + (register & 3), size)


def configure(bus, device, register, value, size=4):
    select(bus, device, register & ~3)
    bus.write(4 + (register & 3), value, size)


def test_ids_are_read_through_the_window(bus):
    assert config(bus, 0, 0) == 0x1237_8086
    assert config(bus, 1, 2, 2) == 0x7000
    assert config(bus, 1, 0x0A, 1) == 0x01


def test_absent_functions_read_as_ones(bus):
    assert config(bus, 5, 0) == 0xFFFF_FFFF
    assert config(bus, 5, 0, 2) == 0xFFFF


def test_other_buses_are_empty(bus):
    select(bus, 0, 0, number=1)
    assert bus.read(4, 4) == 0xFFFF_FFFF


def test_without_enable_the_data_port_is_open(bus):
    select(bus, 0, 0, enable=False)
    assert bus.read(4, 4) == 0xFFFF_FFFF


def test_address_reads_back_without_its_reserved_bits(bus):
    bus.write(0, 0xFFFF_FFFF, 4)
    assert bus.read(0, 4) == 0x80FF_FFFC


def test_cf9h_lies_inside_the_address_port(bus, resets):
    bus.write(1, 0x06, 1)
    assert resets == ["hard"]
    assert bus.read(1, 1) == 0x02
    assert bus.read(0, 1) == 0xFF
    assert bus.state.address == 0


def test_bar_sizing(bus):
    configure(bus, 3, 0x10, 0xFFFF_FFFF)
    configure(bus, 3, 0x14, 0xFFFF_FFFF)
    assert config(bus, 3, 0x10) == 0xFFFF_FFE1
    assert config(bus, 3, 0x14) == 0xFFFF_0000
    configure(bus, 3, 0x18, 0xFFFF_FFFF)
    assert config(bus, 3, 0x18) == 0


def test_regions_are_decoded_while_the_command_register_says_so(bus, moves):
    configure(bus, 3, 0x10, 0xC000)
    configure(bus, 3, 0x14, 0xFEB0_0000)
    assert moves == []
    configure(bus, 3, Reg.COMMAND, Command.IO | Command.MEMORY, 2)
    assert moves == [(0, 0xC000), (1, 0xFEB0_0000)]
    configure(bus, 3, Reg.COMMAND, Command.MEMORY, 2)
    assert moves[2:] == [(0, None)]


def test_restore_decodes_again(card):
    card.write_config(0x10, 0xC000, 4)
    card.write_config(Reg.COMMAND, Command.IO, 2)
    moves = []
    twin = Card(moves)
    twin.state = card.state
    twin.restore_config()
    assert moves == [(0, 0xC000)]


def test_read_only_fields_stay_and_status_bits_are_cleared_by_ones(card):
    card.state.config[Reg.STATUS + 1] = 0x20
    card.write_config(Reg.VENDOR, 0xFFFF_FFFF, 4)
    assert card.read_config(Reg.VENDOR, 2) == 0x1234
    card.write_config(Reg.STATUS, 0x2000, 2)
    assert card.read_config(Reg.STATUS, 2) == 0


def test_pirq_reaches_the_interrupt_it_is_routed_to(bus, isa):
    configure(bus, 1, PIRQRC, 0x8080_0B80)  # PIRQB# to IRQ 11
    line = bus.intx(1, 2)  # INTB# of device 1
    line.set(True)
    assert [n for n in range(16) if isa[n].level] == [11]
    line.set(False)
    assert not isa[11].level


def test_rerouting_moves_an_asserted_interrupt(bus, isa):
    configure(bus, 1, PIRQRC, 10, 1)
    bus.intx(1, 1).set(True)
    configure(bus, 1, PIRQRC, 5, 1)
    assert [n for n in range(16) if isa[n].level] == [5]
    configure(bus, 1, PIRQRC, 0x80, 1)
    assert not isa[5].level


def test_two_pirqs_share_an_interrupt(bus, isa):
    configure(bus, 1, PIRQRC, 0x8080_0B0B)
    first, second = bus.intx(1, 1), bus.intx(1, 2)
    first.set(True)
    second.set(True)
    first.set(False)
    assert isa[11].level
    second.set(False)
    assert not isa[11].level


def test_reserved_interrupts_cannot_be_routed_to(bus, isa):
    configure(bus, 1, PIRQRC, 8, 1)
    bus.intx(1, 1).set(True)
    assert not any(line.level for line in isa)


def test_pins_rotate_from_slot_to_slot(bus, bridge):
    bus.intx(3, 1).set(True)
    assert [line.level for line in bridge.pirq] == [False, False, True, False]


def test_pam_tells_the_board_where_shadow_ram_is():
    changes = []
    host = I440Fx(lambda *change: changes.append(change))
    host.write_config(PAM0, 0x30, 1)
    host.write_config(PAM0 + 1, 0x12, 1)
    assert changes == [
        (0xF_0000, 0x1_0000, True, True),
        (0xC_0000, 0x4000, False, True),
        (0xC_4000, 0x4000, True, False),
    ]


def test_pam_of_a_checkpoint_is_told_again():
    changes = []
    host = I440Fx()
    host.write_config(PAM0, 0x10, 1)
    I440Fx(lambda *change: changes.append(change)).restore(host.state)
    assert changes == [(0xF_0000, 0x1_0000, True, False)]
