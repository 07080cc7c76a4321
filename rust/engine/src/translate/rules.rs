//! The translator's rules: one for each family of instructions.
//!
//! Inside a block the guest's general registers and arithmetic flags *are* the host's, so most
//! instructions run as they stand, on a host address where they name memory.  A rule does all that
//! may fault before its first change of guest state.  What has no rule is interpreted.

use super::assist;
use super::block::{Builder, Flow, copyable, host_register};
use super::emit::{
    Alu, Cond, Gpr, Mem, R8, R9, R10, R11, RBP, RCX, Shift, W8, W16, W32, W64, Width,
};
use super::mode::{Mode, bit};
use super::reencode::{self, Class, Plan, Unit};
use super::runtime::{
    area, emit_restore_flags, emit_save_flags, field, gpr_home, saved, segment_base,
};
use crate::mmu::segment::canonical;
use crate::state::{CpuState, Segment, flags, gpr, seg};
use crate::translate::env::Area;
use iced_x86::{Code, ConditionCode, FlowControl, Instruction, Mnemonic, OpKind, Register};
use std::mem::offset_of;

/// Which rule translates an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// The same instruction on the host, memory operand replaced.
    Copy,
    /// VZEROUPPER and VZEROALL of the eight registers there are outside of 64-bit mode.
    ZeroVectors,
    /// BT BTS BTR BTC on a bit string in memory.
    BitString,
    Lea,
    Push,
    Pop,
    Leave,
    Call,
    CallIndirect,
    Ret,
    Jmp,
    JmpIndirect,
    Jcc,
    Loop,
    Jcxz,
    Rdtsc,
    Swapgs,
    FsGsBase,
    /// CLD and STD that change nothing: DF is part of the mode.
    Nothing,
    /// A string instruction without a repeat prefix.
    String,
    /// MOV of a segment register to a general one.
    ReadSegment,
    /// MOVS or STOS with a repeat prefix: at once inside of pages that the inline TLB has, else assisted.
    Repeat,
    Pushf,
    Popf,
    Cli,
    Sti,
    /// The interpreter's handler is called (`assist`).
    Assist,
    /// The same where the next instruction may be another than the following one.
    AssistFlow,
    /// IN, OUT, or an access to memory that has been a device's: leave for it, come back behind the
    /// instruction (`device`).
    Device,
    /// Leave the block, interpret, come back.
    Interpret,
}

impl Rule {
    pub fn ends_block(self) -> bool {
        use Rule::*;
        matches!(
            self,
            Call | CallIndirect
                | Ret
                | Jmp
                | JmpIndirect
                | Jcc
                | Loop
                | Jcxz
                | AssistFlow
                | Interpret
        )
    }
}

/// The rule for `ins` in `mode`.
pub fn rule(mode: &Mode, ins: &Instruction) -> Rule {
    use Mnemonic::*;
    match ins.flow_control() {
        FlowControl::Next => {}
        FlowControl::ConditionalBranch => return conditional(mode, ins),
        FlowControl::UnconditionalBranch if ins.is_jmp_short_or_near() => {
            return direct(mode, ins, Rule::Jmp);
        }
        FlowControl::Call if ins.is_call_near() => return direct(mode, ins, Rule::Call),
        FlowControl::IndirectBranch if ins.is_jmp_near_indirect() => {
            return indirect(mode, ins, Rule::JmpIndirect);
        }
        FlowControl::IndirectCall if ins.is_call_near_indirect() => {
            return indirect(mode, ins, Rule::CallIndirect);
        }
        FlowControl::Return if ins.mnemonic() == Ret => return indirect(mode, ins, Rule::Ret),
        _ => return assisted(ins),
    }
    match ins.mnemonic() {
        Lea => Rule::Lea,
        Mov if ins.op1_register().is_segment_register() && ins.op0_kind() == OpKind::Register => {
            Rule::ReadSegment
        }
        Push if pushable(ins) => Rule::Push,
        Pop if ins.op0_kind() == OpKind::Register && ins.op0_register().is_gpr() => Rule::Pop,
        Leave if mode.has(bit::STACK32) && ins.code() != Code::Leavew => Rule::Leave,
        Cld if !mode.has(bit::DOWN) => Rule::Nothing,
        Std if mode.has(bit::DOWN) => Rule::Nothing,
        Pushf | Pushfd | Pushfq if mode.has(bit::IO_PRIVILEGE) || !mode.has(bit::REAL_OR_V86) => {
            Rule::Pushf
        }
        Popf | Popfd | Popfq if mode.has(bit::IO_PRIVILEGE) => Rule::Popf,
        Cli if mode.has(bit::IO_PRIVILEGE) => Rule::Cli,
        Sti if mode.has(bit::IO_PRIVILEGE) => Rule::Sti,
        Rdtsc | Rdtscp if can_read_tsc(mode) => Rule::Rdtsc,
        Swapgs if mode.code64() && at_level_0(mode) => Rule::Swapgs,
        Rdfsbase | Rdgsbase | Wrfsbase | Wrgsbase if fs_gs_base(mode, ins) => Rule::FsGsBase,
        Vzeroupper | Vzeroall if !mode.code64() && copyable(mode, ins) => Rule::ZeroVectors,
        Rdrand | Rdseed if mode.has(bit::TIME_INTERPRETED) => Rule::Interpret,
        In | Out if mode.has(bit::IO_PRIVILEGE) => Rule::Device,
        _ if super::string::has_rule(mode, ins) => Rule::String,
        _ if super::string::repeats(mode, ins) => Rule::Repeat,
        _ if copyable(mode, ins) => Rule::Copy,
        _ if reencode::classify(ins) == Class::BitString => Rule::BitString,
        _ => assisted(ins),
    }
}

fn assisted(ins: &Instruction) -> Rule {
    if !assist::assisted(ins) {
        Rule::Interpret
    } else if assist::continues(ins) {
        Rule::Assist
    } else {
        Rule::AssistFlow
    }
}

fn conditional(mode: &Mode, ins: &Instruction) -> Rule {
    let r = match ins.mnemonic() {
        Mnemonic::Loop if mode.code_bits() != 16 => Rule::Loop,
        Mnemonic::Jecxz | Mnemonic::Jrcxz => Rule::Jcxz,
        _ if ins.is_jcc_short_or_near() => Rule::Jcc,
        _ => return Rule::Interpret,
    };
    if r == Rule::Loop && !matches!(ins.op_count(), 1) || !counter_is_wide(mode, ins, r) {
        return Rule::Interpret;
    }
    direct(mode, ins, r)
}

/// LOOP and JrCXZ with CX as counter (or ECX in 64-bit mode) are left to the interpreter.
fn counter_is_wide(mode: &Mode, ins: &Instruction, r: Rule) -> bool {
    use iced_x86::Code::*;
    match r {
        Rule::Loop | Rule::Jcxz => {
            let c = ins.code();
            let rcx = matches!(c, Loop_rel8_64_RCX | Jrcxz_rel8_64);
            let ecx = matches!(
                c,
                Loop_rel8_32_ECX | Loop_rel8_16_ECX | Jecxz_rel8_32 | Jecxz_rel8_16
            );
            rcx || ecx && !mode.code64()
        }
        _ => true,
    }
}

/// Branches whose target lies in the code segment.
fn direct(mode: &Mode, ins: &Instruction, r: Rule) -> Rule {
    let target = ins.near_branch_target();
    let inside = match mode.code64() {
        true => canonical(target),
        false => target <= mode.cs_limit as u64,
    };
    // In 64-bit mode a 16-bit operand size is ignored by some processors and not by others.
    let natural = !mode.code64() || ins.op0_kind() == OpKind::NearBranch64;
    if inside && natural {
        r
    } else {
        Rule::Interpret
    }
}

/// Indirect branches, where no target can be outside the code segment.
fn indirect(mode: &Mode, ins: &Instruction, r: Rule) -> Rule {
    let wide = branch_width(mode, ins);
    let any_target_inside = match wide {
        W16 => mode.cs_limit >= 0xFFFF && !mode.code64(),
        W32 => mode.cs_limit == u32::MAX && !mode.code64(),
        _ => mode.code64(),
    };
    if any_target_inside {
        r
    } else {
        Rule::Interpret
    }
}

/// Operand size of a near indirect branch or return.
fn branch_width(mode: &Mode, ins: &Instruction) -> Width {
    use iced_x86::Code::*;
    match ins.code() {
        Retnw | Retnw_imm16 | Jmp_rm16 | Call_rm16 => W16,
        Retnd | Retnd_imm16 | Jmp_rm32 | Call_rm32 => W32,
        Retnq | Retnq_imm16 | Jmp_rm64 | Call_rm64 => W64,
        _ if mode.code64() => W64,
        _ => W16,
    }
}

fn pushable(ins: &Instruction) -> bool {
    match ins.op0_kind() {
        OpKind::Register => ins.op0_register().is_gpr() || ins.op0_register().is_segment_register(),
        _ => true,
    }
}

fn can_read_tsc(mode: &Mode) -> bool {
    let privileged = mode.has(bit::NO_TSC) && !at_level_0(mode);
    let allowed = !privileged && !mode.has(bit::TIME_INTERPRETED);
    allowed && std::is_x86_feature_detected!("bmi2")
}

fn at_level_0(mode: &Mode) -> bool {
    mode.bits & (bit::USER | bit::MIDDLE_RING) == 0
}

fn fs_gs_base(mode: &Mode, ins: &Instruction) -> bool {
    // The write of a non-canonical base faults: that needs a look at the value.
    let read = matches!(ins.mnemonic(), Mnemonic::Rdfsbase | Mnemonic::Rdgsbase);
    mode.code64() && mode.has(bit::FSGSBASE) && read
}

/// Emits the current instruction of `b`.
pub fn emit(b: &mut Builder) -> Flow {
    match b.insn().rule {
        Rule::Copy => copy(b),
        Rule::ZeroVectors => zero_vectors(b),
        Rule::BitString => bit_string(b),
        Rule::Lea => lea(b),
        Rule::Push => push(b),
        Rule::Pop => pop(b),
        Rule::Leave => leave(b),
        Rule::Call => call(b),
        Rule::CallIndirect => call_indirect(b),
        Rule::Ret => ret(b),
        Rule::Jmp => {
            let target = b.insn().ins.near_branch_target();
            b.exit_to(target);
            Flow::End
        }
        Rule::JmpIndirect => jmp_indirect(b),
        Rule::Jcc => jcc(b),
        Rule::Loop => loop_(b),
        Rule::Jcxz => jcxz(b),
        Rule::Rdtsc => rdtsc(b),
        Rule::Swapgs => swapgs(b),
        Rule::FsGsBase => read_base(b),
        Rule::Nothing => Flow::Next,
        Rule::String => super::string::emit(b),
        Rule::ReadSegment => read_segment(b),
        Rule::Repeat => super::string::emit_repeat(b),
        Rule::Pushf => pushf(b),
        Rule::Popf => popf(b),
        Rule::Cli => change_flag(b, flags::IF, false),
        Rule::Sti => sti(b),
        Rule::Assist => {
            b.assist();
            Flow::Next
        }
        Rule::AssistFlow => {
            b.assist();
            Flow::End
        }
        Rule::Device => {
            b.access_device();
            Flow::Next
        }
        Rule::Interpret => b.exit_interpret(),
    }
}

const HOME: i32 = (offset_of!(Area, cpu) + offset_of!(CpuState, gpr) + 64) as i32;

fn copy(b: &mut Builder) -> Flow {
    let ins = b.insn().ins;
    if reencode::unit(&ins) != Unit::Integer {
        b.need_fpu();
    }
    let mut plan = Plan::new(HOME);
    if b.group.is_some() {
        plan.keep = 1 << 9;
    }
    plan.keep |= b.addends.in_use();
    if let Some(operand) = reencode::memory_operand(&ins) {
        match b.memory(operand.size, operand.access.writes()) {
            Some(mem) => plan = plan.mem(mem),
            None => return b.exit_interpret(),
        }
    }
    finish_copy(b, &plan)
}

/// VZEROUPPER and VZEROALL reach only registers 0 to 7 outside of 64-bit mode: a VEX.128 operation on
/// each of these clears what they should.
fn zero_vectors(b: &mut Builder) -> Flow {
    b.need_fpu();
    let all = b.insn().ins.mnemonic() == Mnemonic::Vzeroall;
    for n in 0..8u8 {
        let (vvvv, opcode) = if all { (!n & 0xF, 0x57) } else { (0xF, 0x28) };
        // VXORPS n, n, n or VMOVAPS n, n
        b.asm
            .raw(&[0xC5, 0x80 | vvvv << 3, opcode, 0xC0 | n << 3 | n]);
    }
    Flow::Next
}

fn finish_copy(b: &mut Builder, plan: &Plan) -> Flow {
    let insn = &b.source.insns[b.at];
    let mut done = reencode::copy(&insn.ins, insn.raw(), plan, b.asm);
    if done.is_err() && b.addends.in_use() != 0 {
        b.addends.forget();
        let plan = Plan { keep: 0, ..*plan };
        done = reencode::copy(&insn.ins, insn.raw(), &plan, b.asm);
    }
    match done {
        Ok(()) => {
            b.note_immediate();
            Flow::Next
        }
        Err(_) => b.exit_interpret(),
    }
}

/// The bit offset chooses the element first, then the bit in it (SDM vol. 2, BT).
fn bit_string(b: &mut Builder) -> Flow {
    let insn = b.insn();
    let (ins, live) = (insn.ins, !insn.flags_dead());
    let offset = ins.op1_register();
    let size = reencode::memory_operand_size(&ins);
    let (width, shift, wide) = match (size, super::block::address_bits(&ins, b.mode())) {
        (4, 32) => (W32, 5, W32),
        (4, 64) => (W32, 5, W64),
        (8, 32) => (W64, 6, W32),
        (8, 64) => (W64, 6, W64),
        _ => {
            b.assist();
            return Flow::Next;
        }
    };
    let write = ins.mnemonic() != Mnemonic::Bt;
    b.effective_address(&ins);
    load_guest(b, R10, offset);
    if width == W32 {
        b.asm.movsx(W64, R10, W32, R10);
    }
    if live {
        emit_save_flags(b.asm);
    }
    b.asm.shift(Shift::Sar, W64, R10, shift);
    let element = Mem::base(R9).index(R10, size as u8);
    b.asm.lea(wide, R9, element);
    let segment = crate::interp::operand::segment_number(ins.memory_segment());
    b.probe_with(segment, size, write, live);
    if live && number(offset) == gpr::RAX {
        b.asm.mov(W64, R10, R11);
    } else {
        load_guest(b, R10, offset);
    }
    b.asm.alu(Alu::And, W32, R10, size as i32 * 8 - 1);
    if live {
        emit_restore_flags(b.asm);
    }
    let mut plan = Plan::new(HOME).mem(Mem::base(R9));
    plan.bit_offset = Some(R10);
    plan.keep = 1 << 10;
    finish_copy(b, &plan)
}

/// `host` = guest general register (not AH to BH), all 64 bits of its home.
fn load_guest(b: &mut Builder, host: Gpr, register: Register) {
    let number = number(register);
    match host_register(number) {
        Some(home) => b.asm.mov(W64, host, home),
        None => b.asm.mov(W64, host, gpr_home(number)),
    }
}

/// Writes `size` bytes of a guest register from `host`, with x86's rules for narrow writes.
fn store_guest(b: &mut Builder, register: Register, host: Gpr) {
    let number = number(register);
    let width = Width::from_bytes(register.size()).unwrap_or(W64);
    match host_register(number) {
        Some(home) => b.asm.mov(width, home, host),
        None if width == W32 => {
            b.asm.mov(W32, host, host);
            b.asm.mov(W64, gpr_home(number), host);
        }
        None => b.asm.mov(width, gpr_home(number), host),
    }
}

fn number(register: Register) -> usize {
    register.full_register() as usize - Register::RAX as usize
}

fn lea(b: &mut Builder) -> Flow {
    let ins = b.insn().ins;
    let target = ins.op0_register();
    if let Some(mem) = b.resident_address(&ins)
        && let Some(host) = host_register(number(target))
        && target.size() >= 4
    {
        // The low half of a 64-bit address is the 32-bit one; a 32-bit one is zero-extended.
        let wide = target.size() == 8 && super::block::address_bits(&ins, b.mode()) == 64;
        b.asm.lea(if wide { W64 } else { W32 }, host, mem);
        return Flow::Next;
    }
    b.effective_address(&ins);
    store_guest(b, target, R9);
    Flow::Next
}

// --- the stack ---

/// Probes `size` bytes at the stack pointer + `offset`: `[r9]` is the host place.
fn stack(b: &mut Builder, offset: i32, size: usize, write: bool) {
    let live = !b.insn().flags_dead();
    let top = Mem::base(R8).disp(offset);
    if b.mode().code64() {
        b.asm.lea(W64, R9, top);
    } else {
        b.asm.lea(W32, R9, top);
        if !b.mode().has(bit::STACK32) {
            b.asm.movzx(W32, R9, W16, R9);
        }
    }
    b.probe(seg::SS, size, write, live);
}

/// The host place of `size` bytes at the stack pointer + `offset`.
fn stack_place(b: &mut Builder, offset: i32, size: usize, write: bool) -> Mem {
    if let Some(mem) = b.grouped(offset) {
        return mem;
    }
    if let Some(mem) = b.window_stack(R8, offset) {
        return mem;
    }
    stack(b, offset, size, write);
    Mem::base(R9)
}

/// A scratch register for what is pushed or popped: one that neither a place on the stack nor a stack
/// group needs.
fn beside(place: &Mem) -> Gpr {
    if place.base == Some(R9) { R10 } else { R9 }
}

/// Adds to the stack pointer; flags are kept, R10 may be lost.
fn move_stack(b: &mut Builder, delta: i32) {
    if let Some(group) = &mut b.group {
        group.moved(delta);
    }
    let by = Mem::base(R8).disp(delta);
    if b.mode().code64() {
        b.asm.lea(W64, R8, by);
    } else if b.mode().has(bit::STACK32) {
        b.asm.lea(W32, R8, by);
    } else {
        b.asm.lea(W32, R10, by);
        b.asm.mov(W16, R8, R10);
    }
}

/// A place in the Area for a value that must survive a probe.
fn kept() -> Mem {
    saved(8)
}

fn push(b: &mut Builder) -> Flow {
    let ins = b.insn().ins;
    let size = -ins.stack_pointer_increment();
    let Some(width) = Width::from_bytes(size as usize) else {
        return b.exit_interpret();
    };
    match ins.op0_kind() {
        OpKind::Register if ins.op0_register().is_segment_register() => {
            let place = stack_place(b, -size, size as usize, true);
            let segment = crate::interp::operand::segment_number(ins.op0_register());
            let temporary = beside(&place);
            b.asm.movzx(W32, temporary, W16, selector(segment));
            b.asm.mov(width, place, temporary);
        }
        OpKind::Register => {
            let place = stack_place(b, -size, size as usize, true);
            let number = number(ins.op0_register());
            match host_register(number) {
                Some(host) => b.asm.mov(width, place, host),
                None => {
                    let temporary = beside(&place);
                    b.asm.mov(W64, temporary, gpr_home(number));
                    b.asm.mov(width, place, temporary);
                }
            }
        }
        OpKind::Memory => {
            let Some(mem) = b.memory(size as usize, false) else {
                return b.exit_interpret();
            };
            b.asm.mov(width, R9, mem);
            b.asm.mov(W64, kept(), R9);
            let place = stack_place(b, -size, size as usize, true);
            let temporary = beside(&place);
            b.asm.mov(W64, temporary, kept());
            b.asm.mov(width, place, temporary);
        }
        _ => {
            let value = ins.immediate(0) as i64;
            if width == W64 && value as i32 as i64 != value {
                return b.exit_interpret();
            }
            let place = stack_place(b, -size, size as usize, true);
            b.asm.mov(width, place, value);
        }
    }
    move_stack(b, -size);
    Flow::Next
}

fn pop(b: &mut Builder) -> Flow {
    let ins = b.insn().ins;
    let size = ins.stack_pointer_increment();
    let Some(width) = Width::from_bytes(size as usize) else {
        return b.exit_interpret();
    };
    let place = stack_place(b, 0, size as usize, false);
    if width >= W32
        && number(ins.op0_register()) != 4
        && let Some(host) = host_register(number(ins.op0_register()))
    {
        b.asm.mov(width, host, place);
        move_stack(b, size);
        return Flow::Next;
    }
    let popped = beside(&place);
    b.asm.mov(width, popped, place);
    if number(ins.op0_register()) == 4 {
        // Of a 16-bit stack pointer nothing would be left; and moving it takes R10.
        if b.mode().code64() || b.mode().has(bit::STACK32) {
            move_stack(b, size);
        }
        store_guest(b, ins.op0_register(), popped);
    } else {
        store_guest(b, ins.op0_register(), popped);
        move_stack(b, size);
    }
    Flow::Next
}

/// LEAVE with a 32- or 64-bit stack and operand.
fn leave(b: &mut Builder) -> Flow {
    let live = !b.insn().flags_dead();
    let (width, size) = if b.mode().code64() {
        (W64, 8)
    } else {
        (W32, 4)
    };
    let place = match b.window_stack(RBP, 0) {
        Some(place) => place,
        None => {
            b.asm.mov(width, R9, RBP);
            b.probe(seg::SS, size as usize, false, live);
            Mem::base(R9)
        }
    };
    b.asm.mov(width, R9, place);
    b.asm.lea(width, R8, Mem::base(RBP).disp(size));
    b.asm.mov(width, RBP, R9);
    Flow::Next
}

// --- control flow ---

/// Pushes the address of the next instruction.
fn push_return(b: &mut Builder, width: Width) {
    let size = width.bytes() as i32;
    let next = b.insn().ins.next_ip();
    let place = stack_place(b, -size, size as usize, true);
    if width == W64 && next as i32 as i64 as u64 != next {
        let temporary = beside(&place);
        b.asm.mov(W64, temporary, next);
        b.asm.mov(W64, place, temporary);
    } else {
        b.asm.mov(width, place, next as i64);
    }
    move_stack(b, -size);
}

fn call(b: &mut Builder) -> Flow {
    let ins = b.insn().ins;
    let width = match ins.op0_kind() {
        OpKind::NearBranch16 => W16,
        OpKind::NearBranch32 => W32,
        _ => W64,
    };
    push_return(b, width);
    b.exit_to(ins.near_branch_target());
    Flow::End
}

/// R9 = the target of an indirect branch, zero-extended; None if the interpreter must.
fn branch_target(b: &mut Builder, width: Width) -> Option<()> {
    let ins = b.insn().ins;
    if ins.op0_kind() == OpKind::Memory {
        let mem = b.memory(width.bytes() as usize, false)?;
        load_narrow(b, width, mem);
        return Some(());
    }
    load_guest(b, R9, ins.op0_register());
    match width {
        W16 => b.asm.movzx(W32, R9, W16, R9),
        W32 => b.asm.mov(W32, R9, R9),
        _ => {}
    }
    Some(())
}

/// Leaves a CALL to the interpreter if its target, in R9, isn't canonical: it must fault before it pushes.
/// (JMP and RET are undone: `Vcpu::undo_branch`.)  R10 is lost.
fn check_target(b: &mut Builder) {
    if !b.mode().code64() {
        return;
    }
    b.addends.forget();
    let live = !b.insn().flags_dead();
    if live {
        emit_save_flags(b.asm);
    }
    b.asm.mov(W64, R10, R9);
    b.asm.shift(Shift::Shl, W64, R10, 16);
    b.asm.shift(Shift::Sar, W64, R10, 16);
    b.asm.alu(Alu::Cmp, W64, R10, R9);
    b.interpret_if(Cond::Ne, live);
    if live {
        emit_restore_flags(b.asm);
    }
}

/// R9 = `width` bytes at `mem`, zero-extended.
fn load_narrow(b: &mut Builder, width: Width, mem: Mem) {
    if width == W16 {
        b.asm.movzx(W32, R9, W16, mem);
    } else {
        b.asm.mov(width, R9, mem);
    }
}

fn jmp_indirect(b: &mut Builder) -> Flow {
    let width = branch_width(b.mode(), &b.insn().ins);
    if branch_target(b, width).is_none() {
        return b.exit_interpret();
    }
    b.exit_indirect();
    Flow::End
}

fn call_indirect(b: &mut Builder) -> Flow {
    let width = branch_width(b.mode(), &b.insn().ins);
    if branch_target(b, width).is_none() {
        return b.exit_interpret();
    }
    check_target(b);
    b.asm.mov(W64, kept(), R9);
    push_return(b, width);
    b.asm.mov(W64, R9, kept());
    b.exit_indirect();
    Flow::End
}

fn ret(b: &mut Builder) -> Flow {
    let ins = b.insn().ins;
    let width = branch_width(b.mode(), &ins);
    let size = width.bytes() as i32;
    let extra = if ins.op_count() == 1 {
        ins.immediate16() as i32
    } else {
        0
    };
    let place = stack_place(b, 0, size as usize, false);
    load_narrow(b, width, place);
    move_stack(b, size + extra);
    b.exit_indirect();
    Flow::End
}

fn jcc(b: &mut Builder) -> Flow {
    let ins = b.insn().ins;
    let cond = match ins.condition_code() {
        ConditionCode::o => Cond::O,
        ConditionCode::no => Cond::No,
        ConditionCode::b => Cond::B,
        ConditionCode::ae => Cond::Ae,
        ConditionCode::e => Cond::E,
        ConditionCode::ne => Cond::Ne,
        ConditionCode::be => Cond::Be,
        ConditionCode::a => Cond::A,
        ConditionCode::s => Cond::S,
        ConditionCode::ns => Cond::Ns,
        ConditionCode::p => Cond::P,
        ConditionCode::np => Cond::Np,
        ConditionCode::l => Cond::L,
        ConditionCode::ge => Cond::Ge,
        ConditionCode::le => Cond::Le,
        ConditionCode::g => Cond::G,
        ConditionCode::None => return b.exit_interpret(),
    };
    b.exit_if(cond, ins.near_branch_target());
    if !b.is_last() {
        return Flow::Next;
    }
    b.exit_to(ins.next_ip());
    Flow::End
}

fn loop_(b: &mut Builder) -> Flow {
    let ins = b.insn().ins;
    let width = if b.mode().code64() { W64 } else { W32 };
    b.asm.lea(width, RCX, Mem::base(RCX).disp(-1));
    let done = b.asm.label();
    b.asm.jrcxz(done);
    b.exit_to(ins.near_branch_target());
    b.asm.bind(done);
    b.exit_to(ins.next_ip());
    Flow::End
}

fn jcxz(b: &mut Builder) -> Flow {
    let ins = b.insn().ins;
    let zero = b.asm.label();
    b.asm.jrcxz(zero);
    b.exit_to(ins.next_ip());
    b.asm.bind(zero);
    b.exit_to(ins.near_branch_target());
    Flow::End
}

// --- system state ---

/// RDTSC and RDTSCP, which waits until earlier instructions have executed and tells TSC_AUX.
fn rdtsc(b: &mut Builder) -> Flow {
    use super::emit::{RAX, RDX};
    let processor = b.insn().ins.mnemonic() == Mnemonic::Rdtscp;
    if processor && !b.source.has_rdtscp {
        return b.exit_interpret();
    }
    if processor {
        b.asm.lfence();
    }
    b.asm.rdtsc();
    b.asm.rorx(W64, RDX, RDX, 32);
    b.asm.mov(W64, R9, area!(cpu.tsc_offset));
    b.asm.lea(W64, RAX, Mem::base(RAX).index(RDX, 1));
    b.asm.lea(W64, RAX, Mem::base(RAX).index(R9, 1));
    b.asm.rorx(W64, RDX, RAX, 32);
    b.asm.mov(W32, RDX, RDX);
    b.asm.mov(W32, RAX, RAX);
    if processor {
        b.asm.mov(W32, RCX, area!(cpu.msr.tsc_aux));
    }
    Flow::Next
}

fn selector(segment: usize) -> Mem {
    let offset =
        offset_of!(CpuState, seg) + segment * size_of::<Segment>() + offset_of!(Segment, selector);
    field(offset_of!(Area, cpu) + offset)
}

fn read_segment(b: &mut Builder) -> Flow {
    let ins = b.insn().ins;
    let segment = crate::interp::operand::segment_number(ins.op1_register());
    b.asm.movzx(W32, R10, W16, selector(segment));
    store_guest(b, ins.op0_register(), R10);
    Flow::Next
}

fn swapgs(b: &mut Builder) -> Flow {
    b.asm.mov(W64, R9, segment_base(seg::GS));
    b.asm.mov(W64, R10, area!(cpu.msr.kernel_gs_base));
    b.asm.mov(W64, segment_base(seg::GS), R10);
    b.asm.mov(W64, area!(cpu.msr.kernel_gs_base), R9);
    Flow::Next
}

fn read_base(b: &mut Builder) -> Flow {
    let ins = b.insn().ins;
    let segment = if ins.mnemonic() == Mnemonic::Rdfsbase {
        seg::FS
    } else {
        seg::GS
    };
    b.asm.mov(W64, R9, segment_base(segment));
    store_guest(b, ins.op0_register(), R9);
    Flow::Next
}

// --- flags that are not the host's ---

/// What the host's PUSHFQ shows besides arithmetic flags while translated code runs: bit 1 and IF.
const HOST_FIXED: i32 = (flags::FIXED | flags::IF) as i32;

/// Sets or clears a system flag of bits 8 to 15: they are in memory (the host's DF stays clear).
fn change_flag(b: &mut Builder, flag: u64, set: bool) -> Flow {
    let byte = area!(cpu.rflags);
    let byte = byte.disp(byte.disp + 1);
    let bit = (flag >> 8) as i32;
    let live = !b.insn().flags_dead();
    // BTS and BTR would change CF too.
    if live {
        emit_save_flags(b.asm);
    }
    let (op, mask) = if set {
        (Alu::Or, bit)
    } else {
        (Alu::And, !bit)
    };
    b.asm.alu(op, W8, byte, mask);
    if live {
        emit_restore_flags(b.asm);
    }
    Flow::Next
}

/// STI where no interrupt waits for it; otherwise the interpreter keeps the shadow exactly.
fn sti(b: &mut Builder) -> Flow {
    let live = !b.insn().flags_dead();
    if live {
        emit_save_flags(b.asm);
    }
    b.interpret_if_interrupt_waits(live);
    let byte = area!(cpu.rflags);
    b.asm.alu(
        Alu::Or,
        W8,
        byte.disp(byte.disp + 1),
        (flags::IF >> 8) as i32,
    );
    if live {
        emit_restore_flags(b.asm);
    }
    Flow::Next
}

/// In `cpu.rflags` the arithmetic flags are 0 while translated code runs: a sum joins both parts.
fn pushf(b: &mut Builder) -> Flow {
    let size = -b.insn().ins.stack_pointer_increment();
    let Some(width) = Width::from_bytes(size as usize) else {
        return b.exit_interpret();
    };
    stack(b, -size, size as usize, true);
    b.asm.pushfq();
    b.asm.pop(R10);
    b.asm.mov(W64, R11, area!(cpu.rflags));
    b.asm
        .lea(W64, R10, Mem::base(R10).index(R11, 1).disp(-HOST_FIXED));
    b.asm.mov(width, Mem::base(R9), R10);
    move_stack(b, -size);
    Flow::Next
}

/// POPF that changes IF, ID and arithmetic flags only; all else is interpreted.
fn popf(b: &mut Builder) -> Flow {
    let size = b.insn().ins.stack_pointer_increment();
    let Some(width) = Width::from_bytes(size as usize) else {
        return b.exit_interpret();
    };
    let narrow = width == W16;
    let taken = flags::IF as i32 | if narrow { 0 } else { flags::ID as i32 };
    let kept = (flags::TF | flags::DF | flags::IOPL | flags::NT) as i32
        | if narrow { 0 } else { flags::AC as i32 };
    stack(b, 0, size as usize, false);
    load_narrow(b, width, Mem::base(R9));
    b.asm.mov(W64, R10, area!(cpu.rflags));
    b.asm.mov(W32, R11, R9);
    b.asm.alu(Alu::Xor, W32, R11, R10);
    b.asm.test(W32, R11, kept);
    b.interpret_if(Cond::Ne, false);
    b.interpret_if_interrupt_waits(false);
    b.asm.mov(W32, R11, R9);
    b.asm.alu(Alu::And, W32, R11, taken);
    b.asm.alu(Alu::And, W64, R10, !taken);
    b.asm.alu(Alu::Or, W64, R10, R11);
    b.asm.mov(W64, area!(cpu.rflags), R10);
    // AH = SF ZF AF PF CF, AL = OF, and into the flags.
    b.asm.mov(W64, R11, super::emit::RAX);
    b.asm.movzx(W32, super::emit::RAX, W8, R9);
    b.asm.shift(Shift::Shl, W32, super::emit::RAX, 8);
    b.asm.bit_test(super::emit::BitTest::Bt, W32, R9, 11);
    b.asm.setcc(Cond::B, super::emit::RAX);
    emit_restore_flags(b.asm);
    move_stack(b, size);
    Flow::Next
}
