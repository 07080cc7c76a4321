//! The local APIC (SDM vol. 3, chapter 12), as xAPIC (memory mapped) and x2APIC (MSRs).
//!
//! The timer's bus clock is `BUS_HZ` whatever the host's clocks are; divided counts are derived from
//! the host's time-stamp counter, so that the guest may write its own.  IPIs reach this processor
//! only: there is one.  An interrupt that is accepted is delivered or stays: the spurious vector
//! never occurs.  Not modelled: SMIs, the CMCI, arbitration (APR is computed), remote reads, and
//! errors on the bus other than illegal vectors and registers.

use crate::fault::Fault;
use crate::mmu::walk::PHYSICAL_BITS;
use crate::state::{CpuState, Segment, cr0, seg};
use crate::vcpu::{Vcpu, host_tsc, locked, tsc_hz};

/// The clock that the timer's divider divides.
pub const BUS_HZ: u64 = 1_000_000_000;

/// Offsets of the registers in the page (SDM vol. 3, table 12-1).
mod reg {
    pub const ID: u64 = 0x020;
    pub const VERSION: u64 = 0x030;
    pub const TPR: u64 = 0x080;
    pub const APR: u64 = 0x090;
    pub const PPR: u64 = 0x0A0;
    pub const EOI: u64 = 0x0B0;
    pub const RRD: u64 = 0x0C0;
    pub const LDR: u64 = 0x0D0;
    pub const DFR: u64 = 0x0E0;
    pub const SVR: u64 = 0x0F0;
    pub const ISR: u64 = 0x100;
    pub const TMR: u64 = 0x180;
    pub const IRR: u64 = 0x200;
    pub const ESR: u64 = 0x280;
    pub const ICR_LOW: u64 = 0x300;
    pub const ICR_HIGH: u64 = 0x310;
    pub const LVT_TIMER: u64 = 0x320;
    pub const LVT_ERROR: u64 = 0x370;
    pub const INITIAL_COUNT: u64 = 0x380;
    pub const CURRENT_COUNT: u64 = 0x390;
    pub const DIVIDE: u64 = 0x3E0;
    /// x2APIC only.
    pub const SELF_IPI: u64 = 0x3F0;
}

/// MSR numbers.
mod msr {
    pub const TSC_DEADLINE: u32 = 0x6E0;
    pub const X2APIC: u32 = 0x800;
    pub const X2APIC_END: u32 = 0x83F;
}

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

/// Timer modes: bits 18:17 of its LVT entry.
mod timer_mode {
    pub const ONE_SHOT: u32 = 0;
    pub const PERIODIC: u32 = 1;
    pub const TSC_DEADLINE: u32 = 2;
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

/// An integrated APIC with six LVT entries.
const VERSION: u32 = 0x0005_0014;
const SVR_ENABLED: u32 = 1 << 8;
/// Vector, enable, focus checking.
const SVR_WRITABLE: u32 = 0x3FF;
/// Vector, delivery mode, destination mode, level, trigger mode, shorthand.
const ICR_WRITABLE: u32 = 0x000C_CFFF;
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

/// A 256-bit register: a bit for each vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vectors([u64; 4]);

impl Vectors {
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

/// All that a guest can observe; also the checkpoint record, but for `count_end`.
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

    /// As a PC's firmware leaves it, for what is started without one: enabled, the 8259s' INTR at
    /// LINT0 as ExtINT, NMI at LINT1 (virtual wire mode, MP specification 1.4, 3.6.2.2).
    pub fn set_virtual_wire(&mut self) {
        self.state.svr = SVR_ENABLED | 0xFF;
        self.state.lvt[lvt::LINT0] = (delivery::EXTINT as u32) << 8;
        self.state.lvt[lvt::LINT1] = (delivery::NMI as u32) << 8;
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
        self.take(message.delivery_mode, message.vector, message.level_triggered)
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

    // --- the timer ---

    fn timer_mode(&self) -> u32 {
        self.state.lvt[lvt::TIMER] >> 17 & 3
    }

    fn divisor(&self) -> u64 {
        let code = self.state.divide & 3 | self.state.divide >> 1 & 4;
        if code == 7 { 1 } else { 2 << code }
    }

    /// Host TSC ticks that `count` of the timer takes.
    fn host_ticks(&self, count: u32) -> u64 {
        let bus_ticks = count as u128 * self.divisor() as u128;
        ((bus_ticks * tsc_hz() as u128 / BUS_HZ as u128) as u64).max(1)
    }

    fn current_count(&self, now: Now) -> u32 {
        let Some(end) = self.state.count_end else {
            return 0;
        };
        let left = end.saturating_sub(now.host_tsc) as u128 * BUS_HZ as u128;
        let per_count = self.divisor() as u128 * tsc_hz() as u128;
        left.div_ceil(per_count).min(self.state.initial_count as u128) as u32
    }

    fn start_count(&mut self, initial: u32, now: Now) {
        if self.timer_mode() == timer_mode::TSC_DEADLINE {
            return;
        }
        self.state.initial_count = initial;
        let ticks = self.host_ticks(initial);
        self.state.count_end = (initial != 0).then(|| now.host_tsc.saturating_add(ticks));
    }

    /// Counts go on under the new divisor.
    fn set_divide(&mut self, value: u32, now: Now) {
        let left = self.current_count(now);
        self.state.divide = value & 0xB;
        if self.state.count_end.is_some() {
            let ticks = self.host_ticks(left);
            self.state.count_end = Some(now.host_tsc.saturating_add(ticks));
        }
    }

    /// IA32_TSC_DEADLINE; 0 in other modes.
    pub fn tsc_deadline(&self) -> u64 {
        self.state.tsc_deadline
    }

    pub fn set_tsc_deadline(&mut self, value: u64) {
        if self.timer_mode() == timer_mode::TSC_DEADLINE {
            self.state.tsc_deadline = value;
        }
    }

    /// Lets the timer fire if its time has come.
    pub fn run_timer(&mut self, now: Now) {
        let s = &mut self.state;
        let due = match s.lvt[lvt::TIMER] >> 17 & 3 {
            timer_mode::TSC_DEADLINE => s.tsc_deadline != 0 && now.tsc >= s.tsc_deadline,
            _ => s.count_end.is_some_and(|end| now.host_tsc >= end),
        };
        if !due {
            return;
        }
        s.tsc_deadline = 0;
        let ended = s.count_end.take().unwrap_or(now.host_tsc);
        if self.timer_mode() == timer_mode::PERIODIC && self.state.initial_count != 0 {
            // Periods that nobody noticed are lost, as several requests of one vector are.
            let period = self.host_ticks(self.state.initial_count);
            let late = (now.host_tsc - ended) % period;
            self.state.count_end = Some(now.host_tsc.saturating_add(period - late));
        }
        let entry = self.state.lvt[lvt::TIMER];
        if entry & lvt::MASKED == 0 {
            self.request(entry as u8, false);
        }
    }

    /// Host TSC at which the timer interrupts next.
    pub fn timer_deadline(&self, now: Now) -> Option<u64> {
        if self.state.lvt[lvt::TIMER] & lvt::MASKED != 0 {
            return None;
        }
        if self.timer_mode() != timer_mode::TSC_DEADLINE {
            return self.state.count_end;
        }
        let left = self.state.tsc_deadline.saturating_sub(now.tsc);
        (self.state.tsc_deadline != 0).then(|| now.host_tsc.saturating_add(left))
    }

    // --- registers ---

    fn read_register(&mut self, offset: u64, now: Now) -> u32 {
        self.run_timer(now);
        let s = &self.state;
        match offset {
            reg::ID if self.x2apic() => s.id,
            reg::ID => s.id << 24,
            reg::VERSION => VERSION,
            reg::TPR => s.tpr as u32,
            reg::APR => self.arbitration_priority() as u32,
            reg::PPR => self.processor_priority() as u32,
            reg::LDR if self.x2apic() => self.logical_x2apic_id(),
            reg::LDR => s.ldr,
            reg::DFR => s.dfr,
            reg::SVR => s.svr,
            reg::ISR..reg::TMR => s.isr.doubleword(offset >> 4 & 7),
            reg::TMR..reg::IRR => s.tmr.doubleword(offset >> 4 & 7),
            reg::IRR..reg::ESR => s.irr.doubleword(offset >> 4 & 7),
            reg::ESR => s.esr,
            reg::ICR_LOW => s.icr as u32,
            reg::ICR_HIGH => (s.icr >> 32) as u32,
            reg::LVT_TIMER..=reg::LVT_ERROR => s.lvt[((offset - reg::LVT_TIMER) >> 4) as usize],
            reg::INITIAL_COUNT => s.initial_count,
            reg::CURRENT_COUNT => self.current_count(now),
            reg::DIVIDE => s.divide,
            reg::EOI | reg::RRD => 0,
            _ => {
                self.note_error(esr::ILLEGAL_REGISTER);
                0
            }
        }
    }

    fn write_register(&mut self, offset: u64, value: u32, now: Now) -> Effect {
        self.run_timer(now);
        match offset {
            reg::ID => self.state.id = value >> 24,
            reg::TPR => self.state.tpr = value as u8,
            reg::EOI => return self.end_of_interrupt().map_or(Effect::Look, Effect::Eoi),
            reg::LDR => self.state.ldr = value & 0xFF00_0000,
            reg::DFR => self.state.dfr = value | 0x0FFF_FFFF,
            reg::SVR => self.set_svr(value),
            reg::ESR => self.state.esr = std::mem::take(&mut self.state.errors),
            reg::ICR_LOW => return self.send(self.state.icr & !0xFFFF_FFFF | value as u64),
            reg::ICR_HIGH => {
                self.state.icr = self.state.icr & 0xFFFF_FFFF | (value as u64 & 0xFF00_0000) << 32;
            }
            reg::LVT_TIMER..=reg::LVT_ERROR => {
                self.set_lvt(((offset - reg::LVT_TIMER) >> 4) as usize, value);
            }
            reg::INITIAL_COUNT => self.start_count(value, now),
            reg::DIVIDE => self.set_divide(value, now),
            // Read-only ones.
            reg::VERSION | reg::APR | reg::PPR | reg::RRD | reg::CURRENT_COUNT => {}
            reg::ISR..reg::ESR => {}
            _ => self.note_error(esr::ILLEGAL_REGISTER),
        }
        Effect::Look
    }

    fn set_svr(&mut self, value: u32) {
        self.state.svr = value & SVR_WRITABLE;
        if !self.software_enabled() {
            for entry in &mut self.state.lvt {
                *entry |= lvt::MASKED;
            }
        }
    }

    fn set_lvt(&mut self, index: usize, value: u32) {
        let mut writable = lvt::WRITABLE[index];
        let was_deadline = self.timer_mode() == timer_mode::TSC_DEADLINE;
        if index == lvt::TIMER && !self.features.tsc_deadline {
            writable &= !(timer_mode::TSC_DEADLINE << 17);
        }
        let entry = &mut self.state.lvt[index];
        *entry = value & writable | *entry & lvt::REMOTE_IRR;
        if self.state.svr & SVR_ENABLED == 0 {
            *entry |= lvt::MASKED;
        }
        let is_deadline = self.timer_mode() == timer_mode::TSC_DEADLINE;
        if was_deadline != is_deadline {
            // The change disarms the timer (SDM vol. 3, 12.5.4.1).
            self.state.count_end = None;
            self.state.initial_count = 0;
            self.state.tsc_deadline = 0;
        }
    }

    /// A write of the ICR sends an IPI (SDM vol. 3, 12.6.1).
    fn send(&mut self, icr: u64) -> Effect {
        self.state.icr = icr & (0xFFFF_FFFF << 32 | ICR_WRITABLE as u64);
        let mode = (icr >> 8) as u8 & 7;
        let vector = icr as u8;
        let (level, asserted) = (icr >> 15 & 1 != 0, icr >> 14 & 1 != 0);
        if mode <= delivery::LOWEST && vector < FIRST_VECTOR {
            self.note_error(esr::SEND_ILLEGAL_VECTOR);
            return Effect::Look;
        }
        if mode == delivery::INIT && level && !asserted {
            // INIT level de-assert only sets arbitration IDs.
            return Effect::None;
        }
        let high = (icr >> 32) as u32;
        let message = Message {
            vector,
            delivery_mode: mode,
            destination: if self.x2apic() { high } else { high >> 24 },
            logical: icr >> 11 & 1 != 0,
            level_triggered: false,
        };
        let fixed = mode == delivery::FIXED;
        let to_this = match icr >> 18 & 3 {
            0 => self.addressed(&message),
            1 => fixed,
            2 => fixed || mode == delivery::NMI,
            _ => false,
        };
        // ExtINT can't be sent (SDM vol. 3, 12.6.1: reserved).
        if !to_this || mode == delivery::EXTINT {
            return Effect::None;
        }
        self.take(mode, vector, false)
            .map_or(Effect::Look, Effect::Signal)
    }

    // --- x2APIC ---

    /// What WRMSR may set in x2APIC mode; None where writing is #GP.
    fn x2apic_writable(&self, offset: u64) -> Option<u64> {
        Some(match offset {
            reg::TPR | reg::SELF_IPI => 0xFF,
            reg::EOI | reg::ESR => 0,
            reg::SVR => SVR_WRITABLE as u64,
            reg::ICR_LOW => 0xFFFF_FFFF << 32 | ICR_WRITABLE as u64,
            reg::LVT_TIMER..=reg::LVT_ERROR => {
                let index = ((offset - reg::LVT_TIMER) >> 4) as usize;
                // Delivery status and remote IRR are read-only.
                (lvt::WRITABLE[index] | lvt::REMOTE_IRR | 1 << 12) as u64
            }
            reg::INITIAL_COUNT => 0xFFFF_FFFF,
            reg::DIVIDE => 0xB,
            _ => return None,
        })
    }

    fn x2apic_readable(offset: u64) -> bool {
        let unreadable = matches!(
            offset,
            reg::APR | reg::EOI | reg::RRD | reg::DFR | reg::ICR_HIGH | reg::SELF_IPI
        );
        let known = matches!(
            offset,
            reg::ID
                | reg::VERSION
                | reg::TPR..=reg::ESR
                | reg::ICR_LOW
                | reg::LVT_TIMER..=reg::CURRENT_COUNT
                | reg::DIVIDE
        );
        known && !unreadable
    }

    fn write_x2apic(&mut self, offset: u64, value: u64, now: Now) -> Result<Effect, Fault> {
        let writable = self.x2apic_writable(offset).ok_or(Fault::GP0)?;
        if value & !writable != 0 {
            return Err(Fault::GP0);
        }
        Ok(match offset {
            reg::ICR_LOW => self.send(value),
            reg::SELF_IPI if (value as u8) < FIRST_VECTOR => {
                self.note_error(esr::SEND_ILLEGAL_VECTOR);
                Effect::Look
            }
            reg::SELF_IPI => {
                self.request(value as u8, false);
                Effect::Look
            }
            _ => self.write_register(offset, value as u32, now),
        })
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

    /// A read of `size` bytes in the APIC's page.  Only the first doubleword of 16 bytes is there.
    pub fn apic_read(&mut self, offset: u64, size: usize) -> u64 {
        let within = offset % 16;
        if within >= 4 {
            return 0;
        }
        let value = self.apic.read_register(offset - within, self.now()) as u64;
        value >> (8 * within) & u64::MAX >> (64 - 8 * size.clamp(1, 8))
    }

    /// A write in the APIC's page: aligned doublewords count (SDM vol. 3, 12.4.1).
    pub fn apic_write(&mut self, offset: u64, size: usize, value: u64) {
        if offset.is_multiple_of(16) && size >= 4 {
            let effect = self.apic.write_register(offset, value as u32, self.now());
            self.apic_effect(effect);
        }
    }

    fn apic_effect(&mut self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Look => self.ask_attention(),
            Effect::Eoi(vector) => {
                self.ask_attention();
                let handler = locked(&self.shared.eoi).clone();
                if let Some(handler) = handler {
                    handler(vector);
                }
            }
            Effect::Signal(signal) => self.signal(signal),
        }
    }

    /// RDMSR of IA32_TSC_DEADLINE or an x2APIC register.
    pub fn apic_msr_read(&mut self, number: u32) -> Result<u64, Fault> {
        let now = self.now();
        match number {
            msr::TSC_DEADLINE if self.apic.features.tsc_deadline => {
                self.apic.run_timer(now);
                Ok(self.apic.tsc_deadline())
            }
            msr::X2APIC..=msr::X2APIC_END if self.apic.x2apic() => {
                let offset = ((number - msr::X2APIC) as u64) << 4;
                if !Apic::x2apic_readable(offset) {
                    return Err(Fault::GP0);
                }
                if offset == reg::ICR_LOW {
                    return Ok(self.apic.state.icr);
                }
                Ok(self.apic.read_register(offset, now) as u64)
            }
            _ => Err(Fault::GP0),
        }
    }

    /// WRMSR of IA32_TSC_DEADLINE or an x2APIC register.
    pub fn apic_msr_write(&mut self, number: u32, value: u64) -> Result<(), Fault> {
        let now = self.now();
        match number {
            msr::TSC_DEADLINE if self.apic.features.tsc_deadline => {
                self.apic.set_tsc_deadline(value);
                self.ask_attention();
                Ok(())
            }
            msr::X2APIC..=msr::X2APIC_END if self.apic.x2apic() => {
                let offset = ((number - msr::X2APIC) as u64) << 4;
                let effect = self.apic.write_x2apic(offset, value, now)?;
                self.apic_effect(effect);
                Ok(())
            }
            _ => Err(Fault::GP0),
        }
    }

    /// WRMSR of IA32_APIC_BASE.
    pub fn set_apic_base(&mut self, value: u64) -> Result<(), Fault> {
        self.apic.set_base_msr(value)?;
        self.flush_tlb_all();
        self.ask_attention();
        Ok(())
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

#[cfg(test)]
#[path = "apic_tests.rs"]
mod tests;
