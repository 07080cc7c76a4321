//! Whole guests in lock step: two machines with nothing but a timer run the same guest, one translated
//! and one interpreted, and are compared wherever translated code has left.
//!
//! Translated code runs to its first exit or poll; the interpreter then steps until the states are
//! equal, which they must become within the code that one chain of blocks can have.  Time and random
//! numbers are the translated machine's for both; interrupts come to both at the same boundary.
//! Each guest runs twice: with every flag live, comparing flags and memory too, and as always, where
//! dead flags (and what exceptions push of them) may be anything.
//!
//! RING3_LOCKSTEP_STEPS: comparisons of each run.  RING3_LOCKSTEP_LINUX: a bzImage to start too.

use engine::cpuid::Model;
use engine::exit::Exit;
use engine::io::{Device, IoMap};
use engine::memory::Memory;
use engine::state::{CpuState, Segment, TableRegister, attr, cr0, flags, gpr, seg};
use engine::vcpu::{Acknowledge, Backend, Vcpu, Vm, locked};
use iced_x86::Mnemonic;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const RAM_BYTES: u64 = 96 << 20;
const IMAGE: u64 = 0x10_0000;
/// Where boot information lies, with the segment descriptors before it.
const GDT: u64 = 0x8_F000;
const PARAMETERS: u64 = 0x9_0000;
const COMMAND_LINE: u64 = 0x9_2000;
/// Comparisons of each run in CI.
const STEPS: u64 = 1_000_000;
/// Instructions that translated code may run without a poll: what fits into a page.
const CHAIN_MAX: usize = 4096;
const MEMORY_CHECK_STEPS: u64 = 100_000;
/// Comparisons from one interrupt to the next.
const INTERRUPT_STEPS: u64 = 997;
/// The vector of IRQ 0 as both guests place it.
const INTERRUPT_VECTOR: u8 = 0x20;

/// An interval timer's counters, which count reads instead of time: low and high byte in turn.
#[derive(Default)]
struct Counter(AtomicU64);

impl Device for Counter {
    fn read(&self, _offset: u64, _size: u8) -> u64 {
        let reads = self.0.fetch_add(1, Ordering::Relaxed);
        let count = 0u64.wrapping_sub(reads / 2 * 40);
        count >> (8 * (reads % 2)) & 0xFF
    }

    fn write(&self, _offset: u64, _size: u8, _value: u64) {}
}

/// A port that reads what was written: the mask of an 8259, a clock that never updates.
#[derive(Default)]
struct Latch(AtomicU64);

impl Device for Latch {
    fn read(&self, _offset: u64, _size: u8) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn write(&self, _offset: u64, _size: u8, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

fn machine(backend: Backend) -> Vcpu {
    let memory = Memory::new(RAM_BYTES, RAM_BYTES).expect("RAM");
    let vm = Arc::new(Vm {
        memory: memory.into(),
        io: IoMap::default(),
    });
    let map = |port, count, device| vm.io.map_ports(port, count, 1, device);
    map(0x40, 3, Arc::new(Counter::default())).expect("free ports");
    map(0x21, 1, Arc::new(Latch::default())).expect("a free port");
    map(0x71, 1, Arc::new(Latch::default())).expect("a free port");
    let mut v = Vcpu::new(
        vm.clone(),
        0,
        Model::named("max").expect("a model"),
        backend,
    )
    .expect("a vCPU");
    v.reset();
    // The local APIC, enabled, passes INTR on: LINT0 delivers as ExtINT.
    v.apic_write(0xF0, 4, 0x1FF);
    v.apic_write(0x350, 4, 0x700);
    let shared = Arc::downgrade(&v.shared);
    let acknowledge: Acknowledge = Box::new(move || {
        if let Some(shared) = shared.upgrade() {
            shared.set_intr(false);
        }
        INTERRUPT_VECTOR
    });
    *locked(&v.shared.acknowledge) = Some(Arc::new(acknowledge));
    v
}

fn write(v: &Vcpu, address: u64, data: &[u8]) {
    v.vm.memory.write(address, data, |_| false);
}

/// The state that Multiboot and Linux's 32-bit boot protocol both ask for.
fn enter_flat(v: &mut Vcpu) {
    let flat = |selector, bits| Segment {
        base: 0,
        limit: u32::MAX,
        attributes: attr::P | attr::S | attr::ACCESSED | attr::WRITABLE | attr::G | attr::DB | bits,
        selector,
    };
    let mut gdt = [0u64; 4];
    gdt[2] = 0x00CF_9B00_0000_FFFF;
    gdt[3] = 0x00CF_9300_0000_FFFF;
    for (i, entry) in gdt.iter().enumerate() {
        write(v, GDT + 8 * i as u64, &entry.to_le_bytes());
    }
    let cpu = &mut *v.cpu;
    cpu.gdtr = TableRegister {
        base: GDT,
        limit: 31,
    };
    cpu.seg = [flat(0x18, 0); 6];
    cpu.seg[seg::CS] = flat(0x10, attr::CODE);
    cpu.cr0 = cr0::PE | cr0::ET;
    cpu.rip = IMAGE;
    cpu.gpr = [0; 16];
    v.flush_tlb_all();
}

/// A guest: puts its image into memory and sets its entry registers.
type Load = dyn Fn(&mut Vcpu);

/// Ring3's own guest, which runs loops in every mode; here without anything to print on.
fn load_embedded(v: &mut Vcpu) {
    let image = assembled_guest();
    write(v, IMAGE, &image);
    v.cpu.gpr[gpr::RAX] = 0x2BAD_B002;
    v.cpu.gpr[gpr::RBX] = PARAMETERS;
    // Flags: memory information only.
    write(v, PARAMETERS, &1u32.to_le_bytes());
    write(v, PARAMETERS + 4, &640u32.to_le_bytes());
    write(
        v,
        PARAMETERS + 8,
        &(((RAM_BYTES - IMAGE) >> 10) as u32).to_le_bytes(),
    );
    v.cpu.rip = multiboot_entry(&image);
}

/// `entry_addr` of the Multiboot header.
fn multiboot_entry(image: &[u8]) -> u64 {
    let header = image
        .windows(4)
        .position(|w| w == 0x1BAD_B002u32.to_le_bytes())
        .expect("a Multiboot header");
    let field: [u8; 4] = image[header + 28..header + 32].try_into().expect("4 bytes");
    u32::from_le_bytes(field) as u64
}

fn assembled_guest() -> Vec<u8> {
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../guests/embedded");
    let unique = format!("ring3-lockstep-{:?}", std::thread::current().id());
    let output = std::env::temp_dir().join(unique.replace(['(', ')'], "-"));
    let ran = Command::new("nasm")
        .args(["-f", "bin", "-o"])
        .arg(&output)
        .arg(format!("-I{}/", source.display()))
        .arg(source.join("guest.asm"))
        .status()
        .expect("nasm, which `scripts/setup test` installs");
    assert!(ran.success(), "the embedded guest could not be assembled");
    let image = std::fs::read(&output).expect("NASM's output");
    let _ = std::fs::remove_file(output);
    image
}

/// Linux's 32-bit boot protocol (its Documentation/arch/x86/boot.rst).
fn load_linux(v: &mut Vcpu, image: &[u8]) {
    let setup_sectors = match image[0x1F1] {
        0 => 4,
        n => usize::from(n),
    };
    write(v, IMAGE, &image[(setup_sectors + 1) * 512..]);
    let mut zero_page = vec![0u8; 4096];
    let header_end = 0x202 + usize::from(image[0x201]);
    zero_page[0x1F1..header_end].copy_from_slice(&image[0x1F1..header_end]);
    zero_page[0x210] = 0xFF;
    zero_page[0x228..0x22C].copy_from_slice(&(COMMAND_LINE as u32).to_le_bytes());
    let map = [(0, PARAMETERS, 1u32), (IMAGE, RAM_BYTES - IMAGE, 1)];
    zero_page[0x1E8] = map.len() as u8;
    for (i, (base, bytes, kind)) in map.iter().enumerate() {
        let at = 0x2D0 + 20 * i;
        zero_page[at..at + 8].copy_from_slice(&base.to_le_bytes());
        zero_page[at + 8..at + 16].copy_from_slice(&bytes.to_le_bytes());
        zero_page[at + 16..at + 20].copy_from_slice(&kind.to_le_bytes());
    }
    write(v, PARAMETERS, &zero_page);
    write(v, COMMAND_LINE, b"nokaslr\0");
    v.cpu.gpr[gpr::RSI] = PARAMETERS;
}

/// The same guest on both backends.
struct Twins {
    translated: Vcpu,
    interpreted: Vcpu,
    all_flags_live: bool,
}

impl Twins {
    fn new(load: &Load, all_flags_live: bool) -> Twins {
        let mut twins = Twins {
            translated: machine(Backend::Translate),
            interpreted: machine(Backend::Interp),
            all_flags_live,
        };
        twins.translated.jit.make_comparable(all_flags_live);
        for v in [&mut twins.translated, &mut twins.interpreted] {
            enter_flat(v);
            load(v);
        }
        twins
    }

    /// Runs up to `steps` chains of blocks; how the guest ended if it did.
    fn run(&mut self, steps: u64) -> Result<Option<Exit>, String> {
        for step in 1..=steps {
            if step % INTERRUPT_STEPS == 0 {
                self.interrupt();
            }
            let before = self.translated.cpu.rip;
            let ended = self.step().map_err(|e| {
                let interrupts = self.translated.stats.interrupts;
                format!("step {step}, from {before:#x}, after {interrupts} interrupts: {e}")
            })?;
            if let Some(exit) = ended {
                self.check_memory(step)?;
                if exit != Exit::Halt || !self.translated.cpu.interrupts_enabled() {
                    return Ok(Some(exit));
                }
                self.interrupt();
            }
            if step % MEMORY_CHECK_STEPS == 0 {
                self.check_memory(step)?;
            }
        }
        Ok(None)
    }

    fn interrupt(&mut self) {
        if self.translated.cpu.interrupts_enabled() {
            self.translated.shared.set_intr(true);
            self.interpreted.shared.set_intr(true);
        }
    }

    fn step(&mut self) -> Result<Option<Exit>, String> {
        let dropped = self.translated.stats.invalidated_blocks;
        let exit = self.translated.run_one();
        if let Some(e) = &self.translated.error {
            return Err(e.clone());
        }
        // Where a block was only dropped, nothing may have run.
        if self.translated.stats.invalidated_blocks != dropped && self.difference().is_none() {
            return Ok(exit);
        }
        let mut first = None;
        for _ in 0..CHAIN_MAX {
            let reads_time = self.at_time_read();
            let other = self.interpreted.run_one();
            if reads_time {
                for register in [gpr::RAX, gpr::RDX, gpr::RCX] {
                    self.interpreted.cpu.gpr[register] = self.translated.cpu.gpr[register];
                }
            }
            let Some(difference) = self.difference() else {
                return if other == exit {
                    Ok(exit)
                } else {
                    Err(format!("exit {exit:?} not {other:?}"))
                };
            };
            if self.interpreted.cpu.rip == self.translated.cpu.rip {
                first.get_or_insert(difference);
            }
            if other.is_some() {
                break;
            }
        }
        let rip = self.translated.cpu.rip;
        Err(first.unwrap_or_else(|| format!("RIP {rip:#x} is never reached")))
    }

    /// Whether the interpreter's next instruction gives what no two runs get alike.
    fn at_time_read(&mut self) -> bool {
        use Mnemonic::*;
        let Ok((instruction, _)) = self.interpreted.fetch() else {
            return false;
        };
        matches!(instruction.mnemonic(), Rdtsc | Rdtscp | Rdrand | Rdseed)
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

fn lock_step(load: &Load) {
    let steps = std::env::var("RING3_LOCKSTEP_STEPS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(STEPS);
    for all_flags_live in [true, false] {
        let mut twins = Twins::new(load, all_flags_live);
        let result = twins.run(steps);
        eprintln!(
            "all flags live: {all_flags_live}; {result:?} at {:#x}, {} blocks, {} interrupts",
            twins.translated.cpu.rip,
            twins.translated.stats.blocks,
            twins.translated.stats.interrupts
        );
        if let Err(difference) = result {
            panic!("all flags live: {all_flags_live}; {difference}");
        }
        assert!(twins.translated.stats.blocks > 100, "too little ran");
    }
}

#[test]
fn the_embedded_guest_runs_alike_on_both_backends() {
    lock_step(&load_embedded);
}

#[test]
fn linux_starts_alike_on_both_backends() {
    let Some(path) = std::env::var_os("RING3_LOCKSTEP_LINUX") else {
        return;
    };
    let image = std::fs::read(path).expect("RING3_LOCKSTEP_LINUX: a readable bzImage");
    lock_step(&move |v| load_linux(v, &image));
}
