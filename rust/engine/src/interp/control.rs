//! Control registers: MOV CR, LMSW, SMSW, CLTS, XGETBV and XSETBV (SDM vol. 3, 2.5, 2.6 and 10.8).
//!
//! Which bits of CR4 and XCR0 exist follows from what CPUID offers.  VME, PVI, VMXE, SMXE, SMAP, PKE,
//! CET and five-level paging are never offered.

use super::descriptor::system_type;
use super::fpu;
use crate::cpuid::Feature;
use crate::fault::Fault;
use crate::mmu::walk::PHYSICAL_BITS;
use crate::state::{attr, cr0, cr4, efer, seg};
use crate::vcpu::Vcpu;
use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

/// CR0's defined bits; the others are ignored (ET always reads 1).
const CR0_DEFINED: u64 = cr0::PE
    | cr0::MP
    | cr0::EM
    | cr0::TS
    | cr0::ET
    | cr0::NE
    | cr0::WP
    | cr0::AM
    | cr0::NW
    | cr0::CD
    | cr0::PG;
/// The low bits of CR0 that LMSW writes.
const MACHINE_STATUS: u64 = cr0::PE | cr0::MP | cr0::EM | cr0::TS;
/// CR3: keep the TLB entries of the new PCID.
const CR3_NO_FLUSH: u64 = 1 << 63;

/// XCR0: x87, SSE, AVX, and the three parts of AVX-512.
mod xcr0 {
    pub const X87: u64 = 1 << 0;
    pub const SSE: u64 = 1 << 1;
    pub const AVX: u64 = 1 << 2;
    pub const AVX512: u64 = 7 << 5;
}

/// Executes `insn` if it is one of this family.
pub(super) fn execute(v: &mut Vcpu, insn: &Instruction) -> Option<Result<(), Fault>> {
    use Code::*;
    Some(match insn.code() {
        Mov_cr_r32 | Mov_cr_r64 => write_control(v, insn),
        Mov_r32_cr | Mov_r64_cr => read_control(v, insn),
        _ => match insn.mnemonic() {
            Mnemonic::Lmsw => lmsw(v, insn),
            Mnemonic::Smsw => smsw(v, insn),
            Mnemonic::Clts => clts(v),
            Mnemonic::Xgetbv => xgetbv(v),
            Mnemonic::Xsetbv => xsetbv(v),
            _ => return None,
        },
    })
}

fn write_control(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let value = v.reg(insn.op_register(1));
    let register = insn.op_register(0);
    check_control(v, register)?;
    match register {
        Register::CR0 => v.write_cr0(value),
        Register::CR2 => {
            v.cpu.cr2 = value;
            Ok(())
        }
        Register::CR3 => v.write_cr3(value),
        Register::CR4 => v.write_cr4(value),
        _ if value > 0xF => Err(Fault::GP0),
        _ => {
            v.apic.set_cr8(value);
            v.ask_attention();
            Ok(())
        }
    }
}

fn read_control(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let register = insn.op_register(1);
    check_control(v, register)?;
    let value = match register {
        Register::CR0 => v.cpu.cr0,
        Register::CR2 => v.cpu.cr2,
        Register::CR3 => v.cpu.cr3,
        Register::CR4 => v.cpu.cr4,
        _ => v.apic.cr8(),
    };
    v.set_reg(insn.op_register(0), value);
    Ok(())
}

/// #UD for a register that doesn't exist, #GP(0) above level 0.
fn check_control(v: &Vcpu, register: Register) -> Result<(), Fault> {
    use Register::*;
    if !matches!(register, CR0 | CR2 | CR3 | CR4 | CR8) {
        return Err(Fault::UD);
    }
    v.require_cpl0()
}

/// LMSW can set PE but not clear it.
fn lmsw(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    v.require_cpl0()?;
    let value = v.read_operand(insn, 0)? & MACHINE_STATUS;
    v.write_cr0(v.cpu.cr0 & !(MACHINE_STATUS & !cr0::PE) | value)
}

fn smsw(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    v.check_umip()?;
    if insn.op_kind(0) == OpKind::Register {
        v.set_reg(insn.op_register(0), v.cpu.cr0);
        return Ok(());
    }
    let place = v.place(insn);
    v.write(place.segment, place.offset, 2, v.cpu.cr0 & 0xFFFF)
}

fn clts(v: &mut Vcpu) -> Result<(), Fault> {
    v.require_cpl0()?;
    v.cpu.cr0 &= !cr0::TS;
    Ok(())
}

fn xgetbv(v: &mut Vcpu) -> Result<(), Fault> {
    if v.cpu.cr4 & cr4::OSXSAVE == 0 {
        return Err(Fault::UD);
    }
    let value = match v.reg(Register::ECX) {
        0 => v.cpu.xcr0,
        1 if v.model.has(Feature::XGETBV1) => v.cpu.xcr0 & fpu::in_use(&v.cpu.fpu),
        _ => return Err(Fault::GP0),
    };
    v.set_edx_eax(value);
    Ok(())
}

fn xsetbv(v: &mut Vcpu) -> Result<(), Fault> {
    use xcr0::*;
    if v.cpu.cr4 & cr4::OSXSAVE == 0 {
        return Err(Fault::UD);
    }
    v.require_cpl0()?;
    let value = v.edx_eax();
    let supported = v.model.xcr0();
    let avx_without_sse = value & AVX != 0 && value & SSE == 0;
    let avx512_parts = value & AVX512;
    let bad_avx512 = avx512_parts != 0 && (avx512_parts != AVX512 || value & AVX == 0);
    let bad = value & X87 == 0 || value & !supported != 0 || avx_without_sse || bad_avx512;
    if v.reg(Register::ECX) != 0 || bad {
        return Err(Fault::GP0);
    }
    v.cpu.xcr0 = value;
    Ok(())
}

impl Vcpu {
    /// MOV to CR0, and the mode switches that PE and PG are (SDM vol. 3, 10.8.5 and 10.9).
    fn write_cr0(&mut self, value: u64) -> Result<(), Fault> {
        let old = self.cpu.cr0;
        let wrong = value >> 32 != 0
            || value & cr0::PG != 0 && value & cr0::PE == 0
            || value & cr0::NW != 0 && value & cr0::CD == 0;
        if wrong {
            return Err(Fault::GP0);
        }
        let new = value & CR0_DEFINED | cr0::ET;
        let pae = self.cpu.cr4 & cr4::PAE != 0;
        let lme = self.cpu.efer & efer::LME != 0;
        if new & !old & cr0::PG != 0 && lme {
            let wide_tss = self.cpu.tr.attributes & system_type::WIDE != 0;
            if !pae || self.cpu.seg[seg::CS].is(attr::L) || !wide_tss {
                return Err(Fault::GP0);
            }
        } else if old & !new & cr0::PG != 0 && (self.cpu.code64() || self.cpu.cr4 & cr4::PCIDE != 0)
        {
            return Err(Fault::GP0);
        }
        let cache_or_paging = (old ^ new) & (cr0::PG | cr0::CD | cr0::NW) != 0;
        if new & cr0::PG != 0 && pae && !lme && cache_or_paging {
            self.cpu.pdpte = self.read_pdptes(self.cpu.cr3)?;
        }
        self.cpu.cr0 = new;
        if lme && new & cr0::PG != 0 {
            self.cpu.efer |= efer::LMA;
        } else {
            self.cpu.efer &= !efer::LMA;
        }
        if (old ^ new) & (cr0::PG | cr0::WP | cr0::PE) != 0 {
            self.flush_tlb_all();
        }
        Ok(())
    }

    /// MOV to CR3 (SDM vol. 2, MOV—Move to/from Control Registers).
    fn write_cr3(&mut self, value: u64) -> Result<(), Fault> {
        let mut reserved = !((1 << PHYSICAL_BITS) - 1);
        if self.cpu.cr4 & cr4::PCIDE != 0 {
            reserved &= !CR3_NO_FLUSH;
        }
        if self.cpu.long_mode() && value & reserved != 0 {
            return Err(Fault::GP0);
        }
        self.load_cr3(value)
    }

    fn write_cr4(&mut self, value: u64) -> Result<(), Fault> {
        let old = self.cpu.cr4;
        let changed = old ^ value;
        let long = self.cpu.long_mode();
        let pcide_set = value & !old & cr4::PCIDE != 0;
        let wrong = value & !self.cr4_supported() != 0
            || long && value & cr4::PAE == 0
            || pcide_set && (!long || self.cpu.cr3 & 0xFFF != 0);
        if wrong {
            return Err(Fault::GP0);
        }
        let paging = cr4::PSE | cr4::PAE | cr4::PGE | cr4::SMEP;
        if self.cpu.cr0 & cr0::PG != 0 && value & cr4::PAE != 0 && !long && changed & paging != 0 {
            self.cpu.pdpte = self.read_pdptes(self.cpu.cr3)?;
        }
        self.cpu.cr4 = value;
        if changed & (paging | cr4::PCIDE) != 0 {
            self.flush_tlb_all();
        }
        Ok(())
    }

    /// The bits of CR4 that the model has.
    fn cr4_supported(&self) -> u64 {
        [
            (Feature::DE, cr4::DE),
            (Feature::PSE, cr4::PSE),
            (Feature::TSC, cr4::TSD),
            (Feature::PAE, cr4::PAE),
            (Feature::MCE, cr4::MCE),
            (Feature::PGE, cr4::PGE),
            (Feature::MSR, cr4::PCE),
            (Feature::FXSR, cr4::OSFXSR),
            (Feature::SSE, cr4::OSXMMEXCPT),
            (Feature::PCID, cr4::PCIDE),
            (Feature::XSAVE, cr4::OSXSAVE),
            (Feature::FSGSBASE, cr4::FSGSBASE),
            (Feature::SMEP, cr4::SMEP),
            (Feature::UMIP, cr4::UMIP),
        ]
        .into_iter()
        .filter(|(feature, _)| self.model.has(*feature))
        .fold(0, |bits, (_, bit)| bits | bit)
    }
}
