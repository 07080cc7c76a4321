//! Host signals that translated code raises: #DE, misaligned SSE operands, SIMD and x87 exceptions.
//!
//! The handler leaves translated code with `exit::FAULT`; the interpreter then executes the
//! instruction and raises what the guest must see.  Signals from anywhere else go to the handler
//! that was there before.

use super::env::Area;
use std::ops::Range;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

const SIGNALS: [i32; 4] = [libc::SIGFPE, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL];

/// Code caches at most in one process.
const MAX_CACHES: usize = 256;

struct Registered {
    start: AtomicU64,
    end: AtomicU64,
}

static CACHES: [Registered; MAX_CACHES] = [const {
    Registered {
        start: AtomicU64::new(0),
        end: AtomicU64::new(0),
    }
}; MAX_CACHES];

/// Handlers that were installed before ours, by position in `SIGNALS`.
static mut PREVIOUS: [std::mem::MaybeUninit<libc::sigaction>; 4] =
    [const { std::mem::MaybeUninit::zeroed() }; 4];

/// Faults in this range are translated code's.
pub fn register(range: Range<u64>) {
    for slot in &CACHES {
        let free = slot
            .start
            .compare_exchange(0, range.start, Ordering::AcqRel, Ordering::Relaxed);
        if free.is_ok() {
            slot.end.store(range.end, Ordering::Release);
            return;
        }
    }
}

pub fn unregister(range: Range<u64>) {
    for slot in &CACHES {
        if slot.start.load(Ordering::Acquire) == range.start {
            slot.end.store(0, Ordering::Release);
            slot.start.store(0, Ordering::Release);
        }
    }
}

fn translated(rip: u64) -> bool {
    CACHES.iter().any(|slot| {
        let start = slot.start.load(Ordering::Acquire);
        start != 0 && start <= rip && rip < slot.end.load(Ordering::Acquire)
    })
}

/// Installs the handlers, once for the process.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for (i, signal) in SIGNALS.into_iter().enumerate() {
            // SAFETY: the action is fully initialized; PREVIOUS is written here only, before any
            // handler can run.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_signal as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
                libc::sigemptyset(&mut action.sa_mask);
                let previous = (&raw mut PREVIOUS).cast::<libc::sigaction>().add(i);
                libc::sigaction(signal, &action, previous);
            }
        }
    });
}

extern "C" fn on_signal(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid ucontext; while RIP is in translated code RSP is the Area.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let rip = registers[libc::REG_RIP as usize] as u64;
        if translated(rip) {
            let area = registers[libc::REG_RSP as usize] as *mut Area;
            (*area).exit_site = rip;
            registers[libc::REG_RIP as usize] = (*area).fault_thunk as i64;
            return;
        }
    }
    pass_on(signal, info, context);
}

/// Does what the process would do without us.
fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(i) = SIGNALS.iter().position(|&s| s == signal) else {
        return;
    };
    // SAFETY: PREVIOUS was filled before the handler was installed; its handler has the type that
    // its flags say.
    unsafe {
        let previous = &*(&raw const PREVIOUS).cast::<libc::sigaction>().add(i);
        match previous.sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => {
                // Returning runs the instruction again, now with the default action.
                libc::sigaction(signal, previous, std::ptr::null_mut());
            }
            handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
                let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                    std::mem::transmute(handler);
                handler(signal, info, context);
            }
            handler => {
                let handler: extern "C" fn(i32) = std::mem::transmute(handler);
                handler(signal);
            }
        }
    }
}
