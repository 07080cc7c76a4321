//! Decimal adjustment (SDM vol. 1, 7.3.2.2) and SALC; none exist in 64-bit mode.
//!
//! Flags that the SDM leaves undefined are those that AMD's Zen 4 leaves: the flags of the addition
//! or subtraction that the adjustment is (AAM: of AND).

use super::host::{self, Binary};
use crate::fault::Fault;
use crate::state::flags::{AF, CF};
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic, Register};

/// Executes an instruction of this family.
pub(super) fn execute(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    match insn.mnemonic() {
        Mnemonic::Daa => adjust_packed(v, host::add),
        Mnemonic::Das => adjust_packed(v, host::sub),
        Mnemonic::Aaa => adjust_unpacked(v, host::add),
        Mnemonic::Aas => adjust_unpacked(v, host::sub),
        Mnemonic::Aam => return split(v, insn.immediate8()),
        Mnemonic::Aad => join(v, insn.immediate8()),
        Mnemonic::Salc => {
            let carry = v.cpu.rflags & CF != 0;
            v.set_reg(Register::AL, if carry { 0xFF } else { 0 });
        }
        _ => return Err(Fault::UD),
    }
    Ok(())
}

/// DAA and DAS.
fn adjust_packed(v: &mut Vcpu, operation: Binary) {
    let old = v.reg(Register::AL);
    let (mut correction, mut flags) = (0, 0);
    if old & 0xF > 9 || v.cpu.rflags & AF != 0 {
        correction = 6;
        flags |= AF;
        // DAS borrows here already; DAA's carry of this step is found by the next test.
        flags |= operation(1, old, 6, 0).1 & CF;
    }
    if old > 0x99 || v.cpu.rflags & CF != 0 {
        correction |= 0x60;
        flags |= CF;
    }
    let (value, after) = operation(1, old, correction, 0);
    v.set_reg(Register::AL, value);
    v.set_arithmetic(after & !(AF | CF) | flags);
}

/// AAA and AAS: of AX, as AH counts the carries.
fn adjust_unpacked(v: &mut Vcpu, operation: Binary) {
    let ax = v.reg(Register::AX);
    let adjusts = ax & 0xF > 9 || v.cpu.rflags & AF != 0;
    let (correction, flags) = if adjusts { (0x106, AF | CF) } else { (0, 0) };
    let (value, after) = operation(2, ax, correction, 0);
    v.set_reg(Register::AX, value & 0xFF0F);
    v.set_arithmetic(after & !(AF | CF) | flags);
}

/// AAM.
fn split(v: &mut Vcpu, base: u8) -> Result<(), Fault> {
    let al = v.reg(Register::AL) as u8;
    let (Some(high), Some(low)) = (al.checked_div(base), al.checked_rem(base)) else {
        return Err(Fault::DE);
    };
    v.set_reg(Register::AX, (high as u64) << 8 | low as u64);
    v.set_arithmetic(host::and(1, low as u64, low as u64, 0).1);
    Ok(())
}

/// AAD.
fn join(v: &mut Vcpu, base: u8) {
    let tens = v.reg(Register::AH).wrapping_mul(base as u64);
    let (value, after) = host::add(1, v.reg(Register::AL), tens, 0);
    v.set_reg(Register::AX, value & 0xFF);
    v.set_arithmetic(after);
}
