//! Any code in any mode: `translate` must end it as `interp` does, with the same state.
//!
//! Set aside is what may differ: undefined flags, and the arithmetic flags at a fault, which the
//! restarted instruction overwrites; accessed bits, since a translator reads ahead as processors do (SDM
//! vol. 3, 5.8); how long translations are cached (5.10); dirty bits too many, of writes that a fault
//! came before (`translate::group`); and code that never ends, reads the time or random numbers, or
//! depends on any of these.

use crate::machine::{Ending, Machine, Mode, Outcome, RAM_BYTES, at, selector};
use crate::undefined::Undefined;
use engine::fault::vector;
use engine::state::{CpuState, flags};
use engine::translate::window::Policy;
use engine::vcpu::Backend;
use iced_x86::{FlowControl, Instruction, Mnemonic};

/// Longest code, in bytes.
pub const CODE_MAX: usize = 512;
/// Instructions, or iterations of string instructions, for code that may never end.
const STEPS_MAX: usize = 4000;

const HLT: u8 = 0xF4;
/// Bits of page-table entries.
const ACCESSED: u8 = 0x20;
const DIRTY: u8 = 0x40;

/// Bytes of an input that choose mode and registers.
pub const HEADER: usize = 1 + 16 + 2;

/// The same machine twice.
pub struct Pair {
    interp: Machine,
    translate: Machine,
}

impl Pair {
    pub fn new() -> Pair {
        Pair {
            interp: Machine::new(Mode::Real, Backend::Interp),
            translate: Machine::new(Mode::Real, Backend::Translate),
        }
    }

    /// Runs what `input` describes: a byte for the mode, one for each register, two for flags, and
    /// the code.  What differs, if anything; inputs too short to describe anything are fine.
    pub fn compare(&mut self, input: &[u8]) -> Result<(), String> {
        let Some((header, code)) = input.split_at_checked(HEADER) else {
            return Ok(());
        };
        let code = &code[..code.len().min(CODE_MAX)];
        if code.is_empty() || depends_on_time(code) {
            return Ok(());
        }
        let (name, mode) = Mode::NAMED[usize::from(header[0]) % Mode::NAMED.len()];
        for machine in [&mut self.interp, &mut self.translate] {
            set_up(machine, mode, header, code);
        }
        self.translate.vcpu.set_windows(match header[0] {
            0..128 => Policy::Never,
            _ => Policy::Always,
        });
        let Some((expected, undefined)) = interpret(&mut self.interp, Walks::Cached) else {
            return Ok(());
        };
        let is = self.translate.run();
        let problems = self.differences(&expected, &is, undefined);
        if problems.is_empty() || self.depends_on_walks(mode, header, code, &expected) {
            return Ok(());
        }
        let text: String = code.iter().map(|b| format!("{b:02X}")).collect();
        Err(format!(
            "{name} {header:02x?} {text}: {}",
            problems.join(", ")
        ))
    }

    /// Whether the interpreter ends otherwise if all accessed bits are set before and no translation is
    /// cached: code that changes page tables and doesn't say so may meet either.
    fn depends_on_walks(
        &mut self,
        mode: Mode,
        header: &[u8],
        code: &[u8],
        expected: &Outcome,
    ) -> bool {
        let machine = &mut self.translate;
        machine.vcpu.backend = Backend::Interp;
        set_up(machine, mode, header, code);
        let entries = (at::PD..at::PML4).step_by(4);
        for at in entries.chain((at::PML4..at::FREE).step_by(8)) {
            let [entry] = machine.read(at);
            // PDPTEs of PAE paging have no such bit.
            let pdpte = matches!(mode, Mode::Pae32 { .. }) && at >> 12 == at::PDPT >> 12;
            if entry & 1 != 0 && !pdpte {
                machine.write(at, &[entry | ACCESSED]);
            }
        }
        let again = interpret(machine, Walks::Always);
        let differs = again
            .is_none_or(|(is, undefined)| !self.differences(expected, &is, undefined).is_empty());
        self.translate.vcpu.backend = Backend::Translate;
        differs
    }

    fn differences(&self, expected: &Outcome, is: &Outcome, undefined: Undefined) -> Vec<String> {
        let mut problems = vec![];
        if expected.ending != is.ending {
            problems.push(format!(
                "ended by {:?} not {:?}",
                is.ending, expected.ending
            ));
        }
        if matches!(expected.ending, Ending::Error(_)) {
            problems.push(format!("{:?}", expected.ending));
        }
        if expected.rip != is.rip {
            problems.push(format!("RIP {:x} not {:x}", is.rip, expected.rip));
        }
        for (i, (e, g)) in expected.gpr.iter().zip(is.gpr).enumerate() {
            let long = matches!(expected.cs, selector::CODE64 | selector::USER_CODE64);
            let mask = if long { u64::MAX } else { u64::from(u32::MAX) };
            if (*e ^ g) & mask != 0 {
                problems.push(format!("r{i} {g:x} not {e:x}"));
            }
        }
        let free = if faults(&expected.ending) {
            flags::ARITHMETIC
        } else {
            undefined.0
        };
        if (expected.rflags ^ is.rflags) & !free != 0 {
            problems.push(format!("flags {:x} not {:x}", is.rflags, expected.rflags));
        }
        self.check_system(&mut problems);
        // What a failed delivery has pushed is not architectural.
        let delivered = !matches!(
            expected.ending,
            Ending::Shutdown
                | Ending::Exception {
                    vector: vector::DF,
                    ..
                }
        );
        if delivered {
            self.check_memory(expected, is, free, &mut problems);
        }
        problems
    }

    /// Control, debug and segment registers, and the FPU.
    fn check_system(&self, problems: &mut Vec<String>) {
        let of = |cpu: &CpuState| {
            let fields = [
                cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4, cpu.efer, cpu.dr[6], cpu.dr[7],
            ];
            (
                fields, cpu.seg, cpu.ldtr, cpu.tr, cpu.gdtr, cpu.idtr, cpu.cpl,
            )
        };
        let (e, g) = (of(self.interp.vcpu.cpu), of(self.translate.vcpu.cpu));
        if e != g {
            problems.push(format!("system {g:x?} not {e:x?}"));
        }
        // But for the pointers to the last x87 instruction and operand.
        let (e, g) = (&self.interp.vcpu.cpu.fpu.0, &self.translate.vcpu.cpu.fpu.0);
        let parts = [0..5, 24..28, 32..416];
        if let Some(part) = parts.into_iter().find(|p| e[p.clone()] != g[p.clone()]) {
            problems.push(format!("FPU at {part:?}"));
        }
    }

    fn check_memory(
        &self,
        expected: &Outcome,
        is: &Outcome,
        free: u64,
        problems: &mut Vec<String>,
    ) {
        let read = |machine: &Machine, outcome: &Outcome| -> Vec<u8> {
            let mut ram = vec![0; RAM_BYTES as usize];
            machine.vcpu.vm.memory.read(0, &mut ram, |_| false);
            if let Some(at) = outcome.pushed_flags {
                for (byte, mask) in ram.iter_mut().skip(at as usize).zip(free.to_le_bytes()) {
                    *byte &= !mask;
                }
            }
            ram
        };
        let (mut e, mut g) = (read(&self.interp, expected), read(&self.translate, is));
        for at in (at::PD as usize..at::FREE as usize).step_by(4) {
            g[at] &= !(ACCESSED | DIRTY & !e[at]);
            e[at] &= !ACCESSED;
        }
        if e != g
            && let Some(i) = (0..e.len()).find(|&i| e[i] != g[i])
        {
            problems.push(format!("[{i:x}] {:02x} not {:02x}", g[i], e[i]));
        }
    }
}

/// Whether page tables are walked before each instruction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Walks {
    Cached,
    Always,
}

/// Runs the code in the interpreter, and which flags are undefined at its end; None if it is code
/// that nothing can be said about.
fn interpret(machine: &mut Machine, walks: Walks) -> Option<(Outcome, Undefined)> {
    let mut undefined = Undefined::default();
    let mut last = None;
    for _ in 0..STEPS_MAX {
        if walks == Walks::Always {
            machine.vcpu.flush_tlb_all();
        }
        let before = machine.vcpu.cpu.rip;
        let fetched = machine.vcpu.fetch().ok();
        let fetched = fetched.map(|(i, bytes)| (i, bytes[..i.len()].to_vec()));
        // A repeated string instruction that has overwritten itself may go on as either.
        if changed(&last, before, &fetched) {
            return None;
        }
        let unlike = |i: &Instruction| undefined.matters_to(i) || stores_x87_pointers(i);
        if fetched.as_ref().is_some_and(|(i, _)| unlike(i)) {
            return None;
        }
        if let Some(exit) = machine.vcpu.run_one() {
            return Some((machine.outcome(exit), undefined));
        }
        let after = machine.vcpu.cpu.rip;
        let entered = |rip| (at::HANDLERS..at::HANDLERS + 256).contains(&rip);
        // The flags that a fault has pushed may be seen by a handler that does more than HLT.
        let interrupts = |i: &Instruction| i.flow_control() == FlowControl::Interrupt;
        let faulted = entered(after) && !fetched.as_ref().is_some_and(|(i, _)| interrupts(i));
        if faulted && machine.read(after) != [HLT] {
            return None;
        }
        // An instruction that faults has no effect on the flags.
        if let Some((instruction, _)) = &fetched
            && (entered(before) || !entered(after))
        {
            undefined.note(instruction);
        }
        last = fetched.map(|(_, bytes)| (before, bytes));
    }
    None
}

/// Translated code does not keep account of the last x87 instruction's address and operand.
fn stores_x87_pointers(instruction: &Instruction) -> bool {
    use Mnemonic::*;
    matches!(
        instruction.mnemonic(),
        Fnstenv
            | Fnsave
            | Fxsave
            | Fxsave64
            | Xsave
            | Xsave64
            | Xsaveopt
            | Xsaveopt64
            | Xsavec
            | Xsavec64
            | Xsaves
            | Xsaves64
    )
}

type Fetched = Option<(Instruction, Vec<u8>)>;

/// Whether the instruction at `rip` is the last one again, but with other bytes.
fn changed(last: &Option<(u64, Vec<u8>)>, rip: u64, now: &Fetched) -> bool {
    let Some((before, bytes)) = last else {
        return false;
    };
    *before == rip && now.as_ref().is_none_or(|(_, other)| bytes != other)
}

fn set_up(machine: &mut Machine, mode: Mode, header: &[u8], code: &[u8]) {
    machine.renew(mode);
    machine.write(at::CODE, code);
    machine.write(at::CODE + code.len() as u64, &[HLT; 16]);
    let data: Vec<u8> = (0..0x2000u32)
        .map(|i| (i.wrapping_mul(0x9E37_79B1) >> 24) as u8)
        .collect();
    machine.write(at::DATA, &data);
    let cpu = &mut *machine.vcpu.cpu;
    for (register, byte) in cpu.gpr.iter_mut().zip(&header[1..17]) {
        *register = register_value(*byte) & register_mask(mode);
    }
    cpu.gpr[4] = at::STACK - 0x100;
    let arithmetic = u64::from(header[17]) << 4 | u64::from(header[18]);
    cpu.rflags |= arithmetic & (flags::ARITHMETIC | flags::DF);
}

/// One byte as a whole register: a small number, its negative, or an address in the data.
fn register_value(byte: u8) -> u64 {
    let low = u64::from(byte & 0x3F);
    match byte >> 6 {
        0 => low,
        1 => low.wrapping_neg(),
        2 => at::DATA + low * 128,
        _ => at::DATA + 0x800 + low * 7,
    }
}

/// The part of a register that means something.
fn register_mask(mode: Mode) -> u64 {
    if mode.bits() == 64 {
        u64::MAX
    } else {
        u64::from(u32::MAX)
    }
}

/// Faults leave the instruction to be restarted; traps and software interrupts don't.
fn faults(ending: &Ending) -> bool {
    match ending {
        Ending::Exception { vector, .. } => !matches!(*vector, vector::BP | vector::OF | 32..),
        Ending::Shutdown => true,
        _ => false,
    }
}

/// Whether the code has bytes of RDTSC, RDTSCP, RDPMC, RDMSR, RDRAND, RDSEED or RDPID anywhere.
fn depends_on_time(code: &[u8]) -> bool {
    code.windows(3).any(|w| match w {
        [0x0F, 0x31..=0x33, _] | [0x0F, 0x01, 0xF9] => true,
        [0x0F, 0xC7, modrm] => *modrm >= 0xF0,
        _ => false,
    }) || code.ends_with(&[0x0F, 0x31])
}
