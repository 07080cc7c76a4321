//! Near branches, calls, returns and loops (SDM vol. 1, 7.3.8).
//!
//! In 64-bit mode an operand-size prefix on a near branch is ignored, as Intel's processors do.

use super::operand::mask;
use super::stack::step_of;
use crate::fault::Fault;
use crate::mmu::segment::canonical;
use crate::state::{flags, gpr, seg};
use crate::vcpu::Vcpu;
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

/// Executes an instruction of this family.
pub(super) fn execute(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    match insn.mnemonic() {
        Mnemonic::Jmp => {
            let target = target(v, insn)?;
            jump(v, target)
        }
        Mnemonic::Call => call(v, insn),
        Mnemonic::Ret => ret(v, insn),
        Mnemonic::Jcxz => jump_if_zero(v, insn, 2),
        Mnemonic::Jecxz => jump_if_zero(v, insn, 4),
        Mnemonic::Jrcxz => jump_if_zero(v, insn, 8),
        Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne => repeat(v, insn),
        _ => Err(Fault::UD),
    }
}

/// Jcc.
pub(super) fn conditional(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    if v.condition(insn.condition_code()) {
        jump(v, insn.near_branch_target())?;
    }
    Ok(())
}

/// Where a JMP or CALL goes: relative, or from a register or memory.
fn target(v: &mut Vcpu, insn: &Instruction) -> Result<u64, Fault> {
    match insn.op_kind(0) {
        OpKind::Register | OpKind::Memory => v.read_operand(insn, 0),
        _ => Ok(insn.near_branch_target()),
    }
}

/// #GP(0) for a target outside the code segment, or one that isn't canonical in 64-bit mode.
fn check_target(v: &Vcpu, target: u64) -> Result<(), Fault> {
    let inside = if v.cpu.code64() {
        canonical(target)
    } else {
        target <= v.cpu.seg[seg::CS].limit as u64
    };
    if inside { Ok(()) } else { Err(Fault::GP0) }
}

fn jump(v: &mut Vcpu, target: u64) -> Result<(), Fault> {
    check_target(v, target)?;
    v.next_rip = target;
    Ok(())
}

fn call(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let target = target(v, insn)?;
    check_target(v, target)?;
    v.push(step_of(insn), v.next_rip)?;
    v.next_rip = target;
    Ok(())
}

fn ret(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let size = match insn.code() {
        Code::Retnw | Code::Retnw_imm16 => 2,
        Code::Retnd | Code::Retnd_imm16 => 4,
        _ => 8,
    };
    let released = if insn.op_count() > 0 {
        insn.immediate16() as u64
    } else {
        0
    };
    let target = v.peek(0, size)?;
    jump(v, target)?;
    v.set_stack_pointer(v.stack_above(size as u64 + released));
    Ok(())
}

fn jump_if_zero(v: &mut Vcpu, insn: &Instruction, size: usize) -> Result<(), Fault> {
    if v.cpu.gpr[gpr::RCX] & mask(size) == 0 {
        jump(v, insn.near_branch_target())?;
    }
    Ok(())
}

/// LOOP, LOOPE and LOOPNE.
fn repeat(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let size = counter_size(insn.code());
    let count = v.cpu.gpr[gpr::RCX].wrapping_sub(1) & mask(size);
    let zero = v.cpu.rflags & flags::ZF != 0;
    let goes_on = match insn.mnemonic() {
        Mnemonic::Loope => zero,
        Mnemonic::Loopne => !zero,
        _ => true,
    };
    if count != 0 && goes_on {
        jump(v, insn.near_branch_target())?;
    }
    v.set_gpr(gpr::RCX, size, count);
    Ok(())
}

/// Bytes of CX, ECX or RCX: the address size chooses the counter.
fn counter_size(code: Code) -> usize {
    match code {
        Code::Loop_rel8_16_CX
        | Code::Loop_rel8_32_CX
        | Code::Loope_rel8_16_CX
        | Code::Loope_rel8_32_CX
        | Code::Loopne_rel8_16_CX
        | Code::Loopne_rel8_32_CX => 2,
        Code::Loop_rel8_16_RCX
        | Code::Loop_rel8_64_RCX
        | Code::Loope_rel8_16_RCX
        | Code::Loope_rel8_64_RCX
        | Code::Loopne_rel8_16_RCX
        | Code::Loopne_rel8_64_RCX => 8,
        _ => 4,
    }
}
