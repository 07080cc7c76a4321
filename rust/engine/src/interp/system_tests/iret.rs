//! IRET, and V86 mode, which it enters.

use super::*;
use crate::fault::Fault;
use crate::state::{flags, seg};

#[test]
fn iret_to_an_outer_level_restores_the_stack_and_drops_privileged_segments() {
    let mut m = protected(|a| a.iretd());
    let frame = [
        HANDLER as u32,
        (sel::USER_CODE | 3) as u32,
        (flags::IF | flags::FIXED) as u32,
        0x7800,
        (sel::USER_DATA | 3) as u32,
    ];
    for (i, value) in frame.into_iter().enumerate() {
        m.put32(STACK + 4 * i as u64, value);
    }
    m.step().unwrap();
    assert_eq!((m.v.cpu.cpl, m.v.cpu.rip, m.rsp()), (3, HANDLER, 0x7800));
    assert!(m.v.cpu.interrupts_enabled());
    assert!(!m.v.cpu.seg[seg::DS].usable());
    assert_eq!(m.v.cpu.seg[seg::DS].selector, 0);
}

#[test]
fn iret_at_level_3_changes_neither_iopl_nor_if() {
    let mut m = protected(|a| a.iretd());
    m.enter_user(false);
    m.put32(STACK, HANDLER as u32);
    m.put32(STACK + 4, (sel::USER_CODE | 3) as u32);
    m.put32(STACK + 8, (flags::IF | flags::IOPL | flags::CF) as u32);
    m.step().unwrap();
    assert_eq!(m.v.cpu.rflags, flags::FIXED | flags::CF);
}

#[test]
fn iret_to_more_privilege_is_gp() {
    let mut m = protected(|a| a.iretd());
    m.enter_user(false);
    m.put32(STACK, HANDLER as u32);
    m.put32(STACK + 4, sel::CODE as u32);
    assert_eq!(m.step(), Err(Fault::gp(sel::CODE)));
}

#[test]
fn iret_in_real_mode_pops_words() {
    let mut m = real16(|a| a.iret());
    m.store(STACK, &[0x00, 0x50, 0x00, 0x10, 0x01, 0x02]);
    m.step().unwrap();
    assert_eq!(m.v.cpu.seg[seg::CS].base, 0x1_0000);
    assert_eq!(m.v.cpu.rip, 0x5000);
    assert_eq!(m.v.cpu.rflags, flags::FIXED | flags::CF | flags::IF);
    assert_eq!(m.rsp(), STACK + 6);
}

#[test]
fn iret_unblocks_nmis() {
    let mut m = real16(|a| a.iret());
    m.v.cpu.nmi_blocked = true;
    m.step().unwrap();
    assert!(!m.v.cpu.nmi_blocked);
}

#[test]
fn iret_can_set_rf_for_the_next_instruction() {
    let mut m = protected(|a| a.iretd());
    m.put32(STACK, HANDLER as u32);
    m.put32(STACK + 4, sel::CODE as u32);
    m.put32(STACK + 8, flags::RF as u32);
    m.v.step();
    assert_eq!(m.v.cpu.rflags & flags::RF, flags::RF);
}

#[test]
fn iretd_with_vm_in_the_image_enters_v86_mode() {
    let mut m = protected(|a| a.iretd());
    let image = (flags::VM | flags::IF | flags::FIXED) as u32;
    let frame = [0x10, 0x500, image, 0xFFF0, 0x600, 1, 2, 3, 4];
    for (i, value) in frame.into_iter().enumerate() {
        m.put32(STACK + 4 * i as u64, value);
    }
    m.step().unwrap();
    let cpu = &m.v.cpu;
    assert!(cpu.v86() && cpu.cpl == 3);
    assert_eq!((cpu.seg[seg::CS].base, cpu.rip), (0x5000, 0x10));
    assert_eq!((cpu.seg[seg::SS].base, m.rsp()), (0x6000, 0xFFF0));
    let data = [seg::ES, seg::DS, seg::FS, seg::GS].map(|i| cpu.seg[i].selector);
    assert_eq!(data, [1, 2, 3, 4]);
}

#[test]
fn an_interrupt_from_v86_mode_pushes_nine_doublewords_and_nulls_data_segments() {
    let mut m = v86(3, |a| a.int(0x40));
    m.gate32(0x40, 0xEE);
    m.step().unwrap();
    assert!(!m.v.cpu.v86());
    assert_eq!(m.v.cpu.cpl, 0);
    assert_eq!(m.rsp(), INNER_STACK - 36);
    let frame: Vec<u32> = (0..9).map(|n| m.stack32(n)).collect();
    let image = (flags::VM | flags::IOPL | flags::FIXED) as u32;
    assert_eq!(
        frame,
        [CODE as u32 + 2, 0, image, STACK as u32, 2, 0, 3, 4, 5]
    );
    assert!(!m.v.cpu.seg[seg::GS].usable());
}

#[test]
fn int_n_in_v86_mode_below_iopl_3_is_gp_0() {
    let mut m = v86(0, |a| a.int(0x40));
    m.gate32(0x40, 0xEE);
    assert_eq!(m.step(), Err(Fault::GP0));
}

#[test]
fn int3_in_v86_mode_is_not_iopl_sensitive() {
    let mut m = v86(0, |a| a.int3());
    m.gate32(3, 0xEE);
    m.step().unwrap();
    assert_eq!(m.v.cpu.rip, HANDLER);
}

#[test]
fn a_handler_for_v86_mode_must_be_at_level_0() {
    let mut m = v86(3, |a| a.int(0x40));
    m.put64(IDT + 0x40 * 8, gate(sel::USER_CODE | 3, HANDLER, 0xEE, 0));
    assert_eq!(m.step(), Err(Fault::gp(sel::USER_CODE)));
}

#[test]
fn far_jumps_in_v86_mode_load_paragraphs() {
    let mut m = v86(0, |a| a.db(&[0xEA, 0x34, 0x12, 0x78, 0x56]));
    m.step().unwrap();
    assert_eq!((m.v.cpu.seg[seg::CS].base, m.v.cpu.rip), (0x5_6780, 0x1234));
}
