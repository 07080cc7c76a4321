//! The guest's x87, MMX, SSE, AVX and AVX-512 registers inside the XSAVE image.

use crate::fpustate::{FCW_DEFAULT, layout, legacy};
use crate::state::XsaveArea;

/// The widest vector register, in bytes.
pub const ZMM_BYTES: usize = 64;

/// x87 status word bits (SDM vol. 1, figure 8-4).
pub mod fsw {
    /// IE DE ZE OE UE PE.
    pub const EXCEPTIONS: u16 = 0x3F;
    pub const PE: u16 = 1 << 5;
    /// Stack fault.
    pub const SF: u16 = 1 << 6;
    pub const ES: u16 = 1 << 7;
    pub const TOP_SHIFT: u16 = 11;
    pub const B: u16 = 1 << 15;
}

/// Where the last x87 instruction was and what it accessed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pointers {
    /// The low 11 bits of the opcode.
    pub fop: u16,
    pub fip: u64,
    pub fcs: u16,
    pub fdp: u64,
    pub fds: u16,
}

impl XsaveArea {
    pub(crate) fn u16_at(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    pub(crate) fn set_u16(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64_at(&self, at: usize) -> u64 {
        (0..8).fold(0, |v, i| v | (self.0[at + i] as u64) << (8 * i))
    }

    pub(crate) fn set_u64(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    pub fn fcw(&self) -> u16 {
        self.u16_at(legacy::FCW)
    }

    pub fn fsw(&self) -> u16 {
        self.u16_at(legacy::FSW)
    }

    pub fn mxcsr(&self) -> u32 {
        self.u64_at(legacy::MXCSR) as u32
    }

    pub fn set_mxcsr(&mut self, value: u32) {
        self.0[legacy::MXCSR..legacy::MXCSR + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Number of the physical register that is ST0.
    pub fn top(&self) -> usize {
        (self.fsw() >> fsw::TOP_SHIFT & 7) as usize
    }

    /// The x87 exceptions that are raised and not masked.
    pub fn unmasked_exceptions(&self) -> u16 {
        self.fsw() & !self.fcw() & fsw::EXCEPTIONS
    }

    /// Loads FCW and FSW as FLDENV does: reserved bits fixed, ES and B derived.
    pub fn set_control_and_status(&mut self, fcw: u16, status: u16) {
        self.set_u16(legacy::FCW, fcw & 0x1F3F | 0x40);
        self.set_u16(legacy::FSW, status);
        let pending = self.unmasked_exceptions() != 0;
        let summary = if pending { fsw::ES | fsw::B } else { 0 };
        self.set_u16(legacy::FSW, status & !(fsw::ES | fsw::B) | summary);
    }

    /// Makes physical register `top` ST0.  Registers keep their contents; it is the image that has
    /// them in stack order.
    pub fn set_top(&mut self, top: usize) {
        let turn = (top + 8 - self.top()) & 7;
        self.0[legacy::ST..legacy::XMM].rotate_left(16 * turn);
        let others = self.fsw() & !(7 << fsw::TOP_SHIFT);
        self.set_u16(legacy::FSW, others | ((top & 7) as u16) << fsw::TOP_SHIFT);
    }

    /// FNINIT.
    pub fn init_x87(&mut self) {
        self.set_top(0);
        self.set_u16(legacy::FCW, FCW_DEFAULT);
        self.set_u16(legacy::FSW, 0);
        self.set_u16(legacy::TAGS, 0);
        self.set_pointers(Pointers::default());
    }

    pub fn pointers(&self) -> Pointers {
        Pointers {
            fop: self.u16_at(legacy::FOP),
            fip: self.u64_at(legacy::FIP),
            fcs: self.u16_at(legacy::FCS),
            fdp: self.u64_at(legacy::FDP),
            fds: self.u16_at(legacy::FDS),
        }
    }

    pub fn set_pointers(&mut self, p: Pointers) {
        self.set_u16(legacy::FOP, p.fop);
        self.set_u64(legacy::FIP, p.fip);
        self.set_u16(legacy::FCS, p.fcs);
        self.set_u64(legacy::FDP, p.fdp);
        self.set_u16(legacy::FDS, p.fds);
    }

    /// The ten bytes of ST(`i`).
    pub fn st(&self, i: usize) -> &[u8] {
        let at = legacy::ST + 16 * (i & 7);
        &self.0[at..at + 10]
    }

    /// Writes ST(`i`); the image's slot is 16 bytes, zero above the register.
    pub fn set_st(&mut self, i: usize, value: &[u8]) {
        let at = legacy::ST + 16 * (i & 7);
        self.0[at..at + 10].copy_from_slice(&value[..10]);
        self.0[at + 10..at + 16].fill(0);
    }

    /// Calls `part` with every (offset in the image, offset in the register, bytes) that vector
    /// register `n` (0 to 31) is made of, as far as the host has it.
    fn vector_parts(n: usize, mut part: impl FnMut(usize, usize, usize)) {
        let l = layout();
        if n >= 16 {
            if l.hi16_zmm != 0 {
                part(l.hi16_zmm + ZMM_BYTES * (n & 15), 0, ZMM_BYTES);
            }
            return;
        }
        part(legacy::XMM + 16 * n, 0, 16);
        if l.avx != 0 {
            part(l.avx + 16 * n, 16, 16);
        }
        if l.zmm_hi256 != 0 {
            part(l.zmm_hi256 + 32 * n, 32, 32);
        }
    }

    /// All 64 bytes of vector register `n`.
    pub fn vector(&self, n: usize) -> [u8; ZMM_BYTES] {
        let mut value = [0; ZMM_BYTES];
        XsaveArea::vector_parts(n, |at, from, bytes| {
            value[from..from + bytes].copy_from_slice(&self.0[at..at + bytes]);
        });
        value
    }

    pub fn set_vector(&mut self, n: usize, value: &[u8; ZMM_BYTES]) {
        XsaveArea::vector_parts(n, |at, from, bytes| {
            self.0[at..at + bytes].copy_from_slice(&value[from..from + bytes]);
        });
    }

    /// Opmask register k0 to k7.
    pub fn opmask(&self, k: usize) -> u64 {
        match layout().opmask {
            0 => 0,
            at => self.u64_at(at + 8 * (k & 7)),
        }
    }

    pub fn set_opmask(&mut self, k: usize, value: u64) {
        let at = layout().opmask;
        if at != 0 {
            self.set_u64(at + 8 * (k & 7), value);
        }
    }
}
