"""Disks whose bytes are at hand in a file of the host: read from there, or as ever where that fails."""

import os
import random

import pytest

from fakes import FakeDrive, Ram
from ring3.devices.storage.ahci import Ahci
from ring3.devices.storage.ata import AtaDisk, Status
from ring3.devices.storage.ide import Bmis, PiixIde
from ring3.devices.virtio.blk import Kind, VirtioBlk
from ring3.irq import IrqLine
from storage_fakes import BUFFER, AhciDriver, IdeDriver
from virtio_driver import Driver, Wiring

SECTOR = 512
SECTORS = 4096


def ignore(*values):
    """Nobody looks at lines and places."""


@pytest.fixture
def drive(tmp_path):
    drive = FakeDrive(random.Random(3).randbytes(SECTORS * SECTOR))
    path = tmp_path / "disk.img"
    path.write_bytes(drive.content)
    drive.file = os.open(path, os.O_RDONLY)
    yield drive
    os.close(drive.file)


@pytest.fixture(params=[True, False], ids=["filled", "refused"])
def ram(request):
    ram = Ram(4 << 20)
    ram.fills = request.param
    return ram


@pytest.fixture
def ide(drive, ram):
    ide = PiixIde((IrqLine(ignore), IrqLine(ignore)), ram, ignore, ignore)
    ide.write_config(4, 5, 2)
    ide.channels[0].attach(0, AtaDisk(drive))
    return ide


def test_ide_goes_through_its_table_once(drive, ram, ide):
    primary = IdeDriver(ide.channels[0], ram)
    regions = [(BUFFER + 0x1000 * n, 2 * SECTOR) for n in range(128)]       # two reads of the table
    primary.table(*regions)
    primary.command(0x25, lba=5, count=256, ext=True)
    primary.start_dma(to_memory=True)
    assert b"".join(ram.read(*region) for region in regions) == drive.content[5 * SECTOR : 261 * SECTOR]
    assert ide.read(2, 1) & 7 == Bmis.INTERRUPT
    assert bool(drive.log) is not ram.fills


def test_an_ide_table_that_ends_early_hangs_the_command_as_ever(ram, ide):
    primary = IdeDriver(ide.channels[0], ram)
    primary.table((BUFFER, SECTOR))
    primary.command(0xC8, count=2)
    primary.start_dma(to_memory=True)
    assert primary.status & Status.DRQ or primary.status & Status.BSY
    assert not ide.read(2, 1) & Bmis.ACTIVE


def test_ahci_goes_through_its_table_once_and_counts_the_bytes(drive, ram):
    hba = Ahci(IrqLine(ignore), ram, ignore, ignore)
    hba.ports[0].attach(AtaDisk(drive, sata=True))
    port = AhciDriver(hba)
    regions = [(BUFFER + 0x2000 * n, 0x1000 + SECTOR) for n in range(64)]
    port.run(0x25, regions, lba=1, count=64 * 9)
    data = b"".join(ram.read(*region) for region in regions)
    assert data == drive.content[SECTOR : SECTOR + len(data)]
    assert port.moved() == len(data)
    assert bool(drive.log) is not ram.fills


def test_virtio_fills_segments_and_then_tells_the_result(drive, ram, clock):
    wiring = Wiring(clock)
    wiring.ram.fills = ram.fills
    driver = Driver(VirtioBlk(wiring.wires, drive), wiring.ram)
    _, first, second, status = driver.send(0, b"".join(n.to_bytes(w, "little") for n, w in
                                                       ((Kind.IN, 4), (0, 4), (1, 8))), 512, 1024, 1)
    assert wiring.ram.read(first, 512) + wiring.ram.read(second, 1024) == drive.content[512:2048]
    assert wiring.ram.read(status, 1) == b"\0"
    assert bool(drive.log) is not ram.fills
