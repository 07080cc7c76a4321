//! Instructions that access memory element by element: gathers and scatters (SDM vol. 2, 2.3.12
//! and 2.8.6), and the byte-masked stores MASKMOVQ and MASKMOVDQU.
//!
//! A fault leaves the elements before it done and their mask bits clear, so that the instruction,
//! started again, does the rest.

use super::checks::{self, Pending};
use super::image::ZMM_BYTES;
use super::memory::vector_number;
use crate::fault::Fault;
use crate::fpustate::legacy;
use crate::interp::operand::{Place, mask, segment_number};
use crate::state::gpr;
use crate::vcpu::Vcpu;
use iced_x86::{EncodingKind, Instruction, Mnemonic, OpKind, Register};

/// Which elements are still to do.
#[derive(Clone, Copy)]
enum Mask {
    Opmask(usize),
    /// The sign bits of a vector register.
    Vector(usize),
}

/// A gather's or scatter's parts.
struct Shape {
    /// Index elements and data elements, in bytes.
    index_size: usize,
    size: usize,
    count: usize,
    index: [u8; ZMM_BYTES],
    /// The vector register gathered into or scattered from.
    data: usize,
    data_bytes: usize,
    mask: Mask,
}

impl Shape {
    fn of(v: &Vcpu, insn: &Instruction) -> Result<Shape, Fault> {
        let evex = insn.encoding() == EncodingKind::EVEX;
        let data = if insn.op0_kind() == OpKind::Memory {
            insn.op1_register()
        } else {
            insn.op0_register()
        };
        let index = insn.memory_index();
        let index_size = if insn.is_vsib64() { 8 } else { 4 };
        let size = insn.memory_size().size();
        if !matches!(size, 4 | 8) || !data.is_vector_register() {
            // AVX512PF's prefetches, which no model has.
            return Err(Fault::UD);
        }
        let mask = if evex {
            Mask::Opmask(insn.op_mask() as usize - Register::K0 as usize)
        } else {
            Mask::Vector(vector_number(insn.op2_register()))
        };
        Ok(Shape {
            index_size,
            size,
            count: (index.size() / index_size).min(data.size() / size),
            index: v.cpu.fpu.vector(vector_number(index)),
            data: vector_number(data),
            data_bytes: data.size(),
            mask,
        })
    }

    /// Whether element `i` is to do.
    fn wanted(&self, v: &Vcpu, i: usize) -> bool {
        match self.mask {
            Mask::Opmask(k) => v.cpu.fpu.opmask(k) >> i & 1 != 0,
            Mask::Vector(n) => v.cpu.fpu.vector(n)[(i + 1) * self.size - 1] & 0x80 != 0,
        }
    }

    /// Marks element `i` as done.
    fn done(&self, v: &mut Vcpu, i: usize) {
        match self.mask {
            Mask::Opmask(k) => {
                let left = v.cpu.fpu.opmask(k) & !(1 << i);
                v.cpu.fpu.set_opmask(k, left);
            }
            Mask::Vector(n) => {
                let mut value = v.cpu.fpu.vector(n);
                value[i * self.size..(i + 1) * self.size].fill(0);
                v.cpu.fpu.set_vector(n, &value);
            }
        }
    }

    /// All of the mask register becomes zero in the end.
    fn clear_mask(&self, v: &mut Vcpu) {
        match self.mask {
            Mask::Opmask(k) => v.cpu.fpu.set_opmask(k, 0),
            Mask::Vector(n) => v.cpu.fpu.set_vector(n, &[0; ZMM_BYTES]),
        }
    }

    /// The logical address of element `i`.
    fn place(&self, v: &Vcpu, insn: &Instruction, i: usize) -> Place {
        let bytes = &self.index[i * self.index_size..(i + 1) * self.index_size];
        let raw = bytes.iter().rev().fold(0, |n, &b| n << 8 | b as u64);
        let index = if self.index_size == 4 {
            raw as i32 as i64 as u64
        } else {
            raw
        };
        let base = insn.memory_base();
        let (start, width) = if base == Register::None {
            (0, insn.memory_displ_size().clamp(4, 8) as usize)
        } else {
            (v.reg(base), base.size())
        };
        let offset = start
            .wrapping_add(insn.memory_displacement64())
            .wrapping_add(index.wrapping_mul(insn.memory_index_scale() as u64));
        Place {
            segment: segment_number(insn.memory_segment()),
            offset: offset & mask(width),
        }
    }
}

/// Executes a gather or scatter.
pub fn execute(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    checks::available(v, insn)?;
    checks::enabled(v, checks::unit(insn).ok_or(Fault::UD)?)?;
    let shape = Shape::of(v, insn)?;
    if insn.op0_kind() == OpKind::Memory {
        scatter(v, insn, &shape)?;
    } else {
        gather(v, insn, &shape)?;
    }
    shape.clear_mask(v);
    Ok(())
}

fn gather(v: &mut Vcpu, insn: &Instruction, shape: &Shape) -> Result<(), Fault> {
    let size = shape.size;
    for i in 0..shape.count {
        if !shape.wanted(v, i) {
            continue;
        }
        let place = shape.place(v, insn, i);
        let value = v.read(place.segment, place.offset, size)?;
        let mut data = v.cpu.fpu.vector(shape.data);
        data[i * size..(i + 1) * size].copy_from_slice(&value.to_le_bytes()[..size]);
        v.cpu.fpu.set_vector(shape.data, &data);
        shape.done(v, i);
    }
    // Only now, for a restarted gather must find what it had.
    let mut data = v.cpu.fpu.vector(shape.data);
    data[(shape.count * size).min(shape.data_bytes)..].fill(0);
    v.cpu.fpu.set_vector(shape.data, &data);
    Ok(())
}

fn scatter(v: &mut Vcpu, insn: &Instruction, shape: &Shape) -> Result<(), Fault> {
    let size = shape.size;
    for i in 0..shape.count {
        if !shape.wanted(v, i) {
            continue;
        }
        let place = shape.place(v, insn, i);
        let data = v.cpu.fpu.vector(shape.data);
        let value = data[i * size..(i + 1) * size]
            .iter()
            .rev()
            .fold(0, |n, &b| n << 8 | b as u64);
        v.write(place.segment, place.offset, size, value)?;
        shape.done(v, i);
    }
    Ok(())
}

/// MASKMOVQ, MASKMOVDQU and VMASKMOVDQU: stores the bytes at rDI whose mask byte is negative.
pub fn maskmov(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    checks::available(v, insn)?;
    let mmx = insn.mnemonic() == Mnemonic::Maskmovq;
    checks::enabled(v, checks::unit(insn).ok_or(Fault::UD)?)?;
    if mmx && checks::pending_x87(v)? == Pending::Frozen {
        return Ok(());
    }
    let (data, select, count) = if mmx {
        (
            mmx_bytes(v, insn.op1_register()),
            mmx_bytes(v, insn.op2_register()),
            8,
        )
    } else {
        let register = |r| v.cpu.fpu.vector(vector_number(r));
        (
            register(insn.op1_register()),
            register(insn.op2_register()),
            16,
        )
    };
    let width = match insn.op0_kind() {
        OpKind::MemorySegDI => 2,
        OpKind::MemorySegEDI => 4,
        _ => 8,
    };
    let segment = segment_number(insn.memory_segment());
    let place = |v: &Vcpu, i: usize| v.cpu.gpr[gpr::RDI].wrapping_add(i as u64) & mask(width);
    let selected = |i: &usize| select[*i] & 0x80 != 0;
    for i in (0..count).filter(selected) {
        v.probe_write(segment, place(v, i), 1)?;
    }
    for i in (0..count).filter(selected) {
        v.write(segment, place(v, i), 1, data[i] as u64)?;
    }
    if mmx {
        enter_mmx(v);
    }
    Ok(())
}

/// MM0 to MM7 are the significands of the physical x87 registers.
fn mmx_bytes(v: &Vcpu, register: Register) -> [u8; ZMM_BYTES] {
    let n = register as usize - Register::MM0 as usize;
    let mut value = [0; ZMM_BYTES];
    let st = (n + 8 - v.cpu.fpu.top()) & 7;
    value[..8].copy_from_slice(&v.cpu.fpu.st(st)[..8]);
    value
}

/// What every MMX instruction does to the x87 state: TOP is 0, no register is empty.
fn enter_mmx(v: &mut Vcpu) {
    v.cpu.fpu.set_top(0);
    v.cpu.fpu.set_u16(legacy::TAGS, 0xFF);
}
