//! x87, MMX, SSE, AVX and AVX-512 on the host's own units.

use crate::fault::Fault;
use crate::vcpu::Vcpu;
use iced_x86::Instruction;

/// Executes `insn`; #UD if no unit of the guest's CPU has it.
pub(super) fn execute(_v: &mut Vcpu, _insn: &Instruction) -> Result<(), Fault> {
    Err(Fault::UD)
}
