//! Gates, returns and system calls of long mode.

use super::*;
use crate::fault::Fault;
use crate::state::{efer, flags, gpr, seg};
use iced_x86::code_asm::*;

#[test]
fn a_64_bit_gate_aligns_the_stack_and_pushes_ss_and_rsp() {
    let mut m = long64(|a| a.int(0x40));
    m.gate64(0x40, 0);
    m.v.cpu.gpr[gpr::RSP] = STACK - 3;
    m.step().unwrap();
    assert_eq!(m.rsp(), STACK - 16 - 40);
    assert_eq!(m.stack64(0), CODE + 2);
    assert_eq!((m.stack64(3), m.stack64(4)), (STACK - 3, sel::DATA as u64));
}

#[test]
fn an_interrupt_stack_of_the_ist_is_used_at_any_level() {
    let mut m = long64(|a| a.int(0x40));
    m.gate64(0x40, 2);
    m.put64(TSS + 0x2C, 0x6F00);
    m.step().unwrap();
    assert_eq!(m.rsp(), 0x6F00 - 40);
}

#[test]
fn an_inner_level_in_long_mode_has_a_null_ss() {
    let mut m = long64(|a| a.int(0x40));
    m.enter_user(true);
    m.gate64(0x40, 0);
    m.step().unwrap();
    assert_eq!(m.v.cpu.seg[seg::SS].selector, 0);
    assert!(!m.v.cpu.seg[seg::SS].usable());
    assert_eq!(m.rsp(), INNER_STACK - 40);
}

#[test]
fn iretq_returns_to_user_code_with_its_stack() {
    let mut m = long64(|a| a.iretq());
    let image = flags::IF | flags::FIXED;
    let user = [
        HANDLER,
        (sel::USER_CODE | 3) as u64,
        image,
        0x7801,
        (sel::USER_DATA | 3) as u64,
    ];
    for (i, value) in user.into_iter().enumerate() {
        m.put64(STACK + 8 * i as u64, value);
    }
    m.step().unwrap();
    assert_eq!((m.v.cpu.cpl, m.v.cpu.rip, m.rsp()), (3, HANDLER, 0x7801));
    assert_eq!(m.v.cpu.rflags, image);
}

#[test]
fn iretq_pops_the_stack_at_the_same_level_too() {
    let mut m = long64(|a| a.iretq());
    for (i, value) in [HANDLER, sel::CODE as u64, flags::FIXED, 0x7800, 0]
        .into_iter()
        .enumerate()
    {
        m.put64(STACK + 8 * i as u64, value);
    }
    m.step().unwrap();
    assert_eq!((m.rsp(), m.v.cpu.seg[seg::SS].selector), (0x7800, 0));
}

#[test]
fn iretq_to_a_non_canonical_address_is_gp_0() {
    let mut m = long64(|a| a.iretq());
    m.put64(STACK, 0x8000_0000_0000);
    m.put64(STACK + 8, sel::CODE as u64);
    assert_eq!(m.step(), Err(Fault::GP0));
}

#[test]
fn iret_with_nt_in_long_mode_is_gp_0() {
    let mut m = long64(|a| a.iretq());
    m.v.cpu.rflags |= flags::NT;
    assert_eq!(m.step(), Err(Fault::GP0));
}

#[test]
fn a_handler_in_32_bit_code_is_gp_in_long_mode() {
    let mut m = long64(|a| a.int(0x40));
    m.gate64(0x40, 0);
    m.describe(sel::CODE, descriptor(0, 0xF_FFFF, CODE_R, 0xC));
    assert_eq!(m.step(), Err(Fault::gp(sel::CODE)));
}

#[test]
fn ltr_reads_a_16_byte_descriptor_in_long_mode() {
    let mut m = long64(|a| a.ltr(ax));
    m.v.cpu.gpr[gpr::RAX] = sel::SPARE as u64;
    m.describe(sel::SPARE, descriptor(0x3000, 0x67, 0x89, 0));
    m.put64(GDT + sel::SPARE as u64 + 8, 0xFFFF_8000);
    m.step().unwrap();
    assert_eq!(m.v.cpu.tr.base, 0xFFFF_8000_0000_3000);
    assert_eq!(m.access(sel::SPARE), 0x8B);
}

#[test]
fn a_64_bit_call_gate_switches_stacks_without_parameters() {
    let mut m = long64(|a| a.call(fword_ptr(rbx)));
    m.enter_user(true);
    m.describe(sel::SPARE, gate(sel::CODE, HANDLER, 0xEC, 3));
    m.put64(GDT + sel::SPARE as u64 + 8, 0);
    m.v.cpu.gpr[gpr::RBX] = DATA;
    m.put16(DATA + 4, sel::SPARE | 3);
    m.step().unwrap();
    assert_eq!((m.v.cpu.cpl, m.v.cpu.rip), (0, HANDLER));
    assert_eq!(m.rsp(), INNER_STACK - 32);
}

#[test]
fn syscall_and_sysret_go_there_and_back() {
    let mut m = long64(|a| a.syscall());
    m.enter_user(true);
    let cpu = &mut *m.v.cpu;
    cpu.efer |= efer::SCE;
    cpu.msr.star = (sel::CODE as u64) << 32 | 0x10 << 48;
    cpu.msr.lstar = HANDLER;
    cpu.msr.fmask = flags::IF | flags::DF;
    cpu.rflags |= flags::IF | flags::CF;
    m.store(HANDLER, &[0x48, 0x0F, 0x07]); // sysretq
    m.step().unwrap();
    let cpu = &m.v.cpu;
    assert_eq!(
        (cpu.cpl, cpu.rip, cpu.gpr[gpr::RCX]),
        (0, HANDLER, CODE + 2)
    );
    assert_eq!(cpu.gpr[11], flags::IF | flags::CF | flags::FIXED);
    assert_eq!(cpu.rflags, flags::CF | flags::FIXED);
    assert_eq!(
        (cpu.seg[seg::CS].selector, cpu.seg[seg::SS].selector),
        (8, 16)
    );
    m.step().unwrap();
    let cpu = &m.v.cpu;
    assert_eq!((cpu.cpl, cpu.rip), (3, CODE + 2));
    assert_eq!(
        (cpu.seg[seg::CS].selector, cpu.seg[seg::SS].selector),
        (0x23, 0x1B)
    );
    assert_eq!(cpu.rflags, flags::IF | flags::CF | flags::FIXED);
}

#[test]
fn syscall_without_sce_is_an_undefined_opcode() {
    assert_eq!(long64(|a| a.syscall()).step(), Err(Fault::UD));
}

#[test]
fn sysenter_loads_flat_segments_and_sysexit_returns() {
    let mut m = protected(|a| a.sysenter());
    m.enter_user(false);
    let msr = &mut m.v.cpu.msr;
    (msr.sysenter_cs, msr.sysenter_esp, msr.sysenter_eip) = (8, INNER_STACK, HANDLER);
    m.store(HANDLER, &[0x0F, 0x35]); // sysexit
    m.step().unwrap();
    assert_eq!(
        (m.v.cpu.cpl, m.v.cpu.rip, m.rsp()),
        (0, HANDLER, INNER_STACK)
    );
    m.v.cpu.gpr[gpr::RCX] = STACK;
    m.v.cpu.gpr[gpr::RDX] = CODE;
    m.step().unwrap();
    assert_eq!((m.v.cpu.cpl, m.v.cpu.rip, m.rsp()), (3, CODE, STACK));
    assert_eq!(m.v.cpu.seg[seg::CS].selector, 0x1B);
}

#[test]
fn sysenter_without_a_segment_is_gp_0() {
    assert_eq!(protected(|a| a.sysenter()).step(), Err(Fault::GP0));
}

#[test]
fn swapgs_exchanges_the_bases_at_level_0_only() {
    let mut m = long64(|a| a.swapgs());
    m.v.cpu.msr.kernel_gs_base = 0x1234;
    m.step().unwrap();
    assert_eq!(
        (m.v.cpu.seg[seg::GS].base, m.v.cpu.msr.kernel_gs_base),
        (0x1234, 0)
    );
    m.load(&[0x0F, 0x01, 0xF8]);
    m.enter_user(true);
    assert_eq!(m.step(), Err(Fault::GP0));
}

#[test]
fn a_page_fault_sets_no_accessed_bits() {
    let mut m = long64(|a| a.mov(rax, qword_ptr(rbx)));
    // A directory entry of its own, for the second gigabyte's first table.
    let root = m.v.cpu.cr3;
    m.put64(root + 0x1008, (root + 0x4000) | 7);
    m.v.cpu.gpr[gpr::RBX] = 1 << 30;
    assert_eq!(m.step(), Err(Fault::page(1 << 30, 0)));
    assert_eq!(m.get64(root + 0x1008), (root + 0x4000) | 7);
}
