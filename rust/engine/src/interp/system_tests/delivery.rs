//! Interrupts and exceptions in protected mode, double and triple faults, real mode.

use super::*;
use crate::fault::{Fault, vector};
use crate::interp::interrupt::Event;
use crate::state::{flags, gpr, seg};
use iced_x86::code_asm::*;

#[test]
fn an_interrupt_gate_of_the_same_level_pushes_three_doublewords_and_clears_if() {
    let mut m = protected(|a| a.int(0x40));
    m.gate32(0x40, 0x8E);
    m.v.cpu.rflags |= flags::IF;
    m.v.step();
    assert_eq!(m.v.cpu.rip, HANDLER);
    assert_eq!(m.rsp(), STACK - 12);
    assert_eq!(m.stack32(0), CODE as u32 + 2);
    assert_eq!(m.stack32(1), sel::CODE as u32);
    assert_eq!(m.stack32(2), (flags::IF | flags::FIXED) as u32);
    assert!(!m.v.cpu.interrupts_enabled());
}

#[test]
fn a_trap_gate_leaves_if_alone() {
    let mut m = protected(|a| a.int(0x40));
    m.gate32(0x40, 0x8F);
    m.v.cpu.rflags |= flags::IF;
    m.v.step();
    assert!(m.v.cpu.interrupts_enabled());
}

#[test]
fn a_16_bit_gate_pushes_words() {
    let mut m = protected(|a| a.int(0x40));
    m.gate32(0x40, 0x86);
    m.v.step();
    assert_eq!(m.rsp(), STACK - 6);
    assert_eq!(m.v.cpu.rip, HANDLER);
}

#[test]
fn an_interrupt_to_an_inner_level_takes_the_stack_of_the_tss() {
    let mut m = protected(|a| a.int(0x40));
    m.enter_user(false);
    m.gate32(0x40, 0xEE);
    m.v.step();
    assert_eq!(m.v.cpu.cpl, 0);
    assert_eq!(m.v.cpu.seg[seg::SS].selector, sel::DATA);
    assert_eq!(m.rsp(), INNER_STACK - 20);
    assert_eq!(m.stack32(1), (sel::USER_CODE | 3) as u32);
    assert_eq!(m.stack32(3), STACK as u32);
    assert_eq!(m.stack32(4), (sel::USER_DATA | 3) as u32);
}

#[test]
fn int_n_through_a_gate_of_more_privilege_is_gp_with_the_idt_bit() {
    let mut m = protected(|a| a.int(0x40));
    m.enter_user(false);
    m.gate32(0x40, 0x8E);
    assert_eq!(m.step(), Err(Fault::with_code(vector::GP, 0x40 * 8 + 2)));
}

#[test]
fn int1_needs_no_gate_privilege() {
    let mut m = protected(|a| a.int1());
    m.enter_user(false);
    m.gate32(1, 0x8E);
    m.step().unwrap();
    assert_eq!(m.v.cpu.rip, HANDLER);
}

#[test]
fn an_external_interrupt_through_an_absent_gate_is_np_with_ext() {
    let mut m = protected(|a| a.nop());
    m.gate32(0x40, 0x0E);
    m.gate32(vector::NP, 0x8E);
    m.v.deliver(Event::external(0x40));
    assert_eq!(m.stack32(0), 0x40 * 8 + 3);
    assert_eq!(m.stack32(1), CODE as u32);
}

#[test]
fn a_handler_in_a_data_segment_is_gp_of_the_selector() {
    let mut m = protected(|a| a.int(0x40));
    m.put64(IDT + 0x40 * 8, gate(sel::DATA, HANDLER, 0x8E, 0));
    assert_eq!(m.step(), Err(Fault::gp(sel::DATA)));
}

#[test]
fn a_null_inner_stack_is_ts_0() {
    let mut m = protected(|a| a.int(0x40));
    m.enter_user(false);
    m.gate32(0x40, 0xEE);
    m.put16(TSS + 8, 0);
    assert_eq!(m.step(), Err(Fault::with_code(vector::TS, 0)));
}

#[test]
fn a_tss_too_small_for_the_inner_stack_is_ts_of_the_tss() {
    let mut m = protected(|a| a.int(0x40));
    m.enter_user(false);
    m.gate32(0x40, 0xEE);
    m.v.cpu.tr.limit = 8;
    let fault = Fault::with_code(vector::TS, sel::TSS as u32);
    assert_eq!(m.step(), Err(fault));
}

#[test]
fn a_full_inner_stack_is_ss_of_its_selector() {
    let mut m = protected(|a| a.int(0x40));
    m.enter_user(false);
    m.gate32(0x40, 0xEE);
    m.describe(sel::SPARE, descriptor(0, 0xFFF, DATA_RW, 4));
    m.put16(TSS + 8, sel::SPARE);
    let fault = Fault::with_code(vector::SS, sel::SPARE as u32);
    assert_eq!(m.step(), Err(fault));
}

#[test]
fn a_fault_pushes_its_error_code_and_rf_and_returns_to_the_instruction() {
    let mut m = protected(|a| a.mov(ds, ax));
    m.v.cpu.gpr[gpr::RAX] = 0x1000;
    m.gate32(vector::GP, 0x8E);
    m.v.step();
    assert_eq!(m.stack32(0), 0x1000);
    assert_eq!(m.stack32(1), CODE as u32);
    assert_eq!(m.stack32(3) as u64 & flags::RF, flags::RF);
    assert_eq!(m.v.cpu.rflags & flags::RF, 0);
}

#[test]
fn a_conforming_handler_keeps_the_privilege_level() {
    let mut m = protected(|a| a.int(0x40));
    m.enter_user(false);
    m.describe(sel::SPARE, descriptor(0, 0xF_FFFF, 0x9F, 0xC));
    m.put64(IDT + 0x40 * 8, gate(sel::SPARE, HANDLER, 0xEE, 0));
    m.step().unwrap();
    assert_eq!(m.v.cpu.cpl, 3);
    assert_eq!(m.v.cpu.seg[seg::CS].selector, sel::SPARE | 3);
    assert_eq!(m.rsp(), STACK - 12);
}

#[test]
fn page_faults_set_cr2() {
    let mut m = protected(|a| a.nop());
    m.gate32(vector::PF, 0x8E);
    m.v.deliver(Event::fault(Fault::page(0x1234, 2)));
    assert_eq!(m.v.cpu.cr2, 0x1234);
    assert_eq!(m.stack32(0), 2);
}

#[test]
fn a_contributory_fault_while_delivering_one_is_a_double_fault() {
    let mut m = protected(|a| a.mov(ds, ax));
    m.v.cpu.gpr[gpr::RAX] = 0x1000;
    m.gate32(vector::DF, 0x8E);
    m.v.step();
    assert_eq!(m.v.cpu.rip, HANDLER);
    assert_eq!(m.stack32(0), 0);
    assert_eq!(m.stack32(1), CODE as u32);
    assert!(!m.v.cpu.shutdown);
}

#[test]
fn a_contributory_fault_while_delivering_a_benign_one_is_delivered_itself() {
    let mut m = protected(|a| a.ud2());
    m.gate32(vector::GP, 0x8E);
    m.v.step();
    assert_eq!(m.stack32(0), 6 * 8 + 3);
}

#[test]
fn a_fault_while_delivering_a_double_fault_shuts_down() {
    let mut m = protected(|a| a.mov(ds, ax));
    m.v.cpu.gpr[gpr::RAX] = 0x1000;
    m.v.cpu.idtr.limit = 0;
    m.v.step();
    assert!(m.v.cpu.shutdown);
}

#[test]
fn a_fault_of_int_n_itself_is_no_double_fault() {
    let mut m = protected(|a| a.int(0x40));
    m.gate32(vector::GP, 0x8E);
    m.v.step();
    assert_eq!(m.stack32(0), 0x40 * 8 + 2);
    assert_eq!(m.stack32(1), CODE as u32);
}

#[test]
fn real_mode_interrupts_go_through_the_vector_table() {
    let mut m = real16(|a| a.int(0x10));
    m.store(0x40, &[0x34, 0x12, 0x00, 0x50]);
    m.v.cpu.rflags |= flags::IF;
    m.step().unwrap();
    assert_eq!((m.v.cpu.seg[seg::CS].base, m.v.cpu.rip), (0x5_0000, 0x1234));
    assert_eq!(m.rsp(), STACK - 6);
    assert!(!m.v.cpu.interrupts_enabled());
}

#[test]
fn a_vector_past_the_table_is_gp_without_error_code() {
    let mut m = real16(|a| a.int(0x10));
    m.v.cpu.idtr.limit = 0x3F;
    m.store(13 * 4, &[0x00, 0x60, 0x00, 0x00]);
    m.v.step();
    assert_eq!((m.v.cpu.rip, m.rsp()), (0x6000, STACK - 6));
    assert_eq!(u16::from_le_bytes(m.bytes(m.rsp())), CODE as u16);
}
