//! The layout of the guest's FPU, MMX, SSE, AVX and AVX-512 registers in `CpuState::fpu`, and what an
//! image must be for the host to load it.
//!
//! `CpuState::fpu` is an XSAVE area in the host's standard format (SDM vol. 1, 13.4), a pure
//! FXSAVE image on a host without XSAVE.
//!
//! Invariants: 1. every component's bytes are valid whatever XSTATE_BV says (a component in its
//! initial configuration is written out as such), so that code may read and change the image
//! without looking at the header.  2. Outside of generated code the host's own registers are as
//! Rust expects them: x87 empty with FCW 037Fh, MXCSR 1F80h, upper halves clean.
//! 3. The last x87 instruction's pointers (FIP, FDP with their selectors, FOP) that the host
//! records are its own addresses; the guest's are kept by `interp::fpu`, selectors in the bytes
//! that hardware leaves to software (464 to 511).

use crate::host::{self, component};
use crate::state::{XSAVE_BYTES, XsaveArea};
use std::arch::asm;
use std::sync::OnceLock;

/// MXCSR after reset: all exceptions masked, none raised, rounding to nearest.
pub const MXCSR_DEFAULT: u32 = 0x1F80;
/// FCW after FNINIT: all exceptions masked, 64-bit precision, rounding to nearest.
pub const FCW_DEFAULT: u16 = 0x037F;
/// The bits of MXCSR that every processor with SSE2 has.
pub const MXCSR_COMMON: u32 = 0xFFFF;
/// MXCSR.MM (AMD): misaligned operands of legacy SSE don't raise #GP.
pub const MXCSR_MM: u32 = 1 << 17;

/// Byte offsets in the legacy region (SDM vol. 1, table 13-1).
pub mod legacy {
    pub const FCW: usize = 0;
    pub const FSW: usize = 2;
    /// One bit per physical register, set when it isn't empty.
    pub const TAGS: usize = 4;
    pub const FOP: usize = 6;
    pub const FIP: usize = 8;
    pub const FDP: usize = 16;
    pub const MXCSR: usize = 24;
    pub const MXCSR_MASK: usize = 28;
    /// ST0 to ST7, 16 bytes each.
    pub const ST: usize = 32;
    pub const XMM: usize = 160;
    pub const BYTES: usize = 416;
    /// Ours: selectors that belong to FIP and FDP.
    pub const FCS: usize = 464;
    pub const FDS: usize = 466;
    /// The XSAVE header.
    pub const XSTATE_BV: usize = 512;
    pub const HEADER_END: usize = 576;
}

/// Where the host's standard format has the components beyond the legacy region; an absent
/// component has offset 0.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub avx: usize,
    pub opmask: usize,
    pub zmm_hi256: usize,
    pub hi16_zmm: usize,
}

pub fn layout() -> Layout {
    static LAYOUT: OnceLock<Layout> = OnceLock::new();
    *LAYOUT.get_or_init(|| {
        let place = |bit: u64| {
            if host::xcr0() & bit == 0 {
                return 0;
            }
            let (offset, size) = host::component_place(bit.trailing_zeros());
            assert!(
                offset + size <= XSAVE_BYTES,
                "XSAVE area is larger than known"
            );
            offset
        };
        Layout {
            avx: place(component::AVX),
            opmask: place(component::OPMASK),
            zmm_hi256: place(component::ZMM_HI256),
            hi16_zmm: place(component::HI16_ZMM),
        }
    })
}

/// The host's own state outside of guest code.
pub static HOST_DEFAULT: XsaveArea = host_default();

const fn host_default() -> XsaveArea {
    let mut area = XsaveArea([0; XSAVE_BYTES]);
    area.0[legacy::FCW] = FCW_DEFAULT as u8;
    area.0[legacy::FCW + 1] = (FCW_DEFAULT >> 8) as u8;
    area.0[legacy::MXCSR] = MXCSR_DEFAULT as u8;
    area.0[legacy::MXCSR + 1] = (MXCSR_DEFAULT >> 8) as u8;
    area
}

/// The bits of MXCSR that the host has, from FXSAVE's MXCSR_MASK.
pub fn host_mxcsr_mask() -> u32 {
    static MASK: OnceLock<u32> = OnceLock::new();
    *MASK.get_or_init(|| {
        let mut area = XsaveArea([0; XSAVE_BYTES]);
        // SAFETY: FXSAVE writes 512 bytes into an aligned area.
        unsafe { asm!("fxsave64 [{}]", in(reg) &mut area, options(nostack)) };
        let b = &area.0[legacy::MXCSR_MASK..legacy::ST];
        u32::from_le_bytes([b[0], b[1], b[2], b[3]])
    })
}

/// Makes an image acceptable to XRSTOR whatever it holds: all components present, nothing
/// reserved set.
pub fn prepare(area: &mut XsaveArea) {
    let bytes = &mut area.0;
    bytes[legacy::XSTATE_BV..legacy::HEADER_END].fill(0);
    bytes[legacy::XSTATE_BV..legacy::XSTATE_BV + 8].copy_from_slice(&host::xcr0().to_le_bytes());
    let mask = host_mxcsr_mask().to_le_bytes();
    for (byte, mask) in bytes[legacy::MXCSR..].iter_mut().zip(mask) {
        *byte &= mask;
    }
}
