//! Moves, conversions, flag instructions, and those that do nothing (SDM vol. 1, 7.3.1 and 7.3.14).

use super::host;
use super::operand::{Place, mask, sign_extend};
use crate::fault::{Fault, vector};
use crate::mmu::walk::Access;
use crate::state::{flags, gpr};
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic, Register};

/// Executes an instruction of this family.
pub(super) fn execute(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    match insn.mnemonic() {
        Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movnti => {
            let value = v.read_operand(insn, 1)?;
            v.write_operand(insn, 0, value)?;
        }
        Mnemonic::Movsx | Mnemonic::Movsxd => {
            let size = v.size_of(insn, 1);
            let value = v.read_operand(insn, 1)?;
            v.set_reg(insn.op_register(0), sign_extend(value, size));
        }
        Mnemonic::Lea => v.set_reg(insn.op_register(0), v.place(insn).offset),
        Mnemonic::Xlatb => translate(v, insn)?,
        Mnemonic::Bound => check_bounds(v, insn)?,
        Mnemonic::Rdrand | Mnemonic::Rdseed => random(v, insn)?,
        Mnemonic::Clflush | Mnemonic::Clflushopt | Mnemonic::Clwb => {
            let Place { segment, offset } = v.place(insn);
            let linear = v.linear(segment, offset, 1, false)?;
            v.probe_linear(linear, 1, Access::read(v.user()))?;
        }
        Mnemonic::Mfence => std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst),
        Mnemonic::Pause => std::hint::spin_loop(),
        _ => return Err(Fault::UD),
    }
    Ok(())
}

/// CMOVcc: the source is read, and a 32-bit destination zero-extended, even if nothing moves.
pub(super) fn conditional_move(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let source = v.read_operand(insn, 1)?;
    let destination = insn.op_register(0);
    let value = if v.condition(insn.condition_code()) {
        source
    } else {
        v.reg(destination)
    };
    v.set_reg(destination, value);
    Ok(())
}

/// SETcc.
pub(super) fn set_by_condition(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let value = v.condition(insn.condition_code());
    v.write_operand(insn, 0, value as u64)
}

/// CBW to CQO: AL, AX, EAX or RAX sign-extended into itself or (R)DX.
pub(super) fn convert(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let a = v.cpu.gpr[gpr::RAX];
    let sign = |size| sign_extend(a, size) as i64 >> 63;
    match insn.mnemonic() {
        Mnemonic::Cbw => v.set_gpr(gpr::RAX, 2, sign_extend(a, 1)),
        Mnemonic::Cwde => v.set_gpr(gpr::RAX, 4, sign_extend(a, 2)),
        Mnemonic::Cdqe => v.set_gpr(gpr::RAX, 8, sign_extend(a, 4)),
        Mnemonic::Cwd => v.set_gpr(gpr::RDX, 2, sign(2) as u64),
        Mnemonic::Cdq => v.set_gpr(gpr::RDX, 4, sign(4) as u64),
        _ => v.set_gpr(gpr::RDX, 8, sign(8) as u64),
    }
    Ok(())
}

/// CMC CLC STC CLD STD LAHF SAHF.
pub(super) fn flag_instruction(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    const IN_AH: u64 = flags::SF | flags::ZF | flags::AF | flags::PF | flags::CF;
    match insn.mnemonic() {
        Mnemonic::Cmc => v.cpu.rflags ^= flags::CF,
        Mnemonic::Clc => v.cpu.rflags &= !flags::CF,
        Mnemonic::Stc => v.cpu.rflags |= flags::CF,
        Mnemonic::Cld => v.cpu.rflags &= !flags::DF,
        Mnemonic::Std => v.cpu.rflags |= flags::DF,
        Mnemonic::Lahf => v.set_reg(Register::AH, v.cpu.rflags & IN_AH | flags::FIXED),
        _ => v.cpu.rflags = v.cpu.rflags & !IN_AH | v.reg(Register::AH) & IN_AH,
    }
    Ok(())
}

/// XLAT: AL from a table at (R/E)BX, indexed by AL.
fn translate(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let Place { segment, offset } = v.place(insn);
    let value = v.read(segment, offset, 1)?;
    v.set_reg(Register::AL, value);
    Ok(())
}

/// BOUND: #BR if the index is outside the signed bounds in memory.
fn check_bounds(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let size = v.size_of(insn, 0);
    let Place { segment, offset } = v.place(insn);
    let second = offset.wrapping_add(size as u64) & mask(v.address_size(insn));
    let lower = v.read(segment, offset, size)?;
    let upper = v.read(segment, second, size)?;
    let signed = |value| sign_extend(value, size) as i64;
    let index = signed(v.read_operand(insn, 0)?);
    if index < signed(lower) || index > signed(upper) {
        return Err(Fault::new(vector::BR));
    }
    Ok(())
}

/// RDRAND and RDSEED from the host's generator.
fn random(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let size = v.size_of(insn, 0);
    let (value, after) = match insn.mnemonic() {
        Mnemonic::Rdrand if is_x86_feature_detected!("rdrand") => host::rdrand(size),
        Mnemonic::Rdseed if is_x86_feature_detected!("rdseed") => host::rdseed(size),
        _ => return Err(Fault::UD),
    };
    v.set_reg(insn.op_register(0), value);
    v.set_arithmetic(after);
    Ok(())
}
