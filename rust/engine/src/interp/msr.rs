//! Model-specific registers (SDM vol. 4; AMD APM vol. 2, appendix A).
//!
//! A register whose feature CPUID doesn't offer is unknown, and unknown ones are #GP(0).  Memory types
//! (MTRRs, PAT) are stored and checked but have no effect: the host's memory is write-back.
//! There are no machine-check banks, no performance counters and no last-branch records; DEBUGCTL's
//! LBR and BTF are ignored.

use crate::cpuid::Feature;
use crate::fault::Fault;
use crate::mmu::segment::canonical;
use crate::mmu::walk::PHYSICAL_BITS;
use crate::state::{AMD_MSRS, cr0, efer, seg};
use crate::vcpu::{Vcpu, host_tsc};

/// MSR numbers.
mod register {
    pub const P5_MC_ADDR: u32 = 0;
    pub const P5_MC_TYPE: u32 = 1;
    pub const TSC: u32 = 0x10;
    pub const PLATFORM_ID: u32 = 0x17;
    pub const APIC_BASE: u32 = 0x1B;
    pub const TSC_ADJUST: u32 = 0x3B;
    pub const SPEC_CTRL: u32 = 0x48;
    pub const PRED_CMD: u32 = 0x49;
    pub const BIOS_UPDT_TRIG: u32 = 0x79;
    pub const BIOS_SIGN_ID: u32 = 0x8B;
    pub const MTRRCAP: u32 = 0xFE;
    pub const ARCH_CAPABILITIES: u32 = 0x10A;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const SYSENTER_ESP: u32 = 0x175;
    pub const SYSENTER_EIP: u32 = 0x176;
    pub const MCG_CAP: u32 = 0x179;
    pub const MCG_STATUS: u32 = 0x17A;
    pub const MISC_ENABLE: u32 = 0x1A0;
    pub const DEBUGCTL: u32 = 0x1D9;
    pub const MTRR_VARIABLE: u32 = 0x200;
    pub const MTRR_VARIABLE_END: u32 = 0x20F;
    pub const PAT: u32 = 0x277;
    pub const MTRR_DEF_TYPE: u32 = 0x2FF;
    pub const TSC_DEADLINE: u32 = 0x6E0;
    pub const X2APIC: u32 = 0x800;
    pub const X2APIC_END: u32 = 0x8FF;
    pub const EFER: u32 = 0xC000_0080;
    pub const STAR: u32 = 0xC000_0081;
    pub const LSTAR: u32 = 0xC000_0082;
    pub const CSTAR: u32 = 0xC000_0083;
    pub const FMASK: u32 = 0xC000_0084;
    pub const FS_BASE: u32 = 0xC000_0100;
    pub const GS_BASE: u32 = 0xC000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xC000_0102;
    pub const TSC_AUX: u32 = 0xC000_0103;
    /// AMD's PERF_CTL0 to PERF_CTR3.
    pub const AMD_PERFORMANCE: u32 = 0xC001_0000;
    pub const AMD_PERFORMANCE_END: u32 = 0xC001_0007;
}

/// The fixed-range MTRRs, in the order of `Msrs::mtrr_fixed`.
const MTRR_FIXED: [u32; 11] = [
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26A, 0x26B, 0x26C, 0x26D, 0x26E, 0x26F,
];
/// Eight variable ranges, fixed ranges, write combining (SDM vol. 3, 13.11.1).
const MTRRCAP: u64 = 8 | 1 << 8 | 1 << 10;
const MTRR_DEF_TYPE_DEFINED: u64 = 0xCFF;
/// DEBUGCTL: last-branch records, single step on branches.
const DEBUGCTL_IGNORED: u64 = 3;
/// SPEC_CTRL: IBRS, STIBP, SSBD.
const SPEC_CTRL_DEFINED: u64 = 7;
/// MISC_ENABLE: what the guest may change (fast strings, limited CPUID, XD disabled are among it).
const MISC_ENABLE_WRITABLE: u64 = 1 << 0 | 1 << 3 | 1 << 7 | 1 << 16 | 1 << 18 | 1 << 22 | 1 << 34;

/// What CPUID must report for a register to exist; None: no more than MSRs themselves.
fn needs(number: u32) -> Option<Feature> {
    use register::*;
    Some(match number {
        P5_MC_ADDR | P5_MC_TYPE => Feature::MCE,
        TSC => Feature::TSC,
        TSC_ADJUST => Feature::TSC_ADJUST,
        MTRRCAP | MTRR_VARIABLE..=MTRR_VARIABLE_END | MTRR_DEF_TYPE => Feature::MTRR,
        _ if MTRR_FIXED.contains(&number) => Feature::MTRR,
        ARCH_CAPABILITIES => Feature::ARCH_CAPABILITIES,
        SYSENTER_CS..=SYSENTER_EIP => Feature::SEP,
        MCG_CAP | MCG_STATUS => Feature::MCA,
        PAT => Feature::PAT,
        EFER | STAR => Feature::SYSCALL,
        LSTAR | CSTAR | FMASK | FS_BASE | GS_BASE | KERNEL_GS_BASE => Feature::LM,
        // The Pentium Pro's, as SYSENTER is.
        PLATFORM_ID | BIOS_UPDT_TRIG | BIOS_SIGN_ID | DEBUGCTL => Feature::SEP,
        MISC_ENABLE => Feature::LM,
        _ => return None,
    })
}

/// Whether translated code may have the register read and written and go on: nothing happens beyond
/// it, but for a timer's new deadline, which asks for attention.
pub fn is_assisted(number: u32) -> bool {
    use register::*;
    let assisted = [
        TSC_DEADLINE,
        SYSENTER_CS,
        SYSENTER_ESP,
        SYSENTER_EIP,
        SPEC_CTRL,
        FS_BASE,
        GS_BASE,
        KERNEL_GS_BASE,
        TSC_AUX,
    ];
    assisted.contains(&number)
}

fn must(valid: bool) -> Result<(), Fault> {
    if valid { Ok(()) } else { Err(Fault::GP0) }
}

/// Memory types that MTRRs may have: UC, WC, WT, WP, WB.
fn memory_type(kind: u8) -> bool {
    matches!(kind, 0 | 1 | 4 | 5 | 6)
}

/// Whether a variable-range MTRR may hold `value`: PHYSBASE at even numbers, PHYSMASK at odd ones.
fn variable_range(index: usize, value: u64) -> bool {
    let address = ((1 << PHYSICAL_BITS) - 1) & !0xFFF;
    if index.is_multiple_of(2) {
        value & !(address | 0xFF) == 0 && memory_type(value as u8)
    } else {
        value & !(address | 1 << 11) == 0
    }
}

impl Vcpu {
    /// RDMSR, privilege aside.
    pub fn read_msr(&mut self, number: u32) -> Result<u64, Fault> {
        must(needs(number).is_none_or(|feature| self.model.has(feature)))?;
        let m = &self.cpu.msr;
        Ok(match number {
            register::TSC => self.tsc(),
            register::PLATFORM_ID if !self.is_amd() => 0,
            register::APIC_BASE => self.apic.base_msr(),
            register::TSC_ADJUST => m.tsc_adjust,
            register::SPEC_CTRL if self.has_spec_ctrl() => m.spec_ctrl,
            register::BIOS_SIGN_ID => 0,
            register::MTRRCAP => MTRRCAP,
            register::ARCH_CAPABILITIES => self.model.arch_capabilities(),
            register::SYSENTER_CS => m.sysenter_cs,
            register::SYSENTER_ESP => m.sysenter_esp,
            register::SYSENTER_EIP => m.sysenter_eip,
            register::P5_MC_ADDR | register::P5_MC_TYPE | register::MCG_CAP => 0,
            register::MCG_STATUS => m.mcg_status,
            register::MISC_ENABLE if !self.is_amd() => m.misc_enable,
            register::DEBUGCTL => m.debugctl,
            register::MTRR_VARIABLE..=register::MTRR_VARIABLE_END => {
                m.mtrr_variable[(number - register::MTRR_VARIABLE) as usize]
            }
            register::PAT => m.pat,
            register::MTRR_DEF_TYPE => m.mtrr_def_type,
            register::EFER => self.cpu.efer,
            register::STAR => m.star,
            register::LSTAR => m.lstar,
            register::CSTAR => m.cstar,
            register::FMASK => m.fmask,
            register::FS_BASE => self.cpu.seg[seg::FS].base,
            register::GS_BASE => self.cpu.seg[seg::GS].base,
            register::KERNEL_GS_BASE => m.kernel_gs_base,
            register::TSC_AUX if self.has_tsc_aux() => m.tsc_aux,
            // Every AMD processor has them: they are there, and never count.
            register::AMD_PERFORMANCE..=register::AMD_PERFORMANCE_END if self.is_amd() => 0,
            register::TSC_DEADLINE | register::X2APIC..=register::X2APIC_END => {
                return self.apic_msr_read(number);
            }
            _ => return self.read_stored_msr(number),
        })
    }

    /// Fixed-range MTRRs, and AMD's configuration registers.
    fn read_stored_msr(&self, number: u32) -> Result<u64, Fault> {
        if let Some(i) = MTRR_FIXED.iter().position(|n| *n == number) {
            return Ok(self.cpu.msr.mtrr_fixed[i]);
        }
        match AMD_MSRS.iter().position(|(n, _)| *n == number) {
            Some(i) if self.is_amd() => Ok(self.cpu.msr.amd[i]),
            _ => Err(Fault::GP0),
        }
    }

    /// WRMSR, privilege aside.
    pub fn write_msr(&mut self, number: u32, value: u64) -> Result<(), Fault> {
        must(needs(number).is_none_or(|feature| self.model.has(feature)))?;
        match number {
            register::EFER => return self.write_efer(value),
            register::TSC => self.write_tsc(value),
            register::TSC_ADJUST => {
                let delta = value.wrapping_sub(self.cpu.msr.tsc_adjust);
                self.cpu.tsc_offset = self.cpu.tsc_offset.wrapping_add(delta);
                self.cpu.msr.tsc_adjust = value;
                self.ask_attention();
            }
            register::APIC_BASE => return self.set_apic_base(value),
            register::TSC_DEADLINE | register::X2APIC..=register::X2APIC_END => {
                return self.apic_msr_write(number, value);
            }
            register::PRED_CMD if self.has_spec_ctrl() => must(value & !1 == 0)?,
            register::AMD_PERFORMANCE..=register::AMD_PERFORMANCE_END if self.is_amd() => {}
            // Microcode updates are taken as done.
            register::BIOS_UPDT_TRIG | register::BIOS_SIGN_ID => {}
            register::DEBUGCTL => must(value & !DEBUGCTL_IGNORED == 0)?,
            register::FS_BASE | register::GS_BASE => {
                must(canonical(value))?;
                let index = if number == register::FS_BASE {
                    seg::FS
                } else {
                    seg::GS
                };
                self.cpu.seg[index].base = value;
            }
            register::LSTAR
            | register::CSTAR
            | register::KERNEL_GS_BASE
            | register::SYSENTER_ESP
            | register::SYSENTER_EIP => {
                must(canonical(value))?;
                self.store_msr(number, value)?;
            }
            _ => self.store_msr(number, value)?,
        }
        Ok(())
    }

    /// The registers that only hold what is written, once it is found valid.
    fn store_msr(&mut self, number: u32, value: u64) -> Result<(), Fault> {
        let valid = match number {
            register::SPEC_CTRL => self.has_spec_ctrl() && value & !SPEC_CTRL_DEFINED == 0,
            register::MISC_ENABLE => !self.is_amd(),
            register::PAT => value
                .to_le_bytes()
                .iter()
                .all(|t| *t == 7 || memory_type(*t)),
            register::MTRR_DEF_TYPE => {
                value & !MTRR_DEF_TYPE_DEFINED == 0 && memory_type(value as u8)
            }
            register::TSC_AUX => self.has_tsc_aux() && value >> 32 == 0,
            register::MCG_STATUS => value == 0,
            _ => true,
        };
        must(valid)?;
        let amd = self.is_amd();
        let m = &mut self.cpu.msr;
        *match number {
            register::SPEC_CTRL => &mut m.spec_ctrl,
            register::SYSENTER_CS => &mut m.sysenter_cs,
            register::SYSENTER_ESP => &mut m.sysenter_esp,
            register::SYSENTER_EIP => &mut m.sysenter_eip,
            register::MCG_STATUS => &mut m.mcg_status,
            register::MISC_ENABLE => {
                let kept = m.misc_enable & !MISC_ENABLE_WRITABLE;
                m.misc_enable = kept | value & MISC_ENABLE_WRITABLE;
                return Ok(());
            }
            register::MTRR_VARIABLE..=register::MTRR_VARIABLE_END => {
                let i = (number - register::MTRR_VARIABLE) as usize;
                must(variable_range(i, value))?;
                &mut m.mtrr_variable[i]
            }
            register::PAT => &mut m.pat,
            register::MTRR_DEF_TYPE => &mut m.mtrr_def_type,
            register::STAR => &mut m.star,
            register::LSTAR => &mut m.lstar,
            register::CSTAR => &mut m.cstar,
            register::FMASK => &mut m.fmask,
            register::KERNEL_GS_BASE => &mut m.kernel_gs_base,
            register::TSC_AUX => &mut m.tsc_aux,
            _ => {
                if let Some(i) = MTRR_FIXED.iter().position(|n| *n == number) {
                    must(value.to_le_bytes().iter().all(|t| memory_type(*t)))?;
                    &mut m.mtrr_fixed[i]
                } else {
                    let i = AMD_MSRS.iter().position(|(n, _)| *n == number);
                    &mut m.amd[i.filter(|_| amd).ok_or(Fault::GP0)?]
                }
            }
        } = value;
        Ok(())
    }

    /// EFER: LME can't change while paging is on, LMA is the processor's (SDM vol. 3, 2.2.1).
    fn write_efer(&mut self, value: u64) -> Result<(), Fault> {
        let old = self.cpu.efer;
        let supported = self.efer_supported();
        let lme_changes = (value ^ old) & efer::LME != 0;
        must(value & !(supported | efer::LMA) == 0)?;
        must(!lme_changes || self.cpu.cr0 & cr0::PG == 0)?;
        self.cpu.efer = value & supported | old & efer::LMA;
        if (value ^ old) & efer::NXE != 0 {
            self.flush_tlb_all();
        }
        Ok(())
    }

    /// The writable bits of EFER that the model has.
    fn efer_supported(&self) -> u64 {
        let mut bits = 0;
        for (feature, flag) in [
            (Feature::SYSCALL, efer::SCE),
            (Feature::LM, efer::LME),
            (Feature::AUTOMATIC_IBRS, efer::AIBRSE),
        ] {
            if self.model.has(feature) {
                bits |= flag;
            }
        }
        // MISC_ENABLE can hide it.
        if self.cpuid(0x8000_0001, 0).edx >> 20 & 1 != 0 {
            bits |= efer::NXE;
        }
        bits
    }

    /// A write of TSC shows in TSC_ADJUST too (SDM vol. 3, 19.17.3).
    fn write_tsc(&mut self, value: u64) {
        let offset = value.wrapping_sub(host_tsc());
        let delta = offset.wrapping_sub(self.cpu.tsc_offset);
        self.cpu.msr.tsc_adjust = self.cpu.msr.tsc_adjust.wrapping_add(delta);
        self.cpu.tsc_offset = offset;
        self.ask_attention();
    }

    fn has_spec_ctrl(&self) -> bool {
        self.model.has(Feature::SPEC_CTRL) || self.model.has(Feature::AMD_IBRS)
    }

    fn has_tsc_aux(&self) -> bool {
        self.model.has(Feature::RDTSCP) || self.model.has(Feature::RDPID)
    }
}
