//! The local APIC (SDM vol. 3, chapter 12), as xAPIC (memory mapped) and x2APIC (MSRs).
//!
//! The timer's bus clock is `BUS_HZ` whatever the host's clocks are; divided counts are derived from
//! the host's time-stamp counter, so that the guest may write its own.  IPIs reach this processor
//! only: there is one.  An interrupt that is accepted is delivered or stays: the spurious vector
//! never occurs.  Not modelled: SMIs, the CMCI, arbitration (APR is computed), remote reads, and
//! errors on the bus other than illegal vectors and registers.

mod registers;
#[cfg(test)]
mod tests;
mod timer;

use crate::cpuid::{Feature, Model};
use crate::fault::Fault;
use crate::mmu::walk::PHYSICAL_BITS;
use crate::state::{CpuState, Segment, cr0, seg};
use crate::vcpu::{Vcpu, host_tsc};

/// The clock that the timer's divider divides.
pub const BUS_HZ: u64 = 1_000_000_000;

/// IA32_APIC_BASE (SDM vol. 3, 12.4.4 and 12.12.1).
mod base {
    pub const BSP: u64 = 1 << 8;
    pub const EXTD: u64 = 1 << 10;
    pub const EN: u64 = 1 << 11;
    pub const RESET_ADDRESS: u64 = 0xFEE0_0000;
}

/// The local vector table's entries in the order of their registers.
mod lvt {
    pub const TIMER: usize = 0;
    pub const LINT0: usize = 3;
    pub const LINT1: usize = 4;
    pub const ERROR: usize = 5;

    pub const REMOTE_IRR: u32 = 1 << 14;
    pub const LEVEL: u32 = 1 << 15;
    pub const MASKED: u32 = 1 << 16;
    /// What can be written, by entry.
    pub const WRITABLE: [u32; 6] = [
        0x7_00FF, // vector, mask, timer mode
        0x1_07FF, // thermal sensor: and delivery mode
        0x1_07FF, // performance counters
        0x1_A7FF, // LINT0: and polarity, trigger mode
        0x1_A7FF, // LINT1
        0x1_00FF, // error
    ];
}

/// Delivery modes of messages, the ICR and the LVT.
mod delivery {
    pub const FIXED: u8 = 0;
    pub const LOWEST: u8 = 1;
    pub const NMI: u8 = 4;
    pub const INIT: u8 = 5;
    pub const START_UP: u8 = 6;
    pub const EXTINT: u8 = 7;
}

/// Error status (SDM vol. 3, figure 12-9).
mod esr {
    pub const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    pub const RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
    pub const ILLEGAL_REGISTER: u32 = 1 << 7;
}

/// Spurious-interrupt vector register: enabled by software.
const SVR_ENABLED: u32 = 1 << 8;
/// Vectors below are the processor's own.
const FIRST_VECTOR: u8 = 16;

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

/// What the APIC asks of the processor, besides taking interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Nmi,
    Init,
    /// Start in real mode at this page of memory (SIPI).
    StartUp(u8),
}

/// What a write did that the processor has to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    None,
    /// Something may have become deliverable, or the timer changed.
    Look,
    /// A level-triggered interrupt ended: the I/O APICs hear of it.
    Eoi(u8),
    Signal(Signal),
}

/// The time in the host's and the guest's time-stamp counters.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub host_tsc: u64,
    pub tsc: u64,
}

/// Which parts the CPU model has.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    pub apic: bool,
    pub x2apic: bool,
    pub tsc_deadline: bool,
}

impl Features {
    pub fn of(model: &Model) -> Features {
        Features {
            apic: model.has(Feature::APIC),
            x2apic: model.has(Feature::X2APIC),
            tsc_deadline: model.has(Feature::TSC_DEADLINE),
        }
    }
}

/// A 256-bit register: a bit for each vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vectors([u64; 4]);

impl Vectors {
    /// 64 vectors each, lowest first.
    pub fn words(&self) -> [u64; 4] {
        self.0
    }

    pub fn from_words(words: [u64; 4]) -> Vectors {
        Vectors(words)
    }

    fn set(&mut self, vector: u8) {
        self.0[vector as usize / 64] |= 1 << (vector % 64);
    }

    fn clear(&mut self, vector: u8) {
        self.0[vector as usize / 64] &= !(1 << (vector % 64));
    }

    fn has(&self, vector: u8) -> bool {
        self.0[vector as usize / 64] >> (vector % 64) & 1 != 0
    }

    fn highest(&self) -> Option<u8> {
        let word = (0..4).rev().find(|i| self.0[*i] != 0)?;
        Some((word * 64 + 63 - self.0[word].leading_zeros() as usize) as u8)
    }

    /// The doubleword that the register at `slot` (0 to 7) shows.
    fn doubleword(&self, slot: u64) -> u32 {
        (self.0[(slot / 2 % 4) as usize] >> (32 * (slot % 2))) as u32
    }
}

/// All that a guest can observe; `snapshot` has it, with `count_end` as time that is left.
#[derive(Clone, Debug)]
pub struct State {
    /// IA32_APIC_BASE.
    pub base: u64,
    pub id: u32,
    pub tpr: u8,
    pub ldr: u32,
    pub dfr: u32,
    pub svr: u32,
    pub isr: Vectors,
    pub tmr: Vectors,
    pub irr: Vectors,
    /// As last latched, and the errors since.
    pub esr: u32,
    pub errors: u32,
    pub icr: u64,
    pub lvt: [u32; 6],
    pub initial_count: u32,
    pub divide: u32,
    /// Host TSC at which the running count reaches 0.
    pub count_end: Option<u64>,
    /// IA32_TSC_DEADLINE; 0 is disarmed.
    pub tsc_deadline: u64,
    /// An ExtINT message waits for its acknowledge cycle.
    pub extint: bool,
    /// Level of the INTR pin when last looked at.
    pub lint0: bool,
    /// After INIT, a processor that isn't the bootstrap one.
    pub wait_for_sipi: bool,
}

impl State {
    fn reset(index: u32, present: bool) -> State {
        let bsp = if index == 0 { base::BSP } else { 0 };
        State {
            base: if present {
                base::RESET_ADDRESS | base::EN | bsp
            } else {
                bsp
            },
            id: index,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xFF,
            isr: Vectors::default(),
            tmr: Vectors::default(),
            irr: Vectors::default(),
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [lvt::MASKED; 6],
            initial_count: 0,
            divide: 0,
            count_end: None,
            tsc_deadline: 0,
            extint: false,
            lint0: false,
            wait_for_sipi: index != 0,
        }
    }
}

pub struct Apic {
    pub state: State,
    index: u32,
    features: Features,
}

impl Apic {
    pub fn new(index: u32, features: Features) -> Apic {
        Apic {
            state: State::reset(index, features.apic),
            index,
            features,
        }
    }

    /// Power-on and RESET#.
    pub fn reset(&mut self) {
        self.state = State::reset(self.index, self.features.apic);
    }

    /// INIT: as reset, but IA32_APIC_BASE and the ID stay (SDM vol. 3, 12.4.7.3).
    fn init(&mut self) {
        let State { base, id, .. } = self.state;
        self.reset();
        self.state.base = base;
        if !self.x2apic() {
            self.state.id = id;
        }
    }

    /// IA32_APIC_BASE.EN.
    pub fn enabled(&self) -> bool {
        self.state.base & base::EN != 0
    }

    fn x2apic(&self) -> bool {
        self.state.base & base::EXTD != 0
    }

    fn software_enabled(&self) -> bool {
        self.state.svr & SVR_ENABLED != 0
    }

    /// Guest-physical page of the registers; None while they are not memory mapped.
    pub fn page(&self) -> Option<u64> {
        (self.state.base & (base::EN | base::EXTD) == base::EN).then_some(self.state.base & !0xFFF)
    }

    pub fn base_msr(&self) -> u64 {
        self.state.base
    }

    /// A write of IA32_APIC_BASE.  x2APIC mode is entered from xAPIC mode and left by disabling.
    fn set_base_msr(&mut self, value: u64) -> Result<(), Fault> {
        let defined = ((1 << PHYSICAL_BITS) - 1) & !0xFFF | base::BSP | base::EXTD | base::EN;
        let (old, new) = (
            self.state.base & (base::EN | base::EXTD),
            value & (base::EN | base::EXTD),
        );
        let bad_mode = new == base::EXTD
            || new & base::EXTD != 0 && (!self.features.x2apic || old == 0)
            || old & base::EXTD != 0 && new == base::EN;
        if !self.features.apic || value & !defined != 0 || bad_mode {
            return Err(Fault::GP0);
        }
        if new == 0 {
            self.reset();
            self.state.wait_for_sipi = false;
        } else if new & !old & base::EXTD != 0 {
            self.state.id = self.index;
        }
        self.state.base = value;
        Ok(())
    }

    // --- priorities ---

    /// PPR (SDM vol. 3, 12.8.3.1).
    fn processor_priority(&self) -> u8 {
        let in_service = self.state.isr.highest().unwrap_or(0);
        if self.state.tpr >> 4 >= in_service >> 4 {
            self.state.tpr
        } else {
            in_service & 0xF0
        }
    }

    fn arbitration_priority(&self) -> u8 {
        let State { tpr, isr, irr, .. } = &self.state;
        let requested = irr.highest().unwrap_or(0) >> 4;
        let in_service = isr.highest().unwrap_or(0) >> 4;
        if *tpr >> 4 >= requested && *tpr >> 4 > in_service {
            *tpr
        } else {
            (*tpr >> 4).max(in_service).max(requested) << 4
        }
    }

    /// The vector that would be delivered now (above the processor priority).
    pub fn pending(&self) -> Option<u8> {
        let vector = self.state.irr.highest()?;
        (vector >> 4 > self.processor_priority() >> 4).then_some(vector)
    }

    /// Moves the pending vector from IRR to ISR.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        self.state.irr.clear(vector);
        self.state.isr.set(vector);
        Some(vector)
    }

    /// The task priority as CR8 shows it (bits 7:4 of TPR).
    pub fn cr8(&self) -> u64 {
        (self.state.tpr >> 4) as u64
    }

    pub fn set_cr8(&mut self, value: u64) {
        self.state.tpr = (value as u8 & 0xF) << 4;
    }

    /// Ends the interrupt in service with the highest priority; its vector if level triggered.
    fn end_of_interrupt(&mut self) -> Option<u8> {
        let vector = self.state.isr.highest()?;
        self.state.isr.clear(vector);
        for entry in &mut self.state.lvt[lvt::LINT0..=lvt::LINT1] {
            if *entry as u8 == vector {
                *entry &= !lvt::REMOTE_IRR;
            }
        }
        self.state.tmr.has(vector).then_some(vector)
    }

    // --- interrupts coming in ---

    fn addressed(&self, message: &Message) -> bool {
        let (to, s) = (message.destination, &self.state);
        if self.x2apic() {
            let own = self.logical_x2apic_id();
            let logical = to >> 16 == own >> 16 && to & own & 0xFFFF != 0;
            return to == u32::MAX || if message.logical { logical } else { to == s.id };
        }
        let to = to as u8;
        if to == 0xFF {
            return true;
        }
        if !message.logical {
            return to as u32 == s.id & 0xFF;
        }
        let own = (s.ldr >> 24) as u8;
        let flat = s.dfr >> 28 == 0xF;
        to & own & if flat { 0xFF } else { 0x0F } != 0 && (flat || to >> 4 == own >> 4)
    }

    /// LDR in x2APIC mode: cluster and bit from the ID (SDM vol. 3, 12.12.10.2).
    fn logical_x2apic_id(&self) -> u32 {
        let id = self.state.id;
        (id >> 4) << 16 | 1 << (id & 0xF)
    }

    /// Takes an interrupt message if it is for this processor.
    #[must_use]
    pub fn accept(&mut self, message: Message) -> Option<Signal> {
        if !self.enabled() || !self.addressed(&message) {
            return None;
        }
        self.take(
            message.delivery_mode,
            message.vector,
            message.level_triggered,
        )
    }

    fn take(&mut self, delivery_mode: u8, vector: u8, level: bool) -> Option<Signal> {
        match delivery_mode {
            delivery::FIXED | delivery::LOWEST => self.request(vector, level),
            delivery::NMI => return Some(Signal::Nmi),
            delivery::INIT => return Some(Signal::Init),
            delivery::START_UP if self.state.wait_for_sipi => {
                return Some(Signal::StartUp(vector));
            }
            delivery::EXTINT if self.software_enabled() => self.state.extint = true,
            _ => {}
        }
        None
    }

    fn request(&mut self, vector: u8, level: bool) {
        if !self.software_enabled() {
            return;
        }
        if vector < FIRST_VECTOR {
            self.note_error(esr::RECEIVE_ILLEGAL_VECTOR);
            return;
        }
        self.state.irr.set(vector);
        if level {
            self.state.tmr.set(vector);
        } else {
            self.state.tmr.clear(vector);
        }
    }

    fn note_error(&mut self, bit: u32) {
        let new = self.state.errors & bit == 0;
        self.state.errors |= bit;
        let entry = self.state.lvt[lvt::ERROR];
        let vector = entry as u8;
        if new && entry & lvt::MASKED == 0 && vector >= FIRST_VECTOR {
            self.request(vector, false);
        }
    }

    /// The INTR pin (LINT0) at `level`, for what LINT0 is but ExtINT.
    #[must_use]
    pub fn drive_intr(&mut self, level: bool) -> Option<Signal> {
        let rises = level && !self.state.lint0;
        self.state.lint0 = level;
        let entry = self.state.lvt[lvt::LINT0];
        let mode = (entry >> 8) as u8 & 7;
        if !level || !self.enabled() || entry & lvt::MASKED != 0 || mode == delivery::EXTINT {
            return None;
        }
        let level_triggered = mode == delivery::FIXED && entry & lvt::LEVEL != 0;
        if level_triggered && entry & lvt::REMOTE_IRR == 0 {
            self.state.lvt[lvt::LINT0] |= lvt::REMOTE_IRR;
        } else if !rises {
            return None;
        }
        self.take(mode, entry as u8, level_triggered)
    }

    /// An edge at the NMI pin (LINT1).
    #[must_use]
    pub fn pulse_nmi(&mut self) -> Option<Signal> {
        if !self.enabled() {
            return Some(Signal::Nmi);
        }
        let entry = self.state.lvt[lvt::LINT1];
        if entry & lvt::MASKED != 0 {
            return None;
        }
        self.take((entry >> 8) as u8 & 7, entry as u8, false)
    }

    /// Whether the 8259s' INTR reaches the CPU: APIC off, or LINT0 unmasked as ExtINT.
    pub fn accepts_extint(&self) -> bool {
        let entry = self.state.lvt[lvt::LINT0];
        let extint = (entry >> 8) as u8 & 7 == delivery::EXTINT;
        !self.enabled() || entry & lvt::MASKED == 0 && extint
    }
}

impl Vcpu {
    /// The time for the APIC's timer.
    pub fn now(&self) -> Now {
        let host_tsc = host_tsc();
        Now {
            host_tsc,
            tsc: host_tsc.wrapping_add(self.cpu.tsc_offset),
        }
    }

    /// Acts on what the APIC's pins and messages ask of the processor.
    pub fn signal(&mut self, signal: Signal) {
        match signal {
            Signal::Nmi => self.cpu.nmi_pending = true,
            Signal::Init => self.init(),
            Signal::StartUp(page) => {
                self.apic.state.wait_for_sipi = false;
                self.cpu.halted = false;
                self.cpu.rip = 0;
                self.cpu.seg[seg::CS] = Segment {
                    base: (page as u64) << 12,
                    selector: (page as u16) << 8,
                    ..self.cpu.seg[seg::CS]
                };
            }
        }
        self.ask_attention();
    }

    /// INIT (SDM vol. 3, table 10-1): FPU, MSRs, XCR0, the TSC and the cache bits of CR0 stay.
    fn init(&mut self) {
        let old = self.cpu.clone();
        *self.cpu = CpuState {
            cr0: old.cr0 & (cr0::CD | cr0::NW) | cr0::ET,
            xcr0: old.xcr0,
            msr: old.msr,
            tsc_offset: old.tsc_offset,
            fpu: old.fpu,
            ..CpuState::reset(self.model.signature())
        };
        self.apic.init();
        self.cpu.halted = self.apic.state.wait_for_sipi;
        self.flush_tlb_all();
    }
}
