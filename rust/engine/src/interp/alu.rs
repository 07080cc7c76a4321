//! Addition, subtraction, logic, and exchanges (SDM vol. 1, 7.3.1.2 and 7.3.2 to 7.3.5).
//!
//! A LOCK prefix where it is not allowed is #UD already in the decoder.

use super::host::{self, Binary, Unary};
use super::operand::{Place, mask};
use crate::fault::Fault;
use crate::state::{flags, gpr};
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// Executes an instruction of this family.
pub(super) fn execute(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    match insn.mnemonic() {
        Mnemonic::Add => binary(v, insn, host::add),
        Mnemonic::Or => binary(v, insn, host::or),
        Mnemonic::Adc => binary(v, insn, host::adc),
        Mnemonic::Sbb => binary(v, insn, host::sbb),
        Mnemonic::And => binary(v, insn, host::and),
        Mnemonic::Sub => binary(v, insn, host::sub),
        Mnemonic::Xor => binary(v, insn, host::xor),
        Mnemonic::Cmp => compare(v, insn, host::sub),
        Mnemonic::Test => compare(v, insn, host::and),
        Mnemonic::Inc => unary(v, insn, host::inc),
        Mnemonic::Dec => unary(v, insn, host::dec),
        Mnemonic::Neg => unary(v, insn, host::neg),
        Mnemonic::Not => unary(v, insn, host::not),
        Mnemonic::Xchg => exchange(v, insn),
        Mnemonic::Xadd => exchange_add(v, insn),
        Mnemonic::Cmpxchg => compare_exchange(v, insn),
        Mnemonic::Cmpxchg8b => compare_exchange_8(v, insn),
        Mnemonic::Cmpxchg16b => compare_exchange_16(v, insn),
        _ => Err(Fault::UD),
    }
}

fn binary(v: &mut Vcpu, insn: &Instruction, operation: Binary) -> Result<(), Fault> {
    let size = v.size_of(insn, 0);
    let source = v.read_operand(insn, 1)?;
    let before = v.cpu.rflags;
    let after = v.update(insn, 0, |old| operation(size, old, source, before))?;
    v.set_arithmetic(after);
    Ok(())
}

fn compare(v: &mut Vcpu, insn: &Instruction, operation: Binary) -> Result<(), Fault> {
    let size = v.size_of(insn, 0);
    let first = v.read_operand(insn, 0)?;
    let second = v.read_operand(insn, 1)?;
    let (_, after) = operation(size, first, second, v.cpu.rflags);
    v.set_arithmetic(after);
    Ok(())
}

fn unary(v: &mut Vcpu, insn: &Instruction, operation: Unary) -> Result<(), Fault> {
    let size = v.size_of(insn, 0);
    let before = v.cpu.rflags;
    let after = v.update(insn, 0, |old| operation(size, old, before))?;
    v.set_arithmetic(after);
    Ok(())
}

fn exchange(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    // Of the two forms with memory, the assembler's order decides which operand is the register.
    let (changed, register) = if insn.op_kind(1) == OpKind::Memory {
        (1, 0)
    } else {
        (0, 1)
    };
    let register = insn.op_register(register);
    let value = v.reg(register);
    let old = v.update(insn, changed, |old| (value, old))?;
    v.set_reg(register, old);
    Ok(())
}

fn exchange_add(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let size = v.size_of(insn, 0);
    let source = insn.op_register(1);
    let (value, before) = (v.reg(source), v.cpu.rflags);
    let (old, sum, after) = v.update(insn, 0, |old| {
        let (sum, after) = host::add(size, old, value, before);
        (sum, (old, sum, after))
    })?;
    v.set_reg(source, old);
    if insn.op_kind(0) == OpKind::Register {
        // The destination is written last: `xadd eax, eax` leaves the sum.
        v.set_reg(insn.op_register(0), sum);
    }
    v.set_arithmetic(after);
    Ok(())
}

fn compare_exchange(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let size = v.size_of(insn, 0);
    let source = v.read_operand(insn, 1)?;
    let accumulator = v.cpu.gpr[gpr::RAX] & mask(size);
    let old = if insn.op_kind(0) == OpKind::Register {
        // A register that differs is not written: the upper half of a 32-bit one stays.
        let register = insn.op_register(0);
        let old = v.reg(register);
        if old == accumulator {
            v.set_reg(register, source);
        }
        old
    } else {
        // Memory that differs is written with what it held.
        v.update(insn, 0, |old| {
            (if old == accumulator { source } else { old }, old)
        })?
    };
    if old != accumulator {
        v.set_gpr(gpr::RAX, size, old);
    }
    let (_, after) = host::sub(size, accumulator, old, v.cpu.rflags);
    v.set_arithmetic(after);
    Ok(())
}

fn compare_exchange_8(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let pair = |v: &Vcpu, high: usize, low: usize| {
        (v.cpu.gpr[high] & mask(4)) << 32 | v.cpu.gpr[low] & mask(4)
    };
    let expected = pair(v, gpr::RDX, gpr::RAX);
    let source = pair(v, gpr::RCX, gpr::RBX);
    let place = v.place(insn);
    let old = v.update_memory(place, 8, insn.has_lock_prefix(), |old| {
        (if old == expected { source } else { old }, old)
    })?;
    if old != expected {
        v.set_gpr(gpr::RAX, 4, old);
        v.set_gpr(gpr::RDX, 4, old >> 32);
    }
    v.set_flag(flags::ZF, old == expected);
    Ok(())
}

fn compare_exchange_16(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let pair = |v: &Vcpu, high: usize, low: usize| {
        (v.cpu.gpr[high] as u128) << 64 | v.cpu.gpr[low] as u128
    };
    let expected = pair(v, gpr::RDX, gpr::RAX);
    let source = pair(v, gpr::RCX, gpr::RBX);
    let old = update_16(v, v.place(insn), expected, source)?;
    if old != expected {
        v.cpu.gpr[gpr::RAX] = old as u64;
        v.cpu.gpr[gpr::RDX] = (old >> 64) as u64;
    }
    v.set_flag(flags::ZF, old == expected);
    Ok(())
}

/// Compares the 16 bytes at `place` and replaces them if equal; returns what was there.
fn update_16(v: &mut Vcpu, place: Place, expected: u128, source: u128) -> Result<u128, Fault> {
    let linear = v.linear(place.segment, place.offset, 16, true)?;
    if linear % 16 != 0 {
        return Err(Fault::GP0);
    }
    if let Some((host, address)) = v.ram_within_page(linear, 16)? {
        // SAFETY: 16 bytes of RAM, aligned as `linear` is.
        let old = unsafe { host::compare_exchange_16(host, expected, source) };
        v.note_store(address, 16);
        return Ok(old);
    }
    let user = v.user();
    let low = v.read_linear(linear, 8, user)?;
    let high = v.read_linear(linear + 8, 8, user)?;
    let old = (high as u128) << 64 | low as u128;
    let new = if old == expected { source } else { old };
    v.write_linear(linear, 8, new as u64, user)?;
    v.write_linear(linear + 8, 8, (new >> 64) as u64, user)?;
    Ok(old)
}
