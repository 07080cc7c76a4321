"""The virtio block device: requests good and bad, now and later."""

import struct

import pytest

from fakes import FakeDrive
from ring3.devices.virtio import blk
from ring3.devices.virtio.blk import IN_FLIGHT_MAX, REQUEST_MAX, Feature, Kind, VirtioBlk
from ring3.devices.virtio.pci import Common, Status
from ring3.state import load, record
from virtio_driver import MODERN, Driver, LegacyDriver, Wiring

CONTENT = bytes(range(256)) * 16        # 4 KiB: 8 sectors
OK, IOERR, UNSUPP = b"\0", b"\x01", b"\x02"
WRITES = MODERN | Feature.FLUSH | Feature.CONFIG_WCE | Feature.DISCARD | Feature.WRITE_ZEROES


@pytest.fixture
def wiring(clock):
    return Wiring(clock)


@pytest.fixture
def drive():
    return FakeDrive(CONTENT)


@pytest.fixture
def disk(wiring, drive):
    return VirtioBlk(wiring.wires, drive, "R3-0001")


@pytest.fixture
def driver(disk, wiring):
    return Driver(disk, wiring.ram, features=WRITES)


def header(kind, sector=0):
    return struct.pack("<IIQ", kind, 0, sector)


def ask(driver, kind, sector, *parts):
    """A request; the addresses of its parts, and its status when that is there at once."""
    _, *addresses, status = driver.send(0, header(kind, sector), *parts, 1)
    return addresses, driver.ram.read(status, 1)


def test_a_read_fills_segments_of_any_size(driver):
    (first, second), status = ask(driver, Kind.IN, 1, 512, 1024)
    assert status == OK
    assert driver.ram.read(first, 512) + driver.ram.read(second, 1024) == CONTENT[512:2048]
    assert driver.used() == [(0, 1537)]


def test_a_write_comes_from_all_its_segments(driver, drive):
    _, status = ask(driver, Kind.OUT, 2, b"a" * 100, b"b" * 412)
    assert (status, bytes(drive.content[1024:1536])) == (OK, b"a" * 100 + b"b" * 412)


def test_header_and_status_may_lie_anywhere(driver, wiring):
    head, (_, _, buffer) = driver.chain(0, header(Kind.IN, 0)[:7], header(Kind.IN, 0)[7:], 513)
    driver.offer(0, head)
    assert wiring.ram.read(buffer, 513) == CONTENT[:512] + OK


@pytest.mark.parametrize(("sector", "length"), [(8, 512), (7, 1024), (0, 100), (1 << 63, 512)])
def test_a_read_beyond_the_disk_or_of_part_of_a_sector_is_an_error(driver, sector, length):
    assert ask(driver, Kind.IN, sector, length)[1] == IOERR


def test_a_request_too_long_for_the_host_is_an_error(driver, drive):
    driver.describe(0, 1, 0x3_0000, REQUEST_MAX + 512, 3, 2)
    driver.describe(0, 0, 0x2_0000, 16, 1, 1)
    driver.describe(0, 2, 0x2_0100, 1, 2, 0)
    driver.ram.write(0x2_0000, header(Kind.IN))
    driver.offer(0, 0)
    assert (driver.ram.read(0x2_0100, 1), drive.log) == (IOERR, [])


def test_an_error_of_the_host_is_one_of_the_disk(driver, drive):
    drive.errors.append(OSError(28, "no space"))
    assert ask(driver, Kind.OUT, 0, b"x" * 512)[1] == IOERR


def test_a_flush_reaches_the_drive(driver, drive):
    assert ask(driver, Kind.FLUSH, 0)[1] == OK
    assert drive.log == [("flush",)]


def test_without_flush_negotiated_each_write_is_flushed(disk, wiring, drive):
    driver = Driver(disk, wiring.ram)
    assert ask(driver, Kind.OUT, 0, b"x" * 512)[1] == OK
    assert drive.log == [("write", 0, 512), ("flush",)]


def test_the_cache_can_be_turned_off(driver, drive):
    driver.modern.write(0x2000 + blk.WRITEBACK, 0, 1)
    ask(driver, Kind.OUT, 0, b"x" * 512)
    assert (driver.config(blk.WRITEBACK, 1), drive.log[-1]) == (0, ("flush",))


def test_get_id_answers_with_the_serial_number(driver, wiring):
    (buffer,), status = ask(driver, Kind.GET_ID, 0, 20)
    assert (status, wiring.ram.read(buffer, 20)) == (OK, b"R3-0001".ljust(20, b"\0"))


def test_discard_takes_several_ranges(driver, drive):
    ranges = struct.pack("<QIIQII", 0, 1, 0, 6, 2, 0)
    assert ask(driver, Kind.DISCARD, 0, ranges)[1] == OK
    assert drive.log == [("discard", 0, 512), ("discard", 3072, 1024)]


def test_write_zeroes_leaves_zeroes(driver, drive):
    assert ask(driver, Kind.WRITE_ZEROES, 0, struct.pack("<QII", 1, 1, 0))[1] == OK
    assert bytes(drive.content[512:1024]) == bytes(512)


def test_a_bad_range_fails_the_request_before_any_is_done(driver, drive):
    ranges = struct.pack("<QIIQII", 0, 1, 0, 7, 2, 0)
    assert ask(driver, Kind.DISCARD, 0, ranges)[1] == IOERR
    assert drive.log == []


def test_an_unknown_request_is_unsupported(driver):
    assert ask(driver, 99, 0, 512)[1] == UNSUPP


def test_a_read_only_drive_says_so_and_refuses_writes(wiring):
    disk = VirtioBlk(wiring.wires, FakeDrive(CONTENT, read_only=True))
    driver = Driver(disk, wiring.ram)
    assert disk.features() & Feature.RO
    assert ask(driver, Kind.OUT, 0, b"x" * 512)[1] == IOERR
    assert ask(driver, Kind.DISCARD, 0, struct.pack("<QII", 1, 1, 0))[1] == UNSUPP


def test_the_configuration_gives_the_capacity_in_sectors(driver):
    assert (driver.config(0, 4), driver.config(4, 4), driver.config(20, 4)) == (8, 0, 512)


def test_a_legacy_driver_reads_too(disk, wiring):
    driver = LegacyDriver(disk, wiring.ram)
    (buffer,), status = ask(driver, Kind.IN, 0, 512)
    assert (status, wiring.ram.read(buffer, 512)) == (OK, CONTENT[:512])
    assert driver.legacy.read(20, 4) == 8


# --- later ---


@pytest.fixture
def slow(wiring):
    return FakeDrive(CONTENT, deferred=True)


@pytest.fixture
def slow_disk(wiring, slow):
    return VirtioBlk(wiring.wires, slow)


@pytest.fixture
def slow_driver(slow_disk, wiring):
    return Driver(slow_disk, wiring.ram, features=WRITES)


def test_requests_are_under_way_together_and_one_interrupt_each_tells_of_them(slow_driver, slow, wiring):
    ask(slow_driver, Kind.IN, 0, 512)
    ask(slow_driver, Kind.IN, 1, 512)
    assert (len(slow.waiting), slow_driver.used()) == (2, [])
    slow.run(1)
    assert (wiring.edges, [head for head, _ in slow_driver.used()]) == ([True], [0])
    slow.run()
    assert [head for head, _ in slow_driver.used()] == [0, 3]


def test_requests_that_are_answered_at_once_share_an_interrupt(driver, wiring):
    for sector in range(2):
        driver.offer(0, driver.chain(0, header(Kind.IN, sector), 512, 1)[0], notify=False)
    driver.notify(0)
    assert (len(driver.used()), wiring.edges) == (2, [True])


def test_what_comes_after_a_reset_is_dropped(slow_driver, slow, wiring):
    (buffer,), _ = ask(slow_driver, Kind.IN, 0, 512)
    slow_driver.set(Common.DEVICE_STATUS, 0, 1)
    slow.run()
    assert (wiring.ram.read(buffer, 512), slow_driver.used()) == (bytes(512), [])


def test_a_restored_disk_does_again_what_was_under_way(slow_driver, slow_disk, wiring):
    (buffer,), _ = ask(slow_driver, Kind.IN, 1, 512)
    twin = VirtioBlk(wiring.wires, FakeDrive(CONTENT))
    twin.restore(load(type(slow_disk.state), record(slow_disk.state)))
    assert (wiring.ram.read(buffer, 512), slow_driver.used()) == (CONTENT[512:1024], [(0, 513)])


def test_only_so_many_bytes_are_under_way(wiring):
    drive = FakeDrive(size_bytes=1 << 30, deferred=True)
    drive.content = bytearray(512)
    driver = Driver(VirtioBlk(wiring.wires, drive), wiring.ram)
    count = 4
    for index in (0, 2):
        driver.describe(0, index, 0x2_0000, 16, 1, index + 1)
        driver.describe(0, index + 1, 0x3_0000, IN_FLIGHT_MAX - 511, 2, 0)
    driver.ram.write(0x2_0000, header(Kind.IN))
    for n in range(count):
        driver.offer(0, 2 * (n % 2))
    assert len(drive.waiting) == 2
    drive.run(1)
    assert len(drive.waiting) == 2


def test_a_request_without_a_status_byte_breaks_the_device(driver):
    driver.offer(0, driver.chain(0, header(Kind.OUT), b"x" * 512)[0])
    assert driver.get(Common.DEVICE_STATUS, 1) & Status.NEEDS_RESET


def test_a_driver_that_never_stops_does_not_hold_the_machine(disk, wiring, clock, monkeypatch):
    monkeypatch.setattr(blk, "TURN", 2)
    driver = Driver(disk, wiring.ram)
    for sector in range(2):
        driver.offer(0, driver.chain(0, header(Kind.IN, sector), 512, 1)[0], notify=False)
    head = driver.chain(0, header(Kind.FLUSH), 1)[0]
    driver.offer(0, head, notify=False)
    driver.notify(0)
    assert len(driver.used()) == 2
    clock.advance(0)
    assert len(driver.used()) == 3
