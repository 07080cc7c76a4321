//! The architectural state of one x86 processor (SDM vol. 3, chapter 2).
//!
//! All backends share it.  Generated code addresses it by `offset_of!`, so it is `repr(C)`.

/// Register numbers as instructions encode them.
pub mod gpr {
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
}

/// Segment register numbers as instructions encode them.
pub mod seg {
    pub const ES: usize = 0;
    pub const CS: usize = 1;
    pub const SS: usize = 2;
    pub const DS: usize = 3;
    pub const FS: usize = 4;
    pub const GS: usize = 5;
}

/// RFLAGS (SDM vol. 1, figure 3-8).
pub mod flags {
    pub const CF: u64 = 1 << 0;
    pub const FIXED: u64 = 1 << 1;
    pub const PF: u64 = 1 << 2;
    pub const AF: u64 = 1 << 4;
    pub const ZF: u64 = 1 << 6;
    pub const SF: u64 = 1 << 7;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const DF: u64 = 1 << 10;
    pub const OF: u64 = 1 << 11;
    pub const IOPL: u64 = 3 << 12;
    pub const NT: u64 = 1 << 14;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
    pub const AC: u64 = 1 << 18;
    pub const VIF: u64 = 1 << 19;
    pub const VIP: u64 = 1 << 20;
    pub const ID: u64 = 1 << 21;
    /// The arithmetic flags, which live in the host's RFLAGS while translated code runs.
    pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
}

pub mod cr0 {
    pub const PE: u64 = 1 << 0;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
}

pub mod cr4 {
    pub const VME: u64 = 1 << 0;
    pub const PVI: u64 = 1 << 1;
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const MCE: u64 = 1 << 6;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const UMIP: u64 = 1 << 11;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
}

pub mod efer {
    pub const SCE: u64 = 1 << 0;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
    pub const AIBRSE: u64 = 1 << 21;
}

/// Attribute bits of a hidden descriptor cache: bits 8-15 and 20-23 of the descriptor's upper
/// doubleword, moved to bits 0-7 and 12-15 (as VMX lays them out), plus `UNUSABLE`.
pub mod attr {
    /// Type field of code and data segments.
    pub const ACCESSED: u32 = 1 << 0;
    pub const WRITABLE: u32 = 1 << 1; // data
    pub const READABLE: u32 = 1 << 1; // code
    pub const EXPAND_DOWN: u32 = 1 << 2; // data
    pub const CONFORMING: u32 = 1 << 2; // code
    pub const CODE: u32 = 1 << 3;
    pub const TYPE: u32 = 0xF;
    pub const S: u32 = 1 << 4;
    pub const DPL_SHIFT: u32 = 5;
    pub const P: u32 = 1 << 7;
    pub const AVL: u32 = 1 << 12;
    pub const L: u32 = 1 << 13;
    pub const DB: u32 = 1 << 14;
    pub const G: u32 = 1 << 15;
    /// Loaded with a null selector: any use faults (outside 64-bit mode).
    pub const UNUSABLE: u32 = 1 << 16;
}

/// A segment register with its hidden part, which alone decides about accesses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    pub base: u64,
    /// In bytes, granularity applied: the last valid offset (or, expand-down, the last invalid one).
    pub limit: u32,
    pub attributes: u32,
    pub selector: u16,
}

impl Segment {
    /// What real mode and V86 mode load for `selector`, limit 64 KiB.
    pub fn real(selector: u16, attributes: u32) -> Segment {
        Segment {
            base: (selector as u64) << 4,
            limit: 0xFFFF,
            attributes,
            selector,
        }
    }

    pub fn dpl(&self) -> u8 {
        ((self.attributes >> attr::DPL_SHIFT) & 3) as u8
    }

    pub fn is(&self, bits: u32) -> bool {
        self.attributes & bits == bits
    }

    pub fn usable(&self) -> bool {
        self.attributes & attr::UNUSABLE == 0
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TableRegister {
    pub base: u64,
    pub limit: u16,
}

/// Model-specific registers that are storage with a meaning elsewhere in the engine.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Msrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub fmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub pat: u64,
    pub tsc_aux: u64,
    pub tsc_adjust: u64,
    pub misc_enable: u64,
    pub spec_ctrl: u64,
    pub mtrr_def_type: u64,
    pub mtrr_fixed: [u64; 11],
    pub mtrr_variable: [u64; 16],
    pub mcg_status: u64,
    pub debugctl: u64,
    pub xss: u64,
    /// Those of `AMD_MSRS`, in its order.
    pub amd: [u64; AMD_MSRS.len()],
}

/// AMD's configuration registers that are plain storage: number and reset value (AMD PPR, family 19h).
pub const AMD_MSRS: [(u32, u64); 10] = [
    (0xC001_0010, 0),       // SYSCFG
    (0xC001_0015, 1 << 24), // HWCR, TscFreqSel: the TSC runs at P0's rate
    (0xC001_001A, 0),       // TOP_MEM
    (0xC001_001D, 0),       // TOM2
    (0xC001_001F, 0),       // NB_CFG
    (0xC001_0055, 0),       // interrupt pending message
    (0xC001_0140, 0),       // OSVW_ID_Length
    (0xC001_0141, 0),       // OSVW status
    (0xC001_1022, 0),       // DC_CFG
    (0xC001_1029, 2),       // DE_CFG, LFENCE is dispatch serializing
];

/// Why the next instruction boundary holds interrupts off (SDM vol. 3, 6.8.3).
pub mod shadow {
    /// After STI with IF=0 before: maskable interrupts wait for one instruction.
    pub const STI: u8 = 1;
    /// After MOV SS or POP SS: interrupts, NMI and single-step traps wait for one instruction.
    pub const MOV_SS: u8 = 2;
}

/// Bytes of the XSAVE area (standard format, all components up to AVX-512 fit).
pub const XSAVE_BYTES: usize = 4096;

/// The FPU, MMX, SSE, AVX and AVX-512 state as XSAVE writes it (SDM vol. 1, 13.4).
#[derive(Clone)]
#[repr(C, align(64))]
pub struct XsaveArea(pub [u8; XSAVE_BYTES]);

#[derive(Clone)]
#[repr(C)]
pub struct CpuState {
    pub gpr: [u64; 16],
    pub rip: u64,
    /// All of RFLAGS.  While translated code runs the arithmetic flags are in the host's.
    pub rflags: u64,
    /// ES CS SS DS FS GS, by `seg`.
    pub seg: [Segment; 6],
    pub ldtr: Segment,
    pub tr: Segment,
    pub gdtr: TableRegister,
    pub idtr: TableRegister,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub xcr0: u64,
    pub dr: [u64; 8],
    /// The four PDPTEs that PAE paging loads with CR3 (SDM vol. 3, 4.4.1).
    pub pdpte: [u64; 4],
    pub msr: Msrs,
    /// Added to the host's time-stamp counter.
    pub tsc_offset: u64,
    /// Current privilege level.
    pub cpl: u8,
    /// `shadow` bits in force at this instruction boundary.
    pub shadow: u8,
    /// HLT executed: waiting for an interrupt.
    pub halted: bool,
    /// NMIs are blocked until the next IRET.
    pub nmi_blocked: bool,
    pub nmi_pending: bool,
    /// Triple fault: only RESET (or INIT) helps.
    pub shutdown: bool,
    /// Bits for DR6 of a #DB to deliver at this instruction boundary (traps), 0 for none.
    pub pending_db: u64,
    pub fpu: XsaveArea,
}

impl CpuState {
    /// The power-on reset state (SDM vol. 3, table 10-1), signature in EDX.
    pub fn reset(signature: u32) -> CpuState {
        use attr::*;
        let data = P | S | WRITABLE | ACCESSED;
        let mut s = CpuState {
            gpr: [0; 16],
            rip: 0xFFF0,
            rflags: flags::FIXED,
            seg: [Segment::real(0, data); 6],
            ldtr: Segment {
                limit: 0xFFFF,
                attributes: P | 2,
                ..Segment::default()
            },
            tr: Segment {
                limit: 0xFFFF,
                attributes: P | 0xB,
                ..Segment::default()
            },
            gdtr: TableRegister {
                base: 0,
                limit: 0xFFFF,
            },
            idtr: TableRegister {
                base: 0,
                limit: 0xFFFF,
            },
            cr0: cr0::ET | cr0::NW | cr0::CD,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            xcr0: 1,
            dr: [0, 0, 0, 0, 0, 0, 0xFFFF_0FF0, 0x400],
            pdpte: [0; 4],
            msr: Msrs {
                pat: 0x0007_0406_0007_0406,
                misc_enable: 1,
                amd: AMD_MSRS.map(|(_, reset)| reset),
                ..Msrs::default()
            },
            tsc_offset: 0,
            cpl: 0,
            shadow: 0,
            halted: false,
            nmi_blocked: false,
            nmi_pending: false,
            shutdown: false,
            pending_db: 0,
            fpu: XsaveArea([0; XSAVE_BYTES]),
        };
        s.gpr[gpr::RDX] = signature as u64;
        s.seg[seg::CS] = Segment {
            base: 0xFFFF_0000,
            limit: 0xFFFF,
            attributes: P | S | CODE | READABLE | ACCESSED,
            selector: 0xF000,
        };
        // FCW 0040h; tag word 5555h, that is, no register is empty; MXCSR.
        s.fpu.0[0..2].copy_from_slice(&0x0040u16.to_le_bytes());
        s.fpu.0[4] = 0xFF;
        s.fpu.0[24..28].copy_from_slice(&0x1F80u32.to_le_bytes());
        s
    }

    pub fn protected(&self) -> bool {
        self.cr0 & cr0::PE != 0
    }

    pub fn v86(&self) -> bool {
        self.rflags & flags::VM != 0
    }

    /// Real-address mode or V86 mode: selectors are paragraph numbers.
    pub fn real_or_v86(&self) -> bool {
        !self.protected() || self.v86()
    }

    /// IA-32e mode (EFER.LMA): 64-bit or compatibility.
    pub fn long_mode(&self) -> bool {
        self.efer & efer::LMA != 0
    }

    /// 64-bit mode: long mode with CS.L.
    pub fn code64(&self) -> bool {
        self.long_mode() && self.seg[seg::CS].is(attr::L)
    }

    /// The decoder's bitness: 16, 32 or 64.
    pub fn code_bits(&self) -> u32 {
        if self.code64() {
            64
        } else if self.seg[seg::CS].is(attr::DB) {
            32
        } else {
            16
        }
    }

    /// Mask of the stack pointer: SP, ESP or RSP by SS.B and the mode.
    pub fn stack_mask(&self) -> u64 {
        if self.code64() {
            u64::MAX
        } else if self.seg[seg::SS].is(attr::DB) {
            0xFFFF_FFFF
        } else {
            0xFFFF
        }
    }

    pub fn iopl(&self) -> u8 {
        ((self.rflags & flags::IOPL) >> 12) as u8
    }

    pub fn interrupts_enabled(&self) -> bool {
        self.rflags & flags::IF != 0
    }
}
