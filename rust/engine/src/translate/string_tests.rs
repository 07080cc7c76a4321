//! Repeated MOVS and STOS: over page ends, overlapping, with no elements, into code.

use super::tests::agree;
use crate::interp::test_support::{DATA, Machine};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// (destination, source, elements): offsets from `DATA`, bytes.
const CASES: [(i32, i32, i32); 9] = [
    (0x100, 0x200, 16),
    (0x204, 0x200, 16),
    (0x200, 0x203, 16),
    (0xFF0, 0x10, 4),
    (0xFF0, 0x10, 64),
    (0x20, 0xFF9, 40),
    (0x300, 0x400, 0),
    (0x0, 0x1000, 0x400),
    (0x1000, 0x8, 0x200),
];

type Repeat = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Fills memory with something, then runs `repeat` on all cases, twice: once with a cold TLB.
fn on_all_cases(a: &mut CodeAssembler, repeat: Repeat) -> Result<(), IcedError> {
    let (mut fill, mut again) = (a.create_label(), a.create_label());
    a.mov(ecx, 0x1000)?;
    a.set_label(&mut fill)?;
    a.imul_3(eax, ecx, 0x0103_0507)?;
    a.mov(dword_ptr(ecx + DATA as i32), eax)?;
    a.dec(ecx)?;
    a.jne(fill)?;
    a.mov(ebx, 2)?;
    a.set_label(&mut again)?;
    for (to, from, count) in CASES {
        a.mov(edi, DATA as i32 + to)?;
        a.mov(esi, DATA as i32 + from)?;
        a.mov(ecx, count)?;
        a.cmp(ebx, count)?;
        repeat(a)?;
        // The flags, and where it ended.
        a.adc(edx, edi)?;
        a.lea(edx, dword_ptr(edx + esi))?;
        a.adc(edx, ecx)?;
    }
    a.dec(ebx)?;
    a.jne(again)
}

#[test]
fn repeated_strings_in_32_bits() {
    agree(Machine::protected, 32, |a| {
        on_all_cases(a, |a| a.rep().movsb())
    });
    agree(Machine::protected, 32, |a| {
        on_all_cases(a, |a| a.rep().movsw())
    });
    agree(Machine::protected, 32, |a| {
        on_all_cases(a, |a| a.rep().movsd())
    });
    agree(Machine::protected, 32, |a| {
        on_all_cases(a, |a| a.rep().stosb())
    });
    agree(Machine::protected, 32, |a| {
        on_all_cases(a, |a| a.rep().stosd())
    });
}

#[test]
fn repeated_strings_in_64_bits() {
    agree(Machine::long, 64, |a| on_all_cases(a, |a| a.rep().movsb()));
    agree(Machine::long, 64, |a| on_all_cases(a, |a| a.rep().movsd()));
    agree(Machine::long, 64, |a| on_all_cases(a, |a| a.rep().movsq()));
    agree(Machine::long, 64, |a| on_all_cases(a, |a| a.rep().stosw()));
    agree(Machine::long, 64, |a| on_all_cases(a, |a| a.rep().stosq()));
}

#[test]
fn repeated_strings_over_code() {
    // A function that counts in EDX is overwritten by its own second half, then by NOPs.
    agree(Machine::protected, 32, |a| {
        let (mut f, mut over) = (a.create_label(), a.create_label());
        a.jmp(over)?;
        a.set_label(&mut f)?;
        a.inc(edx)?;
        a.inc(edx)?;
        a.add(edx, 7)?;
        a.ret()?;
        a.set_label(&mut over)?;
        for value in [0x40, 0x42, 0x90] {
            a.call(f)?;
            a.call(f)?;
            // JMP over (2 bytes) comes first.
            a.mov(edi, crate::interp::test_support::CODE as i32 + 2)?;
            a.mov(eax, value)?;
            a.mov(ecx, 2)?;
            a.rep().stosb()?;
        }
        a.call(f)
    });
}
