//! Instructions of the system-programming environment (SDM vol. 3), by family.

use super::{control, debug, far, interrupt, privileged, segments, syscall, tables};
use crate::fault::Fault;
use crate::vcpu::Vcpu;
use iced_x86::Instruction;

/// Executes `insn` if it is one of this family.
pub(super) fn execute(v: &mut Vcpu, insn: &Instruction) -> Option<Result<(), Fault>> {
    let families = [
        segments::execute,
        privileged::execute,
        control::execute,
        interrupt::execute,
        far::execute,
        syscall::execute,
        tables::execute,
        debug::execute,
    ];
    families.iter().find_map(|family| family(v, insn))
}
