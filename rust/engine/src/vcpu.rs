//! One virtual CPU: the inner loop between instruction boundaries.
//!
//! Theory: guest code runs until `Shared::attention` is set (by any thread) or a backend must stop;
//! at the next instruction boundary the loop looks at everything that could have set it: kicks,
//! interrupt messages, the timer, stores by DMA over translated code, a changed memory map.  Then
//! it delivers what is deliverable and goes on.
//!
//! Invariants: 1. outside of a backend `cpu` is the whole truth at an instruction boundary.
//! 2. whoever makes something visible to `attend` sets `attention` afterwards, never before.

use crate::apic::{Apic, Features, Message, Signal};
use crate::cpuid::{Leaf, Model};
use crate::exit::Exit;
use crate::fault::vector;
use crate::interp::MAX_INSTRUCTION;
use crate::interp::fpu::NativeUnit;
use crate::interp::interrupt::Event;
use crate::io::IoMap;
use crate::memory::Memory;
use crate::mmu::Mmu;
use crate::state::{CpuState, shadow};
use crate::stats::Stats;
use crate::timer::{HostTimer, duration};
use crate::translate::Jit;
use crate::translate::env::Env;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// What the machine's vCPUs share.
pub struct Vm {
    pub memory: Arc<Memory>,
    pub io: IoMap,
}

/// How guest code is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    Interp,
    Translate,
}

/// Where the 8259 pair's vector comes from at the INTA cycle.
pub type Acknowledge = Box<dyn Fn() -> u8 + Send + Sync>;
/// Who hears of the EOI of a level-triggered interrupt (the I/O APICs).
pub type EoiBroadcast = Box<dyn Fn(u8) + Send + Sync>;

/// Who hears of the FERR# pin's changes: x87 exceptions the MS-DOS compatible way, IRQ 13 on a PC.
pub type Ferr = Box<dyn Fn(bool) + Send + Sync>;

/// The part of a vCPU that any thread may touch.
pub struct Shared {
    /// Lives in the vCPU's `Env`, where translated code polls it; valid as long as `env` is.
    attention: *const AtomicU32,
    _env: Arc<Env>,
    kicked: AtomicBool,
    intr: AtomicBool,
    pub(crate) nmi: AtomicBool,
    pub(crate) init: AtomicBool,
    pub(crate) messages: Mutex<Vec<Message>>,
    /// Inside `Vcpu::run`.
    running: AtomicBool,
    /// `Logs::generation` that its write entries are of.
    logs_seen: Mutex<u64>,
    logs_changed: Condvar,
    sleeping: Mutex<()>,
    wake: Condvar,
    pub acknowledge: Mutex<Option<Arc<Acknowledge>>>,
    pub eoi: Mutex<Option<Arc<EoiBroadcast>>>,
    pub ferr: Mutex<Option<Arc<Ferr>>>,
    /// The IGNNE# pin, asserted: with CR0.NE=0 waiting x87 instructions pass pending exceptions.
    pub ignne: AtomicBool,
}

// SAFETY: `attention` points at an atomic inside `_env`, which is kept alive here.
unsafe impl Send for Shared {}
// SAFETY: as above; everything else is atomic or locked.
unsafe impl Sync for Shared {}

/// Ignores poisoning: what the locks guard is valid at every step.
pub fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

impl Shared {
    pub(crate) fn new(env: Arc<Env>) -> Shared {
        Shared {
            attention: env.attention(),
            _env: env,
            kicked: AtomicBool::new(false),
            intr: AtomicBool::new(false),
            nmi: AtomicBool::new(false),
            init: AtomicBool::new(false),
            messages: Mutex::default(),
            running: AtomicBool::new(false),
            logs_seen: Mutex::default(),
            logs_changed: Condvar::new(),
            sleeping: Mutex::default(),
            wake: Condvar::new(),
            acknowledge: Mutex::default(),
            eoi: Mutex::default(),
            ferr: Mutex::default(),
            ignne: AtomicBool::new(false),
        }
    }

    pub(crate) fn attention(&self) -> &AtomicU32 {
        // SAFETY: points into `_env`.
        unsafe { &*self.attention }
    }

    /// Makes the vCPU look around at its next instruction boundary.
    pub fn attend(&self) {
        self.attention().store(1, Ordering::Release);
        let _guard = locked(&self.sleeping);
        self.wake.notify_all();
    }

    /// Makes `run` or `wait` return.
    pub fn kick(&self) {
        self.kicked.store(true, Ordering::Release);
        self.attend();
    }

    /// The INTR pin.
    pub fn set_intr(&self, level: bool) {
        self.intr.store(level, Ordering::Release);
        if level {
            self.attend();
        }
    }

    pub fn intr(&self) -> bool {
        self.intr.load(Ordering::Acquire)
    }

    pub fn pulse_nmi(&self) {
        self.nmi.store(true, Ordering::Release);
        self.attend();
    }

    /// The INIT# pin: the processor starts over, memory and chips stay.
    pub fn pulse_init(&self) {
        self.init.store(true, Ordering::Release);
        self.attend();
    }

    /// After `attend`: waits until the vCPU has no inline write entries of pages that dirty logs had
    /// asked to hear of at `generation`.  False: it didn't come round in time, because a device
    /// held it up.
    pub fn wait_for_logs(&self, generation: u64, patience: Duration) -> bool {
        let waits = |seen: &mut u64| *seen < generation && self.running.load(Ordering::SeqCst);
        let seen = locked(&self.logs_seen);
        let waited = self.logs_changed.wait_timeout_while(seen, patience, waits);
        !waited.unwrap_or_else(|e| e.into_inner()).1.timed_out()
    }

    fn set_running(&self, running: bool) {
        self.running.store(running, Ordering::SeqCst);
        if !running {
            let _guard = locked(&self.logs_seen);
            self.logs_changed.notify_all();
        }
    }

    /// An interrupt message from an I/O APIC or a device.
    pub fn deliver(&self, message: Message) {
        let mut messages = locked(&self.messages);
        // Fixed interrupts collapse in IRR anyway: a storm can't grow the list.
        if !messages.contains(&message) {
            messages.push(message);
        }
        drop(messages);
        self.attend();
    }
}

pub struct Vcpu {
    /// The architectural state; lies in `env`, where generated code reaches it.
    pub cpu: &'static mut CpuState,
    pub env: Arc<Env>,
    pub vm: Arc<Vm>,
    pub mmu: Mmu,
    pub apic: Apic,
    pub model: Model,
    pub stats: Stats,
    pub jit: Jit,
    pub shared: Arc<Shared>,
    timer: HostTimer,
    /// `Logs::generation` that the inline write entries are of.
    logs_generation: u64,
    pub backend: Backend,
    /// RIP after the instruction being interpreted, unless it changes it.
    pub next_rip: u64,
    /// Whether a single-step trap follows the instruction being interpreted.
    pub single_step: bool,
    /// The instruction being interpreted is assisted (`translate::assist`).
    pub in_assist: bool,
    /// The bytes of the instruction being interpreted.
    pub insn_bytes: [u8; MAX_INSTRUCTION],
    /// What executes FPU and SIMD instructions.
    pub native: NativeUnit,
    /// The level of the FERR# pin.
    pub ferr: bool,
    /// Why the engine gave up, for `Exit::Error`.
    pub error: Option<String>,
}

impl Vcpu {
    pub fn new(vm: Arc<Vm>, index: u32, model: Model, backend: Backend) -> std::io::Result<Vcpu> {
        let env = Arc::new(Env::new()?);
        let shared = Arc::new(Shared::new(env.clone()));
        // SAFETY: the only reference to the state; `env` is kept as long as the Vcpu.
        let cpu = unsafe { env.take_state(CpuState::reset(model.signature())) };
        Ok(Vcpu {
            cpu,
            native: NativeUnit::new(&model)?,
            jit: Jit::new(&env)?,
            env,
            vm,
            mmu: Mmu::new(),
            apic: Apic::new(index, Features::of(&model)),
            model,
            stats: Stats::default(),
            timer: HostTimer::new(shared.clone()),
            shared,
            logs_generation: 0,
            backend,
            next_rip: 0,
            single_step: false,
            in_assist: false,
            insn_bytes: [0; MAX_INSTRUCTION],
            ferr: false,
            error: None,
        })
    }

    /// RESET#: registers and APIC as at power-on; memory stays.
    pub fn reset(&mut self) {
        let offset = 0u64.wrapping_sub(host_tsc());
        *self.cpu = CpuState::reset(self.model.signature());
        self.cpu.tsc_offset = offset;
        self.apic.reset();
        self.cpu.halted = self.apic.state.wait_for_sipi;
        locked(&self.shared.messages).clear();
        self.flush_tlb_all();
    }

    /// What CPUID returns here and now.
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> Leaf {
        let mut value = self.model.cpuid(leaf, subleaf, self.cpu);
        if leaf == 1 && !self.apic.enabled() {
            value.edx &= !(1 << 9);
        }
        value
    }

    /// The guest's time-stamp counter.
    pub fn tsc(&self) -> u64 {
        host_tsc().wrapping_add(self.cpu.tsc_offset)
    }

    /// The guest's clocks stood still for `ticks` of the host's TSC: the machine was paused.
    pub fn skip_time(&mut self, ticks: u64) {
        self.cpu.tsc_offset = self.cpu.tsc_offset.wrapping_sub(ticks);
        self.apic.skip_time(ticks);
    }

    /// Runs guest code until the machine must act.
    pub fn run(&mut self) -> Exit {
        let start = Instant::now();
        self.timer.enter();
        self.shared.set_running(true);
        let exit = self.run_until_exit();
        self.shared.set_running(false);
        self.timer.leave();
        self.stats.ns_running += start.elapsed().as_nanos() as u64;
        exit
    }

    fn run_until_exit(&mut self) -> Exit {
        loop {
            self.shared.attention().store(0, Ordering::SeqCst);
            if self.shared.kicked.swap(false, Ordering::AcqRel) {
                return Exit::Kicked;
            }
            if self.error.is_some() {
                return Exit::Error;
            }
            self.attend();
            if self.deliver_pending() {
                continue;
            }
            if self.cpu.shutdown {
                return Exit::Shutdown;
            }
            if self.cpu.halted {
                self.stats.halts += 1;
                return Exit::Halt;
            }
            let now = self.now();
            self.timer.arm(self.apic.timer_deadline(now), now.host_tsc);
            match self.backend {
                Backend::Interp => self.interpret_until_attention(),
                Backend::Translate => self.run_translated(),
            }
        }
    }

    /// Interprets one instruction, or runs translated code up to its first exit or poll, with
    /// everything due at the boundary before it: for runs in lock step.  The exit if there is
    /// nothing to run.
    pub fn run_one(&mut self) -> Option<Exit> {
        self.attend();
        if self.deliver_pending() {
            return None;
        }
        if self.cpu.shutdown {
            return Some(Exit::Shutdown);
        }
        if self.cpu.halted {
            return Some(Exit::Halt);
        }
        match self.backend {
            Backend::Interp => self.step(),
            Backend::Translate => self.run_translated_briefly(),
        }
        None
    }

    fn interpret_until_attention(&mut self) {
        loop {
            self.step();
            if self.must_attend() {
                return;
            }
        }
    }

    /// Whether something waits for the loop: another thread, or the state of the CPU itself.
    #[inline]
    pub fn must_attend(&self) -> bool {
        self.shared.attention().load(Ordering::Relaxed) != 0
            || self.cpu.halted
            || self.cpu.shutdown
            || self.cpu.pending_db != 0
    }

    /// Asks for a pass through the loop: something may have become deliverable (STI, TPR, EOI …).
    #[inline]
    pub fn ask_attention(&self) {
        self.shared.attention().store(1, Ordering::Relaxed);
    }

    fn attend_to_logs(&mut self) {
        let generation = self.vm.memory.logs().generation();
        if self.logs_generation != generation {
            self.logs_generation = generation;
            self.forbid_logged_writes();
            *locked(&self.shared.logs_seen) = generation;
            self.shared.logs_changed.notify_all();
        }
    }

    /// Takes in what other threads and the clock have for this CPU.
    fn attend(&mut self) {
        for (address, length) in self.vm.memory.take_notes() {
            self.invalidate_code(address, length);
        }
        let map = self.vm.memory.generation();
        if self.mmu.map_generation != map {
            self.mmu.map_generation = map;
            self.flush_tlb_all();
        }
        if self.shared.init.swap(false, Ordering::AcqRel) {
            self.signal(Signal::Init);
        }
        self.attend_to_logs();
        self.attend_to_revocations();
        if self.shared.nmi.swap(false, Ordering::AcqRel)
            && let Some(signal) = self.apic.pulse_nmi()
        {
            self.signal(signal);
        }
        if let Some(signal) = self.apic.drive_intr(self.shared.intr()) {
            self.signal(signal);
        }
        let messages = std::mem::take(&mut *locked(&self.shared.messages));
        for message in messages {
            if let Some(signal) = self.apic.accept(message) {
                self.signal(signal);
            }
        }
        self.apic.run_timer(self.now());
    }

    /// Delivers the trap or interrupt of highest priority that may be at this boundary
    /// (SDM vol. 3, table 7-2).  True if it went on to the next boundary instead, because a shadow
    /// lies on this one: look again.
    fn deliver_pending(&mut self) -> bool {
        if self.cpu.pending_db != 0 && self.cpu.shadow & shadow::MOV_SS == 0 {
            let bits = std::mem::take(&mut self.cpu.pending_db);
            self.record_debug(bits);
            self.deliver(Event::trap(vector::DB));
            return false;
        }
        if self.cpu.shutdown || self.apic.state.wait_for_sipi {
            return false;
        }
        if self.cpu.nmi_pending && !self.cpu.nmi_blocked && self.cpu.shadow & shadow::MOV_SS == 0 {
            self.cpu.nmi_pending = false;
            self.cpu.halted = false;
            self.deliver(Event::nmi());
            self.cpu.nmi_blocked = true;
            return false;
        }
        let enabled = self.cpu.interrupts_enabled() && self.interrupt_pending();
        let nmi = self.cpu.nmi_pending && !self.cpu.nmi_blocked;
        if self.cpu.shadow != 0 && (enabled || nmi || self.cpu.pending_db != 0) {
            self.step();
            return true;
        }
        if !enabled || self.cpu.shadow != 0 {
            return false;
        }
        if let Some(vector) = self.take_interrupt() {
            self.cpu.halted = false;
            self.stats.interrupts += 1;
            self.deliver(Event::external(vector));
            // More may wait behind it, deliverable once the handler allows.
            self.ask_attention_if_pending();
        }
        false
    }

    /// Whether an interrupt would be delivered were IF set.
    pub fn interrupt_pending(&self) -> bool {
        self.apic.pending().is_some() || self.extint()
    }

    /// Whether the 8259s ask for an interrupt acknowledge cycle.
    fn extint(&self) -> bool {
        self.apic.state.extint || self.shared.intr() && self.apic.accepts_extint()
    }

    /// Asks for a pass through the loop if there is something to deliver: IF, or what blocks NMIs,
    /// has changed.
    pub fn ask_attention_if_pending(&self) {
        let nmi = self.cpu.nmi_pending && !self.cpu.nmi_blocked;
        if nmi || self.cpu.interrupts_enabled() && self.interrupt_pending() {
            self.ask_attention();
        }
    }

    /// The vector of the interrupt to deliver now, acknowledged at its source.
    fn take_interrupt(&mut self) -> Option<u8> {
        if self.extint() {
            self.apic.state.extint = false;
            let acknowledge = locked(&self.shared.acknowledge).clone();
            if let Some(acknowledge) = acknowledge {
                return Some(acknowledge());
            }
        }
        self.apic.acknowledge()
    }

    /// Sleeps until an interrupt would end HLT, or a kick.
    pub fn wait(&mut self) {
        let start = Instant::now();
        self.timer.disarm();
        loop {
            self.attend();
            let interrupted =
                self.cpu.nmi_pending || self.interrupt_pending() && self.cpu.interrupts_enabled();
            let wakes = !self.cpu.halted || interrupted && !self.apic.state.wait_for_sipi;
            if wakes || self.shared.kicked.load(Ordering::Acquire) {
                break;
            }
            let guard = locked(&self.shared.sleeping);
            if self.shared.attention().swap(0, Ordering::AcqRel) != 0 {
                continue;
            }
            let now = self.now();
            let deadline = self.apic.timer_deadline(now);
            let left = deadline.map(|at| duration(at.saturating_sub(now.host_tsc)));
            let wake = &self.shared.wake;
            let limit = left.unwrap_or(Duration::from_secs(3600));
            drop(
                wake.wait_timeout(guard, limit)
                    .unwrap_or_else(|e| e.into_inner()),
            );
        }
        self.ask_attention();
        self.stats.ns_halted += start.elapsed().as_nanos() as u64;
    }
}

/// The host's time-stamp counter.
pub fn host_tsc() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 processor.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// How long the host's TSC is compared with its monotonic clock, at least.
const TSC_MEASURED: Duration = Duration::from_millis(20);

static TSC_START: OnceLock<(u64, Instant)> = OnceLock::new();

/// Begins to measure the rate of the host's TSC: who needs it later need not wait for it then.
pub fn begin_tsc_hz() {
    TSC_START.get_or_init(tsc_sample);
}

/// The host's TSC rate in Hz, measured once against the monotonic clock.
pub fn tsc_hz() -> u64 {
    static HZ: OnceLock<u64> = OnceLock::new();
    *HZ.get_or_init(|| {
        let (tsc0, t0) = *TSC_START.get_or_init(tsc_sample);
        std::thread::sleep(TSC_MEASURED.saturating_sub(t0.elapsed()));
        let (tsc1, t1) = tsc_sample();
        let ns = (t1 - t0).as_nanos().max(1);
        ((tsc1 - tsc0) as u128 * 1_000_000_000 / ns) as u64
    })
}

/// TSC and clock at the same moment.
fn tsc_sample() -> (u64, Instant) {
    // The pair read with the least time in between is the least disturbed one.
    (0..16)
        .map(|_| {
            let before = host_tsc();
            let now = Instant::now();
            let after = host_tsc();
            (after - before, before + (after - before) / 2, now)
        })
        .min_by_key(|s| s.0)
        .map(|s| (s.1, s.2))
        .unwrap_or((0, Instant::now()))
}
