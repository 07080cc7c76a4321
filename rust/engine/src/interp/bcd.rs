//! Decimal adjustment (SDM vol. 1, 7.3.2.2) and SALC; none exist in 64-bit mode.
//!
//! Flags that the SDM leaves undefined: DAA and DAS clear OF; AAA, AAS, AAM and AAD set SF, ZF and PF by AL and clear the rest.

use crate::fault::Fault;
use crate::state::flags::{AF, CF, PF, SF, ZF};
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic, Register};

/// Executes an instruction of this family.
pub(super) fn execute(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    match insn.mnemonic() {
        Mnemonic::Daa => adjust_packed(v, u8::wrapping_add),
        Mnemonic::Das => adjust_packed(v, u8::wrapping_sub),
        Mnemonic::Aaa => adjust_unpacked(v, |ax| ax.wrapping_add(0x106)),
        Mnemonic::Aas => adjust_unpacked(v, |ax| ax.wrapping_sub(0x106)),
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

/// SF, ZF and PF of a byte.
fn flags_of(value: u8) -> u64 {
    let mut flags = 0;
    if value & 0x80 != 0 {
        flags |= SF;
    }
    if value == 0 {
        flags |= ZF;
    }
    if value.count_ones().is_multiple_of(2) {
        flags |= PF;
    }
    flags
}

/// DAA and DAS.
fn adjust_packed(v: &mut Vcpu, adjust: fn(u8, u8) -> u8) {
    let old = v.reg(Register::AL) as u8;
    let (carry, half_carry) = (v.cpu.rflags & CF != 0, v.cpu.rflags & AF != 0);
    let (mut value, mut flags) = (old, 0);
    if old & 0xF > 9 || half_carry {
        value = adjust(value, 6);
        flags |= AF;
        // Beyond AL in either direction (DAS).
        if adjust(0, 1) == 0xFF && old < 6 {
            flags |= CF;
        }
    }
    if old > 0x99 || carry {
        value = adjust(value, 0x60);
        flags |= CF;
    }
    v.set_reg(Register::AL, value as u64);
    v.set_arithmetic(flags | flags_of(value));
}

/// AAA and AAS.
fn adjust_unpacked(v: &mut Vcpu, adjust: fn(u16) -> u16) {
    let mut ax = v.reg(Register::AX) as u16;
    let mut flags = 0;
    if ax & 0xF > 9 || v.cpu.rflags & AF != 0 {
        ax = adjust(ax);
        flags = AF | CF;
    }
    ax &= 0xFF0F;
    v.set_reg(Register::AX, ax as u64);
    v.set_arithmetic(flags | flags_of(ax as u8));
}

/// AAM.
fn split(v: &mut Vcpu, base: u8) -> Result<(), Fault> {
    let al = v.reg(Register::AL) as u8;
    let (Some(high), Some(low)) = (al.checked_div(base), al.checked_rem(base)) else {
        return Err(Fault::DE);
    };
    v.set_reg(Register::AX, (high as u64) << 8 | low as u64);
    v.set_arithmetic(flags_of(low));
    Ok(())
}

/// AAD.
fn join(v: &mut Vcpu, base: u8) {
    let ax = v.reg(Register::AX) as u16;
    let value = (ax as u8).wrapping_add(((ax >> 8) as u8).wrapping_mul(base));
    v.set_reg(Register::AX, value as u64);
    v.set_arithmetic(flags_of(value));
}
