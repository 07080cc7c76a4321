"""CD and DVD drives: MMC commands, medium change, tray and lock."""

import random

import pytest

from fakes import FakeDrive
from ring3.devices.storage.scsi import Key, Op, Status
from ring3.devices.storage.scsi_cd import BLOCK, CD_BLOCKS_MAX, Event, ScsiCd
from storage_fakes import Adapter

GOOD, CHECK = Status.GOOD, Status.CHECK_CONDITION
BLOCKS = 1000


@pytest.fixture
def disc():
    return FakeDrive(random.Random(1).randbytes(BLOCKS * BLOCK), read_only=True)


@pytest.fixture
def cd(disc):
    cd = ScsiCd(disc)
    cd.state.attentions.clear()
    return cd


@pytest.fixture
def adapter(cd):
    return Adapter(cd)


def events(adapter):
    """Event code and status of GET EVENT STATUS NOTIFICATION."""
    return adapter.run((Op.GET_EVENT_STATUS, 1, 0, 0, 0x10, 0, 0, 0, 8))[1][4:6]


def test_reads_blocks_of_2048_bytes(adapter, disc):
    assert adapter.run((Op.READ_10, 0, 0, 0, 0, 16, 0, 0, 2)) == (GOOD, disc.content[16 * BLOCK : 18 * BLOCK])
    assert adapter.run((Op.READ_12, 0, 0, 0, 0, 1, 0, 0, 0, 1)) == (GOOD, disc.content[BLOCK : 2 * BLOCK])


def test_the_end_of_a_disc_of_odd_size_is_filled_with_zeros(cd, adapter):
    cd.drive = FakeDrive(b"x" * 2560)
    assert adapter.run((Op.READ_10, 0, 0, 0, 0, 1, 0, 0, 1)) == (GOOD, b"x" * 512 + bytes(1536))


def test_read_cd_gives_whole_sectors(adapter, disc):
    status, data = adapter.run((Op.READ_CD, 0, 0, 0, 0, 16, 0, 0, 2, 0xF8))
    assert (status, len(data)) == (GOOD, 2 * 2352)
    assert data[:16] == b"\0" + b"\xff" * 10 + b"\0" + bytes((0x00, 0x02, 0x16, 0x01))
    assert data[16 : 16 + BLOCK] == disc.content[16 * BLOCK : 17 * BLOCK]
    assert data[2352 + 12 : 2352 + 16] == bytes((0x00, 0x02, 0x17, 0x01))


def test_read_cd_msf_counts_from_the_lead_in(adapter, disc):
    cdb = (Op.READ_CD_MSF, 0, 0, 0, 2, 16, 0, 2, 18, 0x10)
    assert adapter.run(cdb) == (GOOD, disc.content[16 * BLOCK : 18 * BLOCK])


def test_the_table_of_contents_has_one_data_track_and_the_lead_out(adapter):
    toc = bytes((0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xAA, 0, 0, 0, 0x03, 0xE8))
    assert adapter.run((Op.READ_TOC, 0, 0, 0, 0, 0, 0, 0, 255)) == (GOOD, toc)
    status, data = adapter.run((Op.READ_TOC, 2, 0, 0, 0, 0, 0, 0, 255))
    assert (status, data[8:12], data[16:20]) == (GOOD, bytes((0, 0, 2, 0)), bytes((0, 0, 15, 25)))


def test_a_long_disc_is_a_dvd(cd, adapter):
    assert adapter.run((Op.GET_CONFIGURATION, 0, 0, 0, 0, 0, 0, 0, 8))[1][6:8] == b"\0\x08"
    cd.drive.size_bytes = (CD_BLOCKS_MAX + 1) * BLOCK
    assert adapter.run((Op.GET_CONFIGURATION, 0, 0, 0, 0, 0, 0, 0, 8))[1][6:8] == b"\0\x10"
    assert adapter.run((Op.READ_DVD_STRUCTURE, 0, 0, 0, 0, 0, 0, 0, 8, 4))[0] == GOOD


def test_without_a_medium_it_is_not_ready(cd, adapter):
    cd.insert(None)
    assert adapter.run((Op.TEST_UNIT_READY,)) == (CHECK, (Key.NOT_READY, 0x3A01))
    assert adapter.run((Op.READ_10, 0, 0, 0, 0, 0, 0, 0, 1)) == (CHECK, (Key.NOT_READY, 0x3A01))
    assert adapter.run((Op.GET_CONFIGURATION, 0, 0, 0, 0, 0, 0, 0, 8))[1][6:8] == b"\0\0"


def test_a_changed_medium_is_a_unit_attention_and_an_event(cd, adapter):
    cd.insert(FakeDrive(b"2" * BLOCK))
    assert events(adapter) == bytes((Event.NEW_MEDIA, 2))
    assert events(adapter) == bytes((Event.NONE, 2))
    assert adapter.run((Op.TEST_UNIT_READY,)) == (CHECK, (Key.UNIT_ATTENTION, 0x2800))
    assert adapter.run((Op.READ_10, 0, 0, 0, 0, 0, 0, 0, 1)) == (GOOD, b"2" * BLOCK)


def test_the_guest_ejects_and_loads(cd, adapter):
    ejected = []
    cd.on_eject = lambda: ejected.append(True)
    assert adapter.run((Op.START_STOP_UNIT, 0, 0, 0, 2)) == (GOOD, b"")
    assert ejected == [True]
    assert adapter.run((Op.TEST_UNIT_READY,)) == (CHECK, (Key.NOT_READY, 0x3A02))
    assert events(adapter) == bytes((Event.REMOVAL, 1))
    adapter.run((Op.START_STOP_UNIT, 0, 0, 0, 3))
    assert adapter.run((Op.TEST_UNIT_READY,)) == (CHECK, (Key.UNIT_ATTENTION, 0x2800))
    assert adapter.run((Op.TEST_UNIT_READY,)) == (GOOD, b"")


def test_a_locked_tray_stays_shut_and_the_guest_hears_of_the_wish(cd, adapter):
    adapter.run((Op.PREVENT_ALLOW, 0, 0, 0, 1))
    assert cd.locked
    assert not cd.request_eject()
    assert events(adapter) == bytes((Event.EJECT_REQUEST, 2))
    assert adapter.run((Op.START_STOP_UNIT, 0, 0, 0, 2)) == (CHECK, (Key.ILLEGAL_REQUEST, 0x5302))
    adapter.run((Op.PREVENT_ALLOW, 0, 0, 0, 0))
    assert cd.request_eject()
    assert cd.state.tray_open


def test_an_open_tray_stays_open_over_a_reset(cd):
    cd.request_eject()
    cd.reset()
    assert cd.state.tray_open
    assert not cd.locked


@pytest.mark.parametrize("page", [0x01, 0x0D, 0x0E, 0x2A, 0x3F])
def test_mode_pages_say_their_length(adapter, page):
    status, data = adapter.run((Op.MODE_SENSE_10, 0, page, 0, 0, 0, 0, 1, 0))
    assert status == GOOD
    assert int.from_bytes(data[:2], "big") == len(data) - 2
    assert page == 0x3F or (data[8], data[9]) == (page, len(data) - 10)


def test_no_command_makes_it_raise(cd, disc):
    rng = random.Random(7)
    adapter = Adapter(cd)
    for _ in range(20_000):
        cdb = bytes((rng.choice((*ScsiCd.COMMANDS, 0xFF)),))
        cdb += bytes(rng.choice((0, 0, 1, 2, 0x10, 255)) for _ in range(15))
        adapter.run(cdb, out=rng.randbytes(rng.choice((0, 8, 600))), room=rng.choice((0, 100, 1 << 16)))
        if rng.random() < 0.1:
            cd.insert(rng.choice((disc, None)))
