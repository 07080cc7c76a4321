"""The diskette controller, as a driver programs it."""

import random

import pytest

from fakes import FakeDrive, Ram
from ring3.clock import ManualClock
from ring3.devices.dma import I8237Pair
from ring3.devices.floppy import (
    DRIVE_TYPES,
    DSKCHG,
    EMPTY_NS,
    I82077AA,
    MEDIA,
    FloppyDrive,
    Msr,
    Reg,
    St0,
    St1,
    St2,
    St3,
    drive_type_for,
    medium_of,
)
from ring3.irq import IrqLine
from ring3.state import load, record

BUFFER = 0x8000
SECTORS = 18
CONTENT = random.Random(1).randbytes(MEDIA["1.44M"].size_bytes)
TO_MEMORY, FROM_MEMORY = 0x44, 0x48     # DMA modes


class Controller:
    """The chip with its DMA channel and drive A:, and the driver's hands on them."""

    def __init__(self, clock, edges=None, drive=None, kind="1.44M"):
        self.clock = clock
        self.edges = [] if edges is None else edges
        self.ram = Ram(0x2_0000)
        self.dma = I8237Pair(self.ram)
        self.image = drive if drive is not None else FakeDrive(CONTENT)
        self.drive = FloppyDrive(kind, self.image)
        self.chip = I82077AA(clock, IrqLine(self.edges.append), self.dma.channel(2), [self.drive])
        self.dma.secondary.write(0x14, 0)       # channel 4, the cascade
        self.dma.secondary.write(0x16, 0xC0)

    def start(self, rate=0):
        """Out of reset, drive A: selected and turning."""
        self.chip.write(Reg.DOR, 0x1C)
        self.chip.write(Reg.DIR_CCR, rate)
        for _ in range(4):
            self.command(0x08)
        self.command(0x03, 0xDF, 0x02)
        self.edges.clear()
        return self

    def aim_dma(self, mode, length, address=BUFFER):
        port = self.dma.primary.write
        port(0xC, 0)
        port(0xB, mode | 2)
        port(0x4, address & 0xFF)
        port(0x4, address >> 8 & 0xFF)
        port(0x5, length - 1 & 0xFF)
        port(0x5, length - 1 >> 8)
        self.dma.pages.write(0, address >> 16)
        port(0xA, 2)

    def send(self, *command):
        for byte in command:
            assert self.chip.read(Reg.MSR_DSR) & (Msr.RQM | Msr.DIO) == Msr.RQM
            self.chip.write(Reg.FIFO, byte)

    def result(self):
        found = bytearray()
        while self.chip.read(Reg.MSR_DSR) & (Msr.DIO | Msr.BUSY) == Msr.DIO | Msr.BUSY:
            found.append(self.chip.read(Reg.FIFO))
        return bytes(found)

    def command(self, *command):
        self.send(*command)
        self.clock.advance(20_000_000)
        return self.result()

    def seek(self, cylinder):
        self.send(0x0F, 0, cylinder)
        self.clock.advance(20_000_000)
        return self.command(0x08)

    def read(self, cylinder, head, sector, length, *, code=0xE6, last=SECTORS):
        self.aim_dma(TO_MEMORY, length)
        return self.command(code, head << 2, cylinder, head, sector, 2, last, 0x1B, 0xFF)

    def write(self, cylinder, head, sector, data, *, code=0xC5, last=SECTORS):
        self.ram.write(BUFFER, data)
        self.aim_dma(FROM_MEMORY, len(data))
        return self.command(code, head << 2, cylinder, head, sector, 2, last, 0x1B, 0xFF)


def offset(cylinder, head, sector):
    return ((cylinder * 2 + head) * SECTORS + sector - 1) * 512


@pytest.fixture
def fdc(clock, edges):
    return Controller(clock, edges).start()


# --- reset, status and small commands ---


def test_leaving_reset_interrupts_and_four_senses_tell_of_four_drives(clock, edges):
    fdc = Controller(clock, edges)
    assert fdc.chip.read(Reg.MSR_DSR) == 0
    fdc.chip.write(Reg.DOR, 0x0C)
    assert (fdc.chip.read(Reg.MSR_DSR), edges) == (Msr.RQM, [True])
    assert [fdc.command(0x08)[0] for _ in range(5)] == [0xC0, 0xC1, 0xC2, 0xC3, 0x80]
    assert edges == [True, False]


def test_the_dma_gate_keeps_the_interrupt_from_the_bus(clock, edges):
    fdc = Controller(clock, edges)
    fdc.chip.write(Reg.DOR, 0x04)
    assert edges == []


def test_a_reset_by_dsr_clears_itself(fdc):
    fdc.chip.write(Reg.MSR_DSR, 0x80)
    assert fdc.chip.read(Reg.MSR_DSR) == Msr.RQM
    assert fdc.command(0x08) == b"\xc0\0"


def test_it_says_it_is_an_82077aa(fdc):
    assert fdc.command(0x10) == b"\x90"


@pytest.mark.parametrize("command", [0x00, 0x18, 0x11, 0x48, 0x50])
def test_an_unknown_command_is_invalid(fdc, command):
    assert fdc.command(command) == b"\x80"


def test_lock_keeps_the_fifo_over_a_reset(fdc):
    fdc.command(0x13, 0, 0x57, 9)
    assert fdc.command(0x94) == b"\x10"
    fdc.chip.write(Reg.MSR_DSR, 0x80)
    assert fdc.command(0x0E)[8:] == bytes((0x57, 9))
    assert fdc.command(0x14) == b"\0"
    fdc.chip.write(Reg.MSR_DSR, 0x80)
    assert fdc.command(0x0E)[8:] == bytes((0x70, 0))


def test_dumpreg_tells_what_was_specified(fdc):
    fdc.command(0x12, 0x84)
    assert fdc.command(0x0E)[4:8] == bytes((0xDF, 0x02, 0, 0x04))


def test_perpendicular_changes_drives_only_when_let(fdc):
    fdc.command(0x12, 0x84)
    fdc.command(0x12, 0x0B)
    assert fdc.command(0x0E)[7] == 0x07


def test_sense_drive_status(fdc):
    assert fdc.command(0x04, 0x04) == bytes((St3.HEAD | St3.TWO_SIDES | St3.ALWAYS | St3.TRACK0,))
    assert fdc.command(0x04, 0x01) == bytes((St3.TWO_SIDES | St3.ALWAYS | 1,))


# --- seeks and the change line ---


def test_a_seek_interrupts_when_it_arrives(fdc, edges):
    fdc.send(0x0F, 0, 5)
    assert (fdc.chip.read(Reg.MSR_DSR), edges) == (Msr.RQM | 1, [])
    fdc.clock.advance(1_000_000)
    assert (fdc.chip.read(Reg.MSR_DSR), edges) == (Msr.RQM, [True])
    assert fdc.command(0x08) == bytes((St0.SEEK_END, 5))


def test_recalibrate_goes_to_track_0(fdc):
    fdc.seek(40)
    fdc.send(0x07, 0)
    fdc.clock.advance(10_000_000)
    assert fdc.command(0x08) == bytes((St0.SEEK_END, 0))


def test_recalibrating_a_drive_that_is_not_there_fails(fdc):
    fdc.send(0x07, 1)
    fdc.clock.advance(10_000_000)
    assert fdc.command(0x08) == bytes((0x71, 0))


def test_relative_seeks_go_inward_and_outward(fdc):
    fdc.seek(10)
    fdc.send(0xCF, 0, 5)
    fdc.clock.advance(10_000_000)
    assert fdc.command(0x08)[1] == 15
    fdc.send(0x8F, 0, 12)
    fdc.clock.advance(10_000_000)
    assert fdc.command(0x08)[1] == 3


def test_the_change_line_is_cleared_by_a_step_with_a_medium(fdc):
    assert fdc.chip.read(Reg.DIR_CCR) == DSKCHG
    fdc.seek(0)
    assert fdc.chip.read(Reg.DIR_CCR) == DSKCHG
    fdc.seek(1)
    assert fdc.chip.read(Reg.DIR_CCR) == 0
    fdc.drive.insert(None)
    fdc.seek(2)
    assert fdc.chip.read(Reg.DIR_CCR) == DSKCHG


# --- transfers by DMA ---


def test_a_read_fills_memory_until_the_terminal_count(fdc, edges):
    assert fdc.read(0, 0, 3, 1024) == bytes((0, 0, 0, 0, 0, 5, 2))
    assert fdc.ram.read(BUFFER, 1024) == CONTENT[1024:2048]
    assert edges == [True, False]


def test_the_result_names_the_next_sector_also_across_the_track_s_end(fdc):
    assert fdc.read(0, 0, 18, 512, code=0x46)[3:] == bytes((1, 0, 1, 2))
    assert fdc.read(0, 0, 18, 512)[3:] == bytes((0, 1, 1, 2))
    assert fdc.read(0, 1, 18, 512)[3:] == bytes((1, 0, 1, 2))


def test_multitrack_goes_on_on_the_other_side(fdc):
    fdc.seek(7)
    assert fdc.read(7, 0, 17, 2048)[:3] == bytes((St0.HEAD, 0, 0))
    start = offset(7, 0, 17)
    assert fdc.ram.read(BUFFER, 2048) == CONTENT[start : start + 2048]


def test_the_end_of_the_track_before_the_terminal_count_is_an_error(fdc):
    assert fdc.read(0, 0, 18, 1024, code=0x46)[:3] == bytes((St0.ABNORMAL, St1.END, 0))


def test_a_write_reaches_the_image(fdc):
    fdc.seek(3)
    assert fdc.write(3, 1, 5, b"w" * 1024)[:3] == bytes((St0.HEAD, 0, 0))
    at = offset(3, 1, 5)
    assert bytes(fdc.image.content[at : at + 1024]) == b"w" * 1024


def test_a_write_that_ends_in_a_sector_fills_it_with_zeros(fdc):
    fdc.write(0, 0, 1, b"w" * 100)
    assert bytes(fdc.image.content[:512]) == b"w" * 100 + bytes(412)


def test_a_protected_medium_is_not_written(clock):
    fdc = Controller(clock, drive=FakeDrive(CONTENT, read_only=True)).start()
    assert fdc.write(0, 0, 1, b"w" * 512)[:2] == bytes((St0.ABNORMAL, St1.NOT_WRITABLE))
    assert fdc.command(0x04, 0)[0] & St3.PROTECTED


@pytest.mark.parametrize(
    ("chs", "st1", "st2"),
    [
        ((1, 0, 1), St1.NO_DATA, St2.WRONG_CYLINDER),
        ((0, 0, 19), St1.NO_DATA, 0),
        ((0, 0, 0), St1.NO_DATA, 0),
    ],
)
def test_a_sector_that_is_not_there_is_not_found(fdc, chs, st1, st2):
    assert fdc.read(*chs, 512)[:3] == bytes((St0.ABNORMAL, st1, st2))


def test_a_masked_channel_is_an_overrun(fdc):
    assert fdc.command(0xE6, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF)[:2] == bytes((St0.ABNORMAL, St1.OVERRUN))


def test_the_wrong_data_rate_finds_no_address_marks(clock):
    fdc = Controller(clock).start(rate=2)
    assert fdc.read(0, 0, 1, 512)[:2] == bytes((St0.ABNORMAL, St1.MISSING_MARK))


def test_an_empty_drive_takes_its_time_to_find_nothing(fdc):
    fdc.drive.insert(None)
    fdc.aim_dma(TO_MEMORY, 512)
    fdc.send(0xE6, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF)
    fdc.clock.advance(EMPTY_NS - 1)
    assert fdc.result() == b""
    fdc.clock.advance(1)
    assert fdc.result()[:2] == bytes((St0.ABNORMAL, St1.MISSING_MARK))


def test_an_error_of_the_host_is_a_crc_error(fdc):
    fdc.image.errors.append(OSError(5, "io"))
    assert fdc.read(0, 0, 1, 512)[:3] == bytes((St0.ABNORMAL, St1.DATA_ERROR, St2.DATA_ERROR))


def test_implied_seeks_move_the_head_first(fdc):
    fdc.command(0x13, 0, 0x70, 0)
    assert fdc.read(9, 0, 1, 512)[:3] == bytes(3)
    assert fdc.ram.read(BUFFER, 512) == CONTENT[offset(9, 0, 1) :][:512]


def test_verify_reads_without_moving_data(fdc):
    assert fdc.command(0xD6 & ~0x80, 0, 0, 0, 1, 2, 18, 0x1B, 0xFF)[:3] == bytes(3)
    assert fdc.command(0x56, 0x80, 0, 0, 1, 2, 18, 0x1B, 4)[:6] == bytes((0, 0, 0, 0, 0, 5))
    assert fdc.ram.read(BUFFER, 512) == bytes(512)


def test_read_deleted_data_ends_at_the_first_sector_that_is_not(fdc):
    assert fdc.read(0, 0, 1, 1024, code=0x4C)[:6] == bytes((0, 0, St2.CONTROL_MARK, 0, 0, 2))


def test_read_track_starts_at_the_first_sector(fdc):
    fdc.read(0, 0, 5, 512, code=0x42)
    assert fdc.ram.read(BUFFER, 512) == CONTENT[:512]


def test_read_id_sees_each_sector_as_it_comes_by(fdc):
    fdc.seek(4)
    seen = set()
    for _ in range(200):
        result = fdc.command(0x4A, 4)
        assert (result[3], result[4], result[6]) == (4, 1, 2)
        seen.add(result[5])
    assert seen <= set(range(1, 19))
    assert len(seen) > 3


def test_formatting_fills_the_track(fdc):
    fdc.seek(2)
    ids = b"".join(bytes((2, 1, n, 2)) for n in range(1, 19))
    fdc.ram.write(BUFFER, ids)
    fdc.aim_dma(FROM_MEMORY, len(ids))
    assert fdc.command(0x4D, 4, 2, 18, 0x54, 0xF6)[:3] == bytes((St0.HEAD, 0, 0))
    at = offset(2, 1, 1)
    assert bytes(fdc.image.content[at : at + 18 * 512]) == b"\xf6" * 18 * 512
    assert bytes(fdc.image.content[at + 18 * 512 :][:512]) == CONTENT[at + 18 * 512 :][:512]


def test_formatting_in_another_layout_is_refused(fdc):
    fdc.ram.write(BUFFER, b"".join(bytes((0, 0, n, 2)) for n in range(1, 10)))
    fdc.aim_dma(FROM_MEMORY, 36)
    assert fdc.command(0x4D, 0, 2, 9, 0x54, 0xF6)[:2] == bytes((St0.ABNORMAL, St1.NOT_WRITABLE))


# --- without DMA ---


def test_without_dma_bytes_come_one_by_one_and_interrupt(fdc, edges):
    fdc.command(0x03, 0xDF, 0x03)
    fdc.send(0x46, 0, 0, 0, 2, 2, 2, 0x1B, 0xFF)
    fdc.clock.advance(1_000_000)
    assert (edges, fdc.chip.read(Reg.MSR_DSR)) == ([True], Msr.RQM | Msr.DIO | Msr.NON_DMA | Msr.BUSY)
    assert bytes(fdc.chip.read(Reg.FIFO) for _ in range(512)) == CONTENT[512:1024]
    assert edges == [True, False, True]
    assert fdc.result()[:3] == bytes((St0.ABNORMAL, St1.END, 0))        # nobody can give TC


def test_without_dma_bytes_go_one_by_one(fdc):
    fdc.command(0x03, 0xDF, 0x03)
    fdc.send(0x45, 0, 0, 0, 1, 2, 2, 0x1B, 0xFF)
    fdc.clock.advance(1_000_000)
    for n in range(1024):
        assert fdc.chip.read(Reg.MSR_DSR) & (Msr.RQM | Msr.DIO) == Msr.RQM
        fdc.chip.write(Reg.FIFO, n & 0xFF)
    assert bytes(fdc.image.content[:1024]) == bytes(range(256)) * 4
    assert fdc.result()[1] == St1.END


# --- media and drives ---


@pytest.mark.parametrize(
    ("size_kib", "kind"),
    [
        (160, "360K"), (360, "360K"), (720, "1.44M"), (1200, "1.2M"), (1333, "1.44M"), (1440, "1.44M"),
        (2880, "2.88M"),
    ],
)
def test_a_medium_suits_a_drive(size_kib, kind):
    assert drive_type_for(size_kib * 1024) == kind


def test_nothing_larger_than_a_diskette_is_one():
    assert medium_of(MEDIA["2.88M"].size_bytes + 1) is None


@pytest.mark.parametrize(
    ("medium", "drive", "rate"),
    [
        ("360K", "360K", 2),
        ("360K", "1.2M", 1),
        ("1.2M", "1.2M", 0),
        ("720K", "1.44M", 2),
        ("1.44M", "2.88M", 0),
        ("2.88M", "2.88M", 3),
    ],
)
def test_each_medium_is_read_at_its_rate_and_no_other(clock, medium, drive, rate):
    results = []
    for tried in range(4):
        image = FakeDrive(size_bytes=MEDIA[medium].size_bytes)
        fdc = Controller(clock, drive=image, kind=drive).start(rate=tried)
        results.append(fdc.read(0, 0, 1, 512)[1])
    assert [n for n, st1 in enumerate(results) if st1 == 0] == [rate]


def test_a_40_track_medium_in_an_80_track_drive_is_stepped_over_twice(clock):
    content = random.Random(2).randbytes(MEDIA["360K"].size_bytes)
    fdc = Controller(clock, drive=FakeDrive(content), kind="1.2M").start(rate=1)
    fdc.seek(20)
    assert fdc.read(10, 0, 1, 512)[:3] == bytes(3)
    assert fdc.ram.read(BUFFER, 512) == content[10 * 2 * 9 * 512 :][:512]


def test_a_short_image_reads_as_zeros_after_its_end(clock):
    fdc = Controller(clock, drive=FakeDrive(b"\xff" * 1024)).start()
    fdc.read(0, 0, 2, 1024)
    assert fdc.ram.read(BUFFER, 1024) == b"\xff" * 512 + bytes(512)


def test_every_drive_type_has_its_number_in_cmos():
    assert [DRIVE_TYPES[kind].cmos for kind in ("360K", "1.2M", "720K", "1.44M", "2.88M")] == [1, 2, 3, 4, 5]


# --- later, and checkpoints ---


def test_a_slow_drive_s_answer_ends_the_command(clock):
    fdc = Controller(clock, drive=FakeDrive(CONTENT, deferred=True)).start()
    assert fdc.read(0, 0, 1, 512) == b""
    fdc.image.run()
    assert fdc.result()[:3] == bytes(3)


def test_an_answer_from_before_a_reset_is_dropped(clock):
    fdc = Controller(clock, drive=FakeDrive(CONTENT, deferred=True)).start()
    fdc.read(0, 0, 1, 512)
    fdc.chip.write(Reg.MSR_DSR, 0x80)
    fdc.image.run()
    assert (fdc.chip.read(Reg.MSR_DSR), fdc.ram.read(BUFFER, 512)) == (Msr.RQM, bytes(512))


def test_a_restored_controller_asks_again_for_what_was_under_way(clock):
    fdc = Controller(clock, drive=FakeDrive(CONTENT, deferred=True)).start()
    fdc.read(0, 0, 1, 512)
    twin = Controller(ManualClock(clock.now()))
    twin.dma.restore(fdc.dma.state)
    twin.chip.restore(load(type(fdc.chip.state), record(fdc.chip.state)))
    assert (twin.result()[:3], twin.ram.read(BUFFER, 512)) == (bytes(3), CONTENT[:512])
