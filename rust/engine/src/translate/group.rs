//! Groups: one probe for a run of accesses near each other.
//!
//! Prologues, epilogues and calls touch the stack at known distances from one RSP.  A stack group is
//! a run of instructions that access memory by RSP + constant only (PUSH, POP, CALL, RET,
//! `[rsp+disp]`) or not at all, and change RSP by constants only.  A structure group is a run that
//! accesses memory by another register + constant only, and doesn't change that register.  The probe
//! checks the whole span once and leaves the host address of its lowest byte in R9, which the run
//! keeps.  A stack group's may stand some harmless instructions before the first access, where the
//! flags are dead.  A run goes on behind a branch that isn't taken, but not to the first access of
//! its kind: what perhaps doesn't happen must not mark a page as accessed or dirty.  (A fault in a run may
//! leave a page dirty that the rest of the run would have written.)
//!
//! A probe that fails has changed nothing: the instruction it stands at is interpreted, and the rest
//! is another block.  A span that straddles two pages would fail every time, so such a block is made
//! anew without groups (`Jit::ungrouped`).

use super::block::{Insn, host_register, register_number, resident_lea};
use super::emit::{Gpr, Mem, R8, R9};
use super::mode::{Mode, bit};
use super::reencode;
use super::rules::Rule;
use crate::interp::operand::segment_number;
use crate::state::seg;
use iced_x86::{
    InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpAccess, OpKind, Register,
};

/// Bytes that a group may span.
const MAX_SPAN: i32 = 1024;

/// What an instruction does with the stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Effect {
    /// Offset from RSP before the instruction, bytes, and whether it is written.
    access: Option<(i32, i32, bool)>,
    /// Change of RSP.
    delta: i32,
    /// Nothing can follow it.
    last: bool,
}

/// A group to be emitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group {
    /// The host register that the offsets count from.
    pub base: Gpr,
    /// Index after its last instruction.
    pub end: usize,
    /// Lowest byte, from the base register at the group's start.
    pub low: i32,
    pub bytes: i32,
    pub write: bool,
    /// Change of RSP since the start.
    moved: i32,
}

impl Group {
    /// The host place of the base register + `offset` now.
    pub fn place(&self, offset: i32) -> Mem {
        Mem::base(R9).disp(self.moved + offset - self.low)
    }

    /// RSP was changed by `delta`.
    pub fn moved(&mut self, delta: i32) {
        if self.base == R8 {
            self.moved += delta;
        }
    }
}

/// The group that should be probed for before instruction `start`, if one should.
pub fn find(mode: &Mode, insns: &[Insn], start: usize) -> Option<Group> {
    find_stack(mode, insns, start).or_else(|| find_structure(mode, insns, start))
}

/// Instructions that a structure group may span.
const MAX_STRUCTURE: usize = 16;

fn find_structure(mode: &Mode, insns: &[Insn], start: usize) -> Option<Group> {
    let (register, _) = structure_access(mode, &insns[start])?;
    let base = host_register(register_number(register))?;
    let (mut low, mut high) = (i32::MAX, i32::MIN);
    let (mut write, mut accesses, mut end) = (false, 0, start);
    let mut branched = false;
    let run = &insns[start..insns.len().min(start + MAX_STRUCTURE)];
    for (i, insn) in run.iter().enumerate() {
        match structure_access(mode, insn) {
            Some((_, (_, _, true))) if branched && !write => break,
            Some((r, (offset, bytes, written))) if r == register => {
                let (l, h) = (low.min(offset), high.max(offset + bytes));
                if h - l > MAX_SPAN {
                    break;
                }
                (low, high) = (l, h);
                write |= written;
                accesses += 1;
                end = start + i + 1;
            }
            Some(_) => break,
            None if insn.rule == Rule::Jcc => branched = true,
            None if !transparent(mode, insn) => break,
            None => {}
        }
        if writes(insn, register) {
            break;
        }
    }
    let bytes = high - low;
    (accesses > 1).then_some(Group {
        base,
        end,
        low,
        bytes,
        write,
        moved: 0,
    })
}

/// The base register and the access (offset, bytes, written) of `[register+disp]`, RSP excepted.
fn structure_access(mode: &Mode, insn: &Insn) -> Option<(Register, (i32, i32, bool))> {
    let ins = &insn.ins;
    if insn.rule != Rule::Copy {
        return None;
    }
    let operand = reencode::memory_operand(ins)?;
    let base = ins.memory_base();
    let natural = base.size() == if mode.code64() { 8 } else { 4 };
    let segment = segment_number(ins.memory_segment());
    let written = operand.access.writes();
    // Code is never writable in protected mode, however flat.
    let flat = if mode.code64() {
        segment < seg::FS
    } else {
        mode.is_flat(segment) && !(written && segment == seg::CS)
    };
    let plain = base.is_gpr()
        && natural
        && flat
        && mode.code_bits() != 16
        && base.full_register() != Register::RSP
        && ins.memory_index() == Register::None
        && !operand.masked
        && operand.size > 0;
    let disp = ins.memory_displacement64() as i32;
    let access = (disp, operand.size as i32, written);
    (plain && disp.abs() <= i32::MAX / 2).then_some((base, access))
}

/// Whether an instruction accesses no memory and needs no R9.
fn transparent(mode: &Mode, insn: &Insn) -> bool {
    match insn.rule {
        Rule::Copy => reencode::memory_operand(&insn.ins).is_none(),
        Rule::Lea => resident_lea(&insn.ins, mode),
        Rule::Nothing => true,
        _ => false,
    }
}

/// Whether an instruction may change a general register.
pub fn writes(insn: &Insn, register: Register) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info_options(&insn.ins, InstructionInfoOptions::NO_MEMORY_USAGE);
    info.used_registers().iter().any(|used| {
        let changes = !matches!(
            used.access(),
            OpAccess::None | OpAccess::Read | OpAccess::CondRead
        );
        changes && used.register().full_register() == register.full_register()
    })
}

fn find_stack(mode: &Mode, insns: &[Insn], start: usize) -> Option<Group> {
    if !mode.has(bit::STACK32) || !mode.is_flat(seg::SS) {
        return None;
    }
    let first = effect(mode, &insns[start])?;
    if first.access.is_none() {
        // Hoisted only to where flags are free, if they aren't at the first access.
        if !insns[start].flags_dead() || !hoist(mode, insns, start) {
            return None;
        }
    }
    let (mut low, mut high) = (i32::MAX, i32::MIN);
    let (mut write, mut moved, mut accesses) = (false, 0i32, 0);
    let (mut branched, mut end) = (false, start);
    for insn in &insns[start..] {
        let Some(e) = effect(mode, insn) else {
            break;
        };
        branched |= insn.rule == Rule::Jcc;
        if let Some((offset, bytes, written)) = e.access {
            if branched && (accesses == 0 || written && !write) {
                break;
            }
            let from = moved + offset;
            let (l, h) = (low.min(from), high.max(from + bytes));
            if h - l > MAX_SPAN {
                break;
            }
            (low, high) = (l, h);
            write |= written;
            accesses += 1;
        }
        moved += e.delta;
        end += 1;
        if e.last || moved.abs() > MAX_SPAN {
            break;
        }
    }
    let worth = accesses > 1 || accesses == 1 && first.access.is_none();
    worth.then_some(Group {
        base: R8,
        end,
        low,
        bytes: high - low,
        write,
        moved: 0,
    })
}

/// Whether the next access after harmless instructions finds the flags live.
fn hoist(mode: &Mode, insns: &[Insn], start: usize) -> bool {
    for insn in &insns[start..] {
        match effect(mode, insn) {
            None => return false,
            Some(_) if insn.rule == Rule::Jcc => return false,
            Some(e) if e.access.is_some() => return !insn.flags_dead(),
            Some(_) => {}
        }
    }
    false
}

/// The change of RSP by a copied instruction; PUSH and POP tell theirs themselves.
pub fn copied_delta(mode: &Mode, insn: &Insn) -> i32 {
    match insn.rule {
        Rule::Copy => copy_effect(mode, insn).map_or(0, |e| e.delta),
        _ => 0,
    }
}

/// What `insn` does with the stack; None: it can't be part of a group.
fn effect(mode: &Mode, insn: &Insn) -> Option<Effect> {
    let ins = &insn.ins;
    let wide = if mode.code64() { 8 } else { 4 };
    let none = Effect {
        access: None,
        delta: 0,
        last: false,
    };
    match insn.rule {
        Rule::Push if ins.op0_kind() != OpKind::Memory => {
            let delta = ins.stack_pointer_increment();
            Some(Effect {
                access: Some((delta, -delta, true)),
                delta,
                last: false,
            })
        }
        Rule::Pop if ins.op0_register().full_register() != Register::RSP => {
            let delta = ins.stack_pointer_increment();
            Some(Effect {
                access: Some((0, delta, false)),
                delta,
                last: false,
            })
        }
        Rule::Call if ins.stack_pointer_increment() == -wide => Some(Effect {
            access: Some((-wide, wide, true)),
            delta: -wide,
            last: true,
        }),
        Rule::Ret if ins.op_count() == 0 && ins.stack_pointer_increment() == wide => Some(Effect {
            access: Some((0, wide, false)),
            delta: wide,
            last: true,
        }),
        Rule::Lea => {
            let plain = !register_operand_is_stack_pointer(insn) && resident_lea(ins, mode);
            plain.then_some(none)
        }
        Rule::Copy => copy_effect(mode, insn),
        Rule::Nothing => Some(none),
        Rule::Jcc => Some(none),
        Rule::Jmp => Some(Effect { last: true, ..none }),
        _ => None,
    }
}

fn copy_effect(mode: &Mode, insn: &Insn) -> Option<Effect> {
    let ins = &insn.ins;
    if let Some(operand) = reencode::memory_operand(ins) {
        let by_rsp = ins.memory_base()
            == if mode.code64() {
                Register::RSP
            } else {
                Register::ESP
            };
        let plain = by_rsp
            && ins.memory_index() == Register::None
            && ins.memory_segment() == Register::SS
            && !operand.masked
            && operand.size > 0
            && !register_operand_is_stack_pointer(insn);
        let disp = ins.memory_displacement64() as i32;
        if !plain || disp.abs() > MAX_SPAN {
            return None;
        }
        let access = Some((disp, operand.size as i32, operand.access.writes()));
        return Some(Effect {
            access,
            delta: 0,
            last: false,
        });
    }
    if !register_operand_is_stack_pointer(insn) {
        return Some(Effect {
            access: None,
            delta: 0,
            last: false,
        });
    }
    // ADD and SUB of RSP are followed; other uses as a source change nothing.
    let rsp = if mode.code64() {
        Register::RSP
    } else {
        Register::ESP
    };
    let to_rsp =
        ins.op0_kind() == OpKind::Register && ins.op0_register().full_register() == Register::RSP;
    if !to_rsp {
        let source = ins.mnemonic() == Mnemonic::Mov;
        return source.then_some(Effect {
            access: None,
            delta: 0,
            last: false,
        });
    }
    if ins.op0_register() != rsp || ins.op_count() != 2 || ins.op1_kind() == OpKind::Register {
        return None;
    }
    let by = i32::try_from(ins.immediate(1) as i64).ok()?;
    let delta = match ins.mnemonic() {
        Mnemonic::Add => by,
        Mnemonic::Sub => by.checked_neg()?,
        _ => return None,
    };
    (delta.abs() <= MAX_SPAN).then_some(Effect {
        access: None,
        delta,
        last: false,
    })
}

fn register_operand_is_stack_pointer(insn: &Insn) -> bool {
    (0..insn.ins.op_count()).any(|i| {
        insn.ins.op_kind(i) == OpKind::Register
            && insn.ins.op_register(i).full_register() == Register::RSP
    })
}
