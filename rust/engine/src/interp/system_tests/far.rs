//! Far JMP, CALL and RET.

use super::*;
use crate::fault::{Fault, vector};
use crate::state::seg;

#[test]
fn a_far_jump_past_the_limit_is_gp_0() {
    let mut m = far(JMP, sel::SPARE, 0x1_0000);
    m.describe(sel::SPARE, descriptor(0, 0xFFFF, CODE_R, 4));
    assert_eq!(m.step(), Err(Fault::GP0));
}

#[test]
fn a_far_jump_to_null_is_gp_0_and_to_data_gp_of_it() {
    assert_eq!(far(JMP, 3, 0).step(), Err(Fault::GP0));
    assert_eq!(far(JMP, sel::DATA, 0).step(), Err(Fault::gp(sel::DATA)));
}

#[test]
fn a_far_jump_to_an_absent_segment_is_np() {
    let mut m = far(JMP, sel::SPARE, 0);
    m.describe(sel::SPARE, descriptor(0, 0xFFFF, CODE_R & 0x7F, 4));
    let fault = Fault::with_code(vector::NP, sel::SPARE as u32);
    assert_eq!(m.step(), Err(fault));
}

#[test]
fn a_far_call_pushes_cs_and_eip_and_ret_goes_back() {
    let mut m = far(CALL, sel::CODE, HANDLER);
    m.store(HANDLER, &[0xCA, 0x08, 0x00]); // retf 8
    m.step().unwrap();
    assert_eq!(
        (m.stack32(0), m.stack32(1)),
        (CODE as u32 + 7, sel::CODE as u32)
    );
    m.step().unwrap();
    assert_eq!((m.v.cpu.rip, m.rsp()), (CODE + 7, STACK + 8));
}

#[test]
fn a_call_gate_to_an_inner_level_copies_parameters_and_ret_releases_them() {
    let mut m = far(CALL, sel::SPARE | 3, 0);
    m.enter_user(false);
    m.describe(sel::SPARE, gate(sel::CODE, HANDLER, 0xEC, 2));
    m.put32(STACK, 0x1111);
    m.put32(STACK + 4, 0x2222);
    m.store(HANDLER, &[0xCA, 0x08, 0x00]); // retf 8
    m.step().unwrap();
    assert_eq!(m.v.cpu.cpl, 0);
    let frame: Vec<u32> = (0..6).map(|n| m.stack32(n)).collect();
    let [code, data] = [sel::USER_CODE | 3, sel::USER_DATA | 3].map(u32::from);
    assert_eq!(
        frame,
        [CODE as u32 + 7, code, 0x1111, 0x2222, STACK as u32, data]
    );
    m.step().unwrap();
    assert_eq!(
        (m.v.cpu.cpl, m.v.cpu.rip, m.rsp()),
        (3, CODE + 7, STACK + 8)
    );
    assert_eq!(m.v.cpu.seg[seg::SS].selector, sel::USER_DATA | 3);
}

#[test]
fn a_16_bit_call_gate_pushes_words() {
    let mut m = far(CALL, sel::SPARE, 0);
    m.describe(sel::SPARE, gate(sel::CODE, HANDLER, 0x84, 0));
    m.step().unwrap();
    assert_eq!(m.rsp(), STACK - 4);
}

#[test]
fn a_call_gate_of_more_privilege_is_gp_of_the_gate() {
    let mut m = far(CALL, sel::SPARE, 0);
    m.enter_user(false);
    m.describe(sel::SPARE, gate(sel::CODE, HANDLER, 0x8C, 0));
    assert_eq!(m.step(), Err(Fault::gp(sel::SPARE)));
}

#[test]
fn a_jump_through_a_gate_cannot_gain_privilege() {
    let mut m = far(JMP, sel::SPARE, 0);
    m.enter_user(false);
    m.describe(sel::SPARE, gate(sel::CODE, HANDLER, 0xEC, 0));
    assert_eq!(m.step(), Err(Fault::gp(sel::CODE)));
}

#[test]
fn far_return_to_more_privilege_is_gp() {
    let mut m = protected(|a| a.retf());
    m.enter_user(false);
    m.put32(STACK + 4, sel::CODE as u32);
    assert_eq!(m.step(), Err(Fault::gp(sel::CODE)));
}
