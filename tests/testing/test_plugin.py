"""The pytest plugin, as a user's tests have it: pytest in pytest, with the embedded guest."""

import subprocess
import sys

import pytest

from ring3.config import configure
from ring3.disk import create_image
from ring3.testing import plugin

CONFTEST = 'pytest_plugins = ["ring3.testing.plugin"]\n'


@pytest.fixture
def suite(tmp_path):
    """suite(code) runs it as a test file; the result has its output."""

    def run(code):
        (tmp_path / "conftest.py").write_text(CONFTEST)
        (tmp_path / "test_it.py").write_text(code)
        pytest_command = [sys.executable, "-m", "pytest", "--strict-markers", "-W", "error"]
        return subprocess.run(pytest_command, cwd=tmp_path, capture_output=True, text=True, check=False,
                              timeout=55)

    return run


@pytest.mark.guest
def test_each_test_has_its_own_machine(suite):
    done = suite("""
import pytest
machines = []

@pytest.mark.vm(memory="32M", append="once")
def test_one(vm):
    vm.serial[0].expect("Ring3 embedded guest")
    assert vm.config.memory == "32M"
    machines.append(vm)

def test_other(vm):
    assert vm not in machines
    assert machines[0].wait().reason.value in ("stopped", "power off")

def test_two(new_vm):
    a, b = new_vm(memory="32M"), new_vm(memory="16M")
    assert a.config.memory != b.config.memory
""")
    assert "3 passed" in done.stdout, done.stdout


@pytest.mark.guest
def test_a_failed_test_shows_what_the_machine_said(suite):
    done = suite("""
def test_it(vm):
    vm.serial[0].expect("Ring3 embedded guest")
    assert 0
""")
    assert done.returncode == 1
    assert "machine 0: COM1" in done.stdout
    assert "Ring3 embedded guest" in done.stdout


def test_what_a_guest_writes_stays_out_of_the_images(tmp_path):
    create_image(tmp_path / "disk.img", 1 << 20)
    (tmp_path / "dos.img").write_bytes(bytes(1_474_560))
    config = configure({"disk": f"{tmp_path}/disk.img,bus=ahci", "floppy": str(tmp_path / "dos.img")})
    (tmp_path / "vm").mkdir()
    fresh = plugin.fresh(config, tmp_path / "vm")
    assert fresh.disks[0].path == tmp_path / "vm/disk0.qcow2"
    assert fresh.disks[0].bus == "ahci"
    assert fresh.floppies[0].path == tmp_path / "vm/floppy0.img"
    assert (tmp_path / "vm/disk0.qcow2").stat().st_size < 1 << 20


def test_read_only_images_are_used_as_they_are(tmp_path):
    config = configure({"disk": "disk.img,readonly", "floppy": ("dos.img,readonly", "empty")})
    fresh = plugin.fresh(config, tmp_path)
    assert fresh.disks == config.disks
    assert fresh.floppies == config.floppies
