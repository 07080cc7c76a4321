//! x87, MMX, SSE, AVX and AVX-512 on the host's own units (SDM vol. 1, chapters 8 to 15).
//!
//! `native` executes everything that computes, bit for bit as the host does, on the guest's state
//! in `CpuState::fpu`.  What involves memory beyond one operand, or the state as such, is done
//! here: `gather` (gathers, scatters, byte-masked stores), `x87env` (FNSTENV, FNSAVE …), `xsave`
//! (FXSAVE, XSAVE …).  `checks` has the faults that come before any of it.
//!
//! Not modelled: AMD's FIP, FDP and FOP, which are zero without an unmasked exception; they follow
//! every x87 instruction that isn't a control instruction.

mod checks;
mod gather;
mod image;
mod memory;
mod native;
mod stub;
mod x87env;
mod xsave;

pub use native::NativeUnit;
pub use stub::leave_stub;
pub use xsave::{component_place, in_use};

use crate::fault::Fault;
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic};

/// Executes `insn`; #UD if no unit of the guest's CPU has it.
pub(super) fn execute(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let result = match insn.mnemonic() {
        Mnemonic::Fxsave | Mnemonic::Fxsave64 => xsave::fxsave(v, insn),
        Mnemonic::Fxrstor | Mnemonic::Fxrstor64 => xsave::fxrstor(v, insn),
        Mnemonic::Xsave | Mnemonic::Xsave64 => xsave::xsave(v, insn, xsave::Form::Standard),
        Mnemonic::Xsaveopt | Mnemonic::Xsaveopt64 => xsave::xsave(v, insn, xsave::Form::Optimized),
        Mnemonic::Xsavec | Mnemonic::Xsavec64 => xsave::xsave(v, insn, xsave::Form::Compact),
        Mnemonic::Xrstor | Mnemonic::Xrstor64 => xsave::xrstor(v, insn),
        Mnemonic::Ldmxcsr | Mnemonic::Vldmxcsr => xsave::ldmxcsr(v, insn),
        Mnemonic::Stmxcsr | Mnemonic::Vstmxcsr => xsave::stmxcsr(v, insn),
        Mnemonic::Vzeroupper => xsave::vzero(v, insn, 16),
        Mnemonic::Vzeroall => xsave::vzero(v, insn, 0),
        Mnemonic::Wait => x87env::wait(v),
        Mnemonic::Fninit => x87env::fninit(v, insn),
        Mnemonic::Fnclex => x87env::fnclex(v, insn),
        Mnemonic::Fnstenv => x87env::fnstenv(v, insn),
        Mnemonic::Fldenv => x87env::fldenv(v, insn),
        Mnemonic::Fnsave => x87env::fnsave(v, insn),
        Mnemonic::Frstor => x87env::frstor(v, insn),
        Mnemonic::Maskmovq | Mnemonic::Maskmovdqu | Mnemonic::Vmaskmovdqu => {
            gather::maskmov(v, insn)
        }
        _ if insn.is_vsib() => gather::execute(v, insn),
        _ => native::execute(v, insn),
    };
    x87env::update_ferr(v);
    result
}

#[cfg(test)]
mod tests;
