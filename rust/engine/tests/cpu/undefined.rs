//! Which flags instructions leave undefined, by the decoder's tables.
//!
//! Two processors, and even two runs on one, may differ in an undefined flag; so may whatever then
//! depends on it.

use engine::state::flags;
use iced_x86::{Instruction, Mnemonic, RflagsBits};

const FLAG_BITS: [(u32, u64); 7] = [
    (RflagsBits::CF, flags::CF),
    (RflagsBits::PF, flags::PF),
    (RflagsBits::AF, flags::AF),
    (RflagsBits::ZF, flags::ZF),
    (RflagsBits::SF, flags::SF),
    (RflagsBits::OF, flags::OF),
    (RflagsBits::DF, flags::DF),
];

/// The decoder's flag bits as bits of RFLAGS.
pub fn mask(bits: u32) -> u64 {
    let of = |&(theirs, ours): &(u32, u64)| if bits & theirs != 0 { ours } else { 0 };
    FLAG_BITS.iter().map(of).sum()
}

/// The flags that are undefined at some point of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Undefined(pub u64);

impl Undefined {
    /// Whether the instruction's effect depends on an undefined flag.
    pub fn matters_to(self, instruction: &Instruction) -> bool {
        mask(instruction.rflags_read()) & self.0 != 0
    }

    /// Takes the instruction's effect in.
    pub fn note(&mut self, instruction: &Instruction) {
        use Mnemonic::*;
        let defined =
            instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set();
        // A count of zero leaves the flags as they are.
        let may_leave = matches!(
            instruction.mnemonic(),
            Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr | Shld | Shrd
        );
        if !may_leave {
            self.0 &= !mask(defined);
        }
        self.0 |= mask(instruction.rflags_undefined());
    }
}
