//! Why a virtual CPU stopped running guest code.

/// What the machine has to act on; everything else is handled inside the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Exit {
    /// HLT: nothing to do until an interrupt.
    Halt = 1,
    /// `Kicker::kick` was called.
    Kicked = 2,
    /// Triple fault: the processor is in the shutdown state (SDM vol. 3, 6.15).
    Shutdown = 3,
    /// The engine found itself wrong; `Vcpu::error` tells how.
    Error = 4,
}
