"""Reports of a virtual CPU's state as text, for people."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ring3._native import Vcpu

CODE_BYTES = 16
GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
           "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
SEGMENTS = ("cs", "ss", "ds", "es", "fs", "gs", "ldtr", "tr")
CONTROL = ("cr0", "cr2", "cr3", "cr4", "efer")


def triple_fault_report(vcpu: "Vcpu") -> str:
    return f"triple fault\n{register_report(vcpu)}"


def register_report(vcpu: "Vcpu") -> str:
    """Registers in the SDM's names, and the bytes of code at CS:RIP."""
    r = vcpu.registers()
    lines = [_row(r, GENERAL[at : at + 4]) for at in range(0, len(GENERAL), 4)]
    lines.append(_row(r, ("rip", "rflags")))
    lines.append(_row(r, CONTROL))
    lines += [_segment(r, name) for name in SEGMENTS]
    lines.append(
        f"gdtr {r['gdtr_base']:016x} limit {r['gdtr_limit']:04x}  "
        f"idtr {r['idtr_base']:016x} limit {r['idtr_limit']:04x}"
    )
    lines.append(f"code {_code(vcpu, r)}")
    return "\n".join(lines)


def _row(registers: dict[str, int], names: tuple[str, ...]) -> str:
    return "  ".join(f"{name:3} {registers[name]:016x}" for name in names)


def _segment(registers: dict[str, int], name: str) -> str:
    base, limit, attributes = (registers[f"{name}_{part}"] for part in ("base", "limit", "attributes"))
    return f"{name:4} {registers[name]:04x}  base {base:016x}  limit {limit:08x}  attributes {attributes:05x}"


def _code(vcpu: "Vcpu", registers: dict[str, int]) -> str:
    """One byte after the other: the last ones may lie on a page that is not there."""
    linear = registers["cs_base"] + registers["rip"]
    found = []
    for address in range(linear, linear + CODE_BYTES):
        byte = vcpu.read_virtual(address & 0xFFFF_FFFF_FFFF_FFFF, 1)
        if byte is None:
            break
        found.append(byte.hex())
    return " ".join(found) if found else "(nothing is mapped there)"
