//! Flags that hold interrupts off, HLT, debug exceptions.

use super::*;
use crate::fault::{Fault, vector};
use crate::interp::debug::DR6_BS;
use crate::interp::interrupt::Event;
use crate::state::{cr4, flags, gpr, shadow};
use iced_x86::code_asm::*;

#[test]
fn sti_holds_interrupts_off_for_one_instruction_only_if_they_were_off() {
    let mut m = protected(|a| {
        a.sti()?;
        a.sti()
    });
    m.v.step();
    assert_eq!(m.v.cpu.shadow, shadow::STI);
    m.v.step();
    assert_eq!(m.v.cpu.shadow, 0);
}

#[test]
fn cli_above_iopl_is_gp_0() {
    let mut m = protected(|a| a.cli());
    m.enter_user(false);
    assert_eq!(m.step(), Err(Fault::GP0));
    m.v.cpu.rflags |= flags::IOPL;
    m.step().unwrap();
}

#[test]
fn hlt_is_for_level_0() {
    let mut m = protected(|a| a.hlt());
    m.step().unwrap();
    assert!(m.v.cpu.halted);
    m.v.cpu.rip = CODE;
    m.enter_user(false);
    assert_eq!(m.step(), Err(Fault::GP0));
}

#[test]
fn tf_traps_after_the_instruction() {
    let mut m = protected(|a| a.nop());
    m.v.cpu.rflags |= flags::TF;
    m.v.step();
    assert_eq!((m.v.cpu.pending_db, m.v.cpu.rip), (DR6_BS, CODE + 1));
}

#[test]
fn int_n_does_not_single_step_into_the_handler() {
    let mut m = protected(|a| a.int(0x40));
    m.gate32(0x40, 0x8E);
    m.v.cpu.rflags |= flags::TF;
    m.v.step();
    assert_eq!(m.v.cpu.pending_db, 0);
    assert_eq!(m.stack32(2) as u64 & flags::TF, flags::TF);
}

#[test]
fn an_instruction_breakpoint_faults_before_it_and_rf_lets_it_pass() {
    let mut m = protected(|a| a.nop());
    m.gate32(vector::DB, 0x8E);
    m.v.cpu.dr[0] = CODE;
    m.v.cpu.dr[7] |= 1;
    m.v.cpu.rflags |= flags::RF;
    m.v.step();
    assert_eq!(m.v.cpu.rip, CODE + 1);
    m.v.cpu.rip = CODE;
    m.v.step();
    assert_eq!(m.v.cpu.rip, HANDLER);
    assert_eq!(m.v.cpu.dr[6] & 0xF, 1);
    assert_eq!(m.stack32(0), CODE as u32);
}

#[test]
fn a_data_breakpoint_traps_after_the_access() {
    let mut m = protected(|a| {
        a.mov(eax, dword_ptr(DATA))?;
        a.mov(dword_ptr(DATA), eax)
    });
    m.v.cpu.dr[1] = DATA + 2;
    m.v.cpu.dr[7] |= 1 << 2 | 0b01 << 20; // L1, write, one byte
    m.v.step();
    assert_eq!(m.v.cpu.pending_db, 0);
    m.v.step();
    assert_eq!((m.v.cpu.pending_db, m.v.cpu.rip), (2, CODE + 10));
}

#[test]
fn an_io_breakpoint_needs_cr4_de() {
    let mut m = protected(|a| a.out(0x80, al));
    m.v.cpu.dr[0] = 0x80;
    m.v.cpu.dr[7] |= 1 | 0b10 << 16;
    m.v.step();
    assert_eq!(m.v.cpu.pending_db, 0);
    m.v.cpu.cr4 |= cr4::DE;
    m.v.cpu.rip = CODE;
    m.v.step();
    assert_eq!(m.v.cpu.pending_db, 1);
}

#[test]
fn general_detect_faults_and_is_cleared_for_the_handler() {
    let mut m = protected(|a| a.mov(eax, dr0));
    m.gate32(vector::DB, 0x8E);
    m.v.cpu.dr[7] |= 1 << 13;
    m.v.step();
    assert_eq!(m.v.cpu.dr[6] & 1 << 13, 1 << 13);
    assert_eq!(m.v.cpu.dr[7] & 1 << 13, 0);
    assert_eq!(m.stack32(0), CODE as u32);
}

#[test]
fn dr4_is_dr6_unless_debugging_extensions_are_on() {
    let mut m = protected(|a| a.mov(eax, dr4));
    m.step().unwrap();
    assert_eq!(m.v.cpu.gpr[gpr::RAX], 0xFFFF_0FF0);
    m.v.cpu.rip = CODE;
    m.v.cpu.cr4 |= cr4::DE;
    assert_eq!(m.step(), Err(Fault::UD));
}

#[test]
fn a_single_step_trap_ends_hlt() {
    let mut m = protected(|a| a.hlt());
    m.gate32(vector::DB, 0x8E);
    m.v.cpu.rflags |= flags::TF;
    m.v.step();
    assert_eq!(m.v.cpu.pending_db, DR6_BS);
    m.v.deliver(Event::trap(vector::DB));
    assert!(!m.v.cpu.halted);
}
