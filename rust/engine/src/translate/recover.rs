//! Flags at a block's exit to code that isn't known when it is translated.
//!
//! Nearly nobody reads the arithmetic flags that a RET, CALL or indirect JMP leaves behind, yet
//! somebody might.  So from the last instruction on that sets or reads them (the *zone*) a block
//! doesn't keep them in the host's register, but can find them again: mostly from the operands of the
//! instruction that set them, which are still there (`How`), else from a copy.  `Builder::recovery`
//! is host code that does it; it goes on at `Area::recovered`.
//!
//! An indirect jump hands the address of that code to its target in R11.  Blocks that don't need the
//! flags are found in `Area::jump`; all others are looked for (in `Area::jump_live`) once the flags
//! are back.  A direct exit whose target needs them passes by recovering code of its own.  What leaves
//! the zone for the interpreter has the dispatcher run it (`Vcpu::recover_flags`).

use super::block::{ARITHMETIC, Builder, Insn, flag_use, host_register, register_number};
use super::emit::{Alu, Mem, R8, R10, R11, RAX, W32, W64, Width};
use super::env::Area;
use super::group::writes;
use super::mode::Mode;
use super::rules::Rule;
use super::runtime::{area, emit_kept_flags, emit_save_flags, field, gpr_home};
use iced_x86::{Mnemonic, OpKind, Register};
use std::mem::offset_of;

/// How a block finds its flags again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Index of the first instruction of the zone.
    pub zone: usize,
    how: How,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    /// From `Area::kept_flags`, which they are copied to at the zone's start.
    Kept,
    /// The instruction changed nothing: it is done again.
    Again(Operation),
    /// It is undone and done again in a scratch register.
    Redone(Operation),
    /// The same for RSP, which is copied to `Area::kept_operand` at the zone's start.
    Stack(Operation),
    /// A logical operation: the result tells.
    Result(Width, Register),
    /// A register minus itself.
    Zero,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Operation {
    kind: Kind,
    width: Width,
    first: Register,
    second: Second,
    /// Index of the instruction.
    at: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Cmp,
    Test,
    Add,
    Sub,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Second {
    Register(Register),
    Immediate(i32),
}

impl Plan {
    /// For a block that ends in a CALL, RET or JMP.
    pub fn new(mode: &Mode, insns: &[Insn]) -> Plan {
        let touches = |i: &Insn| flag_use(i).0 != 0 || i.ins.rflags_modified() & ARITHMETIC != 0;
        let zone = insns.iter().rposition(touches).map_or(0, |at| at + 1);
        let zone = zone.min(insns.len().saturating_sub(1));
        let sets = |i: &Insn| !keeps_flags(i);
        let how = insns[..zone]
            .iter()
            .rposition(sets)
            .and_then(|at| how(mode, insns, at, zone));
        Plan {
            zone,
            how: how.unwrap_or(How::Kept),
        }
    }

    /// Whether the flags must be right at the zone's start.
    pub fn copies_flags(&self) -> bool {
        self.how == How::Kept
    }

    /// Whether it relies on the immediate of instruction `at`.
    pub fn uses_immediate_of(&self, at: usize) -> bool {
        match self.how {
            How::Again(o) | How::Redone(o) | How::Stack(o) => o.at == at,
            _ => false,
        }
    }
}

/// Whether an instruction leaves the flags as they were.
fn keeps_flags(insn: &Insn) -> bool {
    use Rule::*;
    let interpreted = matches!(insn.rule, Interpret | Assist | AssistFlow | Device);
    !interpreted && insn.ins.rflags_modified() & ARITHMETIC == 0
}

fn how(mode: &Mode, insns: &[Insn], at: usize, zone: usize) -> Option<How> {
    use Mnemonic::*;
    let insn = &insns[at];
    let ins = &insn.ins;
    let plain = insn.rule == Rule::Copy && ins.op0_kind() == OpKind::Register;
    let first = ins.op0_register();
    if !plain || !first.is_gpr() || is_high_byte(first) {
        return None;
    }
    let width = Width::from_bytes(first.size())?;
    let rest = &insns[at + 1..];
    match ins.mnemonic() {
        Sub | Xor if ins.op1_kind() == OpKind::Register && ins.op1_register() == first => {
            return Some(How::Zero);
        }
        And | Or | Xor => return intact(rest, first).then_some(How::Result(width, first)),
        _ => {}
    }
    let kind = match ins.mnemonic() {
        Cmp => Kind::Cmp,
        Test => Kind::Test,
        Add => Kind::Add,
        Sub => Kind::Sub,
        _ => return None,
    };
    let second = match ins.op1_kind() {
        OpKind::Register if !is_high_byte(ins.op1_register()) => {
            Second::Register(ins.op1_register())
        }
        OpKind::Memory | OpKind::Register => return None,
        _ => Second::Immediate(i32::try_from(signed(ins.immediate(1), width)).ok()?),
    };
    let operation = Operation {
        kind,
        width,
        first,
        second,
        at,
    };
    if first.full_register() == Register::RSP {
        let wide = width == if mode.code64() { W64 } else { W32 };
        let undone = matches!(kind, Kind::Add | Kind::Sub);
        let constant = matches!(second, Second::Immediate(_));
        let fits = wide && undone && constant && zone == at + 1;
        return fits.then_some(How::Stack(operation));
    }
    if let Second::Register(second) = second {
        let changed = second.full_register() == first.full_register() && kind == Kind::Add;
        if changed || second.full_register() == Register::RSP || !intact(rest, second) {
            return None;
        }
    }
    if !intact(rest, first) {
        return None;
    }
    Some(match kind {
        Kind::Cmp | Kind::Test => How::Again(operation),
        Kind::Add | Kind::Sub => How::Redone(operation),
    })
}

fn signed(immediate: u64, width: Width) -> i64 {
    match width.bytes() {
        1 => immediate as i8 as i64,
        2 => immediate as i16 as i64,
        4 => immediate as i32 as i64,
        _ => immediate as i64,
    }
}

fn is_high_byte(register: Register) -> bool {
    use Register::*;
    matches!(register, AH | BH | CH | DH)
}

/// Whether no instruction changes a general register.
fn intact(insns: &[Insn], register: Register) -> bool {
    !insns.iter().any(|insn| writes(insn, register))
}

impl Builder<'_> {
    /// Keeps at the zone's start what the flags can't be found without.
    pub fn begin_zone(&mut self) {
        match self.source.plan {
            Some(plan) if plan.zone == self.at => match plan.how {
                How::Kept if self.source.copies_flags_at_start() => {}
                How::Kept => self.keep_flags(),
                How::Stack(_) => self.asm.mov(W64, area!(kept_operand), R8),
                _ => {}
            },
            _ => {}
        }
    }

    /// Copies the flags to `Area::kept_flags`.
    pub fn keep_flags(&mut self) {
        self.addends.forget();
        emit_save_flags(self.asm);
        self.keep_saved_flags();
    }

    /// The same of flags in AX (RAX in R11), which it restores RAX from.
    pub fn keep_saved_flags(&mut self) {
        self.asm.mov(super::emit::W16, area!(kept_flags), RAX);
        self.asm.mov(W64, RAX, R11);
    }

    /// Sets the flags as they were at the zone's start; R10 and R11 are lost.
    pub fn emit_recovery(&mut self) {
        let Some(plan) = self.source.plan else {
            return;
        };
        match plan.how {
            How::Kept => emit_kept_flags(self.asm),
            How::Zero => self.asm.alu(Alu::Cmp, W32, R10, R10),
            How::Result(width, register) => {
                self.load(register);
                self.asm.test(width, R10, R10);
            }
            How::Again(o) => {
                self.load(o.first);
                self.operate(o.kind, o);
            }
            How::Redone(o) => {
                self.load(o.first);
                self.redo(o);
            }
            How::Stack(o) => {
                self.asm.mov(W64, R10, area!(kept_operand));
                self.redo(o);
            }
        }
    }

    /// R10 = the home of a guest register.
    fn load(&mut self, register: Register) {
        let number = register_number(register);
        match host_register(number) {
            Some(host) => self.asm.mov(W64, R10, host),
            None => self.asm.mov(W64, R10, gpr_home(number)),
        }
    }

    fn redo(&mut self, o: Operation) {
        let undo = match o.kind {
            Kind::Add => Kind::Sub,
            _ => Kind::Add,
        };
        self.operate(undo, o);
        self.operate(o.kind, o);
    }

    fn operate(&mut self, kind: Kind, o: Operation) {
        let second = match o.second {
            Second::Immediate(value) => super::emit::Operand::from(value),
            Second::Register(r) => match host_register(register_number(r)) {
                Some(host) => host.into(),
                None => gpr_home(register_number(r)).into(),
            },
        };
        let alu = match kind {
            Kind::Cmp => Alu::Cmp,
            Kind::Add => Alu::Add,
            Kind::Sub => Alu::Sub,
            Kind::Test => return self.test(o),
        };
        self.asm.alu(alu, o.width, R10, second);
    }

    fn test(&mut self, o: Operation) {
        match o.second {
            Second::Immediate(value) => self.asm.test(o.width, R10, value),
            Second::Register(r) => match host_register(register_number(r)) {
                Some(host) => self.asm.test(o.width, R10, host),
                None => self.asm.test(o.width, gpr_home(register_number(r)), R10),
            },
        }
    }

    /// Where the recovery of this block's class goes on.
    pub fn recovered(&self) -> Mem {
        field(offset_of!(Area, recovered) + 8 * self.mode().class())
    }
}
