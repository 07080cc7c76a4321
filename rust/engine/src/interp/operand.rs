//! Operands of a decoded instruction: registers, immediates and memory, by position.

use crate::fault::Fault;
use crate::state::{gpr, seg};
use crate::vcpu::Vcpu;
use iced_x86::{Instruction, OpKind, Register};

/// A logical address: segment register number and offset, wrapped to the address size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub segment: usize,
    pub offset: u64,
}

/// All ones in the low `size` bytes.
pub const fn mask(size: usize) -> u64 {
    u64::MAX >> (64 - 8 * size as u32)
}

/// The top bit of a `size`-byte value.
pub const fn sign_bit(size: usize) -> u64 {
    1 << (8 * size as u32 - 1)
}

/// Sign-extends a `size`-byte value to 64 bits.
pub const fn sign_extend(value: u64, size: usize) -> u64 {
    let shift = 64 - 8 * size as u32;
    ((value << shift) as i64 >> shift) as u64
}

/// Number of a segment register, by `state::seg`.
pub fn segment_number(register: Register) -> usize {
    match register {
        Register::ES => seg::ES,
        Register::CS => seg::CS,
        Register::SS => seg::SS,
        Register::FS => seg::FS,
        Register::GS => seg::GS,
        _ => seg::DS,
    }
}

impl Vcpu {
    /// A general register of any width, AH to BH included.
    pub fn reg(&self, register: Register) -> u64 {
        if is_high_byte(register) {
            return self.cpu.gpr[register as usize - Register::AH as usize] >> 8 & 0xFF;
        }
        self.cpu.gpr[number(register)] & mask(register.size())
    }

    /// Writes a general register: 32-bit results are zero-extended, narrower ones merged.
    pub fn set_reg(&mut self, register: Register, value: u64) {
        if is_high_byte(register) {
            let r = &mut self.cpu.gpr[register as usize - Register::AH as usize];
            *r = *r & !0xFF00 | (value & 0xFF) << 8;
            return;
        }
        self.set_gpr(number(register), register.size(), value);
    }

    /// Writes `size` bytes of general register `index` (0 to 15).
    pub fn set_gpr(&mut self, index: usize, size: usize, value: u64) {
        let r = &mut self.cpu.gpr[index];
        *r = match size {
            8 => value,
            4 => value & mask(4),
            _ => *r & !mask(size) | value & mask(size),
        };
    }

    /// Bytes of operand `i`.
    pub fn size_of(&self, insn: &Instruction, i: u32) -> usize {
        match insn.op_kind(i) {
            OpKind::Register => insn.op_register(i).size(),
            OpKind::Immediate8 | OpKind::Immediate8_2nd => 1,
            OpKind::Immediate16 | OpKind::Immediate8to16 => 2,
            OpKind::Immediate32 | OpKind::Immediate8to32 => 4,
            OpKind::Immediate64 | OpKind::Immediate8to64 | OpKind::Immediate32to64 => 8,
            _ => insn.memory_size().size(),
        }
    }

    /// The effective address of the memory operand, wrapped to the address size.
    pub fn place(&self, insn: &Instruction) -> Place {
        let segment = segment_number(insn.memory_segment());
        let base = insn.memory_base();
        if base == Register::RIP || base == Register::EIP {
            return Place {
                segment,
                offset: insn.memory_displacement64(),
            };
        }
        let index = insn.memory_index();
        let mut offset = insn.memory_displacement64();
        if base != Register::None {
            offset = offset.wrapping_add(self.cpu.gpr[number(base)]);
        }
        if index.is_gpr() {
            let scaled = self
                .reg(index)
                .wrapping_mul(insn.memory_index_scale() as u64);
            offset = offset.wrapping_add(scaled);
        }
        Place {
            segment,
            offset: offset & mask(self.address_size(insn)),
        }
    }

    /// Bytes of the memory operand's address size.
    pub fn address_size(&self, insn: &Instruction) -> usize {
        let (base, index) = (insn.memory_base(), insn.memory_index());
        if base != Register::None {
            // XLAT's index is AL, so the base comes first.
            return base.size();
        }
        if index.is_gpr() {
            return index.size();
        }
        // Displacement only: the address size shows in its size.  In 64-bit mode the decoder has
        // extended it already, by sign or (67h) by zero.
        match insn.memory_displ_size() {
            2 => 2,
            4 if !self.cpu.code64() => 4,
            8 => 8,
            _ => self.cpu.code_bits() as usize / 8,
        }
    }

    /// Reads operand `i`, zero-extended; immediates are sign-extended to the operand's size.
    pub fn read_operand(&mut self, insn: &Instruction, i: u32) -> Result<u64, Fault> {
        match insn.op_kind(i) {
            OpKind::Register => {
                let register = insn.op_register(i);
                if register.is_segment_register() {
                    return Ok(self.cpu.seg[segment_number(register)].selector as u64);
                }
                Ok(self.reg(register))
            }
            OpKind::Memory => {
                let place = self.place(insn);
                self.read(place.segment, place.offset, insn.memory_size().size())
            }
            _ => Ok(insn.immediate(i)),
        }
    }

    /// Writes operand `i` (a general register or memory).
    pub fn write_operand(&mut self, insn: &Instruction, i: u32, value: u64) -> Result<(), Fault> {
        if insn.op_kind(i) == OpKind::Register {
            self.set_reg(insn.op_register(i), value);
            return Ok(());
        }
        let place = self.place(insn);
        self.write(
            place.segment,
            place.offset,
            insn.memory_size().size(),
            value,
        )
    }

    /// Reads operand `i` to be written back: for memory the write is checked first, so that
    /// `write_operand` can't fault any more.
    pub fn read_operand_for_update(&mut self, insn: &Instruction, i: u32) -> Result<u64, Fault> {
        if insn.op_kind(i) == OpKind::Memory {
            let place = self.place(insn);
            self.probe_write(place.segment, place.offset, insn.memory_size().size())?;
        }
        self.read_operand(insn, i)
    }

    /// The stack pointer, by the stack's address size.
    pub fn stack_pointer(&self) -> u64 {
        self.cpu.gpr[gpr::RSP] & self.cpu.stack_mask()
    }

    /// Sets the part of RSP that the stack's address size covers.
    pub fn set_stack_pointer(&mut self, value: u64) {
        let mask = self.cpu.stack_mask();
        let rsp = &mut self.cpu.gpr[gpr::RSP];
        *rsp = *rsp & !mask | value & mask;
    }
}

fn is_high_byte(register: Register) -> bool {
    matches!(
        register,
        Register::AH | Register::CH | Register::DH | Register::BH
    )
}

/// Number of a general register of any width (AH to BH excepted).
fn number(register: Register) -> usize {
    register.full_register() as usize - Register::RAX as usize
}
