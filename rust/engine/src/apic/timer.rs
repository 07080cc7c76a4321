//! The local APIC's timer: one-shot, periodic and TSC-deadline (SDM vol. 3, 12.5.4).

use super::{Apic, BUS_HZ, Now, lvt};
use crate::vcpu::tsc_hz;

/// Timer modes: bits 18:17 of its LVT entry; 0 is one-shot.
pub(super) mod timer_mode {
    pub const PERIODIC: u32 = 1;
    pub const TSC_DEADLINE: u32 = 2;
}

impl Apic {
    pub(super) fn timer_mode(&self) -> u32 {
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

    pub(super) fn current_count(&self, now: Now) -> u32 {
        let Some(end) = self.state.count_end else {
            return 0;
        };
        let left = end.saturating_sub(now.host_tsc) as u128 * BUS_HZ as u128;
        let per_count = self.divisor() as u128 * tsc_hz() as u128;
        left.div_ceil(per_count)
            .min(self.state.initial_count as u128) as u32
    }

    pub(super) fn start_count(&mut self, initial: u32, now: Now) {
        if self.timer_mode() == timer_mode::TSC_DEADLINE {
            return;
        }
        self.state.initial_count = initial;
        let ticks = self.host_ticks(initial);
        self.state.count_end = (initial != 0).then(|| now.host_tsc.saturating_add(ticks));
    }

    /// Counts go on under the new divisor.
    pub(super) fn set_divide(&mut self, value: u32, now: Now) {
        let left = self.current_count(now);
        self.state.divide = value & 0xB;
        if self.state.count_end.is_some() {
            let ticks = self.host_ticks(left);
            self.state.count_end = Some(now.host_tsc.saturating_add(ticks));
        }
    }

    /// The count stood still for `ticks` of the host's TSC.
    pub fn skip_time(&mut self, ticks: u64) {
        let end = &mut self.state.count_end;
        *end = end.map(|end| end.saturating_add(ticks));
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
}
