//! Shifts and rotates (SDM vol. 1, 7.3.6).

use super::host;
use crate::fault::Fault;
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic};

/// Executes an instruction of this family.
pub(super) fn execute(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let operation = match insn.mnemonic() {
        Mnemonic::Rol => host::rol,
        Mnemonic::Ror => host::ror,
        Mnemonic::Rcl => host::rcl,
        Mnemonic::Rcr => host::rcr,
        Mnemonic::Shl | Mnemonic::Sal => host::shl,
        Mnemonic::Shr => host::shr,
        Mnemonic::Sar => host::sar,
        Mnemonic::Shld => return double(v, insn, host::shld),
        Mnemonic::Shrd => return double(v, insn, host::shrd),
        _ => return Err(Fault::UD),
    };
    let size = v.size_of(insn, 0);
    let count = v.read_operand(insn, 1)?;
    let before = v.cpu.rflags;
    let after = v.update(insn, 0, |old| operation(size, old, count, before))?;
    v.set_arithmetic(after);
    Ok(())
}

/// SHLD and SHRD.
fn double(
    v: &mut Vcpu,
    insn: &Instruction,
    operation: fn(usize, u64, u64, u64, u64) -> host::Flagged,
) -> Result<(), Fault> {
    let size = v.size_of(insn, 0);
    let source = v.read_operand(insn, 1)?;
    let count = v.read_operand(insn, 2)?;
    let before = v.cpu.rflags;
    let after = v.update(insn, 0, |old| operation(size, old, source, count, before))?;
    v.set_arithmetic(after);
    Ok(())
}
