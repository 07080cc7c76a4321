//! The local APIC (SDM vol. 3, chapter 12).

use crate::vcpu::Vcpu;

/// An interrupt message on the APIC bus (SDM vol. 3, 12.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub vector: u8,
    /// 0 fixed, 1 lowest priority, 2 SMI, 4 NMI, 5 INIT, 6 start-up, 7 ExtINT.
    pub delivery_mode: u8,
    pub destination: u32,
    pub logical: bool,
    pub level_triggered: bool,
}

pub struct Apic {
    base: u64,
    enabled: bool,
}

impl Apic {
    pub fn new(_id: u32) -> Apic {
        Apic {
            base: 0xFEE0_0000,
            enabled: true,
        }
    }

    pub fn reset(&mut self) {}

    /// Guest-physical page of the registers; None while they are not memory mapped.
    pub fn page(&self) -> Option<u64> {
        self.enabled.then_some(self.base)
    }

    pub fn accept(&mut self, _message: Message) {}

    /// Lets the timer fire if `tsc` (guest's) is past its deadline.
    pub fn run_timer(&mut self, _tsc: u64) {}

    /// Guest TSC at which the timer fires next.
    pub fn timer_deadline(&self) -> Option<u64> {
        None
    }

    /// The vector that would be delivered now (above the processor priority).
    pub fn pending(&self) -> Option<u8> {
        None
    }

    /// Moves the pending vector from IRR to ISR.
    pub fn acknowledge(&mut self) -> Option<u8> {
        None
    }

    /// Whether the 8259's INTR reaches the CPU: APIC off, or LINT0 unmasked as ExtINT.
    pub fn accepts_extint(&self) -> bool {
        true
    }

    /// The task priority as CR8 shows it (bits 7:4 of TPR).
    pub fn cr8(&self) -> u64 {
        0
    }

    pub fn set_cr8(&mut self, _value: u64) {}
}

impl Vcpu {
    /// A read of `size` bytes in the APIC's page.
    pub fn apic_read(&mut self, _offset: u64, _size: usize) -> u64 {
        0
    }

    pub fn apic_write(&mut self, _offset: u64, _size: usize, _value: u64) {}
}
