"""The extension's face: devices in Python, errors, misuse from other threads, garbage."""

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from ring3._native import Exit, Vcpu, Vm, cpu_models

MIB = 1 << 20
CODE = 0x1000
IN_60 = b"\xe4\x60"                     # in al, 60h
OUT_61 = b"\xe6\x61"                    # out 61h, al
HLT = b"\xf4"
SPIN = b"\xeb\xfe"                      # jmp $


def nothing(*_: int) -> None:
    pass


def machine(code: bytes) -> tuple[Vm, Vcpu]:
    """Real mode at CODE, segments at 0."""
    vm = Vm(MIB, MIB)
    vm.write_physical(CODE, code)
    vcpu = Vcpu(vm, engine="interp")
    vcpu.set_registers({"cs": 0, "cs_base": 0, "rip": CODE})
    return vm, vcpu


def test_a_byte_device_gets_offsets_and_values() -> None:
    vm, vcpu = machine(IN_60 + OUT_61 + HLT)
    written: list[tuple[int, int]] = []
    vm.map_ports(0x60, 2, lambda offset: 0x5A + offset, lambda offset, value: written.append((offset, value)))
    assert vcpu.run() == Exit.HALT
    assert written == [(1, 0x5A)]


def test_a_wide_device_gets_the_size() -> None:
    vm, vcpu = machine(b"\xed" + HLT)           # in ax, dx
    sizes: list[int] = []

    def read(offset: int, size: int) -> int:
        sizes.append(size)
        return 0x1234

    vm.map_ports(0x60, 4, read, nothing, width=4)
    vcpu.set_registers({"rdx": 0x60})
    vcpu.run()
    assert sizes == [2]
    assert vcpu.registers()["rax"] == 0x1234


@pytest.mark.parametrize("answer", ["no number", -1, 1 << 64])
def test_a_device_without_a_proper_answer_reads_as_ones(answer: Any) -> None:
    vm, vcpu = machine(IN_60 + HLT)
    errors: list[BaseException] = []
    vm.set_io_error_handler(errors.append)
    vm.map_ports(0x60, 1, lambda offset: answer, nothing)
    assert vcpu.run() == Exit.HALT
    assert vcpu.registers()["rax"] == 0xFF
    assert len(errors) == 1


def test_an_exception_in_a_device_goes_to_the_handler() -> None:
    vm, vcpu = machine(OUT_61 + HLT)
    errors: list[BaseException] = []
    vm.set_io_error_handler(errors.append)

    def write(offset: int, value: int) -> None:
        raise LookupError("our bug")

    vm.map_ports(0x61, 1, nothing, write)
    assert vcpu.run() == Exit.HALT
    assert [str(error) for error in errors] == ["our bug"]


def test_overlapping_windows_are_refused() -> None:
    vm = Vm(MIB, MIB)
    vm.map_ports(0x60, 4, nothing, nothing)
    with pytest.raises(ValueError, match="overlap"):
        vm.map_ports(0x63, 1, nothing, nothing)
    vm.unmap_ports(0x60, 4)
    vm.map_ports(0x63, 1, nothing, nothing)


@pytest.mark.parametrize(
    "map_it",
    [
        lambda vm: vm.map_ports(0xFFFF, 2, nothing, nothing),
        lambda vm: vm.map_ports(0, 0, nothing, nothing),
        lambda vm: vm.map_ports(0, 1, nothing, nothing, width=3),
        lambda vm: vm.map_mmio(0xFEC0_0800, 4096, nothing, nothing),
        lambda vm: vm.map_mmio(1 << 52, 4096, nothing, nothing),
        lambda vm: vm.map_rom(0xF_0000, b"not a page"),
        lambda vm: Vm(4095, 4095),
        lambda vm: Vm(MIB, 2 * MIB),
    ],
)
def test_what_cannot_be_mapped_is_a_value_error(map_it: Callable[[Vm], object]) -> None:
    with pytest.raises(ValueError):
        map_it(Vm(MIB, MIB))


def test_a_vcpu_that_runs_can_be_kicked_and_nothing_else() -> None:
    _, vcpu = machine(SPIN)
    results: list[int] = []
    refused = threading.Event()
    runner = threading.Thread(target=lambda: results.append(vcpu.run()))
    runner.start()
    while not refused.is_set():
        try:
            vcpu.registers()
        except RuntimeError:
            refused.set()
    vcpu.kick()
    runner.join()
    assert results == [Exit.KICKED]
    assert vcpu.registers()["rip"] == CODE


def test_a_device_cannot_reenter_the_vcpu() -> None:
    vm, vcpu = machine(IN_60 + HLT)
    errors: list[BaseException] = []
    vm.set_io_error_handler(errors.append)
    vm.map_ports(0x60, 1, lambda offset: vcpu.run(), nothing)
    vcpu.run()
    assert isinstance(errors[0], RuntimeError)


def test_a_window_mapped_by_a_device_is_there_for_the_next_instruction() -> None:
    load = b"\xa0\x00\x00"                      # mov al, [0]
    vm, vcpu = machine(load + OUT_61 + load + HLT)

    def write(offset: int, value: int) -> None:
        vm.map_mmio(0xB_8000, 4096, lambda offset, size: 0x77, nothing)

    vm.map_ports(0x61, 1, nothing, write)
    vcpu.set_registers({"ds_base": 0xB_8000})
    vcpu.run()
    assert vcpu.registers()["rax"] == 0x77


@pytest.mark.parametrize(
    ("name", "value"),
    [("rex", 1), ("cs", 1 << 16), ("cs_attributes", 1 << 20), ("tr_rights", 0), ("gdtr", 0)],
)
def test_an_impossible_register_changes_nothing(name: str, value: int) -> None:
    _, vcpu = machine(HLT)
    before = vcpu.registers()
    with pytest.raises(ValueError, match=name):
        vcpu.set_registers({"rax": 1, name: value})
    assert vcpu.registers() == before


def test_registers_come_back_as_they_were_set() -> None:
    _, vcpu = machine(HLT)
    values = {"r15": 1 << 63, "tr": 0x28, "fs_base": 1 << 40, "idtr_limit": 9, "ss_attributes": 0x93}
    vcpu.set_registers(values)
    registers = vcpu.registers()
    assert {name: registers[name] for name in values} == values


def test_unknown_models_and_engines_are_value_errors() -> None:
    vm = Vm(MIB, MIB)
    with pytest.raises(ValueError, match="8086"):
        Vcpu(vm, cpu="8086")
    with pytest.raises(ValueError, match="magic"):
        Vcpu(vm, engine="magic")
    assert "max" in cpu_models()


def test_the_intr_pin_delivers_the_acknowledged_vector() -> None:
    vm, vcpu = machine(b"\xfb" + SPIN)          # sti
    handler = 0x2000
    vm.write_physical(0x21 * 4, handler.to_bytes(2, "little") + b"\x00\x00")
    vm.write_physical(handler, HLT)
    vcpu.set_registers({"rsp": 0x8000})
    vcpu.write_local_apic(0xF0, 0x1FF)
    vcpu.write_local_apic(0x350, 0x700)
    vcpu.set_intr_acknowledge(lambda: 0x21)
    vcpu.set_intr(True)
    assert vcpu.run() == Exit.HALT
    assert vcpu.registers()["rip"] == handler + 1


def test_the_apic_timer_interrupts_a_spinning_guest() -> None:
    vm, vcpu = machine(b"\xfb" + SPIN)
    handler = 0x2000
    vm.write_physical(0x40 * 4, handler.to_bytes(2, "little") + b"\x00\x00")
    vm.write_physical(handler, HLT)
    vcpu.set_registers({"rsp": 0x8000})
    vcpu.write_local_apic(0xF0, 0x1FF)
    vcpu.write_local_apic(0x320, 0x40)
    vcpu.write_local_apic(0x380, 1000)
    assert vcpu.run() == Exit.HALT
    assert vcpu.registers()["rip"] == handler + 1


def test_a_machine_that_nobody_holds_is_collected() -> None:
    class Board:
        def __init__(self) -> None:
            self.vm, self.vcpu = machine(HLT)
            self.vm.map_ports(0x60, 1, self.read, nothing)
            self.vm.map_mmio(0xF000_0000, 4096, self.read, nothing)
            self.vm.set_io_error_handler(self.read)
            self.vcpu.set_eoi_handler(self.read)
            self.vcpu.set_ferr_handler(self.read)
            self.vcpu.set_intr_acknowledge(self.acknowledge)

        def read(self, *values: object) -> Any:
            raise NotImplementedError

        def acknowledge(self) -> int:
            return 0

    board = weakref.ref(Board())
    gc.collect()
    assert board() is None


REP_INSW, REP_OUTSW = b"\xf3\x6d", b"\xf3\x6f"


def test_a_string_of_input_is_one_call_of_a_block_device() -> None:
    vm, vcpu = machine(REP_INSW + HLT)
    calls: list[tuple[int, int, int]] = []

    def read_block(offset: int, size: int, count: int) -> bytes:
        calls.append((offset, size, count))
        return bytes(range(256)) * 2

    vm.map_ports(0x1F0, 8, nothing, nothing, width=4, blocks=(read_block, nothing))
    vcpu.set_registers({"rdx": 0x1F0, "rcx": 256, "rdi": 0x2000})
    assert vcpu.run() == Exit.HALT
    assert calls == [(0, 2, 256)]
    assert vm.read_physical(0x2000, 512) == bytes(range(256)) * 2
    registers = vcpu.registers()
    assert (registers["rcx"], registers["rdi"]) == (0, 0x2200)


def test_a_string_of_output_is_one_call_a_page() -> None:
    vm, vcpu = machine(REP_OUTSW + HLT)
    written: list[bytes] = []
    blocks = (nothing, lambda offset, size, data: written.append(data))
    vm.map_ports(0x1F0, 8, nothing, nothing, width=4, blocks=blocks)
    vm.write_physical(0x2F00, bytes(range(256)) * 2)
    vcpu.set_registers({"rdx": 0x1F0, "rcx": 256, "rsi": 0x2F00})
    assert vcpu.run() == Exit.HALT
    assert written == [bytes(range(256))] * 2
    assert vcpu.registers()["rsi"] == 0x3100


def test_a_device_without_blocks_gets_a_string_by_elements() -> None:
    vm, vcpu = machine(REP_INSW + REP_OUTSW + HLT)
    values = iter(range(100))
    written: list[tuple[int, int, int]] = []
    vm.map_ports(0x60, 2, lambda offset, size: next(values), lambda *access: written.append(access), width=2)
    vcpu.set_registers({"rdx": 0x60, "rcx": 3, "rdi": 0x2000, "rsi": 0x2000})
    vcpu.run()
    assert vm.read_physical(0x2000, 6) == b"\0\0\1\0\2\0"
    assert written == []                    # the count was used up
    assert next(values) == 3


def test_strings_go_down_and_across_windows_as_elements_do() -> None:
    vm, vcpu = machine(b"\xfd" + REP_INSW + HLT)        # std
    vm.map_ports(0x60, 1, lambda offset: 0x5A, nothing)
    vcpu.set_registers({"rdx": 0x60, "rcx": 2, "rdi": 0x2002})
    vcpu.run()
    assert vm.read_physical(0x2000, 4) == b"\x5a\xff\x5a\xff"


def test_a_block_of_another_length_is_our_bug_and_reads_as_ones() -> None:
    vm, vcpu = machine(REP_INSW + HLT)
    errors: list[BaseException] = []
    vm.set_io_error_handler(errors.append)
    vm.map_ports(0x1F0, 8, nothing, nothing, width=4, blocks=(lambda *_: b"short", nothing))
    vcpu.set_registers({"rdx": 0x1F0, "rcx": 8, "rdi": 0x2000})
    assert vcpu.run() == Exit.HALT
    assert len(errors) == 1
    assert vm.read_physical(0x2000, 16) == b"\xff" * 16


def test_memory_is_scattered_and_gathered_over_regions() -> None:
    vm = Vm(MIB, MIB)
    vm.scatter_physical([(0x2000, 2), (0x1FFE, 2), (1 << 63, 1), (0x3000, 9)], b"abcdefgh")
    assert vm.read_physical(0x1FFE, 4) == b"cdab"
    assert vm.read_physical(0x3000, 4) == b"fgh\0"
    assert vm.gather_physical([(0x2000, 2), (MIB, 2), (0x3000, 1)]) == b"ab\xff\xfff"
