"""Guest memory filled from a file of the host: what the guest and frozen images see of it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ring3._native import Exit, Vcpu, Vm

MIB = 1 << 20
CODE = 0x1000
LOOP = b"\xb0\x01\xe6\x61\xeb\xfa"        # mov al, 1; out 61h, al; jmp CODE
OTHER = b"\xb0\x02\xf4\xf4"             # mov al, 2; hlt


@pytest.fixture
def vm() -> Vm:
    return Vm(2 * MIB, 2 * MIB)


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(OTHER.ljust(512) + b"a" * 8192)
    fd = os.open(path, os.O_RDONLY)
    try:
        os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT)
    except OSError:
        os.close(fd)
        pytest.skip("the file system of the temporary files cannot tell what is in the page cache")
    yield fd
    os.close(fd)


@pytest.mark.parametrize("engine", ["interp", "translate"])
def test_code_that_is_read_over_code_runs(vm: Vm, fd: int, engine: str) -> None:
    vm.write_physical(CODE, LOOP)
    written = []

    def write(offset: int, value: int) -> None:
        written.append(value)
        if len(written) > 100:
            assert vm.fill_physical([(CODE, 2)], fd, 2 if value == 2 else 0)

    vm.map_ports(0x61, 1, lambda offset: 0, write)
    vcpu = Vcpu(vm, engine=engine)
    vcpu.set_registers({"cs": 0, "cs_base": 0, "rip": CODE})
    assert vcpu.run() == Exit.HALT
    assert written == [1] * 101 + [2]


def test_frozen_memory_is_filled_and_its_image_stays(vm: Vm, fd: int) -> None:
    vm.write_physical(0x2000, b"before")
    image = vm.freeze()
    assert vm.fill_physical([(0x2000, 6)], fd, 512)
    assert vm.read_physical(0x2000, 6) == b"aaaaaa"
    twin = Vm(2 * MIB, 2 * MIB)
    twin.adopt(image.extents)
    assert twin.read_physical(0x2000, 6) == b"before"


def test_regions_outside_ram_fill_nothing(vm: Vm, fd: int) -> None:
    vm.map_rom(0xF_0000, bytes(4096))
    for place in (0xF_0000, 2 * MIB - 1, 3 * MIB, 1 << 39):
        assert not vm.fill_physical([(0x3000, 2), (place, 2)], fd, 512)
        assert vm.read_physical(0x3000, 2) == b"\0\0"


def test_a_closed_or_short_file_fills_nothing_whole(vm: Vm, fd: int) -> None:
    assert not vm.fill_physical([(0x3000, 512)], fd, 8192 + 256)
    assert not vm.fill_physical([(0x3000, 512)], -1, 0)
    assert not vm.fill_physical([(0x3000, 512)], fd, (1 << 64) - 1)
