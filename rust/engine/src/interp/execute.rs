//! Which handler executes an instruction.

use crate::fault::Fault;
use crate::vcpu::Vcpu;
use iced_x86::Instruction;

impl Vcpu {
    /// Executes a decoded instruction; `next_rip` is already that of the following one.
    pub(super) fn execute(&mut self, insn: &Instruction) -> Result<(), Fault> {
        match super::system::execute(self, insn) {
            Some(result) => result,
            None => super::fpu::execute(self, insn),
        }
    }
}
