"""ICH9 AHCI: commands, queues, FISes, errors and resets of a port."""

import random

import pytest

from fakes import FakeDrive, Ram
from ring3.devices.storage.ahci import Ahci, Cmd, Is
from ring3.devices.storage.ata import AtaDisk, Error, Status
from ring3.devices.storage.atapi import AtapiCd
from ring3.irq import IrqLine
from storage_fakes import BUFFER, AhciDriver

SECTOR = 512
SECTORS = 8000
CI, SACT, TFD, SERR, SIG, SSTS, SCTL, CMD = 0x38, 0x34, 0x20, 0x30, 0x24, 0x28, 0x2C, 0x18
REGISTER_FIS, PIO_FIS, BITS_FIS = 0x40, 0x20, 0x58


@pytest.fixture
def drive():
    return FakeDrive(random.Random(1).randbytes(SECTORS * SECTOR))


@pytest.fixture
def disc():
    return FakeDrive(random.Random(2).randbytes(1 << 20), read_only=True)


@pytest.fixture
def edges():
    return []


@pytest.fixture
def messages():
    return []


@pytest.fixture
def hba(drive, disc, edges, messages):
    hba = Ahci(IrqLine(edges.append), Ram(1 << 22), lambda *parts: messages.append(parts), lambda *_: None)
    hba.ports[0].attach(AtaDisk(drive, sata=True))
    cd = AtapiCd(disc, sata=True)
    cd.target.state.attentions.clear()
    hba.ports[1].attach(cd)
    return hba


@pytest.fixture
def port(hba, edges):
    port = AhciDriver(hba)
    edges.clear()
    return port


@pytest.fixture
def cd_port(hba):
    return AhciDriver(hba, 1)


def test_ports_tell_what_is_attached(hba, port, cd_port):
    assert (port.get(SIG), port.get(SSTS)) == (0x0000_0101, 0x133)
    assert cd_port.get(SIG) == 0xEB14_0101
    empty = AhciDriver(hba, 2)
    assert (empty.get(SIG), empty.get(SSTS), empty.get(TFD)) == (0xFFFF_FFFF, 0, 0x7F)


def test_identify_comes_by_pio_with_its_setup_fis(port, edges):
    port.run(0xEC, [(BUFFER, SECTOR)])
    data = port.ram.read(BUFFER, SECTOR)
    assert int.from_bytes(data[120:124], "little") == SECTORS
    assert data[150] == 31
    assert (port.get(CI), port.moved(), edges) == (0, SECTOR, [True])
    assert port.received(PIO_FIS)[0] == 0x5F
    assert port.received(PIO_FIS)[15] == Status.READY
    assert port.acknowledge() == Is.PSS
    assert edges == [True, False]


def test_dma_fills_the_regions_and_posts_a_register_fis(port, drive):
    port.run(0x25, [(BUFFER, 1000), (BUFFER + 0x8000, 24)], lba=3, count=2)
    assert port.ram.read(BUFFER, 1000) == drive.content[3 * SECTOR :][:1000]
    assert port.ram.read(BUFFER + 0x8000, 24) == drive.content[3 * SECTOR + 1000 :][:24]
    assert (port.moved(), port.acknowledge()) == (1024, Is.DHRS)
    assert port.received(REGISTER_FIS)[:4] == bytes((0x34, 0x40, Status.READY, 0))


def test_a_long_descriptor_table_is_read_in_pieces(port, drive):
    regions = [(BUFFER + 0x1000 * n, SECTOR) for n in range(56)]
    port.run(0x25, regions, count=56)
    assert all(port.ram.read(at, SECTOR) == drive.content[n * SECTOR :][:SECTOR]
               for n, (at, _) in enumerate(regions))


def test_dma_and_pio_write(port, drive):
    port.ram.write(BUFFER, b"ahci" * 256)
    port.run(0x35, [(BUFFER, 1024)], lba=7, count=2, write=True)
    assert drive.content[7 * SECTOR : 9 * SECTOR] == b"ahci" * 256
    port.run(0x34, [(BUFFER, 1024)], lba=17, count=2, write=True)
    assert drive.content[17 * SECTOR : 19 * SECTOR] == b"ahci" * 256
    assert port.get(CI) == 0


def test_a_long_pio_read_does_not_grow_the_stack(port, drive):
    port.run(0x24, [(BUFFER, 1 << 20)], count=2048)
    assert port.ram.read(BUFFER, 1 << 20) == drive.content[: 1 << 20]


def test_queued_commands_run_beside_each_other(port, drive):
    drive.deferred = True
    for slot, lba in ((3, 30), (0, 10), (31, 20)):
        port.queue(slot, [(BUFFER + 0x1000 * slot, 2 * SECTOR)], lba=lba, sectors=2)
    assert (port.get(CI), port.get(SACT)) == (0, 1 << 3 | 1 | 1 << 31)
    drive.run(1)
    assert port.get(SACT) == 1 | 1 << 31
    assert port.received(BITS_FIS, 8) == bytes((0xA1, 0x40, Status.READY, 0, 1 << 3, 0, 0, 0))
    drive.run()
    assert (port.get(SACT), port.acknowledge()) == (0, Is.SDBS)
    for slot, lba in ((3, 30), (0, 10), (31, 20)):
        expected = drive.content[lba * SECTOR : (lba + 2) * SECTOR]
        assert port.ram.read(BUFFER + 0x1000 * slot, 2 * SECTOR) == expected


def test_a_queued_write_with_fua_is_flushed(port, drive):
    port.ram.write(BUFFER, b"x" * SECTOR)
    port.queue(1, [(BUFFER, SECTOR)], lba=5, sectors=1, write=True, flags=0xC0)
    assert drive.log == [("write", 5 * SECTOR, SECTOR), ("flush",)]
    assert drive.content[5 * SECTOR : 6 * SECTOR] == b"x" * SECTOR


def test_a_queued_command_that_fails_is_found_in_the_log(port, drive):
    drive.errors = [OSError(5, "Input/output error")]
    port.queue(4, [(BUFFER, SECTOR)], lba=0, sectors=1)
    assert port.get(SACT) == 1 << 4
    assert port.acknowledge() == Is.SDBS | Is.TFES
    assert port.get(TFD) == Status.READY | Status.ERR | Error.UNC << 8
    port.set(CMD, Cmd.FRE)
    port.set(CMD, Cmd.FRE | Cmd.ST)
    port.run(0x2F, [(BUFFER, SECTOR)], lba=0x10)
    log = port.ram.read(BUFFER, SECTOR)
    assert (log[0], log[3], sum(log) & 0xFF) == (4, Error.UNC, 0)


def test_commands_wait_while_one_that_is_not_queued_runs(port, drive):
    drive.deferred = True
    port.run(0x25, [(BUFFER, SECTOR)], slot=5)
    port.run(0xEC, [(BUFFER + SECTOR, SECTOR)], slot=2)
    assert port.get(CI) == 1 << 5 | 1 << 2
    drive.run()
    assert port.get(CI) == 0
    assert port.ram.read(BUFFER, SECTOR) == drive.content[:SECTOR]


def test_an_error_halts_the_port_until_it_is_started_again(port, drive):
    port.run(0x25, [(BUFFER, SECTOR)], lba=SECTORS)
    assert port.acknowledge() == Is.DHRS | Is.TFES
    port.run(0x25, [(BUFFER, SECTOR)], slot=1)
    assert port.get(CI) & 2
    port.set(CMD, Cmd.FRE)
    assert port.get(CI) == 0
    port.set(CMD, Cmd.FRE | Cmd.ST)
    port.run(0x25, [(BUFFER, SECTOR)])
    assert port.get(CI) == 0


def test_data_without_room_is_thrown_away_and_told(port):
    port.run(0x25, [(BUFFER, SECTOR)], count=2)
    assert (port.get(CI), port.moved()) == (0, SECTOR)
    assert port.acknowledge() == Is.DHRS | Is.OFS


def test_packets_read_by_dma_and_by_pio(cd_port, disc):
    read = bytes((0x28, 0, 0, 0, 0, 1, 0, 0, 2, 0, 0, 0))
    for dma in (1, 0):
        cd_port.run(0xA0, [(BUFFER, 4096)], features=dma, packet=read, lba=0xFFFE00)
        assert cd_port.get(CI) == 0
        assert cd_port.ram.read(BUFFER, 4096) == disc.content[2048 : 3 * 2048]
        cd_port.ram.write(BUFFER, bytes(4096))


def test_a_packet_that_fails_is_a_task_file_error(cd_port, hba):
    hba.ports[1].device.insert(None)
    cd_port.run(0xA0, packet=bytes(12))
    assert cd_port.acknowledge() & Is.TFES
    assert cd_port.get(TFD) >> 12 == 2


def test_comreset_drops_what_is_under_way_and_shows_the_signature(port, drive):
    drive.deferred = True
    port.run(0x25, [(BUFFER, SECTOR)])
    port.set(SCTL, 1)
    assert port.get(SSTS) == 0
    port.set(SCTL, 0)
    drive.run()
    assert port.get(SERR) & 1 << 26
    assert port.received(REGISTER_FIS)[12] == 1
    assert port.ram.read(BUFFER, SECTOR) == bytes(SECTOR)


def test_a_soft_reset_by_two_fises_answers_with_the_signature(cd_port):
    for slot, control in ((0, 4), (1, 0)):
        cd_port.prepare(slot, bytes((0x27, 0)) + bytes(13) + bytes((control,)))
        cd_port.set(CI, 1 << slot)
        assert cd_port.get(CI) == 0
    assert cd_port.received(REGISTER_FIS)[4:7] == bytes((0x01, 0x14, 0xEB))


def test_without_bus_mastering_nothing_is_fetched(hba, port):
    hba.write_config(4, 2, 2)
    port.run(0xEC, [(BUFFER, SECTOR)])
    assert port.get(CI) == 1


def test_with_msi_each_cause_is_a_message_and_the_line_is_still(hba, port, edges, messages):
    hba.write_config(0x84, 0xFEE0_1000, 4)
    hba.write_config(0x88, 0x4031, 2)
    hba.write_config(0x82, 1, 2)
    port.run(0xEC, [(BUFFER, SECTOR)])
    assert messages == [(0x31, 0, 1, False, False)]
    port.run(0x25, [(BUFFER, SECTOR)])                  # before the first was acknowledged
    assert len(messages) == 1
    hba.write(0x08, 1, 4)                               # IS, while the port still wants one
    assert len(messages) == 2
    port.acknowledge()
    port.run(0xEC, [(BUFFER, SECTOR)])
    assert len(messages) == 3
    assert edges == []


def test_a_controller_reset_clears_ports(hba, port):
    hba.write(0x04, 1, 4)
    assert (hba.read(0x04, 4), port.get(0x00), port.get(CMD) & Cmd.ST) == (0x8000_0000, 0, 0)
