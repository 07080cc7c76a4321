//! The stack: PUSH, POP, PUSHA, POPA, PUSHF, POPF, ENTER, LEAVE (SDM vol. 1, chapter 6).
//!
//! Not modelled: virtual-8086 mode extensions (CR4.VME is never offered), so VIF and VIP stay 0.

use super::operand::mask;
use crate::fault::Fault;
use crate::state::{flags, gpr, seg};
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// Executes an instruction of this family.
pub(super) fn execute(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    match insn.mnemonic() {
        Mnemonic::Push => {
            let value = v.read_operand(insn, 0)?;
            v.push(step_of(insn), value)
        }
        Mnemonic::Pop => pop_operand(v, insn),
        Mnemonic::Pusha => push_all(v, 2),
        Mnemonic::Pushad => push_all(v, 4),
        Mnemonic::Popa => pop_all(v, 2),
        Mnemonic::Popad => pop_all(v, 4),
        Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq => push_flags(v, step_of(insn)),
        Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => pop_flags(v, step_of(insn)),
        Mnemonic::Enter => enter(v, insn),
        Mnemonic::Leave => leave(v, step_of_leave(insn)),
        _ => Err(Fault::UD),
    }
}

/// Bytes that an instruction pushes or pops.
pub(super) fn step_of(insn: &Instruction) -> usize {
    insn.stack_pointer_increment().unsigned_abs() as usize
}

/// Bytes that LEAVE pops.
fn step_of_leave(insn: &Instruction) -> usize {
    match insn.code() {
        iced_x86::Code::Leavew => 2,
        iced_x86::Code::Leaved => 4,
        _ => 8,
    }
}

impl Vcpu {
    /// Pushes `size` bytes; a fault leaves RSP as it was.
    pub(super) fn push(&mut self, size: usize, value: u64) -> Result<(), Fault> {
        let sp = self.stack_below(size as u64);
        self.write(seg::SS, sp, size, value)?;
        self.set_stack_pointer(sp);
        Ok(())
    }

    /// Pops `size` bytes.
    pub(super) fn pop(&mut self, size: usize) -> Result<u64, Fault> {
        let value = self.peek(0, size)?;
        self.set_stack_pointer(self.stack_above(size as u64));
        Ok(value)
    }

    /// Reads `size` bytes of the stack, `above` bytes above its top.
    pub(super) fn peek(&mut self, above: u64, size: usize) -> Result<u64, Fault> {
        self.read(seg::SS, self.stack_above(above), size)
    }

    /// The stack pointer plus `bytes`, wrapped.
    pub(super) fn stack_above(&self, bytes: u64) -> u64 {
        self.stack_pointer().wrapping_add(bytes) & self.cpu.stack_mask()
    }

    /// The stack pointer minus `bytes`, wrapped.
    pub(super) fn stack_below(&self, bytes: u64) -> u64 {
        self.stack_pointer().wrapping_sub(bytes) & self.cpu.stack_mask()
    }
}

/// POP: an address that uses RSP is computed with the RSP after the pop, and so is `pop rsp`.
fn pop_operand(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let before = v.cpu.gpr[gpr::RSP];
    let value = v.pop(step_of(insn))?;
    if insn.op_kind(0) == OpKind::Register {
        v.set_reg(insn.op_register(0), value);
        return Ok(());
    }
    let written = v.write_operand(insn, 0, value);
    if written.is_err() {
        v.cpu.gpr[gpr::RSP] = before;
    }
    written
}

fn push_all(v: &mut Vcpu, size: usize) -> Result<(), Fault> {
    for i in 1..=8 {
        v.probe_write(seg::SS, v.stack_below(i * size as u64), size)?;
    }
    // RSP changes only after all are pushed, so what is pushed for it is the value before.
    for i in 0..8 {
        let sp = v.stack_below((i as u64 + 1) * size as u64);
        v.write(seg::SS, sp, size, v.cpu.gpr[i] & mask(size))?;
    }
    v.set_stack_pointer(v.stack_below(8 * size as u64));
    Ok(())
}

fn pop_all(v: &mut Vcpu, size: usize) -> Result<(), Fault> {
    let mut values = [0; 8];
    for (i, value) in values.iter_mut().rev().enumerate() {
        *value = v.peek((i * size) as u64, size)?;
    }
    let top = v.stack_above(8 * size as u64);
    for (i, value) in values.into_iter().enumerate() {
        if i != gpr::RSP {
            v.set_gpr(i, size, value);
        }
    }
    v.set_stack_pointer(top);
    Ok(())
}

/// In V86 mode PUSHF and POPF belong to the monitor unless IOPL is 3.
fn check_flags_access(v: &Vcpu) -> Result<(), Fault> {
    if v.cpu.v86() && v.cpu.iopl() < 3 {
        return Err(Fault::GP0);
    }
    Ok(())
}

fn push_flags(v: &mut Vcpu, size: usize) -> Result<(), Fault> {
    check_flags_access(v)?;
    v.push(size, v.cpu.rflags & !(flags::VM | flags::RF))
}

fn pop_flags(v: &mut Vcpu, size: usize) -> Result<(), Fault> {
    check_flags_access(v)?;
    let value = v.pop(size)?;
    let mut writable =
        flags::ARITHMETIC | flags::TF | flags::DF | flags::NT | flags::AC | flags::ID;
    if v.cpu.cpl == 0 || !v.cpu.protected() {
        writable |= flags::IOPL;
    }
    if !v.cpu.protected() || v.cpu.cpl <= v.cpu.iopl() {
        writable |= flags::IF;
    }
    writable &= mask(size);
    v.cpu.rflags = v.cpu.rflags & !(writable | flags::RF) | value & writable;
    v.ask_attention_if_pending();
    Ok(())
}

/// ENTER (SDM vol. 2): the whole frame is checked before anything is written.
fn enter(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let size = match insn.code() {
        iced_x86::Code::Enterw_imm16_imm8 => 2,
        iced_x86::Code::Enterd_imm16_imm8 => 4,
        _ => 8,
    };
    let allocated = insn.immediate16() as u64;
    let level = (insn.immediate8_2nd() % 32) as u64;
    let base = v.cpu.gpr[gpr::RBP];
    let slot = |v: &Vcpu, i: u64| v.stack_below((i + 1) * size as u64);
    let outer = |v: &Vcpu, i: u64| base.wrapping_sub(i * size as u64) & v.cpu.stack_mask();
    for i in 0..=level {
        v.probe_write(seg::SS, slot(v, i), size)?;
    }
    for i in 1..level {
        v.read(seg::SS, outer(v, i), size)?;
    }
    let top = slot(v, level).wrapping_sub(allocated) & v.cpu.stack_mask();
    // SDM: a write at the final stack pointer that would fault makes ENTER fault.
    v.probe_write(seg::SS, top, size)?;
    v.write(seg::SS, slot(v, 0), size, base)?;
    for i in 1..level {
        // In this order: the outer frame may overlap the new one.
        let pointer = v.read(seg::SS, outer(v, i), size)?;
        v.write(seg::SS, slot(v, i), size, pointer)?;
    }
    let frame_pointer = v.cpu.gpr[gpr::RSP] & !v.cpu.stack_mask() | slot(v, 0);
    if level > 0 {
        v.write(seg::SS, slot(v, level), size, frame_pointer)?;
    }
    v.set_stack_pointer(top);
    // By operand size, not by stack size as the SDM's text has it: so processors do.
    v.set_gpr(gpr::RBP, size, frame_pointer);
    Ok(())
}

fn leave(v: &mut Vcpu, size: usize) -> Result<(), Fault> {
    let frame = v.cpu.gpr[gpr::RBP] & v.cpu.stack_mask();
    let base = v.read(seg::SS, frame, size)?;
    v.set_stack_pointer(frame.wrapping_add(size as u64));
    v.set_gpr(gpr::RBP, size, base);
    Ok(())
}
