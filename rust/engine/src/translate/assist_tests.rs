//! System instructions and strings on both backends: privilege changes, segments, faults.

use super::tests::agree;
use crate::interp::test_support::{ABSENT, CODE, DATA, Machine};
use crate::state::{Segment, TableRegister, attr, cr0, cr4, efer};
use iced_x86::code_asm::*;

const GDT: u64 = 0x9000;
const IDT: u64 = 0xA000;
const TSS: u64 = 0xA800;
const HANDLER: u64 = 0x6000;
/// Selectors in the test's GDT.
const DATA0: u32 = 0x10;
const CODE3: u32 = 0x1B;
const DATA3: u32 = 0x23;
/// Data at base `DATA`.
const BASED: u32 = 0x33;

/// A GDT, a gate for INT 80h (and all exceptions) to `HANDLER`, a TSS with stacks for level 0.
pub(super) fn with_tables(m: &mut Machine, long: bool, handler: &[u8]) {
    let code = if long {
        0x00AF_9B00_0000_FFFF
    } else {
        0x00CF_9B00_0000_FFFF_u64
    };
    let descriptors = [
        0,
        code,
        0x00CF_9300_0000_FFFF,
        code | 0x6000_0000_0000,
        0x00CF_F300_0000_FFFF,
        0,
        0x0040_F200_0000_0FFF | DATA << 16,
        0x0040_9B00_0000_FFFF,
    ];
    for (i, d) in descriptors.into_iter().enumerate() {
        m.store(GDT + 8 * i as u64, &u64::to_le_bytes(d));
    }
    let gate = HANDLER & 0xFFFF | 8 << 16 | 0xEE00 << 32;
    for vector in 0..0x81 {
        let at = IDT + vector * if long { 16 } else { 8 };
        m.store(at, &gate.to_le_bytes());
    }
    m.store(TSS + 4, &0x6F00u32.to_le_bytes());
    m.store(TSS + 8, &if long { 0 } else { DATA0 }.to_le_bytes());
    m.store(HANDLER, handler);
    let cpu = &mut *m.v.cpu;
    cpu.gdtr = TableRegister {
        base: GDT,
        limit: 0x3F,
    };
    cpu.idtr = TableRegister {
        base: IDT,
        limit: 0xFFF,
    };
    cpu.tr = Segment {
        base: TSS,
        limit: 0x67,
        attributes: attr::P | 0xB,
        selector: 0x28,
    };
}

fn assemble(bits: u32, program: impl FnOnce(&mut CodeAssembler)) -> Vec<u8> {
    let mut a = CodeAssembler::new(bits).unwrap();
    program(&mut a);
    a.assemble(HANDLER).unwrap()
}

/// Counts in EDI and returns; from vector 0 to 31 nothing may come.
fn protected_system(code: &[u8]) -> Machine {
    let mut m = Machine::protected(code);
    let handler = assemble(32, |a| {
        a.push(ds).unwrap();
        a.push(es).unwrap();
        a.push(fs).unwrap();
        a.mov(eax, DATA0).unwrap();
        a.mov(ds, eax).unwrap();
        a.mov(es, eax).unwrap();
        a.inc(edi).unwrap();
        a.test(edi, 0x40).unwrap();
        let mut more = a.create_label();
        a.je(more).unwrap();
        a.hlt().unwrap();
        a.set_label(&mut more).unwrap();
        a.pop(fs).unwrap();
        a.pop(es).unwrap();
        a.pop(ds).unwrap();
        a.iretd().unwrap();
    });
    with_tables(&mut m, false, &handler);
    m
}

fn long_system(code: &[u8]) -> Machine {
    let mut m = Machine::long(code);
    let handler = assemble(64, |a| {
        a.inc(edi).unwrap();
        a.add(rsi, qword_ptr(rsp)).unwrap();
        a.test(edi, 0x40).unwrap();
        let mut more = a.create_label();
        a.je(more).unwrap();
        a.hlt().unwrap();
        a.set_label(&mut more).unwrap();
        a.iretq().unwrap();
    });
    with_tables(&mut m, true, &handler);
    let cpu = &mut *m.v.cpu;
    cpu.efer |= efer::SCE;
    cpu.cr0 |= cr0::NE | cr0::MP;
    cpu.cr4 |= cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE | cr4::FSGSBASE;
    cpu.xcr0 = crate::host::xcr0();
    m
}

#[test]
fn interrupts_from_user_code_and_back_in_32_bits() {
    let end = agree(protected_system, 32, |a| {
        let (mut enter_user, mut top) = (a.create_label(), a.create_label());
        a.mov(ebx, esp)?;
        a.call(enter_user)?;
        a.mov(eax, DATA3)?;
        a.mov(ds, eax)?;
        a.mov(es, eax)?;
        a.mov(eax, BASED)?;
        a.mov(fs, eax)?;
        a.set_label(&mut top)?;
        a.stc()?;
        a.int(0x80)?;
        a.adc(dword_ptr(edi * 4 + 8).fs(), edi)?;
        a.mov(ecx, fs)?;
        a.add(edx, ecx)?;
        a.push(es)?;
        a.pop(ecx)?;
        a.add(edx, ecx)?;
        a.jmp(top)?;
        // The call pushed the address of the user's code.
        a.set_label(&mut enter_user)?;
        a.pop(edx)?;
        a.push(DATA3)?;
        a.push(ebx)?;
        a.pushfd()?;
        a.push(CODE3)?;
        a.push(edx)?;
        a.iretd()
    });
    assert_eq!(end.0[7], 0x40, "ran to its end");
}

#[test]
fn sysenter_and_sysexit() {
    let end = agree(protected_system, 32, |a| {
        let (mut kernel_known, mut user_known, mut done) =
            (a.create_label(), a.create_label(), a.create_label());
        for (register, value) in [(0x174, 8), (0x175, 0x6E00)] {
            a.mov(ecx, register)?;
            a.mov(eax, value)?;
            a.xor(edx, edx)?;
            a.wrmsr()?;
        }
        a.mov(ebx, 40)?;
        a.call(kernel_known)?;
        a.add(edi, dword_ptr(0x67FC))?;
        a.dec(ebx)?;
        a.je(done)?;
        a.mov(edx, ebp)?;
        a.mov(ecx, 0x6800)?;
        a.sysexit()?;
        a.set_label(&mut kernel_known)?;
        a.pop(eax)?;
        a.mov(ecx, 0x176)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.call(user_known)?;
        a.lea(esi, dword_ptr(esi + ebx * 4))?;
        a.push(esi)?;
        a.sysenter()?;
        a.set_label(&mut user_known)?;
        a.pop(ebp)?;
        a.mov(edx, ebp)?;
        a.mov(ecx, 0x6800)?;
        a.sysexit()?;
        a.set_label(&mut done)
    });
    assert_eq!(end.0[3], 0, "ran to its end");
}

fn set_up_syscall(a: &mut CodeAssembler, kernel: CodeLabel) -> Result<(), iced_x86::IcedError> {
    a.mov(ecx, 0xC000_0081u32)?;
    a.xor(eax, eax)?;
    // SYSRET takes CS from base + 16 and SS from base + 8: CODE3 and the descriptor below it.
    a.mov(edx, 0x000B_0008)?;
    a.wrmsr()?;
    a.mov(ecx, 0xC000_0082u32)?;
    a.lea(rax, qword_ptr(kernel))?;
    a.xor(edx, edx)?;
    a.wrmsr()?;
    a.mov(ecx, 0xC000_0084u32)?;
    a.mov(eax, 0x200)?;
    a.wrmsr()
}

#[test]
fn syscall_and_sysret_keep_flags_and_vectors() {
    if !std::is_x86_feature_detected!("avx512vl") {
        return;
    }
    let end = agree(long_system, 64, |a| {
        let (mut user, mut kernel, mut done) =
            (a.create_label(), a.create_label(), a.create_label());
        set_up_syscall(a, kernel)?;
        a.mov(ebx, 30)?;
        a.mov(r9d, DATA as i32)?;
        a.mov(rax, 0x0123_4567_89AB_CDEFu64)?;
        a.vpbroadcastq(zmm31, rax)?;
        a.vpbroadcastq(ymm16, rax)?;
        a.vpbroadcastq(ymm3, rax)?;
        a.vpsrlq(zmm30, zmm31, 3)?;
        a.vpsrlq(ymm2, ymm3, 7)?;
        a.lea(rcx, qword_ptr(user))?;
        a.mov(r11d, 2)?;
        a.sysretq()?;
        a.set_label(&mut user)?;
        a.vpaddq(zmm31, zmm31, zmm30)?;
        a.vpaddq(ymm2, ymm2, ymm3)?;
        a.cmp(ebx, 17)?;
        a.syscall()?;
        a.setbe(al)?;
        a.add(r10, rax)?;
        a.jmp(user)?;
        a.set_label(&mut kernel)?;
        a.xor(rsi, rcx)?;
        a.add(rdi, r11)?;
        a.mov(r12, rcx)?;
        a.mov(r13, r11)?;
        a.mov(rax, cr3)?;
        a.mov(cr3, rax)?;
        a.mov(rax, DATA)?;
        a.invlpg(byte_ptr(rax))?;
        a.xor(eax, eax)?;
        a.lldt(ax)?;
        a.mov(rdi, DATA + 0x400)?;
        a.mov(rsi, DATA + 0x300)?;
        a.mov(ecx, 0x280)?;
        a.rep().movsb()?;
        a.mov(ecx, 0xC000_0101u32)?;
        a.rdmsr()?;
        a.add(eax, 5)?;
        a.wrmsr()?;
        a.dec(ebx)?;
        a.je(done)?;
        a.mov(rcx, r12)?;
        a.mov(r11, r13)?;
        a.sysretq()?;
        a.set_label(&mut done)?;
        a.rdgsbase(r14)?;
        a.vmovdqu64(zmmword_ptr(r9), zmm31)?;
        a.vmovdqu64(zmmword_ptr(r9 + 64), zmm30)?;
        a.vmovdqu(ymmword_ptr(r9 + 128), ymm2)?;
        a.vmovdqu64(ymmword_ptr(r9 + 160), ymm16)
    });
    assert_eq!(end.0[3], 0, "ran to its end");
}

#[test]
fn interrupts_keep_vectors_in_64_bits() {
    if !std::is_x86_feature_detected!("avx512vl") {
        return;
    }
    let end = agree(long_system, 64, |a| {
        let mut top = a.create_label();
        a.mov(rbx, DATA)?;
        a.mov(rax, 0x1123_4567_89AB_CDEFu64)?;
        a.vpbroadcastq(zmm17, rax)?;
        a.vpbroadcastq(ymm1, rax)?;
        a.set_label(&mut top)?;
        a.vpaddq(zmm17, zmm17, zmm17)?;
        a.vpaddq(ymm1, ymm1, ymm1)?;
        a.vmovdqu64(zmmword_ptr(rbx), zmm17)?;
        a.vmovdqu(ymmword_ptr(rbx + 64), ymm1)?;
        a.int(0x80)?;
        a.vmovdqu64(zmmword_ptr(rbx + 128), zmm17)?;
        a.vmovdqu(ymmword_ptr(rbx + 256), ymm1)?;
        a.jmp(top)
    });
    assert_eq!(end.0[7], 0x40, "ran to its end");
}

#[test]
fn a_fault_of_an_assist_reaches_its_handler() {
    agree(long_system, 64, |a| {
        a.mov(eax, 0x7F8)?;
        a.mov(fs, eax)
    });
    agree(long_system, 64, |a| {
        a.mov(rax, 0x8000_0000_0000u64)?;
        a.wrfsbase(rax)
    });
}

#[test]
fn strings_stop_at_an_absent_page() {
    agree(long_system, 64, |a| {
        a.mov(rdi, ABSENT - 0x21)?;
        a.mov(rsi, DATA)?;
        a.mov(ecx, 0x40)?;
        a.rep().movsq()
    });
    agree(long_system, 64, |a| {
        a.mov(rdi, ABSENT - 0x21)?;
        a.mov(ecx, 0x40)?;
        a.rep().stosd()
    });
}

#[test]
fn strings_in_both_directions_with_overlap() {
    agree(Machine::protected, 32, |a| {
        let mut fill = a.create_label();
        a.mov(edi, DATA as i32)?;
        a.set_label(&mut fill)?;
        a.mov(eax, edi)?;
        a.imul_2(eax, eax)?;
        a.stosd()?;
        a.cmp(edi, DATA as i32 + 0x1000)?;
        a.jb(fill)?;
        a.mov(esi, DATA as i32 + 0x100)?;
        a.mov(edi, DATA as i32 + 0x103)?;
        a.mov(ecx, 0x123)?;
        a.rep().movsb()?;
        a.std()?;
        a.mov(esi, DATA as i32 + 0x804)?;
        a.mov(edi, DATA as i32 + 0x7FE)?;
        a.mov(ecx, 0x55)?;
        a.rep().movsd()?;
        a.mov(ecx, 0x19)?;
        a.rep().stosw()?;
        a.cld()?;
        a.mov(edi, DATA as i32)?;
        a.mov(ecx, 0x1000)?;
        a.repne().scasb()?;
        a.mov(esi, DATA as i32 + 0x300)?;
        a.repe().cmpsb()?;
        a.lodsw()?;
        a.pushad()?;
        a.popad()
    });
}

#[test]
fn a_string_that_overwrites_code() {
    agree(Machine::protected, 32, |a| {
        let mut top = a.create_label();
        a.mov(ebx, 20)?;
        a.set_label(&mut top)?;
        a.mov(edi, CODE as i32 + 14)?;
        a.mov(eax, ebx)?;
        a.stosb()?;
        a.mov(edx, CODE as i32)?;
        a.add(esi, edx)?;
        a.dec(ebx)?;
        a.jne(top)
    });
}

#[test]
fn segment_registers_are_read_at_each_width() {
    agree(protected_system, 32, |a| {
        a.mov(eax, -1)?;
        a.mov(ecx, -1)?;
        a.mov(edx, BASED)?;
        a.mov(fs, edx)?;
        a.mov(eax, fs)?;
        a.mov(cx, fs)?;
        a.mov(esi, ss)?;
        a.mov(word_ptr(DATA as i32 + 8), fs)
    });
    agree(long_system, 64, |a| {
        a.mov(rax, -1i64)?;
        a.mov(r9, -1i64)?;
        a.mov(rcx, -1i64)?;
        a.mov(rax, ss)?;
        a.mov(r9d, cs)?;
        a.mov(cx, ss)?;
        a.mov(rbx, DATA)?;
        a.mov(word_ptr(rbx), cs)
    });
}
