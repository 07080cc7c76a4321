"""Plugging chips into the port and MMIO maps."""

import threading

import pytest

from fakes import FakeVm
from ring3.bus import Bus, OpenBus, Pins
from ring3.clock import ManualClock


class Chip:
    def __init__(self):
        self.log = []

    def read(self, offset, size=1):
        self.log.append(("read", offset, size))
        return 0x5A

    def write(self, offset, value, size=1):
        self.log.append(("write", offset, value, size))


def pins():
    return Pins(*[lambda *_: None] * 7)


@pytest.fixture
def bus():
    return Bus(FakeVm(1 << 20, 1 << 20), ManualClock(), pins())


def test_overlapping_port_windows_are_refused_naming_both(bus):
    bus.ports(0x60, 5, "first", Chip())
    with pytest.raises(ValueError, match="second at 64h–64h overlap those of first at 60h–64h"):
        bus.ports(0x64, 1, "second", Chip())


def test_overlapping_mmio_windows_are_refused_naming_both(bus):
    bus.mmio(0xFEC00000, 0x1000, "first", Chip())
    with pytest.raises(ValueError, match=r"second .* first"):
        bus.mmio(0xFEC00000, 0x2000, "second", Chip())


def test_two_chips_of_one_name_are_refused(bus):
    bus.add("pit", Chip())
    with pytest.raises(ValueError, match="'pit'"):
        bus.add("pit", Chip())


def test_devices_are_called_under_the_machine_lock(bus):
    free = []

    class Prober(Chip):
        def read(self, offset):
            other = threading.Thread(target=lambda: free.append(bus.lock.acquire(blocking=False)))
            other.start()
            other.join()
            return 0

    bus.ports(0x80, 1, "prober", Prober())
    bus.io.ports[0x80][1](0)
    assert free == [False]


def test_the_lock_is_released_when_a_device_raises(bus):
    class Broken(Chip):
        def read(self, offset):
            raise RuntimeError

    bus.ports(0x80, 1, "broken", Broken())
    with pytest.raises(RuntimeError):
        bus.io.ports[0x80][1](0)
    other = []
    thread = threading.Thread(target=lambda: other.append(bus.lock.acquire(blocking=False)))
    thread.start()
    thread.join()
    assert other == [True]


def test_a_moved_window_leaves_its_old_place(bus):
    chip = Chip()
    bus.move_ports("pm", 0x600, 0x40, chip)
    bus.move_ports("pm", 0xB000, 0x40, chip)
    assert 0x600 not in bus.io.ports
    bus.write_port(0xB004, 0x1234, 2)
    assert chip.log == [("write", 4, 0x1234, 2)]


def test_a_window_moved_onto_another_is_not_decoded(bus):
    first, moved = Chip(), Chip()
    bus.ports(0x60, 1, "first", first)
    bus.move_ports("pm", 0x40, 0x40, moved)
    bus.write_port(0x60, 1)
    assert first.log == [("write", 0, 1, 1)]
    assert moved.log == []


def test_a_window_moved_nowhere_is_not_decoded(bus):
    bus.move_ports("pm", 0x600, 0x40, Chip())
    bus.move_ports("pm", None, 0x40, Chip())
    assert bus.read_port(0x600, 4) == 0xFFFFFFFF


def test_wide_accesses_to_byte_registers_are_split(bus):
    chip = Chip()
    bus.ports(0x70, 2, "rtc", chip)
    bus.write_port(0x70, 0xABCD, 2)
    assert chip.log == [("write", 0, 0xCD, 1), ("write", 1, 0xAB, 1)]
    assert bus.read_port(0x70, 2) == 0x5A5A


@pytest.mark.parametrize(("size", "value"), [(1, 0xFF), (2, 0xFFFF), (4, 0xFFFFFFFF)])
def test_an_open_bus_floats_high(size, value):
    assert OpenBus().read(0, size) == value
