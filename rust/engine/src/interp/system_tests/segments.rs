//! Loads of segment registers.

use super::*;
use crate::fault::{Fault, vector};
use crate::state::{attr, gpr, seg, shadow};
use iced_x86::code_asm::*;

#[test]
fn a_null_ds_faults_at_its_use_not_at_its_load() {
    let mut m = protected(|a| {
        a.mov(ds, ax)?;
        a.mov(eax, dword_ptr(0x100))
    });
    m.step().unwrap();
    assert_eq!(m.step(), Err(Fault::GP0));
}

#[test]
fn a_null_ss_is_gp_0() {
    let mut m = protected(|a| a.mov(ss, ax));
    assert_eq!(m.step(), Err(Fault::GP0));
}

/// What loading `selector` into a segment register raises.
fn load(
    segment: AsmRegisterSegment,
    selector: u16,
    descriptor: u64,
) -> (Machine, Result<(), Fault>) {
    let mut m = protected(|a| a.mov(segment, ax));
    m.describe(sel::SPARE, descriptor);
    m.v.cpu.gpr[gpr::RAX] = selector as u64;
    let result = m.step();
    (m, result)
}

#[test]
fn a_selector_past_the_gdt_is_gp_of_it() {
    let (_, result) = load(ds, 0x1003, 0);
    assert_eq!(result, Err(Fault::gp(0x1000)));
}

#[test]
fn a_selector_of_the_ldt_without_one_is_gp_with_ti() {
    let mut m = protected(|a| a.mov(ds, ax));
    m.v.cpu.ldtr.attributes |= attr::UNUSABLE;
    m.v.cpu.gpr[gpr::RAX] = 7;
    assert_eq!(m.step(), Err(Fault::with_code(vector::GP, 4)));
}

#[test]
fn absent_segments_are_np_and_the_stack_ss() {
    let absent = descriptor(0, 0xFFFF, DATA_RW & 0x7F, 4);
    let code = sel::SPARE as u32;
    assert_eq!(
        load(es, sel::SPARE, absent).1,
        Err(Fault::with_code(vector::NP, code))
    );
    assert_eq!(
        load(ss, sel::SPARE, absent).1,
        Err(Fault::with_code(vector::SS, code))
    );
}

#[test]
fn execute_only_code_and_system_segments_are_no_data() {
    let bad = Err(Fault::gp(sel::SPARE));
    assert_eq!(load(ds, sel::SPARE, descriptor(0, 0xFFFF, 0x99, 4)).1, bad);
    assert_eq!(load(ds, sel::SPARE, descriptor(0, 0xFFFF, 0x82, 0)).1, bad);
}

#[test]
fn rpl_above_dpl_is_gp_but_for_conforming_code() {
    assert_eq!(
        load(ds, sel::SPARE | 3, descriptor(0, 0xFFFF, DATA_RW, 4)).1,
        Err(Fault::gp(sel::SPARE))
    );
    assert!(
        load(ds, sel::SPARE | 3, descriptor(0, 0xFFFF, 0x9F, 4))
            .1
            .is_ok()
    );
}

#[test]
fn a_read_only_stack_is_gp() {
    let (_, result) = load(ss, sel::SPARE, descriptor(0, 0xFFFF, 0x91, 4));
    assert_eq!(result, Err(Fault::gp(sel::SPARE)));
}

#[test]
fn a_load_sets_the_accessed_bit_and_applies_granularity() {
    let (m, result) = load(ds, sel::SPARE, descriptor(0x12_3456, 0x12, 0x92, 0xC));
    assert!(result.is_ok());
    let s = m.v.cpu.seg[seg::DS];
    assert_eq!((s.base, s.limit), (0x12_3456, 0x1_2FFF));
    assert_eq!(m.access(sel::SPARE), 0x93);
}

#[test]
fn real_mode_loads_keep_the_limit() {
    let mut m = real16(|a| a.mov(ds, ax));
    m.v.cpu.gpr[gpr::RAX] = 0x1234;
    m.v.cpu.seg[seg::DS].limit = u32::MAX;
    m.step().unwrap();
    let s = m.v.cpu.seg[seg::DS];
    assert_eq!((s.base, s.limit), (0x1_2340, u32::MAX));
}

#[test]
fn mov_ss_holds_interrupts_off_for_one_instruction() {
    let mut m = protected(|a| a.mov(ss, ax));
    m.v.cpu.gpr[gpr::RAX] = sel::DATA as u64;
    m.v.step();
    assert_eq!(m.v.cpu.shadow, shadow::MOV_SS);
    m.load(&[0x90]);
    m.v.step();
    assert_eq!(m.v.cpu.shadow, 0);
}

#[test]
fn a_pop_that_faults_leaves_the_stack_pointer() {
    let mut m = protected(|a| a.pop(ds));
    m.put32(STACK, 0x1000);
    assert_eq!(m.step(), Err(Fault::gp(0x1000)));
    assert_eq!(m.rsp(), STACK);
}

#[test]
fn les_loads_segment_and_offset() {
    let mut m = protected(|a| a.les(ebx, fword_ptr(DATA)));
    m.put32(DATA, 0x1234_5678);
    m.put16(DATA + 4, sel::USER_DATA);
    m.step().unwrap();
    assert_eq!(m.v.cpu.gpr[gpr::RBX], 0x1234_5678);
    assert_eq!(m.v.cpu.seg[seg::ES].selector, sel::USER_DATA);
}
