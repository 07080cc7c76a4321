//! Descriptor tables: their registers, and the instructions that look a selector up without loading it
//! (SDM vol. 2: LGDT, LIDT, SGDT, SIDT, LLDT, SLDT, LTR, STR, LAR, LSL, VERR, VERW, ARPL).

use super::descriptor::{Descriptor, null, null_segment, rpl, selector_fault, system_type};
use crate::fault::{Fault, vector};
use crate::mmu::segment::canonical;
use crate::state::{TableRegister, attr, cr4, flags};
use crate::vcpu::Vcpu;
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

/// Executes `insn` if it is one of this family.
pub(super) fn execute(v: &mut Vcpu, insn: &Instruction) -> Option<Result<(), Fault>> {
    Some(match insn.mnemonic() {
        Mnemonic::Lgdt => load_table(v, insn).map(|table| v.cpu.gdtr = table),
        Mnemonic::Lidt => load_table(v, insn).map(|table| v.cpu.idtr = table),
        Mnemonic::Sgdt => store_table(v, insn, v.cpu.gdtr),
        Mnemonic::Sidt => store_table(v, insn, v.cpu.idtr),
        Mnemonic::Lldt => lldt(v, insn),
        Mnemonic::Ltr => ltr(v, insn),
        Mnemonic::Sldt => store_selector(v, insn, v.cpu.ldtr.selector),
        Mnemonic::Str => store_selector(v, insn, v.cpu.tr.selector),
        Mnemonic::Lar => lar(v, insn),
        Mnemonic::Lsl => lsl(v, insn),
        Mnemonic::Verr => verify(v, insn, Descriptor::readable),
        Mnemonic::Verw => verify(v, insn, Descriptor::writable_data),
        Mnemonic::Arpl => arpl(v, insn),
        _ => return None,
    })
}

/// The table register in memory: 16 bits of limit, then the base, of which 16-bit operands take 24
/// bits.
fn load_table(v: &mut Vcpu, insn: &Instruction) -> Result<TableRegister, Fault> {
    v.require_cpl0()?;
    let place = v.place(insn);
    let wide = v.cpu.code64();
    let mut bytes = [0; 10];
    let length = if wide { 10 } else { 6 };
    v.read_bytes(place.segment, place.offset, &mut bytes[..length])?;
    let limit = u16::from_le_bytes([bytes[0], bytes[1]]);
    let mut base = bytes[2..].iter().rev().fold(0, |n, b| n << 8 | *b as u64);
    if matches!(insn.code(), Code::Lgdt_m1632_16 | Code::Lidt_m1632_16) {
        base &= 0xFF_FFFF;
    }
    if wide && !canonical(base) {
        return Err(Fault::GP0);
    }
    Ok(TableRegister { base, limit })
}

fn store_table(v: &mut Vcpu, insn: &Instruction, table: TableRegister) -> Result<(), Fault> {
    v.check_umip()?;
    let place = v.place(insn);
    let length = if v.cpu.code64() { 10 } else { 6 };
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&table.limit.to_le_bytes());
    bytes[2..].copy_from_slice(&table.base.to_le_bytes());
    v.write_bytes(place.segment, place.offset, &bytes[..length])
}

/// LLDT, LTR and the look-ups don't exist in real-address and V86 mode.
fn require_protected(v: &Vcpu) -> Result<(), Fault> {
    if v.cpu.real_or_v86() {
        return Err(Fault::UD);
    }
    Ok(())
}

/// The 16-bit operand `i`.
fn selector(v: &mut Vcpu, insn: &Instruction, i: u32) -> Result<u16, Fault> {
    if insn.op_kind(i) == OpKind::Register {
        return Ok(v.reg(insn.op_register(i)) as u16);
    }
    let place = v.place(insn);
    Ok(v.read(place.segment, place.offset, 2)? as u16)
}

fn lldt(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    require_protected(v)?;
    v.require_cpl0()?;
    let selector = selector(v, insn, 0)?;
    v.cpu.ldtr = if null(selector) {
        null_segment(selector, 0)
    } else {
        v.ldt_segment(selector, vector::GP, vector::NP)?
    };
    Ok(())
}

fn ltr(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    use system_type::*;
    require_protected(v)?;
    v.require_cpl0()?;
    let selector = selector(v, insn, 0)?;
    if null(selector) {
        return Err(Fault::GP0);
    }
    if selector & 4 != 0 {
        return Err(Fault::gp(selector));
    }
    let d = v.read_wide_descriptor(selector, vector::GP)?;
    let kind = d.system_type();
    if kind != TSS32 && (kind != TSS16 || v.cpu.long_mode()) {
        return Err(Fault::gp(selector));
    }
    if !d.present() {
        return Err(selector_fault(vector::NP, selector));
    }
    if !canonical(d.base()) {
        return Err(Fault::gp(selector));
    }
    v.update_type(selector, BUSY, 0)?;
    v.cpu.tr = d.segment(selector);
    v.cpu.tr.attributes |= BUSY as u32;
    Ok(())
}

/// SLDT and STR: memory gets 16 bits, a register as many as it has.
fn store_selector(v: &mut Vcpu, insn: &Instruction, selector: u16) -> Result<(), Fault> {
    require_protected(v)?;
    v.check_umip()?;
    if insn.op_kind(0) == OpKind::Register {
        v.set_reg(insn.op_register(0), selector as u64);
        return Ok(());
    }
    let place = v.place(insn);
    v.write(place.segment, place.offset, 2, selector as u64)
}

/// The descriptor that LAR, LSL, VERR or VERW may look at; None where there is none or privilege is
/// missing.
fn visible(v: &mut Vcpu, selector: u16) -> Result<Option<Descriptor>, Fault> {
    if null(selector) {
        return Ok(None);
    }
    let d = match v.read_descriptor(selector, vector::GP) {
        Ok(d) => d,
        Err(fault) if fault.vector == vector::GP => return Ok(None),
        Err(fault) => return Err(fault),
    };
    let privileged = !d.conforming() && d.dpl() < rpl(selector).max(v.cpu.cpl);
    Ok((!privileged).then_some(d))
}

fn set_zero_flag(v: &mut Vcpu, on: bool) {
    v.cpu.rflags = v.cpu.rflags & !flags::ZF | if on { flags::ZF } else { 0 };
}

fn lar(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    use system_type::*;
    require_protected(v)?;
    let selector = selector(v, insn, 1)?;
    let long = v.cpu.long_mode();
    let found = visible(v, selector)?.filter(|d| {
        d.is(attr::S)
            || match d.system_type() {
                LDT | TSS32 | BUSY_TSS32 | CALL_GATE32 => true,
                TSS16 | BUSY_TSS16 | CALL_GATE16 | TASK_GATE => !long,
                _ => false,
            }
    });
    set_zero_flag(v, found.is_some());
    if let Some(d) = found {
        v.set_reg(insn.op_register(0), d.raw >> 32 & 0x00FF_FF00);
    }
    Ok(())
}

fn lsl(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    use system_type::*;
    require_protected(v)?;
    let selector = selector(v, insn, 1)?;
    let long = v.cpu.long_mode();
    let found = visible(v, selector)?.filter(|d| {
        d.is(attr::S)
            || match d.system_type() {
                LDT | TSS32 | BUSY_TSS32 => true,
                TSS16 | BUSY_TSS16 => !long,
                _ => false,
            }
    });
    set_zero_flag(v, found.is_some());
    if let Some(d) = found {
        v.set_reg(insn.op_register(0), d.limit() as u64);
    }
    Ok(())
}

/// VERR and VERW.
fn verify(v: &mut Vcpu, insn: &Instruction, allows: fn(Descriptor) -> bool) -> Result<(), Fault> {
    require_protected(v)?;
    let selector = selector(v, insn, 0)?;
    let found = visible(v, selector)?.is_some_and(allows);
    set_zero_flag(v, found);
    Ok(())
}

/// Where nothing has to be raised nothing is written, and a read-only destination is no fault.
fn arpl(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    require_protected(v)?;
    let destination = v.read_operand(insn, 0)?;
    let source = v.reg(insn.op_register(1));
    let raise = destination & 3 < source & 3;
    if raise {
        v.write_operand(insn, 0, destination & !3 | source & 3)?;
    }
    set_zero_flag(v, raise);
    Ok(())
}

impl Vcpu {
    /// CR4.UMIP keeps SGDT, SIDT, SLDT, STR and SMSW from user code.
    pub(super) fn check_umip(&self) -> Result<(), Fault> {
        if self.cpu.cr4 & cr4::UMIP != 0 && self.cpu.cpl > 0 {
            return Err(Fault::GP0);
        }
        Ok(())
    }
}
