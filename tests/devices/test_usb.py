"""UHCI with a tablet and a keyboard: registers, schedules in memory, and HID reports as systems see them."""

import pytest

from fakes import Ram
from ring3.devices.pci.config import Reg as Pci
from ring3.devices.usb.device import NAK, STALL
from ring3.devices.usb.keyboard import UsbKeyboard
from ring3.devices.usb.tablet import UsbTablet
from ring3.devices.usb.uhci import Uhci

MS = 1_000_000
LIST, QUEUE, DATA = 0x1000, 0x3000, 0x8000
COMMAND, STATUS, ENABLE, FRNUM, FRBASE, PORT1, PORT2 = 0, 2, 4, 6, 8, 0x10, 0x12
IN, OUT, SETUP = 0x69, 0xE1, 0x2D
ACTIVE, IOC, STALLED, TIMEOUT = 1 << 23, 1 << 24, 1 << 22, 1 << 18


@pytest.fixture
def memory():
    return Ram()


@pytest.fixture
def tablet(clock):
    return UsbTablet(clock)


@pytest.fixture
def keyboard(clock):
    return UsbKeyboard(clock)


@pytest.fixture
def host(clock, memory, irq, tablet, keyboard):
    """Running, port 1 enabled, all frames at one empty queue."""
    chip = Uhci(clock, memory, irq, (tablet, keyboard), lambda bar, base: None)
    tablet.on_data = keyboard.on_data = chip.kick
    chip.write_config(Pci.COMMAND, 0x0005, 2)
    for n in range(1024):
        memory.write(LIST + 4 * n, (QUEUE | 2).to_bytes(4, "little"))
    memory.write(QUEUE, dwords(1, 1))
    chip.write(FRBASE, LIST, 4)
    chip.write(ENABLE, 0x0F, 2)
    for port in (PORT1, PORT2):
        chip.write(port, 0x0200, 2)
        chip.write(port, 0x0000, 2)
    chip.write(PORT1, 0x000E, 2)
    chip.write(COMMAND, 0x0001, 2)
    return chip


def dwords(*values):
    return b"".join(value.to_bytes(4, "little") for value in values)


def read(memory, address):
    return int.from_bytes(memory.read(address, 4), "little")


def schedule(memory, *transactions, address=0, endpoint=0, flags=0, depth_first=True):
    """A queue of descriptors: (pid, data or length)."""
    for n, (pid, data) in enumerate(transactions):
        td, buffer = QUEUE + 0x100 + 32 * n, DATA + 64 * n
        last = n == len(transactions) - 1
        length = data if isinstance(data, int) else len(data)
        if not isinstance(data, int):
            memory.write(buffer, data)
        token = (length - 1 & 0x7FF) << 21 | endpoint << 15 | address << 8 | pid
        status = 3 << 27 | ACTIVE | flags | (IOC if last else 0)
        memory.write(td, dwords(1 if last else td + 32 | (4 if depth_first else 0), status, token, buffer))
    memory.write(QUEUE + 4, dwords(QUEUE + 0x100))


def status(memory, n=0):
    return read(memory, QUEUE + 0x104 + 32 * n)


def control_read(host, memory, clock, packet, length, address=0):
    schedule(memory, (SETUP, bytes.fromhex(packet)), (IN, length), (OUT, b""), address=address)
    clock.advance(40 * MS)
    moved = (status(memory, 1) + 1) & 0x7FF
    return memory.read(DATA + 64, moved)


def configure(host, memory, clock, address=5):
    schedule(memory, (SETUP, bytes((0, 5, address, 0, 0, 0, 0, 0))), (IN, 0))
    clock.advance(40 * MS)
    schedule(memory, (SETUP, bytes.fromhex("0009010000000000")), (IN, 0), address=address)
    clock.advance(40 * MS)


# --- the controller ---


def test_a_device_is_connected_to_each_port(clock, irq, memory, tablet):
    chip = Uhci(clock, memory, irq, (tablet,), lambda bar, base: None)
    assert chip.read(PORT1, 2) == 0x0083
    assert chip.read(PORT2, 2) == 0x0080
    assert chip.read(0x14, 2) == 0xFFFF                 # so Linux counts two ports


def test_frames_are_counted_while_it_runs(host, clock):
    first = host.read(FRNUM, 2)
    clock.advance(100 * MS)
    assert host.read(FRNUM, 2) - first == 100
    host.write(COMMAND, 0, 2)
    assert host.read(STATUS, 2) & 0x20
    stopped = host.read(FRNUM, 2)
    clock.advance(100 * MS)
    assert host.read(FRNUM, 2) == stopped


def test_a_control_transfer_takes_one_frame_and_interrupts(host, memory, clock, edges):
    assert control_read(host, memory, clock, "8006000100000800", 8) == bytes.fromhex("1201100100000008")
    assert edges == [True]
    assert host.read(STATUS, 2) & 1
    host.write(STATUS, 1, 2)
    assert edges == [True, False]
    assert read(memory, QUEUE + 4) & 1                  # the queue is empty


def test_breadth_first_is_one_transaction_a_frame(host, memory, clock):
    schedule(memory, (SETUP, bytes.fromhex("8006000100000800")), (IN, 8), (OUT, b""), depth_first=False)
    clock.advance(1 * MS)
    assert [bool(status(memory, n) & ACTIVE) for n in range(3)] == [False, True, True]
    clock.advance(2 * MS)
    assert not status(memory, 2) & ACTIVE


def test_an_unknown_request_stalls(host, memory, clock):
    schedule(memory, (SETUP, bytes.fromhex("8006000f00000800")), (IN, 8))
    clock.advance(40 * MS)
    assert status(memory, 1) & (STALLED | ACTIVE) == STALLED
    assert host.read(STATUS, 2) & 2


def test_a_device_that_is_not_there_times_out_after_three_errors(host, memory, clock):
    schedule(memory, (IN, 8), address=9)
    clock.advance(50 * MS)
    assert status(memory) & (STALLED | TIMEOUT | ACTIVE | 3 << 27) == STALLED | TIMEOUT
    assert host.read(STATUS, 2) & 2


def test_a_schedule_in_circles_is_no_trap(host, memory, clock):
    memory.write(QUEUE, dwords(QUEUE | 2, 1))
    clock.advance(40 * MS)
    memory.write(QUEUE, dwords(QUEUE | 0x100, 1))
    memory.write(QUEUE + 0x100, dwords(QUEUE | 0x100, 0, 0, 0))
    clock.advance(40 * MS)
    assert host.read(STATUS, 2) & 0x20 == 0


@pytest.mark.parametrize(("pause_ms", "patience_ms"), [(100, 70), (3000, 260)])
def test_a_transfer_in_one_of_32_frames_is_found_when_idle(host, memory, clock, pause_ms, patience_ms):
    clock.advance(pause_ms * MS)
    frame = (host.read(FRNUM, 2) + 45) % 1024           # not one that a look begins or ends with
    schedule(memory, (SETUP, bytes.fromhex("8006000100000800")))
    elsewhere = QUEUE + 0x40
    memory.write(elsewhere, dwords(1, 1))
    for n in range(1024):
        link = QUEUE if n % 32 == frame % 32 else elsewhere
        memory.write(LIST + 4 * n, (link | 2).to_bytes(4, "little"))
    clock.advance(patience_ms * MS)
    assert not status(memory) & ACTIVE


@pytest.mark.parametrize(("pause_ms", "frames"), [(100, 32), (3000, 128)])
def test_idle_costs_a_look_now_and_then_at_what_the_frames_share(host, memory, clock, pause_ms, frames):
    clock.advance(pause_ms * MS)
    looks = []
    read = memory.read
    memory.read = lambda address, length: looks.append(address) or read(address, length)
    clock.advance(10 * frames * MS)
    assert len([address for address in looks if LIST <= address < LIST + 0x1000]) <= 20
    assert looks.count(QUEUE) == 10


def test_reset_of_the_port_gives_the_device_its_first_address(host, memory, clock, tablet):
    configure(host, memory, clock)
    assert tablet.address == 5
    host.write(PORT1, 0x0200, 2)
    host.write(PORT1, 0x0000, 2)
    assert tablet.address == 0


def test_a_sleeping_host_is_woken_if_it_asked_for_it(host, memory, clock, tablet, irq):
    configure(host, memory, clock)
    tablet.hid.polled = True
    host.write(PORT1, 0x1004, 2)
    tablet.point(1, 1, 0, 1)
    host.write(STATUS, 0x3F, 2)
    assert not host.read(STATUS, 2) & 4
    tablet.control.remote_wakeup = True
    tablet.point(1, 1, 0, 0)
    assert host.read(STATUS, 2) & 4
    assert host.read(PORT1, 2) & 0x40
    assert irq.level


# --- the tablet ---


def poll(host, memory, clock, length=6):
    schedule(memory, (IN, length), address=5, endpoint=1)
    clock.advance(40 * MS)
    return None if status(memory) & ACTIVE else memory.read(DATA, (status(memory) + 1) & 0x7FF)


def test_the_tablet_reports_positions(host, memory, clock, tablet):
    configure(host, memory, clock)
    assert poll(host, memory, clock) is None
    assert tablet.in_use
    tablet.point(0xFFFF, 0x1000, 1, 0x05)
    assert poll(host, memory, clock) == bytes.fromhex("05 ff7f 0008 ff")
    assert poll(host, memory, clock) is None


def test_a_report_comes_in_the_next_frames(host, memory, clock, tablet):
    configure(host, memory, clock)
    poll(host, memory, clock)
    clock.advance(100 * MS)
    tablet.point(2, 2, 0, 0)
    clock.advance(1 * MS)
    assert not status(memory) & ACTIVE


def test_movement_is_replaced_and_clicks_are_kept(host, memory, clock, tablet):
    configure(host, memory, clock)
    poll(host, memory, clock)
    for x, buttons in ((2, 0), (4, 0), (4, 1), (4, 0)):
        tablet.point(x, 0, 0, buttons)
    poll(host, memory, clock)
    first = memory.read(DATA, 6)
    assert (first[0], first[1]) == (0, 2)
    assert [poll(host, memory, clock)[0] for _ in range(2)] == [1, 0]


def test_descriptors_are_complete(host, memory, clock, tablet):
    configuration = control_read(host, memory, clock, "8006000200002200", 34)
    assert len(configuration) == 34 == int.from_bytes(configuration[2:4], "little")
    assert configuration[9:18] == bytes.fromhex("090400000103000000")
    report_length = int.from_bytes(configuration[25:27], "little")
    assert len(control_read(host, memory, clock, "8106002200004000", 64)) == min(64, report_length)
    name = tablet.setup(0, bytes.fromhex("800602030904ff00")) or tablet.data_in(0, 64)
    assert name[2:].decode("utf-16-le") == "Tablet"


# --- the keyboard ---


@pytest.fixture
def listening(keyboard):
    """Configured and polled once."""
    keyboard.setup(0, bytes.fromhex("0009010000000000"))
    keyboard.data_in(0, 0)
    assert keyboard.data_in(1, 8) is NAK
    return keyboard


def test_keys_and_modifiers(listening):
    for code in (0x2A, 0x1E, 0xE04B):
        listening.key(code, True)
    reports = [listening.data_in(1, 8).hex() for _ in range(3)]
    assert reports == ["0200000000000000", "0200040000000000", "0200045000000000"]
    listening.key(0x1E, False)
    assert listening.data_in(1, 8).hex() == "0200500000000000"
    assert listening.data_in(1, 8) is NAK


def test_more_than_six_keys_roll_over(listening):
    for code in range(0x10, 0x17):
        listening.key(code, True)
        report = listening.data_in(1, 8)
    assert report == b"\0\0" + b"\1" * 6


def test_leds_are_set_by_the_host(listening):
    listening.setup(0, bytes.fromhex("2109000200000100"))
    listening.data_out(0, b"\x03")
    assert listening.leds == 2 | 4                      # Num Lock and Caps Lock


def test_the_idle_rate_repeats_the_report(listening, clock):
    listening.setup(0, bytes.fromhex("210a000800000000"))       # 32 ms
    listening.data_in(0, 0)
    clock.advance(33 * MS)
    assert listening.data_in(1, 8) == bytes(8)
    assert listening.data_in(1, 8) is NAK


def test_a_keyboard_nobody_polls_keeps_nothing(keyboard):
    keyboard.key(0x1E, True)
    assert not keyboard.pending
    assert not keyboard.in_use


def test_an_endpoint_that_is_not_there_stalls(listening):
    assert listening.data_in(2, 8) is STALL
    assert listening.data_out(1, b"x") is STALL
