//! System instructions and event delivery, one behaviour a test.
//!
//! On top of `test_support`: a GDT whose entries `Table` names, an empty IDT, and 32-bit TSSes.

use super::debug::{DR6_BS, DR6_BT};
use super::descriptor::{flat_segment, system_type};
use super::interrupt::Event;
use super::test_support::*;
use crate::fault::{Fault, vector};
use crate::state::{Segment, TableRegister, attr, cr0, cr4, efer, flags, gpr, seg, shadow};
use iced_x86::code_asm::*;

const GDT: u64 = 0x1000;
const IDT: u64 = 0x2000;
const TSS: u64 = 0x3000;
const OTHER_TSS: u64 = 0x3100;
const LDT: u64 = 0x3200;
/// Where handlers and other tasks run.
const HANDLER: u64 = 0x5000;
const INNER_STACK: u64 = 0x6000;

/// Selectors of the GDT, RPL 0.
mod sel {
    pub const CODE: u16 = 8;
    pub const DATA: u16 = 16;
    pub const USER_CODE: u16 = 24;
    pub const USER_DATA: u16 = 32;
    /// 16 bytes in long mode.
    pub const TSS: u16 = 40;
    pub const OTHER_TSS: u16 = 56;
    /// For what a test needs; 16 bytes in long mode.
    pub const SPARE: u16 = 64;
    pub const LAST: u16 = 80;
}

/// Types and DPL 0, present, as the descriptor's byte 5 has them.
const DATA_RW: u8 = 0x93;
const CODE_R: u8 = 0x9B;

fn descriptor(base: u32, limit: u32, access: u8, high: u8) -> u64 {
    let (base, limit) = (base as u64, limit as u64);
    limit & 0xFFFF
        | (base & 0xFF_FFFF) << 16
        | (access as u64) << 40
        | (limit >> 16 & 0xF) << 48
        | (high as u64) << 52
        | (base >> 24) << 56
}

/// A gate of byte 5 `access`; `count` are parameters or the IST.
fn gate(selector: u16, offset: u64, access: u8, count: u8) -> u64 {
    offset & 0xFFFF
        | (selector as u64) << 16
        | (count as u64) << 32
        | (access as u64) << 40
        | (offset >> 16 & 0xFFFF) << 48
}

fn assemble(bits: u32, write: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(bits).unwrap();
    write(&mut assembler).unwrap();
    assembler.assemble(CODE).unwrap()
}

impl Machine {
    fn put64(&self, address: u64, value: u64) {
        self.store(address, &value.to_le_bytes());
    }

    fn put32(&self, address: u64, value: u32) {
        self.store(address, &value.to_le_bytes());
    }

    fn put16(&self, address: u64, value: u16) {
        self.store(address, &value.to_le_bytes());
    }

    fn get32(&self, address: u64) -> u32 {
        u32::from_le_bytes(self.bytes(address))
    }

    fn get64(&self, address: u64) -> u64 {
        u64::from_le_bytes(self.bytes(address))
    }

    fn describe(&self, selector: u16, descriptor: u64) {
        self.put64(GDT + (selector & 0xFFF8) as u64, descriptor);
    }

    fn access(&self, selector: u16) -> u8 {
        self.bytes::<1>(GDT + (selector & 0xFFF8) as u64 + 5)[0]
    }

    /// The GDT, an empty IDT, and a TSS in TR with SS0:ESP0.
    fn tables(&mut self, long: bool) {
        let code_high = if long { 0xA } else { 0xC };
        self.describe(sel::CODE, descriptor(0, 0xF_FFFF, CODE_R, code_high));
        self.describe(sel::DATA, descriptor(0, 0xF_FFFF, DATA_RW, 0xC));
        let user_code = descriptor(0, 0xF_FFFF, CODE_R | 0x60, code_high);
        self.describe(sel::USER_CODE, user_code);
        self.describe(sel::USER_DATA, descriptor(0, 0xF_FFFF, DATA_RW | 0x60, 0xC));
        self.describe(sel::TSS, descriptor(TSS as u32, 0x67, 0x8B, 0));
        self.describe(sel::OTHER_TSS, descriptor(OTHER_TSS as u32, 0x67, 0x89, 0));
        self.v.cpu.gdtr = TableRegister {
            base: GDT,
            limit: sel::LAST + 7,
        };
        self.v.cpu.idtr = TableRegister {
            base: IDT,
            limit: 0xFFF,
        };
        self.v.cpu.tr = Segment {
            base: TSS,
            limit: 0x67,
            attributes: attr::P | system_type::BUSY_TSS32,
            selector: sel::TSS,
        };
        if long {
            self.put64(TSS + 4, INNER_STACK);
        } else {
            self.put32(TSS + 4, INNER_STACK as u32);
            self.put16(TSS + 8, sel::DATA);
        }
    }

    fn gate32(&self, vector: u8, access: u8) {
        let gate = gate(sel::CODE, HANDLER, access, 0);
        self.put64(IDT + vector as u64 * 8, gate);
    }

    fn gate64(&self, vector: u8, ist: u8) {
        self.put64(
            IDT + vector as u64 * 16,
            gate(sel::CODE, HANDLER, 0xEE, ist),
        );
    }

    /// Segments and CPL of user code.
    fn enter_user(&mut self, long: bool) {
        let code = attr::CODE | if long { attr::L } else { attr::DB };
        let cpu = &mut *self.v.cpu;
        for index in 0..6 {
            cpu.seg[index] = flat_segment(sel::USER_DATA | 3, attr::DB, 3);
        }
        cpu.seg[seg::CS] = flat_segment(sel::USER_CODE | 3, code, 3);
        cpu.cpl = 3;
    }

    fn rsp(&self) -> u64 {
        self.v.cpu.gpr[gpr::RSP]
    }

    /// The `n`th doubleword from the top of the stack.
    fn stack32(&self, n: u64) -> u32 {
        self.get32(self.rsp() + n * 4)
    }

    fn stack64(&self, n: u64) -> u64 {
        self.get64(self.rsp() + n * 8)
    }
}

/// 32-bit protected mode with tables.
fn protected(write: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Machine {
    let mut m = Machine::protected(&assemble(32, write));
    m.tables(false);
    m
}

/// 64-bit mode with tables.
fn long64(write: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Machine {
    let mut m = Machine::long(&assemble(64, write));
    m.tables(true);
    m
}

fn real16(write: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Machine {
    Machine::real(&assemble(16, write))
}

/// V86 mode, IOPL as given.
fn v86(iopl: u64, write: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Machine {
    let mut m = Machine::protected(&assemble(16, write));
    m.tables(false);
    let cpu = &mut *m.v.cpu;
    cpu.rflags |= flags::VM | iopl << 12;
    cpu.cpl = 3;
    for (i, s) in cpu.seg.iter_mut().enumerate() {
        *s = super::descriptor::v86_segment(if i == seg::CS { 0 } else { i as u16 });
    }
    m
}

// --- delivery in protected mode ---

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

// --- double and triple faults ---

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

// --- segment registers ---

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

// --- IRET ---

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

// --- V86 mode ---

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

// --- far JMP, CALL and RET ---

/// A far CALL or JMP by a 32-bit pointer.
fn far_pointer32(opcode: u8, selector: u16, offset: u64) -> Vec<u8> {
    let mut code = vec![opcode];
    code.extend((offset as u32).to_le_bytes());
    code.extend(selector.to_le_bytes());
    code
}

fn far_pointer16(selector: u16, offset: u16) -> Vec<u8> {
    let mut code = vec![JMP];
    code.extend(offset.to_le_bytes());
    code.extend(selector.to_le_bytes());
    code
}

fn far(opcode: u8, selector: u16, offset: u64) -> Machine {
    protected(|a| a.db(&far_pointer32(opcode, selector, offset)))
}

const JMP: u8 = 0xEA;
const CALL: u8 = 0x9A;

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

// --- tasks ---

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

// --- long mode ---

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

// --- control registers and mode switches ---

/// What `mov cr, eax` raises in 32-bit protected mode.
fn mov_cr(cr: AsmRegisterCr, value: u64) -> Result<(), Fault> {
    let mut m = protected(|a| a.mov(cr, eax));
    m.v.cpu.gpr[gpr::RAX] = value;
    m.step()
}

#[test]
fn paging_needs_protection_and_no_write_through_needs_cache_disable() {
    assert_eq!(mov_cr(cr0, cr0::PG), Err(Fault::GP0));
    assert_eq!(mov_cr(cr0, cr0::PE | cr0::NW), Err(Fault::GP0));
    assert_eq!(mov_cr(cr0, cr0::PE | cr0::PG), Ok(()));
}

#[test]
fn pcids_need_long_mode() {
    assert_eq!(mov_cr(cr4, cr4::PCIDE), Err(Fault::GP0));
}

#[test]
fn control_registers_are_for_level_0() {
    let mut m = protected(|a| a.mov(cr0, eax));
    m.enter_user(false);
    assert_eq!(m.step(), Err(Fault::GP0));
}

#[test]
fn lmsw_sets_pe_but_cannot_clear_it() {
    let mut m = protected(|a| a.lmsw(ax));
    m.v.cpu.gpr[gpr::RAX] = cr0::TS;
    m.step().unwrap();
    assert_eq!(m.v.cpu.cr0 & 0xF, cr0::PE | cr0::TS);
}

#[test]
fn long_mode_cannot_leave_pae() {
    let mut m = long64(|a| a.mov(cr4, rax));
    assert_eq!(m.step(), Err(Fault::GP0));
}

#[test]
fn paging_cannot_end_in_64_bit_mode() {
    let mut m = long64(|a| a.mov(cr0, rax));
    m.v.cpu.gpr[gpr::RAX] = cr0::PE;
    assert_eq!(m.step(), Err(Fault::GP0));
}

#[test]
fn lme_cannot_change_while_paging() {
    let mut m = long64(|a| a.wrmsr());
    m.v.cpu.gpr[gpr::RCX] = 0xC000_0080;
    assert_eq!(m.step(), Err(Fault::GP0));
}

// --- tables and look-ups ---

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

// --- real mode ---

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

// --- flags, HLT, debug ---

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

// --- MSRs, TSC ---

fn msr(number: u32, value: u64) -> (Machine, Result<(), Fault>) {
    let mut m = long64(|a| a.wrmsr());
    m.v.cpu.gpr[gpr::RCX] = number as u64;
    m.v.cpu.gpr[gpr::RAX] = value & 0xFFFF_FFFF;
    m.v.cpu.gpr[gpr::RDX] = value >> 32;
    let result = m.step();
    (m, result)
}

#[test]
fn unknown_msrs_are_gp_0() {
    assert_eq!(msr(0x1234_5678, 0).1, Err(Fault::GP0));
}

#[test]
fn addresses_in_msrs_must_be_canonical() {
    for number in [0xC000_0082, 0xC000_0100, 0xC000_0102, 0x176] {
        assert_eq!(msr(number, 0x8000_0000_0000).1, Err(Fault::GP0));
        assert_eq!(msr(number, 0xFFFF_8000_0000_0000).1, Ok(()));
    }
}

#[test]
fn memory_types_of_the_pat_are_checked() {
    assert_eq!(msr(0x277, 0x0007_0406_0007_0402).1, Err(Fault::GP0));
    let (m, result) = msr(0x277, 0x0007_0106_0007_0406);
    assert_eq!((result, m.v.cpu.msr.pat), (Ok(()), 0x0007_0106_0007_0406));
}

#[test]
fn rdtsc_is_kept_from_users_by_tsd() {
    let mut m = protected(|a| a.rdtsc());
    m.enter_user(false);
    m.step().unwrap();
    m.v.cpu.rip = CODE;
    m.v.cpu.cr4 |= cr4::TSD;
    assert_eq!(m.step(), Err(Fault::GP0));
}
