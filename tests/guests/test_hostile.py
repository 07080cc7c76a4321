"""Guests that misbehave: whatever they do, the host side neither crashes nor hangs, and the plug works.

Every machine here runs for a moment, and then is either over by itself or is switched off.
"""

import random

import pytest

from ring3 import ExitReason, Machine
from ring3.testing.multiboot import multiboot

pytestmark = pytest.mark.guest

MOMENT_S = 0.5
ENGINES = ["interp", "translate"]

# --- 32-bit machine code, entered flat, paging off, interrupts off ---

SPIN = bytes.fromhex("fa ebfe")                                     # cli; jmp $
HALT = bytes.fromhex("fa f4 ebfd")                                  # cli; hlt; jmp hlt
TRIPLE_FAULT = bytes.fromhex("0f011d29001000 0f0b 000000000000")    # lidt [zeros]; ud2; zeros
READ_ALL_PORTS = bytes.fromhex("31d2 ec 66ed ed 42 ebf9")           # in al|ax|eax,dx; inc edx; loop
WRITE_ALL_PORTS = bytes.fromhex("31d2 b0ff ee 42 ebfc")             # mov al,FFh; out dx,al; inc edx; loop
READ_ALL_MEMORY = bytes.fromhex("31f6 ad 81c6fc0f0000 ebf7")        # xor esi,esi; lodsd; add esi,4092; loop
WRITE_ALL_MEMORY = bytes.fromhex("bf00002000 ab 81c7fc0f0000 ebf7") # edi=2M; stosd; add edi,4092; loop
PUSH_FOREVER = bytes.fromhex("bc00001000 54 ebfd")                  # mov esp,1M; push esp; loop

GUESTS = {
    "spins with interrupts off": SPIN,
    "halts with interrupts off": HALT,
    "triple-faults and is reset": TRIPLE_FAULT,
    "reads all ports": READ_ALL_PORTS,
    "writes to all ports": WRITE_ALL_PORTS,
    "reads all memory": READ_ALL_MEMORY,
    "writes to all memory": WRITE_ALL_MEMORY,
    "pushes for ever": PUSH_FOREVER,
}


def survives(kernel: bytes, engine: str) -> ExitReason:
    """Runs it for a moment; an error of the engine or of a chip raises."""
    machine = Machine(kernel=kernel, memory="16M", engine=engine)
    machine.start()
    result = machine.wait(timeout_s=MOMENT_S)
    if result is None:
        machine.request_stop()
        result = machine.wait(timeout_s=10)
    assert result is not None, "the plug did not work"
    return result.reason


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("does", GUESTS)
def test_the_host_survives_a_guest_that(does, engine):
    survives(multiboot(GUESTS[does]), engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", range(20))
def test_the_host_survives_random_code(seed, engine):
    survives(multiboot(random.Random(seed).randbytes(65536)), engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_triple_fault_ends_the_machine_when_asked_to(engine):
    machine = Machine(kernel=multiboot(TRIPLE_FAULT), memory="16M", engine=engine, on_triple_fault="stop")
    result = machine.run()
    assert result.reason is ExitReason.TRIPLE_FAULT
    assert "rip" in result.report


@pytest.mark.parametrize("engine", ENGINES)
def test_debug_exit_gives_its_value(engine):
    code = bytes.fromhex("b003 e6f4 ebfe")                          # mov al,3; out F4h,al
    result = Machine(kernel=multiboot(code), memory="16M", engine=engine, debug_exit=0xF4).run()
    assert result.reason is ExitReason.DEBUG_EXIT
    assert result.code == 7
