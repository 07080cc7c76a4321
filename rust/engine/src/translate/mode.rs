//! What of the CPU's state a block's translation depends on.

use crate::state::{CpuState, attr, cr0, cr4, flags, seg};
use crate::translate::env::{KERNEL, USER};

/// Bits of `Mode::bits`.
pub mod bit {
    pub const CODE32: u32 = 1 << 0;
    pub const CODE64: u32 = 1 << 1;
    pub const USER: u32 = 1 << 2;
    /// The stack pointer is ESP (SS.B); implied to be RSP with CODE64.
    pub const STACK32: u32 = 1 << 3;
    /// Segment register i (bit 4 + i) is flat: base 0, limit 4 GiB, readable and writable data
    /// (CS: readable code).
    pub const FLAT: u32 = 1 << 4;
    pub const LONG: u32 = 1 << 10;
    pub const X87: u32 = 1 << 11;
    pub const SSE: u32 = 1 << 12;
    pub const AVX: u32 = 1 << 13;
    pub const AVX512: u32 = 1 << 14;
    /// CPL ≤ IOPL and not V86: CLI, STI and POPF work on IF.
    pub const IO_PRIVILEGE: u32 = 1 << 15;
    pub const REAL_OR_V86: u32 = 1 << 16;
    /// WAIT raises #NM (CR0.MP and TS).
    pub const WAIT_TRAPS: u32 = 1 << 17;
    /// CR4.TSD: RDTSC is privileged.
    pub const NO_TSC: u32 = 1 << 18;
    pub const FSGSBASE: u32 = 1 << 19;
    /// EFER.SCE: SYSCALL exists.
    pub const SYSCALL: u32 = 1 << 20;
    /// RFLAGS.DF: strings go down.
    pub const DOWN: u32 = 1 << 21;
    /// CPL 1 or 2: supervisor to paging, but not to privileged instructions.
    pub const MIDDLE_RING: u32 = 1 << 24;
    /// Code whose memory is in windows (`window`).
    pub const WINDOW: u32 = 1 << 25;
    /// For runs in lock step (`Jit::make_comparable`), not of the CPU: every flag counts as live.
    pub const ALL_FLAGS_LIVE: u32 = 1 << 22;
    /// The same: RDTSC, RDRAND and RDSEED are interpreted.
    pub const TIME_INTERPRETED: u32 = 1 << 23;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mode {
    pub bits: u32,
    /// Base and limit of CS (0 and FFFFFFFFh in 64-bit mode).
    pub cs_base: u32,
    pub cs_limit: u32,
}

impl Mode {
    pub fn of(cpu: &CpuState) -> Mode {
        use bit::*;
        let mut bits = 0;
        let code64 = cpu.code64();
        if code64 {
            bits |= CODE64 | LONG | STACK32 | (0x3F * FLAT);
        } else {
            if cpu.seg[seg::CS].is(attr::DB) {
                bits |= CODE32;
            }
            if cpu.seg[seg::SS].is(attr::DB) {
                bits |= STACK32;
            }
            if cpu.long_mode() {
                bits |= LONG;
            }
            for index in [seg::ES, seg::CS, seg::SS, seg::DS] {
                if flat(cpu, index) {
                    bits |= FLAT << index;
                }
            }
            if cpu.real_or_v86() {
                bits |= REAL_OR_V86;
            }
        }
        if cpu.cpl == 3 {
            bits |= USER;
        } else if cpu.cpl != 0 {
            bits |= MIDDLE_RING;
        }
        if !cpu.v86() && cpu.cpl <= cpu.iopl() {
            bits |= IO_PRIVILEGE;
        }
        bits |= units(cpu);
        if cpu.rflags & flags::DF != 0 {
            bits |= DOWN;
        }
        if cpu.cr4 & cr4::TSD != 0 {
            bits |= NO_TSC;
        }
        if cpu.cr4 & cr4::FSGSBASE != 0 {
            bits |= FSGSBASE;
        }
        if cpu.efer & crate::state::efer::SCE != 0 {
            bits |= SYSCALL;
        }
        let cs = &cpu.seg[seg::CS];
        let (cs_base, cs_limit) = if code64 {
            (0, u32::MAX)
        } else {
            (cs.base as u32, cs.limit)
        };
        Mode {
            bits,
            cs_base,
            cs_limit,
        }
    }

    pub fn has(&self, bits: u32) -> bool {
        self.bits & bits == bits
    }

    /// The decoder's bitness.
    pub fn code_bits(&self) -> u32 {
        match self.bits & (bit::CODE32 | bit::CODE64) {
            0 => 16,
            bit::CODE32 => 32,
            _ => 64,
        }
    }

    pub fn code64(&self) -> bool {
        self.has(bit::CODE64)
    }

    pub fn class(&self) -> usize {
        if self.has(bit::USER) { USER } else { KERNEL }
    }

    pub fn is_flat(&self, segment: usize) -> bool {
        self.has(bit::FLAT << segment)
    }
}

fn flat(cpu: &CpuState, index: usize) -> bool {
    let s = &cpu.seg[index];
    let full = s.base == 0 && s.limit == u32::MAX && s.usable();
    if index == seg::CS {
        return full && (s.is(attr::READABLE) || cpu.real_or_v86());
    }
    full && s.is(attr::WRITABLE) && !s.is(attr::CODE) && !s.is(attr::EXPAND_DOWN)
}

/// Which of the FPU and SIMD units instructions may use without a fault (SDM vol. 3, chapter 14).
fn units(cpu: &CpuState) -> u32 {
    let mut bits = 0;
    let ts = cpu.cr0 & cr0::TS != 0;
    let em = cpu.cr0 & cr0::EM != 0;
    // With CR0.NE=0 errors go out by FERR#: the interpreter's business.
    if !ts && !em && cpu.cr0 & cr0::NE != 0 {
        bits |= bit::X87;
    }
    if !ts && !em && cpu.cr4 & cr4::OSFXSR != 0 {
        bits |= bit::SSE;
    }
    if !ts && cpu.cr4 & cr4::OSXSAVE != 0 && !cpu.real_or_v86() {
        if cpu.xcr0 & 6 == 6 {
            bits |= bit::AVX;
        }
        if cpu.xcr0 & 0xE6 == 0xE6 {
            bits |= bit::AVX512;
        }
    }
    if ts && cpu.cr0 & cr0::MP != 0 {
        bits |= bit::WAIT_TRAPS;
    }
    bits
}
