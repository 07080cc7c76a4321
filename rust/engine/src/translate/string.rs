//! MOVS, STOS, LODS, SCAS and CMPS without a repeat prefix, MOVS and STOS with one (SDM vol. 2).
//!
//! DF is part of the mode, and blocks with these rules exist for DF=0 only.  Sources use RSI and the
//! instruction's segment, destinations RDI and ES.

use super::block::{Builder, Flow};
use super::emit::{
    Alu, Asm, Cond, Gpr, Label, Mem, R9, R10, R11, RAX, RCX, RDI, RSI, W8, W16, W32, W64, Width,
};
use super::env::{Area, Tlb};
use super::mode::{Mode, bit};
use super::runtime::{emit_restore_flags, emit_save_flags, field, saved};
use crate::interp::operand::segment_number;
use crate::memory::PAGE;
use crate::state::seg;
use iced_x86::{Instruction, Mnemonic, OpKind};
use std::mem::offset_of;

/// What an instruction does, and the bytes of an element.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Movs,
    Stos,
    Lods,
    Scas,
    Cmps,
}

fn kind(ins: &Instruction) -> Option<(Kind, Width)> {
    use Mnemonic::*;
    let w8 = super::emit::W8;
    // MOVSD and CMPSD name SSE instructions too.
    let string = ins.op_kinds().any(|k| {
        use OpKind::*;
        matches!(
            k,
            MemorySegSI | MemorySegESI | MemorySegRSI | MemoryESDI | MemoryESEDI | MemoryESRDI
        )
    });
    if !string {
        return None;
    }
    Some(match ins.mnemonic() {
        Movsb => (Kind::Movs, w8),
        Movsw => (Kind::Movs, W16),
        Movsd => (Kind::Movs, W32),
        Movsq => (Kind::Movs, W64),
        Stosb => (Kind::Stos, w8),
        Stosw => (Kind::Stos, W16),
        Stosd => (Kind::Stos, W32),
        Stosq => (Kind::Stos, W64),
        Lodsb => (Kind::Lods, w8),
        Lodsw => (Kind::Lods, W16),
        Lodsd => (Kind::Lods, W32),
        Lodsq => (Kind::Lods, W64),
        Scasb => (Kind::Scas, w8),
        Scasw => (Kind::Scas, W16),
        Scasd => (Kind::Scas, W32),
        Scasq => (Kind::Scas, W64),
        Cmpsb => (Kind::Cmps, w8),
        Cmpsw => (Kind::Cmps, W16),
        Cmpsd => (Kind::Cmps, W32),
        Cmpsq => (Kind::Cmps, W64),
        _ => return None,
    })
}

/// Whether the rule serves `ins`: no repeat prefix, DF=0, the code's own address size.
pub fn has_rule(mode: &Mode, ins: &Instruction) -> bool {
    let plain = !ins.has_rep_prefix() && !ins.has_repne_prefix() && !mode.has(bit::DOWN);
    let bits = ins
        .op_kinds()
        .map(|k| match k {
            OpKind::MemorySegSI | OpKind::MemoryESDI => 16,
            OpKind::MemorySegESI | OpKind::MemoryESEDI => 32,
            OpKind::MemorySegRSI | OpKind::MemoryESRDI => 64,
            _ => 0,
        })
        .max();
    plain && kind(ins).is_some() && bits == Some(mode.code_bits())
}

/// Whether `emit_repeat` serves `ins`: MOVS or STOS with a repeat prefix in flat segments.
pub fn repeats(mode: &Mode, ins: &Instruction) -> bool {
    let repeated = ins.has_rep_prefix() || ins.has_repne_prefix();
    let mut plain = *ins;
    plain.set_has_rep_prefix(false);
    plain.set_has_repne_prefix(false);
    if !repeated || mode.code_bits() == 16 || !has_rule(mode, &plain) {
        return false;
    }
    let flat = |segment: usize| match mode.code64() {
        true => segment < seg::FS,
        false => mode.is_flat(segment),
    };
    match kind(ins) {
        Some((Kind::Movs, _)) => flat(segment_number(ins.memory_segment())) && flat(seg::ES),
        Some((Kind::Stos, _)) => flat(seg::ES),
        _ => false,
    }
}

/// The thunk does it, or goes on behind the jump that follows its call.
pub fn emit_repeat(b: &mut Builder) -> Flow {
    let Some((kind, width)) = kind(&b.insn().ins) else {
        return b.exit_interpret();
    };
    let thunk = b.thunks.repeat[b.mode().class()][Repeat { kind, width }.number(b.mode().code64())];
    let done = b.asm.label();
    b.asm.call_to(thunk);
    b.asm.jmp(done);
    b.assist();
    b.asm.bind(done);
    Flow::Next
}

/// Bytes of the jump behind the call of a `Repeat` thunk.
const JUMP_BYTES: i32 = 5;

/// A MOVS or STOS that is repeated.
#[derive(Clone, Copy)]
pub struct Repeat {
    kind: Kind,
    width: Width,
}

impl Repeat {
    pub const COUNT: usize = 16;

    fn number(self, wide: bool) -> usize {
        let width = self.width.bytes().trailing_zeros() as usize;
        8 * wide as usize + 4 * (self.kind == Kind::Stos) as usize + width
    }

    /// Emits the thunk with `number` for a privilege class.  Called with the flags in the host's; where
    /// all elements lie in one page of the inline TLB each, does all at once, forwards, as the guest
    /// would byte for byte: what overlaps does so in host memory too.
    pub fn emit_thunk(a: &mut Asm, number: usize, class: usize, bmi2: bool) {
        let kind = if number & 4 != 0 {
            Kind::Stos
        } else {
            Kind::Movs
        };
        let width = [W8, W16, W32, W64][number & 3];
        let address = if number & 8 != 0 { W64 } else { W32 };
        let size = width.bytes() as u8;
        let table = |part| {
            let tlb = offset_of!(Area, tlb) + class * size_of::<Tlb>() + part;
            up(field(tlb)).index(R10, 1)
        };
        let fail = a.label();
        emit_save_flags(a);
        a.alu(Alu::Cmp, W64, RCX, (PAGE / size as u64) as i32);
        a.jcc(Cond::A, fail);
        if kind == Kind::Movs {
            host_place(a, RSI, size, table(offset_of!(Tlb, read)), bmi2, fail);
            a.mov(W64, up(saved(1)), R9);
        }
        host_place(a, RDI, size, table(offset_of!(Tlb, write)), bmi2, fail);
        a.lea(address, R10, Mem::base(RDI).index(RCX, size));
        a.mov(W64, RDI, R9);
        if kind == Kind::Movs {
            a.lea(address, R9, Mem::base(RSI).index(RCX, size));
            a.mov(W64, RSI, up(saved(1)));
            a.rep_movs(width);
            a.mov(W64, RSI, R9);
        } else {
            a.xchg(W64, RAX, R11);
            a.rep_stos(width);
            a.xchg(W64, RAX, R11);
        }
        a.mov(W64, RDI, R10);
        emit_restore_flags(a);
        a.ret();
        a.bind(fail);
        emit_restore_flags(a);
        a.pop(R9);
        a.lea(W64, R9, Mem::base(R9).disp(JUMP_BYTES));
        a.jmp_indirect(R9);
    }
}

/// A thunk is called: the return address lies below the Area.
fn up(m: Mem) -> Mem {
    m.disp(m.disp + 8)
}

/// R9 = host address of what `pointer` names, if RCX elements from there lie in one page of `table`.
fn host_place(a: &mut Asm, pointer: Gpr, size: u8, table: Mem, bmi2: bool, fail: Label) {
    if bmi2 {
        a.rorx(W32, R10, pointer, 8);
    } else {
        a.mov(W32, R10, pointer);
        a.shift(super::emit::Shift::Shr, W32, R10, 8);
    }
    a.alu(Alu::And, W32, R10, 0x3FF0);
    a.mov(W64, R9, pointer);
    a.alu(Alu::Sub, W64, R9, table);
    a.mov(W64, up(saved(0)), R9);
    a.lea(W64, R9, Mem::base(R9).index(RCX, size));
    a.alu(Alu::Cmp, W64, R9, PAGE as i32);
    a.jcc(Cond::A, fail);
    a.mov(W64, R9, up(saved(0)));
    a.alu(Alu::Add, W64, R9, table.disp(table.disp + 8));
}

pub fn emit(b: &mut Builder) -> Flow {
    let ins = b.insn().ins;
    let Some((kind, width)) = kind(&ins) else {
        return b.exit_interpret();
    };
    let element = Mem::base(R9);
    let source = segment_number(ins.memory_segment());
    match kind {
        Kind::Lods => {
            probe(b, RSI, source, width, false);
            b.asm.mov(width, RAX, element);
            advance(b, RSI, width);
        }
        Kind::Stos => {
            probe(b, RDI, seg::ES, width, true);
            b.asm.mov(width, element, RAX);
            advance(b, RDI, width);
        }
        Kind::Scas => {
            probe(b, RDI, seg::ES, width, false);
            b.asm.alu(Alu::Cmp, width, RAX, element);
            advance(b, RDI, width);
        }
        Kind::Movs | Kind::Cmps => {
            probe(b, RSI, source, width, false);
            b.asm.mov(width, R10, element);
            b.asm.mov(W64, saved(8), R10);
            probe(b, RDI, seg::ES, width, kind == Kind::Movs);
            b.asm.mov(W64, R10, saved(8));
            if kind == Kind::Movs {
                b.asm.mov(width, element, R10);
            } else {
                b.asm.alu(Alu::Cmp, width, R10, element);
            }
            advance(b, RSI, width);
            advance(b, RDI, width);
        }
    }
    Flow::Next
}

/// R9 = the host address of the element that `pointer` names.
fn probe(b: &mut Builder, pointer: Gpr, segment: usize, width: Width, write: bool) {
    let live = !b.insn().flags_dead();
    match b.mode().code_bits() {
        64 => b.asm.mov(W64, R9, pointer),
        32 => b.asm.mov(W32, R9, pointer),
        _ => b.asm.movzx(W32, R9, W16, pointer),
    }
    b.probe(segment, width.bytes() as usize, write, live);
}

/// Moves a pointer to the next element; flags are kept.
fn advance(b: &mut Builder, pointer: Gpr, width: Width) {
    let next = Mem::base(pointer).disp(width.bytes() as i32);
    match b.mode().code_bits() {
        64 => b.asm.lea(W64, pointer, next),
        32 => b.asm.lea(W32, pointer, next),
        _ => {
            b.asm.lea(W32, R10, next);
            b.asm.mov(W16, pointer, R10);
        }
    }
}
