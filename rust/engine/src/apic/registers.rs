//! The local APIC's registers, in memory (xAPIC) and as MSRs (x2APIC, SDM vol. 3, 12.12).

use super::timer::timer_mode;
use super::{Apic, Effect, FIRST_VECTOR, Message, Now, SVR_ENABLED, delivery, esr, lvt};
use crate::fault::Fault;
use crate::vcpu::{Vcpu, locked};

/// Offsets of the registers in the page (SDM vol. 3, table 12-1).
pub(super) mod reg {
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

/// An integrated APIC with six LVT entries.
const VERSION: u32 = 0x0005_0014;
/// Vector, enable, focus checking.
const SVR_WRITABLE: u32 = 0x3FF;
/// Vector, delivery mode, destination mode, level, trigger mode, shorthand.
const ICR_WRITABLE: u32 = 0x000C_CFFF;

impl Apic {
    pub(super) fn read_register(&mut self, offset: u64, now: Now) -> u32 {
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

    pub(super) fn write_register(&mut self, offset: u64, value: u32, now: Now) -> Effect {
        self.run_timer(now);
        match offset {
            reg::ID => self.state.id = value >> 24,
            reg::TPR => {
                self.state.tpr = value as u8;
                return self.look_if_pending();
            }
            reg::EOI => return self.write_eoi(),
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

    fn write_eoi(&mut self) -> Effect {
        match self.end_of_interrupt() {
            Some(vector) => Effect::Eoi(vector),
            None => self.look_if_pending(),
        }
    }

    /// Most ends of interrupts and changes of priority leave nothing to do: the CPU needn't look around
    /// after each.
    fn look_if_pending(&self) -> Effect {
        if self.pending().is_some() || self.state.lint0 {
            Effect::Look
        } else {
            Effect::None
        }
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

    pub(super) fn write_x2apic(
        &mut self,
        offset: u64,
        value: u64,
        now: Now,
    ) -> Result<Effect, Fault> {
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
}
