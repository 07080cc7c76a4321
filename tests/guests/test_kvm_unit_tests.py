"""kvm-unit-tests' x86 tests on the machine, where KVM_UNIT_TESTS names a built tree of them.

To build one: `./configure --arch=x86_64 && make`, and `--arch=i386` for the 32-bit ones.  Left out are
tests of hypervisor interfaces, those that need QEMU's test device, and `apic`, which wants a quiet host.
"""

import os
from pathlib import Path

import pytest

from ring3 import ExitReason, Machine

SUITE = os.environ.get("KVM_UNIT_TESTS")
TESTS = [
    "access_test", "cmpxchg8b", "debug", "eventinj", "idt_test", "la57", "memory", "pcid", "setjmp",
    "smptest", "syscall", "taskswitch", "taskswitch2", "tsc", "tsc_adjust", "umip", "xsave",
]
ENVIRONMENT = "NR_CPUS=1\nMEMSIZE=256\nTEST_DEVICE=0\n"
PASSED = 1  # isa-debug-exit's status for 0

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(SUITE is None, reason="KVM_UNIT_TESTS names no built tree"),
    pytest.mark.timeout(600),
]


@pytest.mark.parametrize("engine", ["interp", "translate"])
@pytest.mark.parametrize("name", TESTS)
def test_passes(name: str, engine: str, tmp_path: Path) -> None:
    kernel = Path(SUITE or "") / "x86" / f"{name}.flat"
    if not kernel.exists():
        pytest.skip(f"{name} is not built for this architecture")
    if name == "access_test" and engine == "interp":
        pytest.skip("minutes long on the interpreter")
    environment = tmp_path / "environment"
    environment.write_text(ENVIRONMENT)
    machine = Machine(kernel=kernel, initrd=environment, memory="256M", engine=engine, debug_exit=0xF4)
    result = machine.run()
    output = machine.serial[0].output.decode(errors="replace")
    assert result.reason is ExitReason.DEBUG_EXIT, output
    assert result.code == PASSED, output
    assert "FAIL" not in output, output
