//! Other instructions that the operating system owns, and CPUID and the time-stamp counter
//! (SDM vol. 2, under each).

use super::operand::segment_number;
use crate::cpuid::{Feature, Leaf};
use crate::fault::Fault;
use crate::mmu::segment::canonical;
use crate::state::{cr4, flags, gpr, seg, shadow};
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic, Register};

/// Executes `insn` if it is one of this family.
pub(super) fn execute(v: &mut Vcpu, insn: &Instruction) -> Option<Result<(), Fault>> {
    Some(match insn.mnemonic() {
        Mnemonic::Hlt => hlt(v),
        Mnemonic::Cli => cli(v),
        Mnemonic::Sti => sti(v),
        Mnemonic::Invlpg => invlpg(v, insn),
        Mnemonic::Invpcid => invpcid(v, insn),
        Mnemonic::Invd | Mnemonic::Wbinvd => v.require_cpl0(),
        Mnemonic::Wbnoinvd => v.require_cpl0(),
        Mnemonic::Rdtsc if !v.model.has(Feature::TSC) => Err(Fault::UD),
        Mnemonic::Rdtsc => rdtsc(v),
        Mnemonic::Rdtscp => rdtscp(v),
        Mnemonic::Rdpid => rdpid(v, insn),
        // There are no performance counters, whatever CR4.PCE says.
        Mnemonic::Rdpmc => Err(Fault::GP0),
        Mnemonic::Cpuid => cpuid(v),
        Mnemonic::Rdmsr | Mnemonic::Wrmsr if !v.model.has(Feature::MSR) => Err(Fault::UD),
        Mnemonic::Rdmsr => rdmsr(v),
        Mnemonic::Wrmsr => wrmsr(v),
        _ => return None,
    })
}

fn hlt(v: &mut Vcpu) -> Result<(), Fault> {
    v.require_cpl0()?;
    v.cpu.halted = true;
    Ok(())
}

/// CLI and STI: up to IOPL, and in V86 mode with IOPL 3 only.
fn check_io_privilege(v: &Vcpu) -> Result<(), Fault> {
    if v.cpu.protected() && v.cpu.cpl > v.cpu.iopl() {
        return Err(Fault::GP0);
    }
    Ok(())
}

fn cli(v: &mut Vcpu) -> Result<(), Fault> {
    check_io_privilege(v)?;
    v.cpu.rflags &= !flags::IF;
    Ok(())
}

fn sti(v: &mut Vcpu) -> Result<(), Fault> {
    check_io_privilege(v)?;
    if !v.cpu.interrupts_enabled() {
        v.cpu.rflags |= flags::IF;
        v.cpu.shadow |= shadow::STI;
        v.ask_attention();
    }
    Ok(())
}

fn invlpg(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    v.require_cpl0()?;
    let linear = if insn.memory_segment() == Register::None {
        v.place(insn).offset
    } else {
        let place = v.place(insn);
        let flat = v.cpu.code64() && place.segment < seg::FS;
        let base = if flat {
            0
        } else {
            v.cpu.seg[segment_number(insn.memory_segment())].base
        };
        v.wrap_linear(base.wrapping_add(place.offset))
    };
    if canonical(linear) || !v.cpu.long_mode() {
        v.flush_tlb_page(linear);
    }
    Ok(())
}

fn invpcid(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    if !v.model.has(Feature::INVPCID) {
        return Err(Fault::UD);
    }
    v.require_cpl0()?;
    let kind = v.reg(insn.op_register(0));
    let place = v.place(insn);
    let mut bytes = [0; 16];
    v.read_bytes(place.segment, place.offset, &mut bytes)?;
    let descriptor = u128::from_le_bytes(bytes);
    let (pcid, linear) = (descriptor as u64, (descriptor >> 64) as u64);
    let pcids = v.cpu.cr4 & cr4::PCIDE != 0;
    let wrong = kind > 3
        || pcid >> 12 != 0
        || kind < 2 && pcid != 0 && !pcids
        || kind == 0 && !canonical(linear);
    if wrong {
        return Err(Fault::GP0);
    }
    let current = if pcids { v.cpu.cr3 & 0xFFF } else { 0 };
    match kind {
        0 if pcid == current => v.flush_tlb_page(linear),
        0 | 1 if pcid != current => v.mmu.forget_pcid(pcid as u16),
        1 => v.load_cr3(v.cpu.cr3)?,
        _ => v.flush_tlb_all(),
    }
    Ok(())
}

/// CR4.TSD keeps the time-stamp counter from user code.
fn check_tsc(v: &Vcpu) -> Result<(), Fault> {
    if v.cpu.cr4 & cr4::TSD != 0 && v.cpu.cpl > 0 {
        return Err(Fault::GP0);
    }
    Ok(())
}

fn rdtsc(v: &mut Vcpu) -> Result<(), Fault> {
    check_tsc(v)?;
    v.set_edx_eax(v.tsc());
    Ok(())
}

fn rdtscp(v: &mut Vcpu) -> Result<(), Fault> {
    if !v.model.has(Feature::RDTSCP) {
        return Err(Fault::UD);
    }
    rdtsc(v)?;
    v.set_gpr(gpr::RCX, 4, v.cpu.msr.tsc_aux);
    Ok(())
}

fn rdpid(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    if !v.model.has(Feature::RDPID) {
        return Err(Fault::UD);
    }
    v.set_reg(insn.op_register(0), v.cpu.msr.tsc_aux);
    Ok(())
}

fn cpuid(v: &mut Vcpu) -> Result<(), Fault> {
    let leaf = v.reg(Register::EAX) as u32;
    let subleaf = v.reg(Register::ECX) as u32;
    let Leaf { eax, ebx, ecx, edx } = v.cpuid(leaf, subleaf);
    for (index, value) in [
        (gpr::RAX, eax),
        (gpr::RBX, ebx),
        (gpr::RCX, ecx),
        (gpr::RDX, edx),
    ] {
        v.set_gpr(index, 4, value as u64);
    }
    Ok(())
}

fn rdmsr(v: &mut Vcpu) -> Result<(), Fault> {
    v.require_cpl0()?;
    let value = v.read_msr(v.reg(Register::ECX) as u32)?;
    v.set_edx_eax(value);
    Ok(())
}

fn wrmsr(v: &mut Vcpu) -> Result<(), Fault> {
    v.require_cpl0()?;
    v.write_msr(v.reg(Register::ECX) as u32, v.edx_eax())
}

impl Vcpu {
    /// #GP(0) above privilege level 0.
    pub(super) fn require_cpl0(&self) -> Result<(), Fault> {
        if self.cpu.cpl != 0 {
            return Err(Fault::GP0);
        }
        Ok(())
    }

    /// EDX:EAX.
    pub(super) fn edx_eax(&self) -> u64 {
        self.reg(Register::EDX) << 32 | self.reg(Register::EAX)
    }

    pub(super) fn set_edx_eax(&mut self, value: u64) {
        self.set_reg(Register::EAX, value & 0xFFFF_FFFF);
        self.set_reg(Register::EDX, value >> 32);
    }

    /// Where the vendors differ.
    pub fn is_amd(&self) -> bool {
        self.model.is_amd()
    }
}
