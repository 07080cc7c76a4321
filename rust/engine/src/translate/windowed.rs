//! Host code that accesses memory through windows (`window`).
//!
//! 32-bit user code: GS is based on the window, an address-size prefix cuts the address.  32-bit kernel
//! code: R11 has the window's base.  64-bit code: the addend of the base register's chunk goes to R10, and
//! margins around windows take the displacement:
//!
//! ```text
//! rorx r10, base, 32
//! movzx r10d, r10w
//! mov r10, [rsp + r10*8 + chunks]
//! op [base + r10 + disp]
//! ```
//!
//! Neither touches flags.  An addend serves further accesses by the same register, while that changes by
//! constants only: R10 has that of the last one, R11 that of the stack pointer.

use super::block::{
    Builder, Insn, address_bits, const_address, host_register, register_number, resident_lea,
};
use super::emit::{Gpr, Mem, R8, R9, R10, R11, Seg, W16, W32, W64};
use super::env::Area;
use super::group;
use super::mode::bit;
use super::rules::Rule;
use super::runtime::{emit_restore_flags, emit_save_flags, field, segment_base};
use super::spaces::CHUNKS;
use crate::state::seg;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use std::mem::offset_of;

/// How far a register may go from where its addend was looked up: the margins have room for that.
const MAX_DRIFT: i64 = 1 << 20;

/// Displacements below are rather addresses at the top, to which a small register is added.
const MIN_DISPLACEMENT: i32 = -0x1_0000;

/// A register that has an addend.
#[derive(Clone, Copy)]
struct Near {
    base: Gpr,
    /// By how much it changed since.
    drift: i64,
}

/// Which addends are in R10 and R11.
#[derive(Default)]
pub struct Addends {
    near: [Option<Near>; 2],
    /// R11 is the base of the only window.
    only: bool,
}

impl Addends {
    const REGISTERS: [Gpr; 2] = [R10, R11];

    fn slot(base: Gpr) -> usize {
        usize::from(base == R8)
    }

    pub fn forget(&mut self) {
        *self = Addends::default();
    }

    /// The registers in use, a bit for each.
    pub fn in_use(&self) -> u16 {
        let used = self.near.iter().zip(Addends::REGISTERS);
        let bits = used.filter(|(near, _)| near.is_some());
        bits.fold(u16::from(self.only) << R11.0, |bits, (_, r)| {
            bits | 1 << r.0
        })
    }

    /// What an instruction changes about them.
    pub fn pass(&mut self, insn: &Insn, resident: bool) {
        use Rule::*;
        if !matches!(insn.rule, Copy | Push | Pop | Lea | Nothing | Jcc) {
            return self.forget();
        }
        if insn.rule == Lea && !resident {
            self.near[0] = None;
        }
        for slot in &mut self.near {
            *slot = slot.and_then(|near| {
                let drift = near.drift + change(insn, guest_register(near.base))?;
                (drift.abs() <= MAX_DRIFT).then_some(Near { drift, ..near })
            });
        }
    }
}

fn guest_register(host: Gpr) -> Register {
    let number = if host == R8 { 4 } else { host.0 as u32 };
    Register::RAX + number
}

/// By how much an instruction changes a 64-bit register; None: nobody knows.
fn change(insn: &Insn, register: Register) -> Option<i64> {
    let ins = &insn.ins;
    let stack = matches!(insn.rule, Rule::Push | Rule::Pop);
    if insn.rule == Rule::Pop && ins.op0_register().full_register() == register {
        return None;
    }
    if stack && register == Register::RSP {
        return Some(ins.stack_pointer_increment() as i64);
    }
    if stack || !group::writes(insn, register) {
        return Some(0);
    }
    if ins.op0_kind() != OpKind::Register || ins.op0_register() != register {
        return None;
    }
    let constant = ins.op_count() == 2 && ins.op1_kind() == OpKind::Immediate8to64
        || ins.op_count() == 2 && ins.op1_kind() == OpKind::Immediate32to64;
    match ins.mnemonic() {
        Mnemonic::Add if constant => Some(ins.immediate(1) as i64),
        Mnemonic::Sub if constant => Some((ins.immediate(1) as i64).wrapping_neg()),
        Mnemonic::Inc => Some(1),
        Mnemonic::Dec => Some(-1),
        Mnemonic::Lea => {
            let moved = ins.memory_base() == register && ins.memory_index() == Register::None;
            moved.then_some(ins.memory_displacement64() as i64)
        }
        _ => None,
    }
}

impl Builder<'_> {
    /// Before the next instruction: what the current one changes about addends.
    pub fn pass_addends(&mut self) {
        if self.source.windowed {
            let insn = &self.source.insns[self.at];
            let resident = insn.rule != Rule::Lea || resident_lea(&insn.ins, self.mode());
            self.addends.pass(insn, resident);
        }
    }

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
        let disp = ins.memory_displacement64() as i32;
        let plain = ins.memory_index() == Register::None && disp >= MIN_DISPLACEMENT;
        if !based
            && plain
            && address_bits(ins, self.mode()) == 64
            && let Some(host) = host_register(register_number(ins.memory_base()))
        {
            return self.near(host).disp(disp);
        }
        self.addends.near[0] = None;
        self.effective_address(ins);
        if based {
            self.asm.mov(W64, R10, segment_base(segment));
            self.asm.lea(W64, R9, Mem::base(R9).index(R10, 1));
        }
        self.near(R9)
    }

    /// The host place of the address in `base`.
    fn near(&mut self, base: Gpr) -> Mem {
        let slot = Addends::slot(base);
        let addend = Addends::REGISTERS[slot];
        let place = Mem::base(base).index(addend, 1);
        if self.addends.near[slot].is_some_and(|near| near.base == base) {
            return place;
        }
        self.asm.rorx(W64, addend, base, 32);
        self.asm.movzx(W32, addend, W16, addend);
        let chunks = self.chunk(0).index(addend, 8);
        self.asm.mov(W64, addend, chunks);
        self.addends.near[slot] = (base != R9).then_some(Near { base, drift: 0 });
        place
    }

    /// The addend of a chunk.
    fn chunk(&self, chunk: usize) -> Mem {
        let class = self.mode().class();
        field(offset_of!(Area, chunks) + 8 * (CHUNKS * class + chunk))
    }

    fn window_const(&mut self, linear: u64) -> Mem {
        let chunk = (linear >> 32) as u16 as usize;
        let addend = self.chunk(chunk);
        self.addends.near[0] = None;
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
                return self.at32(Mem::absolute(offset as i32));
            }
            if let Some(mem) = self.resident_address(ins) {
                return self.at32(mem);
            }
        }
        let live = !self.insn().flags_dead();
        self.effective_address(ins);
        if live {
            self.addends.forget();
            emit_save_flags(self.asm);
        }
        self.add_segment(segment, size, write, live);
        if live {
            emit_restore_flags(self.asm);
        }
        self.at32(Mem::base(R9))
    }

    /// The host place of a 32-bit address.
    fn at32(&mut self, address: Mem) -> Mem {
        if self.mode().has(bit::USER) {
            return address.seg(Seg::Gs).addr32();
        }
        if !std::mem::replace(&mut self.addends.only, true) {
            let window = self.chunk(0);
            self.asm.mov(W64, R11, window);
        }
        match address {
            Mem {
                base: Some(base),
                index: None,
                disp,
                ..
            } if disp >= MIN_DISPLACEMENT => Mem::base(base).index(R11, 1).disp(disp),
            Mem {
                base: None,
                index: None,
                disp,
                ..
            } if disp >= 0 => Mem::base(R11).disp(disp),
            _ => {
                self.asm.lea(W32, R9, address);
                Mem::base(R9).index(R11, 1)
            }
        }
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
        flat.then(|| self.at32(Mem::base(base).disp(offset)))
    }
}
