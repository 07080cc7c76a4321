//! Task switches.

use super::*;
use crate::fault::{Fault, vector};
use crate::interp::debug::DR6_BT;
use crate::state::{cr0, flags, gpr, seg};
use iced_x86::code_asm::*;

/// A task in `OTHER_TSS` at `HANDLER`, level 0.
fn other_task(m: &Machine) {
    let at = |offset: u64| OTHER_TSS + offset;
    m.put32(at(0x20), HANDLER as u32);
    m.put32(at(0x24), flags::FIXED as u32);
    m.put32(at(0x28), 0xAAAA);
    m.put32(at(0x38), 0x6800);
    for (i, selector) in [sel::DATA, sel::CODE, sel::DATA, sel::DATA, 0, 0]
        .into_iter()
        .enumerate()
    {
        m.put16(at(0x48 + 4 * i as u64), selector);
    }
}

#[test]
fn a_jump_to_a_tss_switches_tasks() {
    let mut m = far(JMP, sel::OTHER_TSS, 0);
    other_task(&m);
    m.v.cpu.gpr[gpr::RBX] = 0xBBBB;
    m.v.step();
    assert_eq!((m.v.cpu.rip, m.rsp()), (HANDLER, 0x6800));
    assert_eq!(m.v.cpu.gpr[gpr::RAX], 0xAAAA);
    assert_eq!(m.v.cpu.cr0 & cr0::TS, cr0::TS);
    assert_eq!(m.v.cpu.tr.selector, sel::OTHER_TSS);
    assert_eq!((m.access(sel::TSS), m.access(sel::OTHER_TSS)), (0x89, 0x8B));
    assert_eq!(m.get32(TSS + 0x20), CODE as u32 + 7);
    assert_eq!(m.get32(TSS + 0x34), 0xBBBB);
}

#[test]
fn a_call_to_a_tss_nests_and_iret_comes_back() {
    let mut m = far(CALL, sel::OTHER_TSS, 0);
    other_task(&m);
    m.store(HANDLER, &[0xCF]); // iretd
    m.v.step();
    assert_eq!(m.v.cpu.rflags & flags::NT, flags::NT);
    assert_eq!(m.get32(OTHER_TSS) as u16, sel::TSS);
    assert_eq!((m.access(sel::TSS), m.access(sel::OTHER_TSS)), (0x8B, 0x8B));
    m.v.step();
    assert_eq!((m.v.cpu.rip, m.v.cpu.tr.selector), (CODE + 7, sel::TSS));
    assert_eq!((m.access(sel::TSS), m.access(sel::OTHER_TSS)), (0x8B, 0x89));
    assert_eq!(m.v.cpu.rflags & flags::NT, 0);
    assert_eq!(m.get32(OTHER_TSS + 0x24) as u64 & flags::NT, 0);
}

#[test]
fn a_task_gate_for_a_fault_pushes_the_error_code_in_the_new_task() {
    let mut m = protected(|a| a.mov(ds, ax));
    other_task(&m);
    m.v.cpu.gpr[gpr::RAX] = 0x1000;
    m.put64(
        IDT + vector::GP as u64 * 8,
        gate(sel::OTHER_TSS, 0, 0x85, 0),
    );
    m.v.step();
    assert_eq!((m.v.cpu.rip, m.rsp()), (HANDLER, 0x6800 - 4));
    assert_eq!(m.stack32(0), 0x1000);
    assert_eq!(m.get32(TSS + 0x20), CODE as u32);
}

#[test]
fn a_busy_task_cannot_be_jumped_to() {
    let mut m = far(JMP, sel::TSS, 0);
    assert_eq!(m.step(), Err(Fault::gp(sel::TSS)));
}

#[test]
fn a_small_tss_is_ts_of_it() {
    let mut m = far(JMP, sel::OTHER_TSS, 0);
    m.describe(sel::OTHER_TSS, descriptor(OTHER_TSS as u32, 0x66, 0x89, 0));
    let fault = Fault::with_code(vector::TS, sel::OTHER_TSS as u32);
    assert_eq!(m.step(), Err(fault));
}

#[test]
fn a_bad_segment_in_the_new_task_faults_there() {
    let mut m = far(JMP, sel::OTHER_TSS, 0);
    other_task(&m);
    m.put16(OTHER_TSS + 0x54, sel::CODE | 4);
    m.gate32(vector::TS, 0x8E);
    m.v.step();
    assert_eq!(m.stack32(0), (sel::CODE | 4) as u32);
    assert_eq!(m.stack32(1), HANDLER as u32);
    assert_eq!(m.v.cpu.tr.selector, sel::OTHER_TSS);
}

#[test]
fn the_t_bit_raises_a_debug_trap_in_the_new_task() {
    let mut m = far(JMP, sel::OTHER_TSS, 0);
    other_task(&m);
    m.put16(OTHER_TSS + 0x64, 1);
    m.v.step();
    assert_eq!(m.v.cpu.pending_db, DR6_BT);
}

#[test]
fn a_16_bit_tss_saves_and_loads_words() {
    let mut m = far(JMP, sel::SPARE, 0);
    m.describe(sel::SPARE, descriptor(OTHER_TSS as u32, 0x2B, 0x81, 0));
    let at = |offset: u64| OTHER_TSS + offset;
    m.put16(at(0x0E), HANDLER as u16);
    m.put16(at(0x10), flags::FIXED as u16);
    m.put16(at(0x12), 0x1234);
    m.put16(at(0x1A), 0x6800);
    for (i, selector) in [sel::DATA, sel::CODE, sel::DATA, sel::DATA]
        .into_iter()
        .enumerate()
    {
        m.put16(at(0x22 + 2 * i as u64), selector);
    }
    m.v.step();
    assert_eq!(m.v.cpu.rip, HANDLER);
    assert_eq!(m.v.cpu.gpr[gpr::RAX] & 0xFFFF, 0x1234);
    assert!(!m.v.cpu.seg[seg::FS].usable());
    assert_eq!(m.access(sel::SPARE), 0x83);
}
