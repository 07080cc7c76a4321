"""The virtio console and entropy devices."""

import pytest

from ring3.devices.virtio.console import (
    EMERGENCY_WRITE,
    OUTPUT_MAX,
    RECEIVE,
    TRANSMIT,
    Feature,
    VirtioConsole,
)
from ring3.devices.virtio.rng import BYTES_MAX, VirtioRng
from virtio_driver import MODERN, Driver, Wiring


@pytest.fixture
def wiring(clock):
    return Wiring(clock)


@pytest.fixture
def console(wiring, sink):
    return VirtioConsole(wiring.wires, sink)


@pytest.fixture
def driver(console, wiring):
    return Driver(console, wiring.ram, features=MODERN | Feature.SIZE | Feature.EMERG_WRITE)


def test_output_reaches_the_backend(driver, sink):
    driver.send(TRANSMIT, b"hello ", b"world")
    assert (bytes(sink.sent), driver.used(TRANSMIT)) == (b"hello world", [(0, 0)])


def test_input_fills_buffers_one_after_the_other(driver, console, wiring):
    first = driver.send(RECEIVE, 3)
    second = driver.send(RECEIVE, 8)
    assert console.receive(b"abcdef") == 6
    assert (wiring.ram.read(*first, 3), wiring.ram.read(*second, 3)) == (b"abc", b"def")
    assert driver.used(RECEIVE) == [(0, 3), (1, 3)]


def test_input_waits_for_buffers(driver, console, sink):
    assert console.receive(b"a") == 0
    rooms = sink.rooms
    driver.send(RECEIVE, 8)
    assert sink.rooms == rooms + 1


def test_an_emergency_write_needs_no_queue(console, wiring, sink):
    console.faces[2].write(0x2000 + EMERGENCY_WRITE, 0x1_0041, 4)
    assert bytes(sink.sent) == b"A"


def test_a_new_size_is_a_change_of_the_configuration(driver, console, wiring):
    console.resize(132, 43)
    assert (driver.config(0, 2), driver.config(2, 2), driver.take_isr()) == (132, 43, 2)


def test_a_long_output_buffer_is_cut(driver, sink):
    driver.describe(TRANSMIT, 0, 0, 0xFFFF_FFFF)
    driver.offer(TRANSMIT, 0)
    assert len(sink.sent) == OUTPUT_MAX


def test_a_long_entropy_buffer_is_filled_in_part(wiring):
    driver = Driver(VirtioRng(wiring.wires, bytes), wiring.ram)
    driver.describe(0, 0, 0, 0xFFFF_FFFF, 2)
    driver.offer(0, 0)
    assert driver.used() == [(0, BYTES_MAX)]
