import pytest

from ring3.devices.ioapic import IOREGSEL, IOWIN, IoApic, Redirection, Reg


@pytest.fixture
def messages():
    return []


@pytest.fixture
def ioapic(messages):
    return IoApic(lambda *message: messages.append(message))


def get(chip, index):
    chip.write(IOREGSEL, index, 4)
    return chip.read(IOWIN, 4)


def put(chip, index, value):
    chip.write(IOREGSEL, index, 4)
    chip.write(IOWIN, value, 4)


def program(chip, pin, low, destination=0):
    put(chip, Reg.IOREDTBL + 2 * pin + 1, destination << 24)
    put(chip, Reg.IOREDTBL + 2 * pin, low)


def test_version_tells_24_inputs(ioapic):
    assert get(ioapic, Reg.IOAPICVER) == 0x0017_0011


def test_id_keeps_its_four_bits(ioapic):
    put(ioapic, Reg.IOAPICID, 0xFFFF_FFFF)
    assert get(ioapic, Reg.IOAPICID) == 0x0F00_0000


def test_entries_start_masked(ioapic, messages):
    assert get(ioapic, Reg.IOREDTBL) == Redirection.MASKED
    ioapic.line[0].set(True)
    assert messages == []


def test_a_masked_input_is_deaf(ioapic):
    program(ioapic, 4, 0x31)
    assert ioapic.line[4].heard
    program(ioapic, 4, 0x31 | Redirection.MASKED)
    assert not ioapic.line[4].heard


def test_an_edge_sends_one_message(ioapic, messages):
    program(ioapic, 4, 0x31, destination=2)
    ioapic.line[4].set(True)
    assert messages == [(0x31, 0, 2, False, False)]
    ioapic.line[4].set(False)
    ioapic.line[4].set(True)
    assert len(messages) == 2


def test_delivery_mode_and_logical_destination_are_passed_on(ioapic, messages):
    program(ioapic, 4, 0x31 | 1 << 8 | Redirection.LOGICAL, destination=0xFF)
    ioapic.line[4].set(True)
    assert messages == [(0x31, 1, 0xFF, True, False)]


def test_a_masked_edge_is_lost(ioapic, messages):
    program(ioapic, 4, 0x31 | Redirection.MASKED)
    ioapic.line[4].set(True)
    program(ioapic, 4, 0x31)
    assert messages == []


def test_a_level_waits_for_its_eoi(ioapic, messages):
    program(ioapic, 16, 0x41 | Redirection.LEVEL)
    ioapic.line[16].set(True)
    assert messages == [(0x41, 0, 0, False, True)]
    assert get(ioapic, Reg.IOREDTBL + 32) & Redirection.REMOTE_IRR
    ioapic.eoi(0x40)
    assert len(messages) == 1
    ioapic.eoi(0x41)  # still asserted
    assert len(messages) == 2
    ioapic.line[16].set(False)
    ioapic.eoi(0x41)
    assert len(messages) == 2
    assert not get(ioapic, Reg.IOREDTBL + 32) & Redirection.REMOTE_IRR


def test_a_masked_level_comes_when_unmasked(ioapic, messages):
    program(ioapic, 16, 0x41 | Redirection.LEVEL | Redirection.MASKED)
    ioapic.line[16].set(True)
    assert messages == []
    program(ioapic, 16, 0x41 | Redirection.LEVEL)
    assert len(messages) == 1


def test_making_an_entry_edge_triggered_clears_remote_irr(ioapic, messages):
    program(ioapic, 16, 0x41 | Redirection.LEVEL)
    ioapic.line[16].set(True)
    program(ioapic, 16, 0x41 | Redirection.MASKED)
    program(ioapic, 16, 0x41 | Redirection.LEVEL)
    assert len(messages) == 2


def test_read_only_bits_stay(ioapic):
    put(ioapic, Reg.IOREDTBL, 0xFFFF_FFFF)
    put(ioapic, Reg.IOREDTBL + 1, 0xFFFF_FFFF)
    assert get(ioapic, Reg.IOREDTBL) == 0x0001_AFFF
    assert get(ioapic, Reg.IOREDTBL + 1) == 0xFF00_0000


def test_missing_registers_read_as_zero(ioapic):
    assert get(ioapic, 0x40) == 0
    assert get(ioapic, 0x0F) == 0
