"""SCSI disks: SPC and SBC commands, transfers in chunks, errors of the host."""

import random

import pytest

from fakes import FakeDrive
from ring3.devices.storage.scsi import CHUNK, Key, Op, Status, Task
from ring3.devices.storage.scsi_disk import BLOCK, ScsiDisk
from ring3.state import load, record
from storage_fakes import Adapter

BLOCKS = 4096
GOOD, CHECK = Status.GOOD, Status.CHECK_CONDITION


@pytest.fixture
def drive():
    return FakeDrive(random.Random(1).randbytes(BLOCKS * BLOCK))


@pytest.fixture
def disk(drive):
    disk = ScsiDisk(drive, "R3-1")
    disk.state.attentions.clear()
    return disk


@pytest.fixture
def adapter(disk):
    return Adapter(disk)


def read_10(lba, count):
    return bytes((Op.READ_10, 0)) + lba.to_bytes(4, "big") + b"\0" + count.to_bytes(2, "big") + b"\0"


def write_10(lba, count, flags=0):
    return bytes((Op.WRITE_10, flags)) + lba.to_bytes(4, "big") + b"\0" + count.to_bytes(2, "big") + b"\0"


def test_the_first_command_after_power_on_meets_a_unit_attention(drive):
    adapter = Adapter(ScsiDisk(drive))
    assert adapter.run((Op.TEST_UNIT_READY,)) == (CHECK, (Key.UNIT_ATTENTION, 0x2900))
    assert adapter.run((Op.TEST_UNIT_READY,)) == (GOOD, b"")


def test_inquiry_leaves_a_unit_attention_pending(drive):
    adapter = Adapter(ScsiDisk(drive))
    status, data = adapter.run((Op.INQUIRY, 0, 0, 0, 36))
    assert (status, data[:5], data[8:32]) == (GOOD, b"\x00\x00\x05\x02\x1f", b"RING3   VIRTUAL DISK    ")
    assert adapter.run((Op.TEST_UNIT_READY,))[0] == CHECK


def test_inquiry_of_another_unit_says_there_is_none(adapter):
    assert adapter.run((Op.INQUIRY, 0, 0, 0, 36), lun=1)[1][0] == 0x7F
    assert adapter.run((Op.TEST_UNIT_READY,), lun=1) == (CHECK, (Key.ILLEGAL_REQUEST, 0x2500))


@pytest.mark.parametrize(("page", "start"), [(0x00, b"\x00\x80\x83\xb0"), (0x80, b"R3-1"), (0xB2, b"\0\xe4")])
def test_vital_product_data(adapter, page, start):
    status, data = adapter.run((Op.INQUIRY, 1, page, 0, 255))
    assert status == GOOD
    assert data[1] == page
    assert data[4:].startswith(start)
    assert len(data) == 4 + data[3]


def test_capacity_is_the_last_block_and_the_block_size(adapter):
    assert adapter.run((Op.READ_CAPACITY_10,)) == (GOOD, b"\0\0\x0f\xff\0\0\2\0")
    status, data = adapter.run((Op.SERVICE_ACTION_IN_16, 0x10, *bytes(11), 32))
    assert (status, data[:12]) == (GOOD, b"\0\0\0\0\0\0\x0f\xff\0\0\2\0")


def test_capacity_10_saturates_on_large_disks(disk, adapter):
    disk.drive.size_bytes = 3 << 40
    assert adapter.run((Op.READ_CAPACITY_10,))[1][:4] == b"\xff\xff\xff\xff"


@pytest.mark.parametrize(
    "cdb",
    [
        bytes((Op.READ_6, 0, 0, 7, 3, 0)),
        read_10(7, 3),
        bytes((Op.READ_12, 0, 0, 0, 0, 7, 0, 0, 0, 3, 0, 0)),
        bytes((Op.READ_16, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 3, 0, 0)),
    ],
)
def test_reads_of_every_length_of_command(adapter, drive, cdb):
    assert adapter.run(cdb) == (GOOD, drive.content[7 * BLOCK : 10 * BLOCK])


def test_read_6_of_0_blocks_means_256(adapter):
    assert len(adapter.run((Op.READ_6, 0, 0, 0, 0, 0))[1]) == 256 * BLOCK


def test_a_long_read_comes_in_chunks(adapter, drive):
    assert adapter.run(read_10(1, 2000)) == (GOOD, drive.content[BLOCK : 2001 * BLOCK])
    assert [length for _, _, length in drive.log] == [CHUNK] * 3 + [2000 * BLOCK - 3 * CHUNK]


def test_no_more_is_moved_than_the_adapter_takes(adapter, drive):
    assert adapter.run(read_10(0, 2000), room=700) == (GOOD, drive.content[:700])
    assert len(drive.log) == 1


@pytest.mark.parametrize("lba", [BLOCKS - 1, BLOCKS, 0xFFFF_FFFF])
def test_a_read_beyond_the_end_is_refused_whole(adapter, drive, lba):
    assert adapter.run(read_10(lba, 2)) == (CHECK, (Key.ILLEGAL_REQUEST, 0x2100))
    assert drive.log == []


def test_what_is_written_is_on_the_drive(adapter, drive):
    assert adapter.run(write_10(5, 2), out=b"ab" * BLOCK) == (GOOD, b"")
    assert drive.content[5 * BLOCK : 7 * BLOCK] == b"ab" * BLOCK
    assert ("flush",) not in drive.log


def test_fua_flushes_after_the_write(adapter, drive):
    adapter.run(write_10(5, 1, flags=0x08), out=b"x" * BLOCK)
    assert drive.log == [("write", 5 * BLOCK, BLOCK), ("flush",)]


def test_with_the_cache_off_each_write_is_flushed(adapter, drive):
    caching = bytes((8, 18, 0)) + bytes(17)
    assert adapter.run((Op.MODE_SELECT_6, 0x10, 0, 0, 24), out=bytes(4) + caching) == (GOOD, b"")
    adapter.run(write_10(5, 1), out=b"x" * BLOCK)
    assert drive.log[-1] == ("flush",)
    assert adapter.run((Op.MODE_SENSE_6, 8, 8, 0, 255))[1][6] == 0


def test_a_write_protected_disk_refuses_writes(drive, adapter):
    drive.read_only = True
    assert adapter.run(write_10(0, 1), out=bytes(BLOCK)) == (CHECK, (Key.DATA_PROTECT, 0x2700))
    assert adapter.run((Op.MODE_SENSE_6, 8, 0x3F, 0, 255))[1][2] & 0x80


def test_errors_of_the_host_are_medium_errors(adapter, drive):
    drive.errors = [OSError(5, "Input/output error")]
    assert adapter.run(read_10(0, 1)) == (CHECK, (Key.MEDIUM_ERROR, 0x1100))
    drive.errors = [OSError(28, "No space left on device")]
    assert adapter.run(write_10(0, 1), out=bytes(BLOCK)) == (CHECK, (Key.MEDIUM_ERROR, 0x0C00))


def test_answers_that_come_later_go_on_with_the_task(adapter, drive):
    drive.deferred = True
    assert adapter.run(read_10(0, 1000))[0] is None
    drive.run()
    assert adapter.answer() == (GOOD, drive.content[: 1000 * BLOCK])


def test_nothing_comes_of_an_aborted_task(adapter, drive, disk):
    drive.deferred = True
    adapter.run(read_10(0, 1000))
    disk.abort(adapter.task)
    drive.run()
    assert adapter.answer() == (None, b"")


def test_pio_takes_and_gives_one_chunk_at_a_time(disk, drive):
    adapter = Adapter(disk, pio=True)
    adapter.run(read_10(0, 1000))
    assert len(adapter.data) == CHUNK
    adapter.go_on()
    assert adapter.status is None
    adapter.go_on()
    assert adapter.answer() == (GOOD, drive.content[: 1000 * BLOCK])
    adapter.run(write_10(9, 1), out=b"q" * BLOCK)
    assert (adapter.wants, adapter.status) == (BLOCK, None)
    adapter.go_on()
    assert adapter.answer() == (GOOD, b"")
    assert drive.content[9 * BLOCK : 10 * BLOCK] == b"q" * BLOCK


def test_a_task_that_waits_for_its_adapter_survives_a_checkpoint(disk, drive):
    adapter = Adapter(disk, pio=True)
    adapter.run(read_10(0, 1000))
    adapter.task = load(Task, record(adapter.task))
    adapter.go_on()
    adapter.go_on()
    assert adapter.answer() == (GOOD, drive.content[: 1000 * BLOCK])


def test_verify_with_bytchk_compares(adapter, drive):
    same = bytes(drive.content[:BLOCK])
    assert adapter.run((Op.VERIFY_10, 2, 0, 0, 0, 0, 0, 0, 1), out=same) == (GOOD, b"")
    differs = (CHECK, (Key.MISCOMPARE, 0x1D00))
    assert adapter.run((Op.VERIFY_10, 2, 0, 0, 0, 0, 0, 0, 1), out=bytes(BLOCK)) == differs


def test_unmap_discards_its_ranges(adapter, drive):
    ranges = bytes((0, 38, 0, 32, 0, 0, 0, 0))
    for first, count in ((2, 3), (100, 1)):
        ranges += first.to_bytes(8, "big") + count.to_bytes(4, "big") + bytes(4)
    assert adapter.run((Op.UNMAP, 0, 0, 0, 0, 0, 0, 0, 40), out=ranges) == (GOOD, b"")
    assert drive.log == [("discard", 2 * BLOCK, 3 * BLOCK), ("discard", 100 * BLOCK, BLOCK)]


def test_write_same_repeats_a_block_and_discards_for_zeros(adapter, drive):
    assert adapter.run((Op.WRITE_SAME_10, 0, 0, 0, 0, 3, 0, 0, 2), out=b"w" * BLOCK) == (GOOD, b"")
    assert drive.content[3 * BLOCK : 5 * BLOCK] == b"w" * 2 * BLOCK
    adapter.run((Op.WRITE_SAME_10, 8, 0, 0, 0, 3, 0, 0, 2), out=bytes(BLOCK))
    assert drive.log[-1] == ("discard", 3 * BLOCK, 2 * BLOCK)


def test_synchronize_cache_flushes(adapter, drive):
    assert adapter.run((Op.SYNCHRONIZE_CACHE_10,)) == (GOOD, b"")
    assert drive.log == [("flush",)]


def test_sense_stays_for_request_sense_until_the_next_command(adapter):
    adapter.run((0xFF,))
    assert adapter.run((Op.REQUEST_SENSE, 0, 0, 0, 18))[1][12] == 0x20
    assert adapter.run((Op.REQUEST_SENSE, 0, 0, 0, 18))[1][2] == Key.NO_SENSE


def test_no_command_makes_it_raise(disk, drive):
    rng = random.Random(7)
    drive.deferred = True
    adapter = Adapter(disk)
    codes = [*ScsiDisk.COMMANDS, 0xFF]
    for _ in range(20_000):
        cdb = bytes((rng.choice(codes),)) + bytes(rng.choice((0, 0, 1, 8, 255)) for _ in range(15))
        adapter.pio = rng.random() < 0.3
        adapter.run(cdb, out=rng.randbytes(rng.choice((0, 8, 600))), room=rng.choice((0, 100, 1 << 16)))
        drive.run(rng.randrange(4))
        if adapter.status is None and adapter.pio:
            adapter.go_on()
        disk.abort(adapter.task)
        drive.run()
