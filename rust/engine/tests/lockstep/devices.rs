//! The machine of both twins: RAM, an interval timer without time, an 8259, a serial port.

use engine::cpuid::Model;
use engine::io::{Device, IoMap};
use engine::memory::Memory;
use engine::state::{Segment, TableRegister, attr, cr0, seg};
use engine::vcpu::{Acknowledge, Backend, Vcpu, Vm, locked};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub const RAM_BYTES: u64 = 96 << 20;
pub const IMAGE: u64 = 0x10_0000;
/// Where boot information lies, with the segment descriptors before it.
const GDT: u64 = 0x8_F000;
pub const PARAMETERS: u64 = 0x9_0000;

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

/// The first 8259 (Intel 231468), as far as IRQ 0 needs it: ports 20h and 21h.
#[derive(Default)]
pub struct Pic(Mutex<PicState>);

#[derive(Clone, Copy, Default)]
struct PicState {
    mask: u8,
    vector: u8,
    /// Initialization words still to come, ICW2 being the first of three.
    initializing: u8,
}

impl Pic {
    pub fn masked(&self) -> bool {
        locked(&self.0).mask & 1 != 0
    }
}

impl Device for Pic {
    fn read(&self, offset: u64, _size: u8) -> u64 {
        let s = locked(&self.0);
        if offset == 1 { s.mask.into() } else { 0 }
    }

    fn write(&self, offset: u64, _size: u8, value: u64) {
        let mut s = locked(&self.0);
        match (offset, s.initializing) {
            (0, _) if value & 0x10 != 0 => s.initializing = 3,
            (0, _) => {}
            (_, 0) => s.mask = value as u8,
            (_, left) => {
                if left == 3 {
                    s.vector = value as u8;
                }
                s.initializing = left - 1;
            }
        }
    }
}

/// A 16550 that is always ready to transmit: what was is shown with RING3_LOCKSTEP_SHOW.
struct Serial {
    shown: bool,
}

impl Device for Serial {
    fn read(&self, offset: u64, _size: u8) -> u64 {
        if offset == 5 { 0x60 } else { 0 }
    }

    fn write(&self, offset: u64, _size: u8, value: u64) {
        if offset == 0 && self.shown {
            eprint!("{}", value as u8 as char);
        }
    }
}

pub fn machine(backend: Backend) -> (Vcpu, Arc<Pic>) {
    let memory = Memory::new(RAM_BYTES, RAM_BYTES).expect("RAM");
    let vm = Arc::new(Vm {
        memory: memory.into(),
        io: IoMap::default(),
    });
    let map = |port, count, device| vm.io.map_ports(port, count, 1, device);
    map(0x40, 3, Arc::new(Counter::default())).expect("free ports");
    let pic = Arc::new(Pic::default());
    map(0x20, 2, pic.clone()).expect("free ports");
    let shown = backend == Backend::Translate && std::env::var_os("RING3_LOCKSTEP_SHOW").is_some();
    map(0x3F8, 8, Arc::new(Serial { shown })).expect("free ports");
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
    let (shared, from) = (Arc::downgrade(&v.shared), pic.clone());
    let acknowledge: Acknowledge = Box::new(move || {
        if let Some(shared) = shared.upgrade() {
            shared.set_intr(false);
        }
        locked(&from.0).vector
    });
    *locked(&v.shared.acknowledge) = Some(Arc::new(acknowledge));
    (v, pic)
}

pub fn write(v: &Vcpu, address: u64, data: &[u8]) {
    v.vm.memory.write(address, data, |_| false);
}

/// The state that Multiboot and Linux's 32-bit boot protocol both ask for.
pub fn enter_flat(v: &mut Vcpu) {
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
