"""8237A pair: what chips move through its channels."""

import pytest

from fakes import Ram
from ring3.devices.dma import I8237Pair

WRITE, READ, VERIFY, AUTOINIT, DOWN = 0x44, 0x48, 0x40, 0x10, 0x20


@pytest.fixture
def ram():
    return Ram()


@pytest.fixture
def dma(ram):
    dma = I8237Pair(ram)
    program(dma, 4, 0xC0, 0, 1)     # the cascade
    return dma


def program(dma, channel, mode, address, units):
    """As a driver does it; the address is a byte's for channels 0–3, twice a word's for 5–7."""
    face, step, n = (dma.primary, 1, channel) if channel < 4 else (dma.secondary, 2, channel - 4)
    offset = address & 0xFFFF if channel < 4 else address >> 1 & 0xFFFF
    face.write(10 * step, 4 | n)
    face.write(12 * step, 0)
    face.write(11 * step, mode | n)
    for value, register in ((offset, 2 * n), (units - 1, 2 * n + 1)):
        face.write(register * step, value & 0xFF)
        face.write(register * step, value >> 8)
    dma.pages.write({0: 6, 1: 2, 2: 0, 3: 1, 4: 14, 5: 10, 6: 8, 7: 9}[channel], address >> 16)
    face.write(10 * step, n)


def test_bytes_go_to_memory_until_the_terminal_count(dma, ram):
    program(dma, 2, WRITE, 0x12345, 4)
    assert dma.channel(2).to_memory(b"abcdef") == (4, True)
    assert ram.data[0x12344:0x1234A] == b"\0abcd\0"


def test_a_transfer_goes_on_where_it_stopped(dma, ram):
    program(dma, 2, WRITE, 0x1000, 4)
    assert dma.channel(2).to_memory(b"ab") == (2, False)
    assert dma.channel(2).remaining == 2
    assert dma.channel(2).to_memory(b"cd") == (2, True)
    assert ram.data[0x1000:0x1004] == b"abcd"


def test_a_channel_is_masked_after_its_terminal_count(dma):
    program(dma, 2, WRITE, 0x1000, 1)
    dma.channel(2).to_memory(b"a")
    assert dma.channel(2).to_memory(b"b") == (0, False)


def test_autoinitialize_starts_over(dma, ram):
    program(dma, 1, READ | AUTOINIT, 0x2000, 3)
    ram.write(0x2000, b"xyz")
    assert dma.channel(1).from_memory(100) == (b"xyz", True)
    assert dma.channel(1).from_memory(2) == (b"xy", False)


def test_words_move_on_the_second_controller(dma, ram):
    program(dma, 5, READ, 0x2_0100, 2)
    ram.write(0x2_0100, b"1234")
    assert dma.channel(5).from_memory(100) == (b"1234", True)


def test_an_odd_byte_waits_on_the_second_controller(dma, ram):
    program(dma, 6, WRITE, 0x2_0100, 2)
    assert dma.channel(6).to_memory(b"abc") == (2, False)


def test_the_address_wraps_inside_its_page(dma, ram):
    program(dma, 3, WRITE, 0x1FFFE, 4)
    dma.channel(3).to_memory(b"abcd")
    assert (ram.data[0x1FFFE:0x20000], ram.data[0x10000:0x10002]) == (b"ab", b"cd")


def test_decrement_walks_downwards(dma, ram):
    program(dma, 3, WRITE | DOWN, 0x1003, 4)
    dma.channel(3).to_memory(b"abcd")
    assert ram.data[0x1000:0x1004] == b"dcba"


def test_verify_counts_and_moves_nothing(dma, ram):
    program(dma, 2, VERIFY, 0x1000, 4)
    assert dma.channel(2).to_memory(b"abcd") == (4, True)
    assert ram.data[0x1000:0x1004] == bytes(4)


def test_status_tells_the_terminal_count_once(dma):
    program(dma, 2, WRITE, 0x1000, 1)
    dma.channel(2).to_memory(b"a")
    dma.channel(3).request(True)
    assert [dma.primary.read(8), dma.primary.read(8)] == [0x84, 0x80]


def test_address_and_count_read_back_by_bytes(dma):
    program(dma, 2, WRITE, 0x1234, 0x200)
    dma.channel(2).to_memory(b"abc")
    dma.primary.write(12, 0)
    assert [dma.primary.read(register) for register in (4, 4, 5, 5)] == [0x37, 0x12, 0xFC, 0x01]


def test_a_chip_hears_when_its_channel_becomes_ready(dma):
    heard = []
    dma.channel(2).on_ready = lambda: heard.append(True)
    program(dma, 2, WRITE, 0x1000, 1)
    assert heard == [True]


def test_the_second_controller_works_without_the_cascade_but_not_the_first(ram):
    dma = I8237Pair(ram)
    program(dma, 2, WRITE, 0x1000, 1)
    program(dma, 5, WRITE, 0x1000, 1)
    assert (dma.channel(2).ready, dma.channel(5).ready) == (False, True)
