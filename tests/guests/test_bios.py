"""SeaBIOS runs: our first guest that sets the whole machine up itself."""

import pytest

from ring3.char.memory import MemoryBackend
from ring3.firmware import find
from ring3.machine import Machine

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(not find.present(find.BIOS), reason="SeaBIOS is not there: apt install seabios"),
]
TIMEOUT_S = 30


@pytest.fixture
def console():
    """What firmware writes to its debug port."""
    return MemoryBackend()


@pytest.mark.parametrize("engine", ["translate", "interp"])
def test_seabios_comes_to_its_boot_devices(console, engine):
    with Machine(firmware="bios", memory="64M", firmware_log=console, engine=engine) as vm:
        console.expect("No bootable device", timeout_s=TIMEOUT_S)
        assert vm.memory.read(0x410, 2) != b"\0\0"
    log = bytes(console.output).decode()
    assert "QEMU fw_cfg DMA interface supported" in log
    assert "e820 map has" in log


def test_a_reset_runs_seabios_again(console):
    with Machine(firmware="bios", memory="64M", firmware_log=console) as vm:
        console.expect("No bootable device", timeout_s=TIMEOUT_S)
        vm.reset()
        console.expect("SeaBIOS", timeout_s=TIMEOUT_S)
        console.expect("No bootable device", timeout_s=TIMEOUT_S)


def test_seabios_uses_our_tables(console):
    with Machine(firmware="bios", memory="64M", firmware_log=console) as vm:
        console.expect("No bootable device", timeout_s=TIMEOUT_S)
        vm.pause()
        segment = vm.memory.read(0xF_0000, 0x1_0000)
    rsdp = segment.index(b"RSD PTR ")
    assert segment[rsdp + 9 : rsdp + 15] == b"RING3 "
    assert b"_SM_" in segment
    assert b"_MP_" in segment
