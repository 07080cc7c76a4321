//! Debug registers: breakpoints, single steps, and access to the registers (SDM vol. 3, chapter 18).
//!
//! Data and I/O breakpoints are traps: they are noted while an instruction runs, and delivered after
//! it.  DR6's and DR7's RTM bits don't exist, as RTM isn't offered.

use crate::fault::{Fault, vector};
use crate::state::{cr4, flags, seg};
use crate::vcpu::Vcpu;
use iced_x86::{Code, Instruction, Register};

/// DR6: an access to a debug register while DR7.GD was set.
const DR6_BD: u64 = 1 << 13;
/// DR6: the trap is a single step.
pub const DR6_BS: u64 = 1 << 14;
/// DR6: a task switch to a TSS with the T bit set.
pub const DR6_BT: u64 = 1 << 15;
/// DR7: the next access to a debug register is a #DB.
pub(super) const DR7_GD: u64 = 1 << 13;
/// DR7: the local enable bits, which a task switch clears.
pub(super) const DR7_LOCAL: u64 = 0x155;
/// DR7: any of the four breakpoints is enabled.
const DR7_ENABLED: u64 = 0xFF;

const DR6_WRITABLE: u64 = 0xE00F;
const DR6_ONES: u64 = 0xFFFF_0FF0;
const DR7_WRITABLE: u64 = 0xFFFF_23FF;
const DR7_ONES: u64 = 1 << 10;

/// What DR7.R/W of a breakpoint waits for.
mod condition {
    pub const EXECUTE: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const IO: u64 = 2;
}

impl Vcpu {
    /// DR6 bits of the enabled breakpoints whose condition `wants` and whose range touches
    /// `length` bytes at `address`.
    fn matching(&self, address: u64, length: u64, wants: impl Fn(u64) -> bool) -> u64 {
        let dr7 = self.cpu.dr[7];
        let mut bits = 0;
        for i in 0..4 {
            let enabled = dr7 >> (2 * i) & 3 != 0;
            let condition = dr7 >> (16 + 4 * i) & 3;
            // LEN: 1, 2, 8 or 4 bytes; the address is aligned to it.
            let span = [1, 2, 8, 4][(dr7 >> (18 + 4 * i) & 3) as usize];
            let first = self.cpu.dr[i] & !(span - 1);
            let touches =
                address.wrapping_sub(first) < span || first.wrapping_sub(address) < length;
            if enabled && touches && wants(condition) {
                bits |= 1 << i;
            }
        }
        bits
    }

    /// Tells DR6 the causes of a #DB.  The breakpoint bits are of this one alone, the others stay.
    pub fn record_debug(&mut self, bits: u64) {
        self.cpu.dr[6] = self.cpu.dr[6] & !0xF | bits;
    }

    /// #DB if an instruction breakpoint of DR0 to DR3 covers RIP (and RF is clear).
    pub(super) fn check_instruction_breakpoint(&mut self) -> Result<(), Fault> {
        if self.cpu.rflags & flags::RF != 0 {
            return Ok(());
        }
        let base = if self.cpu.code64() {
            0
        } else {
            self.cpu.seg[seg::CS].base
        };
        let linear = self.wrap_linear(base.wrapping_add(self.cpu.rip));
        let bits = self.matching(linear, 1, |c| c == condition::EXECUTE);
        if bits == 0 {
            return Ok(());
        }
        self.record_debug(bits);
        Err(Fault::new(vector::DB))
    }

    /// Whether any breakpoint is enabled: data accesses then have to be told to `note_access`.
    #[inline]
    pub fn breakpoints_enabled(&self) -> bool {
        self.cpu.dr[7] & DR7_ENABLED != 0
    }

    /// Data breakpoints: notes the #DB trap of an access to linear memory.
    #[cold]
    pub fn note_access(&mut self, linear: u64, length: usize, write: bool) {
        let bits = self.matching(linear, length as u64, |c| {
            c & condition::WRITE != 0 && (write || c != condition::WRITE)
        });
        self.cpu.pending_db |= bits;
    }

    /// I/O breakpoints: notes the #DB trap of an access to `size` ports.
    pub fn note_port_access(&mut self, port: u16, size: usize) {
        if self.breakpoints_enabled() && self.cpu.cr4 & cr4::DE != 0 {
            self.cpu.pending_db |= self.matching(port as u64, size as u64, |c| c == condition::IO);
        }
    }

    /// The number of the debug register meant by `register`: DR4 and DR5 are DR6 and DR7, or #UD.
    fn debug_register(&self, register: Register) -> Result<usize, Fault> {
        let number = register as usize - Register::DR0 as usize;
        if number >= 8 || matches!(number, 4 | 5) && self.cpu.cr4 & cr4::DE != 0 {
            return Err(Fault::UD);
        }
        Ok(if matches!(number, 4 | 5) {
            number + 2
        } else {
            number
        })
    }

    /// The checks of any MOV from or to a debug register (SDM vol. 2, MOV—Move to/from Debug
    /// Registers).
    fn check_debug_access(&mut self) -> Result<(), Fault> {
        self.require_cpl0()?;
        if self.cpu.dr[7] & DR7_GD != 0 {
            self.record_debug(DR6_BD);
            return Err(Fault::new(vector::DB));
        }
        Ok(())
    }

    fn write_debug_register(&mut self, number: usize, value: u64) -> Result<(), Fault> {
        if number >= 6 && value >> 32 != 0 {
            return Err(Fault::GP0);
        }
        self.cpu.dr[number] = match number {
            6 => value & DR6_WRITABLE | DR6_ONES,
            7 => value & DR7_WRITABLE | DR7_ONES,
            _ => value,
        };
        Ok(())
    }
}

/// MOV from and to debug registers.
pub(super) fn execute(v: &mut Vcpu, insn: &Instruction) -> Option<Result<(), Fault>> {
    let result = match insn.code() {
        Code::Mov_dr_r32 | Code::Mov_dr_r64 => write(v, insn),
        Code::Mov_r32_dr | Code::Mov_r64_dr => read(v, insn),
        _ => return None,
    };
    Some(result)
}

fn write(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let number = v.debug_register(insn.op_register(0))?;
    v.check_debug_access()?;
    v.write_debug_register(number, v.reg(insn.op_register(1)))
}

fn read(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let number = v.debug_register(insn.op_register(1))?;
    v.check_debug_access()?;
    v.set_reg(insn.op_register(0), v.cpu.dr[number]);
    Ok(())
}
