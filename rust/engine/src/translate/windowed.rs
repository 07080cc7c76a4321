//! Host code that accesses memory through windows (`window`).
//!
//! 32-bit code: GS is based on the window, an address-size prefix cuts the address.  64-bit code: the
//! addend of the base register's chunk goes to R10, and margins around windows take the displacement:
//!
//! ```text
//! rorx r10, base, 32
//! movzx r10d, r10w
//! mov r10, [rsp + r10*8 + chunks]
//! op [base + r10 + disp]
//! ```
//!
//! Neither touches flags.

use super::block::{Builder, address_bits, const_address, host_register, register_number};
use super::emit::{Gpr, Mem, R9, R10, RSP, Seg, W16, W32, W64};
use super::env::Area;
use super::mode::bit;
use super::runtime::{emit_restore_flags, emit_save_flags, field, segment_base};
use crate::state::seg;
use iced_x86::{Instruction, Register};
use std::mem::offset_of;

impl Builder<'_> {
    /// The host place of the current instruction's memory operand.
    pub fn window_memory(&mut self, ins: &Instruction, size: usize, write: bool) -> Mem {
        let segment = crate::interp::operand::segment_number(ins.memory_segment());
        if self.mode().code64() {
            self.window_memory64(ins, segment)
        } else {
            self.window_memory32(ins, segment, size, write)
        }
    }

    fn window_memory64(&mut self, ins: &Instruction, segment: usize) -> Mem {
        let based = segment >= seg::FS;
        if !based && let Some(linear) = const_address(ins, self.mode()) {
            return self.window_const(linear);
        }
        let plain = ins.memory_index() == Register::None && address_bits(ins, self.mode()) == 64;
        if !based
            && plain
            && let Some(host) = host_register(register_number(ins.memory_base()))
        {
            let disp = ins.memory_displacement64() as i32;
            return self.near(host).disp(disp);
        }
        self.effective_address(ins);
        if based {
            self.asm.mov(W64, R10, segment_base(segment));
            self.asm.lea(W64, R9, Mem::base(R9).index(R10, 1));
        }
        self.near(R9)
    }

    /// The host place of the address in `base`; R10 = its addend.
    fn near(&mut self, base: Gpr) -> Mem {
        self.asm.rorx(W64, R10, base, 32);
        self.asm.movzx(W32, R10, W16, R10);
        let chunks = Mem::base(RSP).disp(offset_of!(Area, chunks) as i32);
        self.asm.mov(W64, R10, chunks.index(R10, 8));
        Mem::base(base).index(R10, 1)
    }

    fn window_const(&mut self, linear: u64) -> Mem {
        let chunk = (linear >> 32) as u16 as usize;
        let addend = field(offset_of!(Area, chunks) + 8 * chunk);
        self.asm.mov(W64, R10, addend);
        if let Ok(disp) = i32::try_from(linear) {
            return Mem::base(R10).disp(disp);
        }
        self.asm.mov(W64, R9, linear);
        Mem::base(R9).index(R10, 1)
    }

    fn window_memory32(
        &mut self,
        ins: &Instruction,
        segment: usize,
        size: usize,
        write: bool,
    ) -> Mem {
        if self.mode().is_flat(segment) && !(write && segment == seg::CS) {
            if let Some(offset) = const_address(ins, self.mode()) {
                return Mem::absolute(offset as i32).seg(Seg::Gs).addr32();
            }
            if let Some(mem) = self.resident_address(ins) {
                return mem.seg(Seg::Gs).addr32();
            }
        }
        let live = !self.insn().flags_dead();
        self.effective_address(ins);
        if live {
            emit_save_flags(self.asm);
        }
        self.add_segment(segment, size, write, live);
        if live {
            emit_restore_flags(self.asm);
        }
        Mem::base(R9).seg(Seg::Gs).addr32()
    }

    /// The host place of `base` + `offset` on the stack, if it's one that windows serve.
    pub fn window_stack(&mut self, base: Gpr, offset: i32) -> Option<Mem> {
        if !self.source.windowed {
            return None;
        }
        if self.mode().code64() {
            return Some(self.near(base).disp(offset));
        }
        let flat = self.mode().has(bit::STACK32) && self.mode().is_flat(seg::SS);
        let place = Mem::base(base).disp(offset).seg(Seg::Gs).addr32();
        flat.then_some(place)
    }
}
