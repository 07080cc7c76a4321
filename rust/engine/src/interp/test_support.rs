//! A vCPU with a little RAM, for tests of single instructions.
//!
//! Code goes to `CODE`, the stack grows down from `STACK`; data may lie at `DATA`.  All segments are
//! flat at 0, in real mode too, so that offsets are linear addresses.

use crate::cpuid::Model;
use crate::fault::Fault;
use crate::io::IoMap;
use crate::memory::{Memory, PAGE};
use crate::state::{Segment, attr, cr0, cr4, efer, flags, gpr, seg};
use crate::vcpu::{Backend, Vcpu, Vm};
use std::sync::Arc;

pub const CODE: u64 = 0x4000;
pub const STACK: u64 = 0x7000;
pub const DATA: u64 = 0x8000;
/// Present and absent page of the 64-bit machine's first table, for fault tests.
pub const ABSENT: u64 = 0xC000;

const PAGE_TABLES: u64 = 0x1_0000;
const RAM_BYTES: u64 = 1 << 20;

pub struct Machine {
    pub v: Vcpu,
}

impl Machine {
    fn new(code: &[u8]) -> Machine {
        let memory = Memory::new(RAM_BYTES, RAM_BYTES).unwrap();
        let vm = Arc::new(Vm {
            memory: memory.into(),
            io: IoMap::default(),
        });
        let model = Model::named("max").unwrap();
        let v = Vcpu::new(vm, 0, model, Backend::Interp).unwrap();
        v.cpu.gpr[gpr::RDX] = 0;
        v.cpu.seg[seg::CS].base = 0;
        v.cpu.seg[seg::CS].selector = 0;
        v.cpu.gpr[gpr::RSP] = STACK;
        let mut machine = Machine { v };
        machine.load(code);
        machine
    }

    /// Real mode.
    pub fn real(code: &[u8]) -> Machine {
        Machine::new(code)
    }

    /// Protected mode, 32-bit, without paging, CPL 0.
    pub fn protected(code: &[u8]) -> Machine {
        let mut machine = Machine::new(code);
        machine.v.cpu.cr0 |= cr0::PE;
        machine.flat(attr::DB);
        machine
    }

    /// 64-bit mode at CPL 0, the first MiB identity-mapped but for the page at `ABSENT`.
    pub fn long(code: &[u8]) -> Machine {
        let mut machine = Machine::new(code);
        machine.map_identity();
        let cpu = &mut *machine.v.cpu;
        cpu.cr0 |= cr0::PE | cr0::PG;
        cpu.cr4 = cr4::PAE;
        cpu.cr3 = PAGE_TABLES;
        cpu.efer = efer::LME | efer::LMA;
        machine.flat(attr::L);
        machine
    }

    /// 4 GiB segments, code with `bits` (D or L).
    fn flat(&mut self, bits: u32) {
        let common = attr::P | attr::S | attr::ACCESSED | attr::WRITABLE | attr::G;
        for (i, segment) in self.v.cpu.seg.iter_mut().enumerate() {
            let kind = if i == seg::CS {
                attr::CODE | bits
            } else {
                attr::DB
            };
            *segment = Segment {
                base: 0,
                limit: u32::MAX,
                attributes: common | kind,
                selector: if i == seg::CS { 8 } else { 16 },
            };
        }
    }

    fn map_identity(&mut self) {
        for level in 0..3 {
            let table = PAGE_TABLES + level * PAGE;
            self.store(table, &((table + PAGE) | 7).to_le_bytes());
        }
        for page in (0..RAM_BYTES).step_by(PAGE as usize) {
            let entry = if page == ABSENT { 0 } else { page | 7 };
            let at = PAGE_TABLES + 3 * PAGE + page / PAGE * 8;
            self.store(at, &entry.to_le_bytes());
        }
    }

    /// Puts `code` at `CODE` and RIP there.
    pub fn load(&mut self, code: &[u8]) {
        self.store(CODE, code);
        self.v.cpu.rip = CODE;
    }

    pub fn store(&self, address: u64, data: &[u8]) {
        self.v.vm.memory.write(address, data, |_| false);
    }

    pub fn bytes<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut out = [0; N];
        self.v.vm.memory.read(address, &mut out, |_| false);
        out
    }

    /// Executes the instruction at CS:RIP; a fault is told, not delivered.
    pub fn step(&mut self) -> Result<(), Fault> {
        self.v.fetch_and_execute()?;
        self.v.cpu.rip = self.v.next_rip;
        Ok(())
    }

    /// Steps until RIP is past `code_bytes` of code.
    pub fn run(&mut self, code_bytes: usize) -> Result<(), Fault> {
        while self.v.cpu.rip < CODE + code_bytes as u64 {
            self.step()?;
        }
        Ok(())
    }

    pub fn arithmetic_flags(&self) -> u64 {
        self.v.cpu.rflags & flags::ARITHMETIC
    }
}

/// Numbers that look random (SplitMix64), the same in each run.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) % n as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

/// Runs all of `code` in 64-bit mode after `prepare`.
pub fn long(code: &[u8], prepare: impl FnOnce(&mut Machine)) -> Machine {
    let mut machine = Machine::long(code);
    prepare(&mut machine);
    machine.run(code.len()).unwrap();
    machine
}

/// Runs all of `code` in real mode after `prepare`.
pub fn real(code: &[u8], prepare: impl FnOnce(&mut Machine)) -> Machine {
    let mut machine = Machine::real(code);
    prepare(&mut machine);
    machine.run(code.len()).unwrap();
    machine
}
