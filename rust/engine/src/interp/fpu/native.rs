//! Executes one instruction on the host's own units, on the guest's FPU and general registers.
//!
//! The instruction is re-encoded for 64-bit mode: its memory operand becomes a buffer, the stack
//! pointer as a register operand another register.  What comes out is a `Plan`, kept by the
//! instruction's value, so that loops encode once.
//!
//! Exceptions are the host's own.  An unmasked SIMD exception ends the stub with SIGFPE.  An
//! unmasked x87 exception the host would report only at the next x87 instruction, and the stub has
//! but one.

use super::checks::{self, Pending, Traits, Unit};
use super::image::{Pointers, fsw};
use super::memory::Operand;
use super::stub::{Context, Stub, StubMemory};
use crate::cpuid::Model;
use crate::fault::{Fault, vector};
use crate::fpustate::{self, legacy};
use crate::interp::operand::Place;
use crate::state::{cr4, flags, gpr, seg};
use crate::vcpu::Vcpu;
use iced_x86::{Encoder, Instruction, Mnemonic, OpKind, Register};
use std::collections::HashMap;
use std::io;

/// How to execute an instruction.
#[derive(Clone, Copy, Debug)]
struct Plan {
    unit: Unit,
    stub: Stub,
    memory: Option<Operand>,
    /// The general register that stands in for RSP, if RSP is an operand.
    stand_in: Option<usize>,
    /// An x87 instruction that doesn't wait for pending exceptions, nor is recorded in FIP.
    control: bool,
}

/// The stubs of one vCPU.
pub struct NativeUnit {
    stubs: StubMemory,
    plans: HashMap<Instruction, Plan>,
    pub(super) traits: Traits,
}

impl NativeUnit {
    pub fn new(model: &Model) -> io::Result<NativeUnit> {
        Ok(NativeUnit {
            stubs: StubMemory::new()?,
            plans: HashMap::new(),
            traits: Traits::of(model),
        })
    }

    fn add(&mut self, code: &[u8]) -> Option<Stub> {
        if self.stubs.is_full() {
            self.stubs.clear();
            self.plans.clear();
        }
        self.stubs.add(code)
    }
}

/// Executes a computing x87, MMX, SSE, AVX or AVX-512 instruction.
pub fn execute(v: &mut Vcpu, insn: &Instruction) -> Result<(), Fault> {
    let plan = find_plan(v, insn)?;
    checks::enabled(v, plan.unit)?;
    let waits = match plan.unit {
        Unit::X87 => !plan.control || insn.mnemonic() == Mnemonic::Fldcw,
        Unit::Mmx | Unit::Sse { mmx: true } => true,
        _ => false,
    };
    let pending = if waits {
        checks::pending_x87(v)?
    } else {
        Pending::None
    };
    if pending == Pending::Frozen {
        return Ok(());
    }
    let mut context = Context::new(v.cpu.rflags & flags::ARITHMETIC | flags::FIXED);
    let place = v.place(insn);
    if let Some(memory) = plan.memory {
        memory.prepare(v, place, &mut context.operand)?;
    }
    context.gpr = v.cpu.gpr;
    if let Some(n) = plan.stand_in {
        context.gpr[n] = v.cpu.gpr[gpr::RSP];
    }
    match plan.unit {
        Unit::X87 | Unit::Mmx => run_x87(v, &plan, place, &mut context, pending)?,
        _ => run_simd(v, &plan, &mut context)?,
    }
    let x87_fault = v.cpu.fpu.unmasked_exceptions() & !fsw::PE;
    let stores = plan.unit != Unit::X87 || plan.control || x87_fault == 0;
    if let Some(memory) = plan.memory
        && memory.write
        && stores
    {
        memory.store(v, place, &context.operand)?;
    }
    commit(v, &plan, &context);
    Ok(())
}

/// General registers and arithmetic flags as the stub left them.
fn commit(v: &mut Vcpu, plan: &Plan, context: &Context) {
    let rsp = match plan.stand_in {
        Some(n) => context.gpr[n],
        None => v.cpu.gpr[gpr::RSP],
    };
    for n in (0..16).filter(|&n| n != gpr::RSP && Some(n) != plan.stand_in) {
        v.cpu.gpr[n] = context.gpr[n];
    }
    v.cpu.gpr[gpr::RSP] = rsp;
    v.cpu.rflags = v.cpu.rflags & !flags::ARITHMETIC | context.rflags & flags::ARITHMETIC;
}

/// Runs an x87 or MMX instruction and records where it was.
fn run_x87(
    v: &mut Vcpu,
    plan: &Plan,
    place: Place,
    context: &mut Context,
    pending: Pending,
) -> Result<(), Fault> {
    let before = v.cpu.fpu.pointers();
    let status = v.cpu.fpu.fsw();
    if pending == Pending::Ignored {
        // The host has no IGNNE#: hide what is pending from it.
        let hidden = status & !(fsw::EXCEPTIONS | fsw::ES | fsw::B);
        v.cpu.fpu.set_u16(legacy::FSW, hidden);
    }
    fpustate::prepare(&mut v.cpu.fpu);
    let area = &raw mut v.cpu.fpu;
    // SAFETY: the image is prepared; the instruction's operand is the context's buffer, and
    // pending x87 exceptions are absent or hidden.
    let signal = unsafe { context.run(plan.stub, area) };
    let pointers = if plan.unit == Unit::X87 && !plan.control {
        recorded(v, plan, place, before)
    } else {
        before
    };
    v.cpu.fpu.set_pointers(pointers);
    if pending == Pending::Ignored {
        let (fcw, now) = (v.cpu.fpu.fcw(), v.cpu.fpu.fsw());
        let status = now | status & fsw::EXCEPTIONS;
        v.cpu.fpu.set_control_and_status(fcw, status);
    }
    if signal.is_some() {
        return Err(Fault::UD);
    }
    Ok(())
}

/// FIP, FDP and FOP after the instruction being executed (SDM vol. 1, 8.1.8).
fn recorded(v: &Vcpu, plan: &Plan, place: Place, before: Pointers) -> Pointers {
    let traits = v.native.traits;
    let selector = |index: usize| match traits.selectors {
        true => v.cpu.seg[index].selector,
        false => 0,
    };
    let mut pointers = Pointers {
        fop: opcode11(&v.insn_bytes),
        fip: v.cpu.rip,
        fcs: selector(seg::CS),
        ..before
    };
    let exception = v.cpu.fpu.unmasked_exceptions() != 0;
    if plan.memory.is_some() && (exception || !traits.fdp_for_exceptions) {
        pointers.fdp = place.offset;
        pointers.fds = selector(place.segment);
    }
    pointers
}

/// The low three bits of the x87 opcode's first byte, and its second.
fn opcode11(bytes: &[u8]) -> u16 {
    let Some(at) = bytes.iter().position(|b| (0xD8..=0xDF).contains(b)) else {
        return 0;
    };
    let second = bytes.get(at + 1).copied().unwrap_or(0);
    (bytes[at] as u16 & 7) << 8 | second as u16
}

/// Runs a SIMD instruction; #XM if it raises an exception that MXCSR doesn't mask.
fn run_simd(v: &mut Vcpu, plan: &Plan, context: &mut Context) -> Result<(), Fault> {
    fpustate::prepare(&mut v.cpu.fpu);
    let pointers = v.cpu.fpu.pointers();
    let area = &raw mut v.cpu.fpu;
    // SAFETY: the image is prepared; the operand is the context's buffer.
    let signal = unsafe { context.run(plan.stub, area) };
    v.cpu.fpu.set_pointers(pointers);
    match signal {
        None => Ok(()),
        Some(libc::SIGFPE) if v.cpu.cr4 & cr4::OSXMMEXCPT != 0 => Err(Fault::new(vector::XM)),
        Some(_) => Err(Fault::UD),
    }
}

/// The plan for `insn`, made if there is none yet.
fn find_plan(v: &mut Vcpu, insn: &Instruction) -> Result<Plan, Fault> {
    let key = normalized(insn);
    if let Some(plan) = v.native.plans.get(&key) {
        return Ok(*plan);
    }
    checks::available(v, insn)?;
    let unit = checks::unit(insn).ok_or(Fault::UD)?;
    let (code, stand_in) = encode(&key)?;
    let plan = Plan {
        unit,
        memory: Operand::of(insn)?,
        stub: v.native.add(&code).ok_or(Fault::UD)?,
        stand_in,
        control: is_control(insn.mnemonic()),
    };
    v.native.plans.insert(key, plan);
    Ok(plan)
}

/// The instruction with its memory operand at `[rsp]` and without prefixes that don't count.
fn normalized(insn: &Instruction) -> Instruction {
    let mut i = *insn;
    if (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory) {
        i.set_memory_base(Register::RSP);
        i.set_memory_index(Register::None);
        i.set_memory_index_scale(1);
        i.set_memory_displacement64(0);
        i.set_memory_displ_size(0);
    }
    i.set_segment_prefix(Register::None);
    i.set_has_rep_prefix(false);
    i.set_has_repne_prefix(false);
    i
}

/// Machine code for 64-bit mode, and the register that stands in for RSP in it.
fn encode(normalized: &Instruction) -> Result<(Vec<u8>, Option<usize>), Fault> {
    let mut i = *normalized;
    let stand_in = replace_rsp(&mut i)?;
    let mut encoder = Encoder::new(64);
    encoder.encode(&i, 0).map_err(|_| Fault::UD)?;
    Ok((encoder.take_buffer(), stand_in))
}

/// Replaces RSP, ESP, SP or SPL as a register operand by a register that isn't one.  #UD for
/// operands that aren't registers, immediates or plain memory: nothing of the kind runs natively.
fn replace_rsp(i: &mut Instruction) -> Result<Option<usize>, Fault> {
    let used = |i: &Instruction, r: Register| {
        (0..i.op_count())
            .any(|n| i.op_kind(n) == OpKind::Register && i.op_register(n).full_register() == r)
    };
    let implicit = (0..i.op_count()).any(|n| {
        !matches!(i.op_kind(n), OpKind::Register | OpKind::Memory) && i.try_immediate(n).is_err()
    });
    if implicit {
        return Err(Fault::UD);
    }
    if !used(i, Register::RSP) {
        return Ok(None);
    }
    // Registers that need no REX prefix and are no instruction's implicit operand.
    let candidates = [
        (
            gpr::RBX,
            [Register::BL, Register::BX, Register::EBX, Register::RBX],
        ),
        (
            gpr::RBP,
            [Register::BPL, Register::BP, Register::EBP, Register::RBP],
        ),
        (
            gpr::RSI,
            [Register::SIL, Register::SI, Register::ESI, Register::RSI],
        ),
        (
            gpr::RDI,
            [Register::DIL, Register::DI, Register::EDI, Register::RDI],
        ),
    ];
    let (number, names) = candidates
        .into_iter()
        .find(|(_, names)| !used(i, names[3]))
        .ok_or(Fault::UD)?;
    for n in 0..i.op_count() {
        if i.op_kind(n) == OpKind::Register && i.op_register(n).full_register() == Register::RSP {
            let width = i.op_register(n).size().trailing_zeros() as usize;
            i.set_op_register(n, names[width & 3]);
        }
    }
    Ok(Some(number))
}

/// x87 control instructions that are executed natively.
fn is_control(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(m, Fldcw | Fnstcw | Fnstsw | Fneni | Fndisi | Fnsetpm)
}
