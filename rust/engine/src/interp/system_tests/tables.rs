//! Descriptor-table registers and look-ups.

use super::*;
use crate::fault::Fault;
use crate::interp::descriptor::system_type;
use crate::state::{Segment, TableRegister, attr, cr4, flags, gpr, seg};
use iced_x86::code_asm::*;

#[test]
fn lgdt_with_16_bit_operands_takes_24_bits_of_base() {
    let mut m = real16(|a| a.db(&[0x0F, 0x01, 0x16, 0x00, 0x80])); // lgdt [8000h]
    m.store(DATA, &[0x34, 0x12, 0x78, 0x56, 0x34, 0x12]);
    m.step().unwrap();
    let expected = TableRegister {
        base: 0x34_5678,
        limit: 0x1234,
    };
    assert_eq!(m.v.cpu.gdtr, expected);
}

#[test]
fn sidt_is_kept_from_users_by_umip() {
    let mut m = protected(|a| a.sidt(fword_ptr(DATA)));
    m.enter_user(false);
    m.v.cpu.cr4 |= cr4::UMIP;
    assert_eq!(m.step(), Err(Fault::GP0));
}

#[test]
fn lldt_takes_null_and_refuses_what_is_no_ldt() {
    let mut m = protected(|a| a.lldt(ax));
    m.step().unwrap();
    assert!(!m.v.cpu.ldtr.usable());
    m.v.cpu.rip = CODE;
    m.v.cpu.gpr[gpr::RAX] = sel::DATA as u64;
    assert_eq!(m.step(), Err(Fault::gp(sel::DATA)));
}

#[test]
fn segments_come_from_the_ldt_by_ti() {
    let mut m = protected(|a| a.mov(ds, ax));
    m.put64(LDT + 8, descriptor(0x7_0000, 0xFFFF, DATA_RW, 4));
    m.v.cpu.ldtr = Segment {
        base: LDT,
        limit: 15,
        attributes: attr::P | system_type::LDT,
        selector: sel::SPARE,
    };
    m.v.cpu.gpr[gpr::RAX] = 0xC;
    m.step().unwrap();
    assert_eq!(m.v.cpu.seg[seg::DS].base, 0x7_0000);
}

#[test]
fn ltr_of_a_busy_tss_is_gp() {
    let mut m = protected(|a| a.ltr(ax));
    m.v.cpu.gpr[gpr::RAX] = sel::TSS as u64;
    assert_eq!(m.step(), Err(Fault::gp(sel::TSS)));
}

#[test]
fn lar_and_lsl_tell_rights_and_limit_by_zf() {
    let mut m = protected(|a| {
        a.lar(eax, ecx)?;
        a.lsl(ebx, ecx)
    });
    m.v.cpu.gpr[gpr::RCX] = sel::TSS as u64;
    m.step().unwrap();
    m.step().unwrap();
    assert_eq!(m.v.cpu.gpr[gpr::RAX], 0x8B00);
    assert_eq!(m.v.cpu.gpr[gpr::RBX], 0x67);
    assert_eq!(m.v.cpu.rflags & flags::ZF, flags::ZF);
}

#[test]
fn lar_of_what_privilege_hides_clears_zf() {
    let mut m = protected(|a| a.lar(eax, ecx));
    m.enter_user(false);
    m.v.cpu.rflags |= flags::ZF;
    m.v.cpu.gpr[gpr::RCX] = sel::DATA as u64;
    m.v.cpu.gpr[gpr::RAX] = 5;
    m.step().unwrap();
    assert_eq!((m.v.cpu.rflags & flags::ZF, m.v.cpu.gpr[gpr::RAX]), (0, 5));
}

#[test]
fn verr_and_verw_tell_code_from_data() {
    let mut m = protected(|a| {
        a.verr(cx)?;
        a.verw(cx)
    });
    m.v.cpu.gpr[gpr::RCX] = sel::CODE as u64;
    m.step().unwrap();
    assert_eq!(m.v.cpu.rflags & flags::ZF, flags::ZF);
    m.step().unwrap();
    assert_eq!(m.v.cpu.rflags & flags::ZF, 0);
}

#[test]
fn arpl_raises_the_rpl() {
    let mut m = protected(|a| a.arpl(ax, cx));
    m.v.cpu.gpr[gpr::RAX] = 0x10;
    m.v.cpu.gpr[gpr::RCX] = 3;
    m.step().unwrap();
    assert_eq!(m.v.cpu.gpr[gpr::RAX], 0x13);
    assert_eq!(m.v.cpu.rflags & flags::ZF, flags::ZF);
}

#[test]
fn look_ups_do_not_exist_in_real_mode() {
    assert_eq!(real16(|a| a.lar(ax, cx)).step(), Err(Fault::UD));
    assert_eq!(real16(|a| a.sldt(ax)).step(), Err(Fault::UD));
}

#[test]
fn arpl_writes_only_what_it_raises() {
    let mut m = protected(|a| a.arpl(word_ptr(DATA), cx));
    m.v.cpu.seg[seg::DS].attributes &= !attr::WRITABLE;
    m.step().unwrap();
    assert_eq!(m.v.cpu.rflags & flags::ZF, 0);
    m.v.cpu.rip = CODE;
    m.v.cpu.gpr[gpr::RCX] = 1;
    assert_eq!(m.step(), Err(Fault::GP0));
}
