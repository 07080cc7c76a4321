//! The same guest on both backends, compared.

use super::devices::{Pic, RAM_BYTES, enter_flat, machine};
use engine::exit::Exit;
use engine::state::{CpuState, flags, gpr};
use engine::vcpu::{Backend, Vcpu};
use iced_x86::{Instruction, Mnemonic, Register};
use std::sync::Arc;

/// Instructions that translated code may run without a poll: what fits into a page.
const CHAIN_MAX: usize = 4096;
const MEMORY_CHECK_STEPS: u64 = 100_000;
/// Comparisons from one interrupt to the next, on average.
const INTERRUPT_STEPS: u64 = 1999;

/// A guest: puts its image into memory and sets its entry registers.
pub type Load = dyn Fn(&mut Vcpu);

/// The same guest on both backends.
pub struct Twins {
    pub translated: Vcpu,
    interpreted: Vcpu,
    pic: Arc<Pic>,
    all_flags_live: bool,
    /// Of the pseudo-random numbers that interrupts come by.
    seed: u64,
}

impl Twins {
    pub fn new(load: &Load, all_flags_live: bool) -> Twins {
        let (translated, pic) = machine(Backend::Translate);
        let (interpreted, _) = machine(Backend::Interp);
        let mut twins = Twins {
            translated,
            interpreted,
            pic,
            all_flags_live,
            seed: 1,
        };
        twins.translated.jit.make_comparable(all_flags_live);
        for v in [&mut twins.translated, &mut twins.interpreted] {
            enter_flat(v);
            load(v);
        }
        twins
    }

    /// Runs up to `steps` chains of blocks; how the guest ended if it did.
    pub fn run(&mut self, steps: u64) -> Result<Option<Exit>, String> {
        let mut next = 1;
        for step in 1..=steps {
            if step >= next {
                self.interrupt();
                next = step + self.pause();
            }
            let before = self.translated.cpu.rip;
            let ended = self.step().map_err(|e| {
                let interrupts = self.translated.stats.interrupts;
                format!("step {step}, from {before:#x}, after {interrupts} interrupts: {e}")
            })?;
            if let Some(exit) = ended {
                self.check_memory(step)?;
                if exit != Exit::Halt || !self.interrupt() {
                    return Ok(Some(exit));
                }
            }
            if step % MEMORY_CHECK_STEPS == 0 {
                self.check_memory(step)?;
            }
        }
        Ok(None)
    }

    /// Comparisons to the next interrupt: now and then they come thick.
    fn pause(&mut self) -> u64 {
        self.seed = self
            .seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        let random = self.seed >> 33;
        if random.is_multiple_of(16) {
            1 + random / 16 % 8
        } else {
            1 + random / 16 % (2 * INTERRUPT_STEPS)
        }
    }

    /// Whether the guest would have one.
    fn interrupt(&mut self) -> bool {
        let wanted = self.translated.cpu.interrupts_enabled() && !self.pic.masked();
        if wanted {
            self.translated.shared.set_intr(true);
            self.interpreted.shared.set_intr(true);
        }
        wanted
    }

    fn step(&mut self) -> Result<Option<Exit>, String> {
        let dropped = self.translated.stats.invalidated_blocks;
        let interpreted = self.translated.stats.interpreted;
        let exit = self.translated.run_one();
        if let Some(e) = &self.translated.error {
            return Err(e.clone());
        }
        // Where a block was only dropped, nothing may have run.
        if self.translated.stats.invalidated_blocks != dropped && self.difference().is_none() {
            return Ok(exit);
        }
        let mut first = None;
        // What no two runs get alike is interpreted in both.
        let by_chance = self.translated.stats.interpreted != interpreted;
        for _ in 0..CHAIN_MAX {
            let chance = if by_chance { self.chance() } else { None };
            let other = self.interpreted.run_one();
            if let Some(instruction) = chance {
                self.copy_chance(&instruction);
            }
            // Far from each other nobody wants to know how.
            let near = self.interpreted.cpu.rip == self.translated.cpu.rip;
            let difference = if near { self.difference() } else { None };
            if near && difference.is_none() {
                return if other == exit {
                    Ok(exit)
                } else {
                    Err(format!("exit {exit:?} not {other:?}"))
                };
            }
            first = first.or(difference);
            if other.is_some() {
                break;
            }
        }
        let rip = self.translated.cpu.rip;
        Err(first.unwrap_or_else(|| format!("RIP {rip:#x} is never reached")))
    }

    /// The interpreter's next instruction, if it gives what no two runs get alike.
    fn chance(&mut self) -> Option<Instruction> {
        use Mnemonic::*;
        let (instruction, _) = self.interpreted.fetch().ok()?;
        let chance = matches!(instruction.mnemonic(), Rdtsc | Rdtscp | Rdrand | Rdseed);
        chance.then_some(instruction)
    }

    /// What it gave: translated code leaves after such an instruction.
    fn copy_chance(&mut self, instruction: &Instruction) {
        let (t, i) = (&*self.translated.cpu, &mut *self.interpreted.cpu);
        match instruction.mnemonic() {
            Mnemonic::Rdrand | Mnemonic::Rdseed => {
                let target = instruction.op0_register().full_register();
                let n = target as usize - Register::RAX as usize;
                i.gpr[n] = t.gpr[n];
                i.rflags = i.rflags & !flags::ARITHMETIC | t.rflags & flags::ARITHMETIC;
            }
            _ => {
                for n in [gpr::RAX, gpr::RDX, gpr::RCX] {
                    i.gpr[n] = t.gpr[n];
                }
            }
        }
    }

    /// What of the CPUs' states differs.
    fn difference(&self) -> Option<String> {
        let (t, i) = (&*self.translated.cpu, &*self.interpreted.cpu);
        if t.rip != i.rip {
            return Some(format!("RIP {:#x} not {:#x}", t.rip, i.rip));
        }
        let mask = if t.code64() { u64::MAX } else { 0xFFFF_FFFF };
        for n in 0..16 {
            let visible = if n < 8 { mask } else { u64::MAX };
            if (t.gpr[n] ^ i.gpr[n]) & visible != 0 {
                return Some(format!("r{n} {:#x} not {:#x}", t.gpr[n], i.gpr[n]));
            }
        }
        let dead = if self.all_flags_live {
            0
        } else {
            flags::ARITHMETIC
        };
        if (t.rflags ^ i.rflags) & !dead != 0 {
            return Some(format!("flags {:#x} not {:#x}", t.rflags, i.rflags));
        }
        system_difference(t, i).or_else(|| fpu_difference(t, i))
    }

    fn check_memory(&self, step: u64) -> Result<(), String> {
        if !self.all_flags_live {
            return Ok(());
        }
        const CHUNK: usize = 1 << 16;
        let (mut t, mut i) = (vec![0; CHUNK], vec![0; CHUNK]);
        for base in (0..RAM_BYTES).step_by(CHUNK) {
            self.translated.vm.memory.read(base, &mut t, |_| false);
            self.interpreted.vm.memory.read(base, &mut i, |_| false);
            if t != i {
                let at = (0..CHUNK).find(|&at| t[at] != i[at]).unwrap_or(0);
                let (is, expected) = (t[at], i[at]);
                let address = base + at as u64;
                return Err(format!(
                    "step {step}: [{address:#x}] {is:#x} not {expected:#x}"
                ));
            }
        }
        Ok(())
    }
}

fn system_difference(t: &CpuState, i: &CpuState) -> Option<String> {
    let of = |c: &CpuState| {
        let registers = [c.cr0, c.cr2, c.cr3, c.cr4, c.efer, c.xcr0, c.dr[6], c.dr[7]];
        let tables = (c.gdtr, c.idtr, c.ldtr, c.tr);
        (registers, c.seg, tables, c.cpl, c.shadow, c.halted)
    };
    let (t, i) = (of(t), of(i));
    (t != i).then(|| format!("system state {t:x?} not {i:x?}"))
}

/// But for the pointers to the last x87 instruction and operand.
fn fpu_difference(t: &CpuState, i: &CpuState) -> Option<String> {
    let parts = [0..5, 24..28, 32..416, 576..832];
    let differs = parts
        .into_iter()
        .find(|p| t.fpu.0[p.clone()] != i.fpu.0[p.clone()]);
    differs.map(|p| format!("FPU image at {p:?}"))
}
