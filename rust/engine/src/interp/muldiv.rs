//! Multiplication and division (SDM vol. 1, 7.3.2.1 and vol. 2).

use super::host;
use crate::fault::Fault;
use crate::state::gpr;
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic};

/// Executes an instruction of this family.
pub(super) fn execute(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let size = v.size_of(insn, 0);
    let before = v.cpu.rflags;
    if insn.op_count() > 1 {
        return multiply_into_register(v, insn);
    }
    let operand = v.read_operand(insn, 0)?;
    let (low, high) = (v.cpu.gpr[gpr::RAX], v.cpu.gpr[gpr::RDX]);
    let (low, high, after) = match insn.mnemonic() {
        Mnemonic::Mul => host::mul(size, low, operand, before),
        Mnemonic::Imul => host::imul_wide(size, low, operand, before),
        Mnemonic::Div => host::div(size, low, high, operand, before)?,
        Mnemonic::Idiv => host::idiv(size, low, high, operand, before)?,
        _ => return Err(Fault::UD),
    };
    if size == 1 {
        v.set_gpr(gpr::RAX, 2, low);
    } else {
        v.set_gpr(gpr::RAX, size, low);
        v.set_gpr(gpr::RDX, size, high);
    }
    v.set_arithmetic(after);
    Ok(())
}

/// IMUL of two or three operands.
fn multiply_into_register(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let size = v.size_of(insn, 0);
    let last = insn.op_count() - 1;
    let first = v.read_operand(insn, last - 1)?;
    let second = v.read_operand(insn, last)?;
    let (product, after) = host::imul(size, first, second, v.cpu.rflags);
    v.set_reg(insn.op_register(0), product);
    v.set_arithmetic(after);
    Ok(())
}
