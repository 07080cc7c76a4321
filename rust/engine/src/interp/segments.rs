//! Segment registers: MOV, POP, LDS and its kin, the bases of FS and GS (SDM vol. 2, under each).

use super::operand::segment_number;
use crate::fault::Fault;
use crate::mmu::segment::canonical;
use crate::state::{cr4, gpr, seg, shadow};
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// Executes `insn` if it is one of this family.
pub(super) fn execute(v: &mut Vcpu, insn: &Instruction) -> Option<Result<(), Fault>> {
    let first = insn.op0_register();
    Some(match insn.mnemonic() {
        Mnemonic::Mov if first.is_segment_register() => move_to(v, insn, segment_number(first)),
        Mnemonic::Pop if first.is_segment_register() => pop(v, insn, segment_number(first)),
        Mnemonic::Lds => load_far_pointer(v, insn, seg::DS),
        Mnemonic::Les => load_far_pointer(v, insn, seg::ES),
        Mnemonic::Lfs => load_far_pointer(v, insn, seg::FS),
        Mnemonic::Lgs => load_far_pointer(v, insn, seg::GS),
        Mnemonic::Lss => load_far_pointer(v, insn, seg::SS),
        Mnemonic::Rdfsbase => read_base(v, insn, seg::FS),
        Mnemonic::Rdgsbase => read_base(v, insn, seg::GS),
        Mnemonic::Wrfsbase => write_base(v, insn, seg::FS),
        Mnemonic::Wrgsbase => write_base(v, insn, seg::GS),
        Mnemonic::Swapgs => swapgs(v),
        _ => return None,
    })
}

fn move_to(v: &mut Vcpu, insn: &Instruction, index: usize) -> Result<(), Fault> {
    if index == seg::CS {
        return Err(Fault::UD);
    }
    let selector = if insn.op_kind(1) == OpKind::Memory {
        let place = v.place(insn);
        v.read(place.segment, place.offset, 2)?
    } else {
        v.reg(insn.op_register(1))
    };
    v.load_segment(index, selector as u16)?;
    if index == seg::SS {
        v.cpu.shadow |= shadow::MOV_SS;
    }
    Ok(())
}

fn pop(v: &mut Vcpu, insn: &Instruction, index: usize) -> Result<(), Fault> {
    let size = insn.stack_pointer_increment().unsigned_abs() as usize;
    let mut stack = v.current_stack();
    let selector = v.pop_frame(&mut stack, size)? as u16;
    let loaded = v.segment_for(index, selector)?;
    v.cpu.gpr[gpr::RSP] = stack.pointer;
    v.cpu.seg[index] = loaded;
    if index == seg::SS {
        v.cpu.shadow |= shadow::MOV_SS;
    }
    Ok(())
}

fn load_far_pointer(v: &mut Vcpu, insn: &Instruction, index: usize) -> Result<(), Fault> {
    let target = insn.op_register(0);
    let (selector, offset) = v.far_pointer(insn, target.size())?;
    v.load_segment(index, selector)?;
    v.set_reg(target, offset);
    Ok(())
}

/// #UD unless in 64-bit mode with CR4.FSGSBASE.
fn check_base_access(v: &Vcpu) -> Result<(), Fault> {
    if !v.cpu.code64() || v.cpu.cr4 & cr4::FSGSBASE == 0 {
        return Err(Fault::UD);
    }
    Ok(())
}

fn read_base(v: &mut Vcpu, insn: &Instruction, index: usize) -> Result<(), Fault> {
    check_base_access(v)?;
    v.set_reg(insn.op_register(0), v.cpu.seg[index].base);
    Ok(())
}

fn write_base(v: &mut Vcpu, insn: &Instruction, index: usize) -> Result<(), Fault> {
    check_base_access(v)?;
    let base = v.reg(insn.op_register(0));
    if !canonical(base) {
        return Err(Fault::GP0);
    }
    v.cpu.seg[index].base = base;
    Ok(())
}

fn swapgs(v: &mut Vcpu) -> Result<(), Fault> {
    if !v.cpu.code64() {
        return Err(Fault::UD);
    }
    v.require_cpl0()?;
    let gs = &mut v.cpu.seg[seg::GS];
    std::mem::swap(&mut gs.base, &mut v.cpu.msr.kernel_gs_base);
    Ok(())
}
