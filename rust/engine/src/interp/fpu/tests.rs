//! The FPU and SIMD interpreter against the host's own execution of the same instructions, and
//! against the SDM where the host can't be asked: fault order, masks, saved images.

use super::execute;
use crate::cpuid::Model;
use crate::fault::{Fault, vector};
use crate::fpustate::{self, legacy};
use crate::host::{self, component};
use crate::io::IoMap;
use crate::memory::Memory;
use crate::state::{Segment, XSAVE_BYTES, XsaveArea, attr, cr0, cr4, efer, flags, gpr, seg};
use crate::vcpu::{Backend, Vcpu, Vm};
use iced_x86::{Decoder, DecoderOptions};
use std::sync::Arc;

mod against_host;
mod control;
mod elements;
mod images;
mod random;

/// Data that the tests' instructions access, by RSI.
const DATA: u64 = 0x8000;
/// Not mapped; the page before it is `DATA`'s.
const HOLE: u64 = 0x9000;
const READ_ONLY: u64 = 0xA000;

/// A CPU in 64-bit mode with the first 2 MiB mapped one to one, but for `HOLE`; everything on.
fn long_mode() -> Vcpu {
    let v = flat(attr::L);
    let memory = &v.vm.memory;
    let put = |at: u64, value: u64| memory.write(at, &value.to_le_bytes(), |_| false);
    put(0x1000, 0x2007);
    put(0x2000, 0x3007);
    put(0x3000, 0x4007);
    for page in 0..512u64 {
        let rights = match page << 12 {
            HOLE => 0,
            READ_ONLY => 5,
            _ => 7,
        };
        put(0x4000 + 8 * page, page << 12 | rights);
    }
    v.cpu.cr3 = 0x1000;
    v.cpu.efer = efer::LME | efer::LMA;
    v.cpu.cr0 |= cr0::PG | cr0::WP;
    v.cpu.cr4 |= cr4::PAE;
    v
}

/// A CPU in 32-bit protected mode without paging.
fn protected_mode() -> Vcpu {
    flat(attr::DB)
}

fn flat(code: u32) -> Vcpu {
    let memory = Memory::new(2 << 20, 2 << 20).expect("memory");
    let vm = Vm {
        memory: memory.into(),
        io: IoMap::default(),
    };
    let model = Model::named("max").expect("model");
    let v = Vcpu::new(Arc::new(vm), 0, model, Backend::Interp).expect("vcpu");
    let segment = |attributes| Segment {
        base: 0,
        limit: u32::MAX,
        attributes: attributes | attr::P | attr::S | attr::ACCESSED,
        selector: 8,
    };
    v.cpu.seg = [segment(attr::WRITABLE | attr::DB); 6];
    v.cpu.seg[seg::CS] = segment(attr::CODE | attr::READABLE | code);
    v.cpu.cr0 = cr0::PE | cr0::NE | cr0::ET | cr0::MP;
    v.cpu.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
    v.cpu.xcr0 = host::xcr0();
    v.cpu.fpu.init_x87();
    v.cpu.rip = 0x7000;
    v.cpu.gpr[gpr::RSI] = DATA;
    v
}

/// Decodes and executes the instruction that `code` starts with.
fn run(v: &mut Vcpu, code: &[u8]) -> Result<(), Fault> {
    let mut decoder = Decoder::with_ip(v.cpu.code_bits(), code, v.cpu.rip, DecoderOptions::NONE);
    let insn = decoder.decode();
    assert!(!insn.is_invalid(), "bad test code {code:02x?}");
    v.insn_bytes.fill(0);
    v.insn_bytes[..insn.len()].copy_from_slice(&code[..insn.len()]);
    v.next_rip = insn.next_ip();
    execute(v, &insn)
}

fn poke(v: &Vcpu, at: u64, bytes: &[u8]) {
    v.vm.memory.write(at, bytes, |_| false);
}

fn peek<const N: usize>(v: &Vcpu, at: u64) -> [u8; N] {
    let mut out = [0; N];
    v.vm.memory.read(at, &mut out, |_| false);
    out
}

fn has(components: u64) -> bool {
    host::xcr0() & components == components
}

/// A small generator of reproducible values (xorshift64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for b in bytes {
            *b = (self.next() >> 32) as u8;
        }
    }
}
