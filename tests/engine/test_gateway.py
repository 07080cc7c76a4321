"""Functions on registers, called by IN EAX, DX: on both backends, from any privilege."""

import pytest

from ring3._native import Exit, Vcpu, Vm

MIB = 1 << 20
CODE = 0x1000
PORT, MAGIC = 0x5658, 0x564D5868
IN_EAX_DX = b"\x66\xed"                 # in a 16-bit segment
HLT = b"\xf4"


def run(engine, code=IN_EAX_DX + HLT, registers=(), call=None):
    vm = Vm(MIB, MIB)
    vm.write_physical(CODE, code)
    vcpu = Vcpu(vm, engine=engine)
    vcpu.set_registers({"cs": 0, "cs_base": 0, "rip": CODE, "rdx": PORT, "rax": MAGIC} | dict(registers))
    calls = []

    def gateway(*registers):
        calls.append(registers)
        return call(*registers) if call else None

    vm.set_gateway(PORT, MAGIC, gateway)
    assert vcpu.run() == Exit.HALT
    return calls, vcpu.registers()


@pytest.fixture(params=["translate", "interp"])
def engine(request):
    return request.param


def test_it_gets_and_changes_registers(engine):
    before = {"rbx": 1, "rcx": 2, "rsi": 3, "rdi": 4, "rbp": 5}
    calls, after = run(engine, registers=before, call=lambda *r: tuple(value + 0x100 for value in r[:7]))
    assert calls == [(MAGIC, 1, 2, PORT, 3, 4, 5, 0)]
    assert [after[name] for name in ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp")] == [
        MAGIC + 0x100, 0x101, 0x102, PORT + 0x100, 0x103, 0x104, 0x105,
    ]  # fmt: skip


def test_registers_left_alone_keep_their_upper_halves():
    upper = 0x1122_3344_0000_0000
    _, after = run("interp", registers={"rbx": upper | 7, "rcx": upper | 8},
                   call=lambda a, b, c, *r: (a, 9, c, *r[:4]))
    assert (after["rbx"], after["rcx"]) == (9, upper | 8)


def test_another_number_is_an_access_to_the_port(engine):
    calls, after = run(engine, registers={"rax": MAGIC + 1})
    assert (calls, after["rax"]) == ([], 0xFFFF_FFFF)


def test_none_is_an_access_to_the_port(engine):
    calls, after = run(engine)
    assert (len(calls), after["rax"]) == (1, 0xFFFF_FFFF)


def test_a_narrower_in_is_an_access_to_the_port(engine):
    calls, after = run(engine, code=b"\xec" + HLT)
    assert (calls, after["rax"] & 0xFF) == ([], 0xFF)
