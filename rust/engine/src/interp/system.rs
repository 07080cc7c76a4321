//! Instructions of the system-programming environment (SDM vol. 3).

use crate::fault::Fault;
use crate::vcpu::Vcpu;
use iced_x86::Instruction;

/// Executes `insn` if it is one of this family.
pub(super) fn execute(_v: &mut Vcpu, _insn: &Instruction) -> Option<Result<(), Fault>> {
    None
}
