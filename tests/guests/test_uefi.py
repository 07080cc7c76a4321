"""OVMF runs to its shell, and its variables last."""

import pytest

from ring3.firmware import find
from ring3.machine import Machine

pytestmark = [
    pytest.mark.guest,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not find.present(find.OVMF), reason="OVMF is not there: apt install ovmf"),
]
TIMEOUT_S = 120
ESCAPE = "\x1b"


def to_the_shell(vm):
    console = vm.serial[0]
    console.expect("to skip", timeout_s=TIMEOUT_S)
    console.send(ESCAPE)
    console.expect("Shell> ", timeout_s=TIMEOUT_S)
    return console


def test_variables_of_the_shell_last_from_one_machine_to_the_next(tmp_path):
    settings = {"firmware": "uefi", "memory": "128M", "uefi_variables": str(tmp_path / "variables.fd")}
    with Machine(**settings) as vm:
        console = to_the_shell(vm)
        console.send("set ring3 kept\r")
        console.expect("Shell> ", timeout_s=TIMEOUT_S)
    with Machine(**settings) as vm:
        console = to_the_shell(vm)
        console.send("set ring3\r")
        console.expect("ring3 .*= .*kept", timeout_s=TIMEOUT_S)
        console.send("reset -s\r")
        assert vm.wait(timeout_s=TIMEOUT_S).reason.value == "power off"
