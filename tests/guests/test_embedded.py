"""The embedded guest on every engine: it tests the CPU's modes, interrupts and the machine by itself."""

import pytest

from ring3 import ExitReason, Machine

pytestmark = pytest.mark.guest


@pytest.mark.parametrize("engine", ["interp", "translate"])
def test_all_its_tests_pass_and_it_powers_off(engine):
    machine = Machine(append="once", engine=engine)
    result = machine.run()
    output = machine.serial[0].output.decode()
    assert "All tests passed." in output, output
    assert "FAILED" not in output
    assert result.reason is ExitReason.POWER_OFF


def test_it_echoes_keys_and_powers_off_at_q():
    with Machine() as machine:
        console = machine.serial[0]
        console.expect("All tests passed")
        console.send("abc")
        console.expect("abc")
        console.send("q")
        result = machine.wait(timeout_s=30)
    assert result is not None
    assert result.reason is ExitReason.POWER_OFF


def test_it_finds_the_memory_it_was_given():
    with Machine(memory="3M") as machine:
        machine.serial[0].expect(r"639 KiB below 1 MiB, 2048 KiB above|memory +\d+ KiB below 1 MiB")
