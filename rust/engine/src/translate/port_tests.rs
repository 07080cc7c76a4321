//! IN and OUT in the middle of blocks.

use super::tests::agree;
use crate::interp::test_support::{CODE, DATA, Machine};
use crate::io::Device;
use crate::memory::Memory;
use crate::state::gpr;
use crate::vcpu::{Backend, Shared};
use iced_x86::code_asm::*;
use std::sync::{Arc, Weak};

const PORT: u32 = 0x80;

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
