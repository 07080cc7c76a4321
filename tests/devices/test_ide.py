"""PIIX3 IDE channels with ATA disks and ATAPI drives: PIO, DMA, registers, resets."""

import random

import pytest

from fakes import FakeDrive, Ram
from ring3.devices.storage.ata import PIO_CHUNK, AtaDisk, Error, Status
from ring3.devices.storage.atapi import AtapiCd
from ring3.devices.storage.ide import Bmis, PiixIde
from ring3.irq import IrqLine
from ring3.state import load, record
from storage_fakes import BUFFER, IdeDriver

SECTOR = 512
SECTORS = 8_000
READY = Status.READY


def ignore(*values):
    """Nobody looks at where ports are."""


@pytest.fixture
def ram():
    return Ram(1 << 20)


@pytest.fixture
def drive():
    return FakeDrive(random.Random(1).randbytes(2 << 20), size_bytes=SECTORS * SECTOR)


@pytest.fixture
def disk(drive):
    return AtaDisk(drive, "serial")


@pytest.fixture
def disc():
    return FakeDrive(random.Random(2).randbytes(1 << 20), read_only=True)


@pytest.fixture
def cd(disc):
    cd = AtapiCd(disc)
    cd.target.state.attentions.clear()
    return cd


@pytest.fixture
def edges():
    return []


@pytest.fixture
def ide(ram, edges, disk, cd):
    ide = PiixIde((IrqLine(edges.append), IrqLine(edges.append)), ram, ignore, ignore)
    ide.write_config(4, 5, 2)
    ide.channels[0].attach(0, disk)
    ide.channels[1].attach(0, cd)
    return ide


@pytest.fixture
def primary(ide, ram):
    return IdeDriver(ide.channels[0], ram)


@pytest.fixture
def secondary(ide, ram):
    return IdeDriver(ide.channels[1], ram)


def word(data, n):
    return int.from_bytes(data[2 * n : 2 * n + 2], "little")


def test_identify_tells_the_size_and_sums_up_to_zero(primary, edges):
    primary.command(0xEC)
    assert (primary.status, edges) == (READY | Status.DRQ, [True])
    data = primary.read_words(SECTOR)
    assert primary.status == READY
    assert word(data, 60) | word(data, 61) << 16 == SECTORS
    assert word(data, 100) | word(data, 101) << 16 == SECTORS
    assert data[54:74].startswith(b"IRGN 3IDKS")
    assert data[510] == 0xA5
    assert sum(data) & 0xFF == 0


def test_reading_status_acknowledges_the_interrupt_and_the_alternate_does_not(primary, edges):
    primary.command(0xEC)
    assert primary.status & Status.DRQ
    assert edges == [True]
    primary.acknowledge()
    assert edges == [True, False]


def test_nien_keeps_the_interrupt_inside(ide, primary, edges):
    ide.channels[0].control.write(0, 0x02)
    primary.command(0xEC)
    assert edges == []
    ide.channels[0].control.write(0, 0x00)
    assert edges == [True]


def test_pio_reads_a_sector_a_block_and_interrupts_for_each(primary, drive, edges):
    primary.command(0x20, lba=7, count=3)
    data = b""
    for _ in range(3):
        assert primary.acknowledge() == READY | Status.DRQ
        data += primary.read_words(SECTOR)
    assert data == drive.content[7 * SECTOR : 10 * SECTOR]
    assert primary.status == READY
    assert edges == [True, False] * 3


def test_read_multiple_moves_sixteen_sectors_a_block(primary, drive, edges):
    primary.command(0xC4, lba=1, count=20)
    assert primary.read_words(20 * SECTOR) == drive.content[SECTOR : 21 * SECTOR]
    assert primary.status == READY
    assert edges.count(True) == 1           # never acknowledged in between
    primary.command(0xC6, count=0)
    primary.command(0xC4, lba=1, count=20)
    assert (primary.status, primary.error) == (READY | Status.ERR, Error.ABRT)


def test_a_long_pio_read_comes_from_the_drive_in_bounded_pieces(primary, drive):
    primary.command(0x24, lba=0, count=200, ext=True)
    assert primary.channel.read_block(0, 2, 200 * 256) == drive.content[: 200 * SECTOR]
    assert max(length for _, _, length in drive.log) == PIO_CHUNK


def test_pio_writes(primary, drive, edges):
    primary.command(0x30, lba=9, count=2)
    assert (primary.status, edges) == (READY | Status.DRQ, [])      # no interrupt for the first block
    primary.write_words(b"ab" * SECTOR)
    assert drive.content[9 * SECTOR : 11 * SECTOR] == b"ab" * SECTOR
    assert (primary.acknowledge(), edges) == (READY, [True, False])


def test_a_block_face_writes_as_words_do(primary, drive):
    primary.command(0x34, lba=0, count=300, ext=True)
    data = random.Random(3).randbytes(300 * SECTOR)
    primary.channel.write_block(0, 2, data)
    assert drive.content[: len(data)] == data
    assert primary.status == READY


def test_chs_addresses_go_through_the_translation(primary, drive):
    primary.command(0x91, count=17, lba=0x3000000, lba_mode=False)      # 17 sectors, 4 heads
    primary.command(0x20, lba=5 | 2 << 8 | 1 << 24, lba_mode=False)     # cylinder 2, head 1, sector 5
    lba = (2 * 4 + 1) * 17 + 4
    assert primary.read_words(SECTOR) == drive.content[lba * SECTOR : (lba + 1) * SECTOR]
    primary.command(0x20, lba=18, lba_mode=False)
    assert primary.error == Error.IDNF


@pytest.mark.parametrize("lba", [SECTORS, SECTORS - 1, (1 << 28) - 1])
def test_addresses_beyond_the_end_are_not_found(primary, drive, lba):
    primary.command(0x20, lba=lba, count=2)
    assert (primary.status, primary.error) == (READY | Status.ERR, Error.IDNF)
    assert drive.log == []


def test_dma_reads_into_the_regions_described(ide, primary, drive, ram):
    primary.table((BUFFER, 1000), (BUFFER + 0x8000, 2 * SECTOR - 1000))
    primary.command(0xC8, lba=3, count=2)
    assert primary.status & Status.DRQ
    primary.start_dma(to_memory=True)
    data = drive.content[3 * SECTOR : 5 * SECTOR]
    assert ram.read(BUFFER, 1000) == data[:1000]
    assert ram.read(BUFFER + 0x8000, 24) == data[1000:]
    assert ide.read(2, 1) & 7 == Bmis.INTERRUPT
    assert primary.status == READY


def test_dma_may_be_started_before_the_command(primary, drive, ram):
    primary.table((BUFFER, SECTOR))
    primary.start_dma(to_memory=True)
    primary.command(0x25, lba=3, count=1, ext=True)
    assert ram.read(BUFFER, SECTOR) == drive.content[3 * SECTOR : 4 * SECTOR]


def test_dma_writes(primary, drive, ram):
    ram.write(BUFFER, b"dma!" * 256)
    primary.table((BUFFER, 2 * SECTOR))
    primary.command(0xCA, lba=4, count=2)
    primary.start_dma(to_memory=False)
    assert drive.content[4 * SECTOR : 6 * SECTOR] == b"dma!" * 256


def test_a_table_longer_than_the_transfer_leaves_the_bus_master_active(ide, primary):
    primary.table((BUFFER, SECTOR), (BUFFER, SECTOR))
    primary.command(0xC8, count=1)
    primary.start_dma(to_memory=True)
    assert ide.read(2, 1) & 7 == Bmis.INTERRUPT | Bmis.ACTIVE


def test_a_table_shorter_than_the_transfer_leaves_the_device_waiting(ide, primary, edges):
    primary.table((BUFFER, SECTOR))
    primary.command(0xC8, count=2)
    primary.start_dma(to_memory=True)
    assert ide.read(2, 1) & 7 == 0
    assert edges == []
    ide.channels[0].control.write(0, 0x04)
    ide.channels[0].control.write(0, 0x00)
    assert primary.status == READY


def test_without_bus_mastering_no_dma_runs(ide, primary, drive):
    ide.write_config(4, 1, 2)
    primary.table((BUFFER, SECTOR))
    primary.command(0xC8, count=1)
    primary.start_dma(to_memory=True)
    assert drive.log == []


def test_answers_after_a_reset_are_dropped(ide, primary, drive, edges):
    drive.deferred = True
    primary.command(0x20)
    assert primary.status & Status.BSY
    ide.channels[0].control.write(0, 0x04)
    ide.channels[0].control.write(0, 0x00)
    drive.run()
    assert (primary.status, edges) == (READY, [])


def test_errors_of_the_host_are_uncorrectable_for_reads(primary, drive):
    drive.errors = [OSError(5, "Input/output error")]
    primary.command(0x20)
    assert (primary.status, primary.error) == (READY | Status.ERR, Error.UNC)


def test_a_read_only_drive_refuses_writes(primary, drive):
    drive.read_only = True
    primary.command(0x30)
    assert (primary.status, primary.error) == (READY | Status.ERR, Error.ABRT)


def test_flush_reaches_the_drive(primary, drive):
    primary.command(0xE7)
    assert drive.log == [("flush",)]


def test_with_the_write_cache_off_writes_are_flushed(primary, drive):
    primary.command(0xEF, features=0x82)
    primary.command(0x30)
    primary.write_words(bytes(SECTOR))
    assert drive.log == [("flush",), ("write", 0, SECTOR), ("flush",)]


def test_trim_discards_its_ranges(primary, drive, ram):
    entries = (8 | 4 << 48).to_bytes(8, "little") + (100 | 1 << 48).to_bytes(8, "little")
    ram.write(BUFFER, entries.ljust(SECTOR, b"\0"))
    primary.table((BUFFER, SECTOR))
    primary.command(0x06, features=1, count=1, ext=True)
    primary.start_dma(to_memory=False)
    assert drive.log == [("discard", 8 * SECTOR, 4 * SECTOR), ("discard", 100 * SECTOR, SECTOR)]
    assert primary.status == READY


def test_smart_says_that_all_is_well(primary):
    primary.command(0xB0, features=0xDA, lba=0xC24F00)
    assert (primary.status, primary.channel.read(4, 1), primary.channel.read(5, 1)) == (READY, 0x4F, 0xC2)
    primary.command(0xB0, features=0xD0, lba=0xC24F00)
    assert sum(primary.read_words(SECTOR)) & 0xFF == 0


def test_48_bit_registers_read_back_through_hob(ide, primary):
    primary.command(0xEA, lba=0x0605_0403_0201, ext=True)
    assert [primary.channel.read(n, 1) for n in (3, 4, 5)] == [0x01, 0x02, 0x03]
    ide.channels[0].control.write(0, 0x80)
    assert [primary.channel.read(n, 1) for n in (3, 4, 5)] == [0x04, 0x05, 0x06]


def test_device_0_answers_for_an_absent_device_1(primary):
    primary.channel.write(6, 0x10, 1)
    assert (primary.status, primary.acknowledge()) == (0, 0)


def test_a_channel_without_devices_floats(ram):
    ide = PiixIde((IrqLine(), IrqLine()), ram, ignore, ignore)
    assert ide.channels[0].read(7, 1) == 0x7F
    ide.channels[0].write(7, 0xEC, 1)


def test_resets_show_the_signatures(ide, primary, secondary):
    for channel in ide.channels:
        channel.control.write(0, 0x04)
        assert channel.alternate_status() & Status.BSY
        channel.control.write(0, 0x00)
    assert [primary.channel.read(n, 1) for n in (2, 3, 4, 5)] == [1, 1, 0, 0]
    assert [secondary.channel.read(n, 1) for n in (2, 3, 4, 5)] == [1, 1, 0x14, 0xEB]


def test_identify_on_a_packet_device_aborts_with_its_signature(secondary):
    secondary.command(0xEC)
    assert secondary.error == Error.ABRT
    assert [secondary.channel.read(n, 1) for n in (4, 5)] == [0x14, 0xEB]
    secondary.command(0xA1)
    assert word(secondary.read_words(SECTOR), 0) == 0x85C0
    assert secondary.status == READY


@pytest.mark.parametrize(("limit", "dma"), [(0xFFFE, False), (2048, False), (100, False), (1, False)])
def test_a_packet_reads_by_pio_in_blocks_of_the_byte_count(secondary, disc, limit, dma):
    read = (0x28, 0, 0, 0, 0, 1, 0, 0, 2)
    assert secondary.packet_in(read, limit=limit) == disc.content[2048 : 3 * 2048]
    assert secondary.status == READY
    assert secondary.channel.read(2, 1) & 3 == 3


def test_a_packet_reads_by_dma(secondary, disc, ram):
    secondary.table((BUFFER, 4096))
    secondary.packet((0x28, 0, 0, 0, 0, 1, 0, 0, 2), dma=True)
    secondary.start_dma(to_memory=True)
    assert ram.read(BUFFER, 4096) == disc.content[2048 : 3 * 2048]
    assert secondary.status == READY


def test_a_packet_that_fails_has_its_sense_key_in_the_error_register(secondary, cd):
    cd.insert(None)
    secondary.packet((0x00,))
    assert (secondary.status, secondary.error >> 4) == (READY | Status.ERR, 2)
    assert secondary.packet_in((0x03, 0, 0, 0, 18))[2] == 2


def test_a_packet_takes_parameters_by_pio(secondary):
    page = bytes((0x01, 10)) + bytes(10)
    secondary.packet((0x55, 0x10, 0, 0, 0, 0, 0, 0, 20), limit=6)
    for block in (bytes(6), bytes(2) + page[:4], page[4:10], page[10:]):
        assert secondary.status & Status.DRQ
        secondary.write_words(block)
    assert secondary.status == READY


def test_a_read_by_pio_goes_on_after_a_checkpoint(ide, secondary, cd, disc, ram):
    secondary.packet((0x28, 0, 0, 0, 0, 0, 0, 1, 0), limit=2048)
    first = secondary.read_words(2048)
    cd.restore(load(type(cd.state), record(cd.state)))
    ide.restore(load(type(ide.state), record(ide.state)))
    rest = b"".join(secondary.read_words(2048) for _ in range(255))
    assert first + rest == disc.content[: 256 * 2048]
    assert secondary.status == READY


def test_the_legacy_ports_follow_their_enable_bits(ram):
    moves = []
    ide = PiixIde((IrqLine(), IrqLine()), ram, lambda channel, on: moves.append((channel, on)), ignore)
    ide.write_config(0x42, 0x8000, 2)
    ide.write_config(0x04, 0x0001, 2)
    ide.write_config(0x04, 0x0000, 2)
    assert moves == [(1, True), (1, False)]


def test_only_bar_4_can_be_placed(ram):
    bases = []
    ide = PiixIde((IrqLine(), IrqLine()), ram, ignore, lambda bar, base: bases.append((bar, base)))
    for bar in range(6):
        ide.write_config(0x10 + 4 * bar, 0xFFFF_FFFF, 4)
    assert [ide.read_config(0x10 + 4 * bar, 4) for bar in range(6)] == [0, 0, 0, 0, 0xFFFF_FFF1, 0]
    ide.write_config(0x20, 0xC000, 4)
    ide.write_config(0x04, 0x0001, 2)
    assert bases == [(4, 0xC000)]
