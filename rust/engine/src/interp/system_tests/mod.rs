//! System instructions and event delivery, one behaviour a test, by subject.
//!
//! On top of `test_support`: a GDT whose entries `sel` names, an empty IDT, and 32-bit TSSes.

mod control;
mod debug;
mod delivery;
mod far;
mod iret;
mod long;
mod msr;
mod segments;
mod tables;
mod task;

use super::descriptor::{flat_segment, system_type, v86_segment};
use super::test_support::*;
use crate::state::{Segment, TableRegister, attr, flags, gpr, seg};
use iced_x86::code_asm::{CodeAssembler, IcedError};

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
        *s = v86_segment(if i == seg::CS { 0 } else { i as u16 });
    }
    m
}

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
