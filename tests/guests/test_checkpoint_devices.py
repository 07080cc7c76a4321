"""A machine with everything in it that there is, saved while its BIOS looks for a system."""

import pytest

from ring3 import Machine
from ring3.checkpoint import machine as checkpoint
from ring3.errors import CheckpointError
from ring3.firmware import find

pytestmark = [
    pytest.mark.guest,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not find.present(find.BIOS), reason="SeaBIOS is not there: apt install seabios"),
]


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return path


def settings(image):
    return {
        "memory": "16M", "video_memory": "4M", "firmware": "bios", "usb": ("tablet", "keyboard"),
        "disk": [f"{image},readonly,bus={bus}" for bus in ("ide", "scsi", "ahci", "virtio")],
        "cdrom": [f"{image}", "empty,bus=scsi", "empty,bus=ahci"], "floppy": f"{image},readonly",
        "sound": ("sb16", "es1371"), "virtio_rng": True, "virtio_console": "memory", "debug_exit": "0xf4",
    }


def contents(path):
    return checkpoint.listed(path)


def test_all_chips_are_as_they_were(image, tmp_path):
    with Machine(**settings(image)) as vm:
        vm.screen.wait("Booting from Floppy", timeout_s=60)
        files = [vm.checkpoint(tmp_path / "0.ring3")]
    for n in range(2):                  # from the second on: chips look at the clock when they are restored
        vm = Machine.restored(files[-1])
        assert "Booting from Floppy" in vm.screen.text()
        files.append(vm.checkpoint(tmp_path / f"{n + 1}.ring3"))
        vm.stop()
    first, second = contents(files[1]), contents(files[2])
    for name, record in first.devices.items():
        assert (second.devices[name] == record) == (name != "generation_id"), name
    cpus = [each.processors[0].state for each in (first, second)]
    assert {k for k in cpus[0] if cpus[0][k] != cpus[1][k]} <= {"apic"}     # a count that has gone on


def test_another_medium_is_refused(image, tmp_path):
    vm = Machine(**settings(image))
    file = vm.checkpoint(tmp_path / "a.ring3")
    vm.stop()
    image.write_bytes(b"x" + bytes((1 << 20) - 1))
    with pytest.raises(CheckpointError, match="is not the image that was there"):
        Machine.restored(file)
