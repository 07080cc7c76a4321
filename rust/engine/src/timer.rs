//! The host timer that interrupts guest code when the local APIC's timer is due.
//!
//! A POSIX timer aims a real-time signal at the thread that runs the vCPU (timer_create(2),
//! SIGEV_THREAD_ID), and the handler only sets the vCPU's attention word.  Where the host refuses
//! such a timer, a thread does the same.
//!
//! Invariants: 1. a signal can come late, even after its timer is gone: it carries the address of a
//! `Target`, which is never freed, and which names the attention word only while `run` is on, set
//! and cleared by the thread that the signal interrupts.  2. too early is harmless: the vCPU looks
//! and arms again, so a later deadline leaves the timer as it is.  That it expired is what the timer
//! says: the host's clock for it and its time-stamp counter needn't agree.

use crate::vcpu::{Shared, locked, tsc_hz};
use std::mem::MaybeUninit;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The signal's number above SIGRTMIN.
const SIGNAL_OFFSET: i32 = 4;
/// The latest that the timer is armed for: a deadline beyond is armed again then.
const LONGEST: Duration = Duration::from_secs(3600);

fn signal_number() -> i32 {
    libc::SIGRTMIN() + SIGNAL_OFFSET
}

/// Where a timer's signals say that they came.
#[derive(Default)]
struct Target {
    /// An attention word, or nothing.
    attention: AtomicPtr<AtomicU32>,
    expired: AtomicBool,
}

extern "C" fn on_signal(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo; one of a timer carries the address of a `Target`
    // that lives for ever, and whose word is valid while it is named (invariant 1).
    unsafe {
        if (*info).si_code == libc::SI_TIMER {
            let target = &*(*info).si_value().sival_ptr.cast::<Target>();
            target.expired.store(true, Ordering::Relaxed);
            if let Some(attention) = target.attention.load(Ordering::Relaxed).as_ref() {
                attention.store(1, Ordering::Release);
            }
        }
    }
}

/// Installs the handler once; whether it is there.
fn handler_installed() -> bool {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        // SAFETY: an all-zero sigaction is valid, and the handler is async-signal-safe.
        unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
            libc::sigaction(signal_number(), &action, null_mut()) == 0
        }
    })
}

/// A timer of the kernel for one thread.
struct SignalTimer {
    id: libc::timer_t,
    thread: libc::pid_t,
    target: &'static Target,
}

// SAFETY: the id is a number for system calls; any thread of the process may use it.
unsafe impl Send for SignalTimer {}

impl SignalTimer {
    fn new(thread: libc::pid_t) -> Option<SignalTimer> {
        if !handler_installed() {
            return None;
        }
        // Never freed (invariant 1): a word for each thread that ever ran a vCPU.
        let target: &'static Target = Box::leak(Box::default());
        let mut id = null_mut();
        // SAFETY: an all-zero sigevent is valid; the kernel writes `id`.
        let made = unsafe {
            let mut event: libc::sigevent = MaybeUninit::zeroed().assume_init();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = signal_number();
            event.sigev_notify_thread_id = thread;
            event.sigev_value.sival_ptr = std::ptr::from_ref(target).cast_mut().cast();
            libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut id)
        };
        (made == 0).then_some(SignalTimer { id, thread, target })
    }

    /// Expires once; never, if that is after no time.
    fn set(&self, after: Duration) {
        let zero = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let when = libc::itimerspec {
            it_interval: zero,
            it_value: libc::timespec {
                tv_sec: after.as_secs() as libc::time_t,
                tv_nsec: after.subsec_nanos() as libc::c_long,
            },
        };
        // SAFETY: our own timer and a valid time.
        unsafe { libc::timer_settime(self.id, 0, &when, null_mut()) };
    }
}

impl Drop for SignalTimer {
    fn drop(&mut self) {
        self.target.attention.store(null_mut(), Ordering::Release);
        // SAFETY: our own timer, deleted once.
        unsafe { libc::timer_delete(self.id) };
    }
}

#[derive(Default)]
struct Plan {
    due: Option<Instant>,
    ended: bool,
}

/// The substitute: a thread that sleeps until the deadline.
struct TimerThread {
    plan: Arc<(Mutex<Plan>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl TimerThread {
    fn new(shared: Arc<Shared>) -> TimerThread {
        let plan = Arc::new((Mutex::new(Plan::default()), Condvar::new()));
        let seen = plan.clone();
        let body = move || {
            let (plan, changed) = &*seen;
            let mut guard = locked(plan);
            while !guard.ended {
                let left = guard
                    .due
                    .map(|t| t.saturating_duration_since(Instant::now()));
                if left == Some(Duration::ZERO) {
                    guard.due = None;
                    shared.attend();
                    continue;
                }
                let waited = changed.wait_timeout(guard, left.unwrap_or(LONGEST));
                guard = waited.unwrap_or_else(|e| e.into_inner()).0;
            }
        };
        let thread = std::thread::Builder::new().name("apic-timer".to_owned());
        TimerThread {
            plan,
            thread: thread.spawn(body).ok(),
        }
    }

    fn set(&self, after: Duration) {
        locked(&self.plan.0).due = Some(Instant::now() + after);
        self.plan.1.notify_one();
    }
}

impl Drop for TimerThread {
    fn drop(&mut self) {
        locked(&self.plan.0).ended = true;
        self.plan.1.notify_one();
        if let Some(thread) = self.thread.take() {
            // It can't have panicked: nothing it does does.
            let _ = thread.join();
        }
    }
}

enum Kind {
    None,
    Signal(SignalTimer),
    Thread(TimerThread),
}

pub struct HostTimer {
    shared: Arc<Shared>,
    kind: Kind,
    /// Host TSC at which the timer will have expired.
    armed: Option<u64>,
}

impl HostTimer {
    pub fn new(shared: Arc<Shared>) -> HostTimer {
        HostTimer {
            shared,
            kind: Kind::None,
            armed: None,
        }
    }

    /// `run` begins on this thread.
    pub fn enter(&mut self) {
        thread_local! {
            // SAFETY: plain system call.
            static THREAD: libc::pid_t = unsafe { libc::gettid() };
        }
        let thread = THREAD.with(|t| *t);
        let ours = match &self.kind {
            Kind::None => false,
            Kind::Signal(timer) => timer.thread == thread,
            Kind::Thread(_) => true,
        };
        if !ours {
            self.armed = None;
            self.kind = match SignalTimer::new(thread) {
                Some(timer) => Kind::Signal(timer),
                None => Kind::Thread(TimerThread::new(self.shared.clone())),
            };
        }
        if let Kind::Signal(timer) = &self.kind {
            let word = std::ptr::from_ref(self.shared.attention()).cast_mut();
            timer.target.attention.store(word, Ordering::Release);
        }
    }

    /// `run` ends, on the thread on which it began.
    pub fn leave(&mut self) {
        if let Kind::Signal(timer) = &self.kind {
            timer.target.attention.store(null_mut(), Ordering::Release);
        }
    }

    /// Nobody needs to hear of a deadline for now.
    pub fn disarm(&mut self) {
        if self.armed.take().is_some()
            && let Kind::Signal(timer) = &self.kind
        {
            timer.set(Duration::ZERO);
        }
    }

    /// Sees to it that attention is asked for at `deadline` at the latest; times in host TSC.
    pub fn arm(&mut self, deadline: Option<u64>, now: u64) {
        let Some(deadline) = deadline else {
            return;
        };
        if deadline <= now {
            self.shared.attention().store(1, Ordering::Release);
            return;
        }
        let runs = match &self.kind {
            Kind::None => true,
            Kind::Signal(timer) => !timer.target.expired.swap(false, Ordering::Relaxed),
            Kind::Thread(timer) => locked(&timer.plan.0).due.is_some(),
        };
        if runs && self.armed.is_some_and(|at| at > now && at <= deadline) {
            return;
        }
        let after = duration(deadline - now).min(LONGEST);
        self.armed = Some(deadline.min(now.saturating_add(LONGEST.as_secs() * tsc_hz())));
        match &self.kind {
            Kind::None => {}
            Kind::Signal(timer) => timer.set(after.max(Duration::from_nanos(1))),
            Kind::Thread(timer) => timer.set(after),
        }
    }
}

/// How long the host's TSC takes for `ticks`.
pub fn duration(ticks: u64) -> Duration {
    let ns = ticks as u128 * 1_000_000_000 / tsc_hz() as u128;
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::env::Env;
    use crate::vcpu::host_tsc;

    fn shared() -> Arc<Shared> {
        Arc::new(Shared::new(Arc::new(Env::new().unwrap())))
    }

    fn expires(timer: &mut HostTimer) {
        let now = host_tsc();
        timer.arm(Some(now + 100_000), now);
        while timer.shared.attention().load(Ordering::Acquire) == 0 {
            std::hint::spin_loop();
        }
        timer.leave();
    }

    #[test]
    fn a_signal_sets_attention_at_the_deadline() {
        let mut timer = HostTimer::new(shared());
        timer.enter();
        assert!(matches!(timer.kind, Kind::Signal(_)));
        expires(&mut timer);
    }

    #[test]
    fn a_thread_sets_attention_where_signals_cannot() {
        let mut timer = HostTimer::new(shared());
        timer.kind = Kind::Thread(TimerThread::new(timer.shared.clone()));
        timer.enter();
        expires(&mut timer);
    }

    #[test]
    fn another_thread_gets_a_timer_of_its_own() {
        let mut timer = HostTimer::new(shared());
        timer.enter();
        timer.leave();
        let moved = std::thread::spawn(move || {
            timer.enter();
            expires(&mut timer);
        });
        moved.join().unwrap();
    }

    #[test]
    fn a_timer_that_came_early_is_armed_again() {
        let mut timer = HostTimer::new(shared());
        timer.enter();
        let now = host_tsc();
        timer.arm(Some(now + 100_000), now);
        while timer.shared.attention().swap(0, Ordering::Acquire) == 0 {
            std::hint::spin_loop();
        }
        // By this time of the TSC the deadline is still to come.
        timer.arm(Some(now + 100_000), now);
        while timer.shared.attention().load(Ordering::Acquire) == 0 {
            std::hint::spin_loop();
        }
        timer.leave();
    }

    #[test]
    fn a_deadline_in_the_past_asks_at_once() {
        let mut timer = HostTimer::new(shared());
        timer.arm(Some(5), 5);
        assert_eq!(timer.shared.attention().load(Ordering::Acquire), 1);
    }

    #[test]
    fn a_later_deadline_leaves_the_timer_alone() {
        let mut timer = HostTimer::new(shared());
        timer.arm(Some(1000), 1);
        timer.arm(Some(2000), 2);
        assert_eq!(timer.armed, Some(1000));
        timer.arm(Some(500), 3);
        assert_eq!(timer.armed, Some(500));
    }
}
