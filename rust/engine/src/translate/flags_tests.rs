//! Flags across branches whose targets the jump table, or a link, takes for other code at first.

use super::tests::agree;
use crate::interp::test_support::{DATA, Machine};
use iced_x86::IcedError;
use iced_x86::code_asm::*;

/// Where code lies that needs no flags of its caller.
const DEAF: u64 = 0x3_0000;
/// The same slot of the jump table: code that adds up its flags in EDI.
const LISTENING: u64 = 0x4_0000;
const PAGE_TABLE: u64 = 0x1_3000;

fn with_code(m: Machine, bits: u32) -> Machine {
    let assemble = |at: u64, program: &dyn Fn(&mut CodeAssembler)| {
        let mut a = CodeAssembler::new(bits).unwrap();
        program(&mut a);
        m.store(at, &a.assemble(at).unwrap());
    };
    assemble(DEAF, &|a| {
        a.xor(esi, esi).unwrap();
        a.ret().unwrap();
    });
    assemble(LISTENING, &|a| {
        a.lahf().unwrap();
        a.movzx(eax, ah).unwrap();
        a.add(edi, eax).unwrap();
        a.ret().unwrap();
    });
    m
}

fn protected(code: &[u8]) -> Machine {
    with_code(Machine::protected(code), 32)
}

fn long(code: &[u8]) -> Machine {
    with_code(Machine::long(code), 64)
}

/// With a GDT, for IRET.
fn with_tables(code: &[u8]) -> Machine {
    let mut m = protected(code);
    super::assist_tests::with_tables(&mut m, false, &[]);
    m
}

/// Twenty times: `before`, then a branch to `LISTENING`, with CF clear or set in turns.
fn loop_of(
    a: &mut CodeAssembler,
    before: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>,
    branch: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.mov(ebx, 20)?;
    a.xor(edi, edi)?;
    a.set_label(&mut top)?;
    before(a)?;
    a.bt(ebx, 0)?;
    a.stc()?;
    branch(a)?;
    a.dec(ebx)?;
    a.jne(top)
}

#[test]
fn an_indirect_call_keeps_flags_when_its_slot_is_anothers() {
    let end = agree(protected, 32, |a| {
        a.mov(ecx, DEAF as i32)?;
        a.mov(edx, LISTENING as i32)?;
        loop_of(a, |a| a.call(ecx), |a| a.call(edx))
    });
    assert_ne!(end.0[7], 0);
    let end = agree(long, 64, |a| {
        a.mov(ecx, DEAF as i32)?;
        a.mov(edx, LISTENING as i32)?;
        loop_of(a, |a| a.call(rcx), |a| a.call(rdx))
    });
    assert_ne!(end.0[7], 0);
}

#[test]
fn an_interrupt_return_keeps_flags_when_its_slot_is_anothers() {
    let end = agree(with_tables, 32, |a| {
        a.mov(ecx, DEAF as i32)?;
        a.mov(edx, LISTENING as i32)?;
        loop_of(
            a,
            |a| a.call(ecx),
            |a| {
                let mut next = a.create_label();
                a.call(next)?;
                a.set_label(&mut next)?;
                // The return address becomes that of the end of this sequence.
                a.pop(eax)?;
                a.lea(eax, dword_ptr(eax + 10))?;
                a.push(eax)?;
                a.pushfd()?;
                a.push(8)?;
                a.push(edx)?;
                a.iretd()
            },
        )
    });
    assert_ne!(end.0[7], 0);
}

/// Gives the page at `DEAF` another physical page.
fn remap(a: &mut CodeAssembler, page: u64) -> Result<(), IcedError> {
    a.mov(dword_ptr(PAGE_TABLE + DEAF / 0x1000 * 8), page as i32 | 7)?;
    a.mov(eax, DEAF as i32)?;
    a.invlpg(byte_ptr(rax))
}

#[test]
fn a_branch_to_a_page_mapped_anew_keeps_flags() {
    let end = agree(long, 64, |a| {
        a.mov(ecx, DEAF as i32)?;
        loop_of(
            a,
            |a| {
                remap(a, DEAF)?;
                a.call(rcx)?;
                remap(a, LISTENING)
            },
            |a| a.call(rcx),
        )
    });
    assert_ne!(end.0[7], 0);
}

#[test]
fn a_link_to_a_page_mapped_anew_keeps_flags() {
    // One call in the code for both pages: it is linked to what was there first.
    let end = agree(long, 64, |a| {
        let mut common = a.create_label();
        let mut over = a.create_label();
        a.jmp(over)?;
        a.set_label(&mut common)?;
        a.call(DEAF)?;
        a.ret()?;
        a.set_label(&mut over)?;
        loop_of(
            a,
            |a| {
                remap(a, DEAF)?;
                a.call(common)?;
                remap(a, LISTENING)
            },
            |a| a.call(common),
        )
    });
    assert_ne!(end.0[7], 0);
}

/// Bit offsets in EAX and EDX, all over a bit string, by BT, BTS, BTR and BTC;
/// ZF, which they keep, and CF are added up in EDI.
fn bit_strings(a: &mut CodeAssembler, base: AsmRegister32) -> Result<(), IcedError> {
    let mut top = a.create_label();
    a.mov(base, DATA as i32 + 0x800)?;
    a.mov(ecx, 200)?;
    a.xor(edi, edi)?;
    a.set_label(&mut top)?;
    a.imul_3(edx, ecx, 0x9F3)?;
    a.and(edx, 0x1FFF)?;
    a.sub(edx, 0x1000)?;
    a.mov(eax, edx)?;
    for flag in [0x40, 0] {
        a.cmp(ecx, 64 + flag)?;
        a.bts(dword_ptr(base), eax)?;
        a.setz(al)?;
        a.adc(edi, 0)?;
        a.mov(eax, edx)?;
        a.cmp(ecx, 64 + flag)?;
        a.lock().btc(dword_ptr(base + 64), edx)?;
        a.setbe(byte_ptr(base + ecx + 0x400))?;
        a.test(ecx, flag)?;
        a.bt(dword_ptr(base + 32), eax)?;
        a.setbe(byte_ptr(base + ecx + 0x500))?;
        a.cmp(edx, eax)?;
        a.btr(dword_ptr(base + 8), eax)?;
        a.adc(edi, edi)?;
    }
    a.dec(ecx)?;
    a.jne(top)
}

#[test]
fn bit_strings_keep_the_other_flags() {
    agree(protected, 32, |a| bit_strings(a, ebx));
    agree(long, 64, |a| {
        bit_strings(a, ebx)?;
        a.mov(rbx, DATA + 0x800)?;
        a.mov(rax, -77i64)?;
        a.cmp(edi, edi)?;
        a.bts(qword_ptr(rbx), rax)?;
        a.setbe(byte_ptr(rbx))?;
        a.cmp(edi, edi)?;
        a.bt(word_ptr(rbx), ax)?;
        a.setbe(byte_ptr(rbx + 1))
    });
}
