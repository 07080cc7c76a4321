//! Delivery of interrupts and exceptions (SDM vol. 3, chapter 7).

use crate::fault::Fault;
use crate::vcpu::Vcpu;

/// DR6.BS: the trap is a single step.
pub const DR6_BS: u64 = 1 << 14;

/// Where an event comes from, which decides about privilege checks, RIP and error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// INT n, INT3, INTO.
    Software,
    /// INT1: software, but delivered without privilege checks.
    PrivilegedSoftware,
    /// A fault or trap of the processor.
    Exception,
    Nmi,
    External,
}

/// Something to deliver through the IDT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub vector: u8,
    pub error_code: Option<u32>,
    pub source: Source,
    /// CR2 for #PF.
    pub address: u64,
}

impl Event {
    pub fn fault(fault: Fault) -> Event {
        let Fault {
            vector,
            error_code,
            address,
        } = fault;
        Event {
            vector,
            error_code,
            source: Source::Exception,
            address,
        }
    }

    pub fn trap(vector: u8) -> Event {
        Event {
            vector,
            error_code: None,
            source: Source::Exception,
            address: 0,
        }
    }

    pub fn software(vector: u8) -> Event {
        Event {
            source: Source::Software,
            ..Event::trap(vector)
        }
    }

    pub fn nmi() -> Event {
        Event {
            source: Source::Nmi,
            ..Event::trap(crate::fault::vector::NMI)
        }
    }

    pub fn external(vector: u8) -> Event {
        Event {
            source: Source::External,
            ..Event::trap(vector)
        }
    }
}

impl Vcpu {
    /// Delivers an event with RIP as it stands; faults on the way become double and triple faults.
    pub fn deliver(&mut self, _event: Event) {
        self.cpu.shutdown = true;
    }

    /// #DB if an instruction breakpoint of DR0 to DR3 covers RIP (and RF is clear).
    pub(super) fn check_instruction_breakpoint(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}
