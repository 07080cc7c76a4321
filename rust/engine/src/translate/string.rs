//! MOVS, STOS, LODS, SCAS and CMPS without a repeat prefix (SDM vol. 2).
//!
//! DF is part of the mode, and blocks with these rules exist for DF=0 only.  Sources use RSI and the
//! instruction's segment, destinations RDI and ES.

use super::block::{Builder, Flow};
use super::emit::{Alu, Gpr, Mem, R9, R10, RAX, RDI, RSI, W16, W32, W64, Width};
use super::mode::{Mode, bit};
use super::runtime::saved;
use crate::interp::operand::segment_number;
use crate::state::seg;
use iced_x86::{Instruction, Mnemonic, OpKind};

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
