//! Fast system calls: SYSCALL, SYSRET, SYSENTER and SYSEXIT (SDM vol. 2; AMD APM vol. 3).
//!
//! The vendors differ: AMD has SYSCALL and SYSRET outside of 64-bit mode too, and no SYSENTER and
//! SYSEXIT in long mode; Intel checks SYSRET's target before it lowers the privilege.  With both, the
//! single-step trap after SYSCALL and SYSRET goes by the TF they leave.

use super::descriptor::flat_segment;
use crate::cpuid::Feature;
use crate::fault::Fault;
use crate::mmu::segment::canonical;
use crate::state::{attr, efer, flags, gpr, seg};
use crate::vcpu::Vcpu;
use iced_x86::{Code, Instruction};

/// The flags that SYSRET takes from R11.
const SYSRET_FLAGS: u64 = 0x003C_7FD7;

const CODE32: u32 = attr::CODE | attr::DB;
const CODE64: u32 = attr::CODE | attr::L;

/// Executes `insn` if it is one of this family.
pub(super) fn execute(v: &mut Vcpu, insn: &Instruction) -> Option<Result<(), Fault>> {
    Some(match insn.code() {
        Code::Syscall => syscall(v),
        Code::Sysretd => sysret(v, false),
        Code::Sysretq => sysret(v, true),
        Code::Sysenter => sysenter(v),
        Code::Sysexitd => sysexit(v, false),
        Code::Sysexitq => sysexit(v, true),
        _ => return None,
    })
}

/// #UD where SYSCALL and SYSRET don't exist.
fn check_syscall(v: &Vcpu) -> Result<(), Fault> {
    let here = if v.is_amd() {
        v.cpu.protected()
    } else {
        v.cpu.code64()
    };
    if !here || v.cpu.efer & efer::SCE == 0 || !v.model.has(Feature::SYSCALL) {
        return Err(Fault::UD);
    }
    Ok(())
}

fn syscall(v: &mut Vcpu) -> Result<(), Fault> {
    check_syscall(v)?;
    let star = v.cpu.msr.star;
    let selector = (star >> 32) as u16 & 0xFFFC;
    let (target, code) = if !v.cpu.long_mode() {
        v.set_gpr(gpr::RCX, 4, v.next_rip);
        v.cpu.rflags &= !(flags::VM | flags::IF | flags::RF);
        (star & 0xFFFF_FFFF, CODE32)
    } else {
        let target = if v.cpu.code64() {
            v.cpu.msr.lstar
        } else {
            v.cpu.msr.cstar
        };
        v.cpu.gpr[gpr::RCX] = v.next_rip;
        v.cpu.gpr[11] = v.cpu.rflags & !flags::RF;
        v.cpu.rflags &= !(v.cpu.msr.fmask | flags::RF);
        v.cpu.rflags |= flags::FIXED;
        (target, CODE64)
    };
    v.cpu.seg[seg::SS] = flat_segment(selector.wrapping_add(8), attr::DB, 0);
    v.enter_code(flat_segment(selector, code, 0), target, 0);
    v.single_step = v.cpu.rflags & flags::TF != 0;
    Ok(())
}

fn sysret(v: &mut Vcpu, wide: bool) -> Result<(), Fault> {
    check_syscall(v)?;
    if v.cpu.cpl != 0 {
        return Err(Fault::GP0);
    }
    let rcx = v.cpu.gpr[gpr::RCX];
    if wide && !v.is_amd() && !canonical(rcx) {
        return Err(Fault::GP0);
    }
    let selector = (v.cpu.msr.star >> 48) as u16;
    if v.cpu.long_mode() {
        v.cpu.rflags = v.cpu.gpr[11] & SYSRET_FLAGS | flags::FIXED;
    } else {
        v.cpu.rflags |= flags::IF;
    }
    let cs = if wide {
        flat_segment(selector.wrapping_add(16) | 3, CODE64, 3)
    } else {
        flat_segment(selector | 3, CODE32, 3)
    };
    let rip = if wide { rcx } else { rcx & 0xFFFF_FFFF };
    v.cpu.seg[seg::SS] = flat_segment(selector.wrapping_add(8) | 3, attr::DB, 3);
    v.enter_code(cs, rip, 3);
    v.single_step = v.cpu.rflags & flags::TF != 0;
    v.ask_attention_if_pending();
    Ok(())
}

/// #UD in long mode on AMD, and where they don't exist.
fn check_sysenter(v: &Vcpu) -> Result<(), Fault> {
    if v.is_amd() && v.cpu.long_mode() || !v.model.has(Feature::SEP) {
        return Err(Fault::UD);
    }
    if !v.cpu.protected() || v.cpu.msr.sysenter_cs & 0xFFFC == 0 {
        return Err(Fault::GP0);
    }
    Ok(())
}

fn sysenter(v: &mut Vcpu) -> Result<(), Fault> {
    check_sysenter(v)?;
    let long = v.cpu.long_mode();
    let selector = v.cpu.msr.sysenter_cs as u16 & 0xFFFC;
    let (esp, eip) = (v.cpu.msr.sysenter_esp, v.cpu.msr.sysenter_eip);
    let width = if long { u64::MAX } else { 0xFFFF_FFFF };
    let code = if long { CODE64 } else { CODE32 };
    v.cpu.rflags &= !(flags::VM | flags::IF | flags::RF);
    v.cpu.seg[seg::SS] = flat_segment(selector.wrapping_add(8), attr::DB, 0);
    v.cpu.gpr[gpr::RSP] = esp & width;
    v.enter_code(flat_segment(selector, code, 0), eip & width, 0);
    Ok(())
}

fn sysexit(v: &mut Vcpu, wide: bool) -> Result<(), Fault> {
    check_sysenter(v)?;
    if v.cpu.cpl != 0 {
        return Err(Fault::GP0);
    }
    let (rsp, rip) = (v.cpu.gpr[gpr::RCX], v.cpu.gpr[gpr::RDX]);
    if wide && !(canonical(rsp) && canonical(rip)) {
        return Err(Fault::GP0);
    }
    let selector = v.cpu.msr.sysenter_cs as u16;
    let (offset, code, width) = if wide {
        (32, CODE64, u64::MAX)
    } else {
        (16, CODE32, 0xFFFF_FFFF)
    };
    let cs = selector.wrapping_add(offset) | 3;
    v.cpu.seg[seg::SS] = flat_segment(cs.wrapping_add(8), attr::DB, 3);
    v.cpu.gpr[gpr::RSP] = rsp & width;
    v.enter_code(flat_segment(cs, code, 3), rip & width, 3);
    v.ask_attention_if_pending();
    Ok(())
}
