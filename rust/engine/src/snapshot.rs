//! All of a vCPU that a checkpoint holds; nothing of it depends on the backend or on the host's clocks.

use crate::apic::{self, Message};
use crate::fpustate;
use crate::host;
use crate::state::{CpuState, cr4};
use crate::vcpu::{Vcpu, host_tsc, locked};
use std::sync::atomic::Ordering;

pub struct Snapshot {
    /// `tsc_offset` means nothing here.
    pub cpu: CpuState,
    /// The guest's time-stamp counter.
    pub tsc: u64,
    /// `count_end` means nothing here.
    pub apic: apic::State,
    /// Ticks of the time-stamp counter until the APIC timer's running count is 0.
    pub count_left: Option<u64>,
    /// Edges at the pins that the CPU has not looked at yet.
    pub nmi: bool,
    pub init: bool,
    /// The level of the FERR# pin.
    pub ferr: bool,
    /// Interrupt messages that the APIC has not looked at yet.
    pub messages: Vec<Message>,
}

impl Vcpu {
    /// As it stands between two instructions.
    pub fn snapshot(&self) -> Snapshot {
        let now = self.now();
        Snapshot {
            cpu: self.cpu.clone(),
            tsc: now.tsc,
            apic: self.apic.state.clone(),
            count_left: self
                .apic
                .state
                .count_end
                .map(|end| end.saturating_sub(now.host_tsc)),
            nmi: self.shared.nmi.load(Ordering::Acquire),
            init: self.shared.init.load(Ordering::Acquire),
            ferr: self.ferr,
            messages: locked(&self.shared.messages).clone(),
        }
    }

    /// Goes on from a snapshot, of another machine perhaps.  Memory may be another, too: all that
    /// was cached of it is dropped.  An error says what of it this host cannot do, and changes nothing.
    pub fn restore(&mut self, saved: Snapshot) -> Result<(), String> {
        let lacking = saved.cpu.xcr0 & !host::xcr0();
        if lacking != 0 {
            return Err(format!(
                "it uses registers that this host lacks (XCR0 bits {lacking:#x})"
            ));
        }
        let now = host_tsc();
        *self.cpu = saved.cpu;
        self.cpu.tsc_offset = saved.tsc.wrapping_sub(now);
        fpustate::prepare(&mut self.cpu.fpu);
        self.apic.state = saved.apic;
        self.apic.state.count_end = saved.count_left.map(|left| now.saturating_add(left));
        self.ferr = saved.ferr;
        self.error = None;
        self.shared.nmi.store(saved.nmi, Ordering::Release);
        self.shared.init.store(saved.init, Ordering::Release);
        *locked(&self.shared.messages) = saved.messages;
        self.flush_tlb_all();
        if self.cpu.cr4 & cr4::PCIDE != 0 {
            self.mmu.switch((self.cpu.cr3 & 0xFFF) as u16, false);
            self.jit_switch_space();
        }
        self.flush_code_cache();
        self.jit.welcome_newcomers();
        self.ask_attention();
        Ok(())
    }
}
