//! Accesses to devices in the middle of blocks.

use super::tests::agree;
use crate::interp::test_support::{ABSENT, CODE, DATA, Machine};
use crate::io::Device;
use crate::memory::Memory;
use crate::state::gpr;
use crate::vcpu::{Backend, Shared};
use iced_x86::code_asm::*;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

const PORT: u32 = 0x80;
/// A page of a device's.
const PAGE: u64 = 0xE000;

/// Stores over code when its port is written, as a bus master does.
struct Patch {
    memory: Weak<Memory>,
    shared: Weak<Shared>,
    address: u64,
    data: u8,
}

impl Device for Patch {
    fn read(&self, _: u64, _: u8) -> u64 {
        0x5A
    }

    fn write(&self, _: u64, _: u8, _: u64) {
        let (Some(memory), Some(shared)) = (self.memory.upgrade(), self.shared.upgrade()) else {
            return;
        };
        if memory.write(self.address, &[self.data], |_| false) {
            shared.attend();
        }
    }
}

fn patched(code: &[u8], address: u64, data: u8) -> Machine {
    let mut m = Machine::protected(code);
    m.v.backend = Backend::Translate;
    let device = Patch {
        memory: Arc::downgrade(&m.v.vm.memory),
        shared: Arc::downgrade(&m.v.shared),
        address,
        data,
    };
    let io = &m.v.vm.io;
    assert_eq!(io.map_ports(PORT as u16, 1, 1, Arc::new(device)), Ok(()));
    m
}

#[test]
fn registers_and_flags_go_through_a_port_access() {
    agree(Machine::long, 64, |a| {
        a.mov(r10, 0x1234_5678_9ABC_u64)?;
        a.mov(eax, -1)?;
        a.cmp(r10, 5)?;
        a.in_(al, PORT)?;
        a.setg(bl)?;
        a.in_(ax, PORT)?;
        a.in_(eax, dx)?;
        a.out(PORT, eax)?;
        a.adc(rcx, r10)?;
        a.mov(qword_ptr(DATA), rax)
    });
}

#[test]
fn vector_registers_go_through_a_port_access() {
    fn make(code: &[u8]) -> Machine {
        let m = Machine::long(code);
        m.v.cpu.cr4 |= crate::state::cr4::OSFXSR;
        m
    }
    agree(make, 64, |a| {
        a.mov(rax, 0x1234_5678_9ABC_u64)?;
        a.movq(xmm3, rax)?;
        a.out(PORT, al)?;
        a.paddq(xmm3, xmm3)?;
        a.movq(qword_ptr(DATA), xmm3)
    });
}

#[test]
fn a_block_goes_on_behind_a_port_access() {
    let mut a = CodeAssembler::new(32).unwrap();
    let mut again = a.create_label();
    a.mov(ecx, 1000).unwrap();
    a.set_label(&mut again).unwrap();
    a.in_(al, PORT).unwrap();
    a.dec(ecx).unwrap();
    a.jnz(again).unwrap();
    a.hlt().unwrap();
    let mut m = patched(&a.assemble(CODE).unwrap(), DATA, 0);
    let _ = m.v.run();
    assert_eq!(m.v.cpu.gpr[gpr::RAX] & 0xFF, 0x5A);
    assert_eq!(m.v.stats.port_accesses, 1000);
    assert!(m.v.stats.blocks < 4, "{} blocks", m.v.stats.blocks);
    assert!(m.v.stats.exit_interpret < 4, "each was interpreted");
}

#[test]
fn code_that_a_device_stores_behind_a_port_access_is_executed() {
    // out 80h, al; mov bl, 1; hlt
    let code = [0xE6, 0x80, 0xB3, 0x01, 0xF4];
    let mut m = patched(&code, CODE + 3, 2);
    let _ = m.v.run();
    assert_eq!(m.v.cpu.gpr[gpr::RBX] & 0xFF, 2);
}

/// Counts what is read.
#[derive(Default)]
struct Counter(AtomicU64);

impl Device for Counter {
    fn read(&self, _: u64, _: u8) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    fn write(&self, _: u64, _: u8, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

fn with_counter(code: &[u8]) -> Machine {
    let m = Machine::long(code);
    let counter = Arc::new(Counter::default());
    assert_eq!(m.v.vm.io.map_mmio(PAGE, 4096, 8, counter), Ok(()));
    m
}

/// Adds up what RDI points to, `device` times in the device's page, then `ram` times at DATA.
fn sum(device: u32, ram: u32) -> Vec<u8> {
    let mut a = CodeAssembler::new(64).unwrap();
    let (mut again, mut end) = (a.create_label(), a.create_label());
    let mut emit = || {
        a.mov(edi, PAGE as u32)?;
        a.mov(ecx, device)?;
        a.mov(edx, ram)?;
        a.set_label(&mut again)?;
        a.add(rbx, qword_ptr(rdi))?;
        a.adc(r8, 1)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        a.mov(edi, DATA as u32)?;
        a.mov(ecx, edx)?;
        a.sub(edx, edx)?;
        a.test(ecx, ecx)?;
        a.jnz(again)?;
        a.set_label(&mut end)?;
        a.hlt()
    };
    emit().unwrap();
    a.assemble(CODE).unwrap()
}

fn translated(mut m: Machine) -> Machine {
    m.v.backend = Backend::Translate;
    let _ = m.v.run();
    assert_eq!(m.v.error, None);
    m
}

#[test]
fn a_block_goes_on_behind_an_access_to_memory_of_a_device() {
    let m = translated(with_counter(&sum(1000, 0)));
    assert_eq!(m.v.cpu.gpr[gpr::RBX], 999 * 1000 / 2);
    assert_eq!(m.v.cpu.gpr[8], 1000);
    assert_eq!(m.v.stats.mmio_accesses, 1000);
    let exits = m.v.stats.exit_fault;
    assert!(exits < 8, "{exits} were found by a miss");
}

#[test]
fn an_instruction_that_has_left_its_device_for_good_accesses_ram_itself() {
    let m = with_counter(&sum(100, 10_000));
    m.store(DATA, &3u64.to_le_bytes());
    let m = translated(m);
    assert_eq!(m.v.cpu.gpr[gpr::RBX], 99 * 100 / 2 + 3 * 10_000);
    assert_eq!(m.v.cpu.gpr[8], 10_100);
    let entries = m.v.stats.entries;
    assert!(entries < 200, "{entries} entries");
}

#[test]
fn an_access_to_a_device_may_fault() {
    agree(with_counter, 64, |a| {
        let mut again = a.create_label();
        a.mov(edi, PAGE as u32)?;
        a.mov(ecx, 20)?;
        a.mov(esi, ABSENT as u32)?;
        a.set_label(&mut again)?;
        a.add(qword_ptr(rdi), rcx)?;
        a.adc(rbx, qword_ptr(rdi))?;
        a.dec(ecx)?;
        a.cmp(ecx, 5)?;
        a.cmove(edi, esi)?;
        a.jmp(again)
    });
}
