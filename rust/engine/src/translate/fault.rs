//! Host signals that translated code raises: #DE, misaligned SSE operands, SIMD and x87 exceptions,
//! and what windows don't have.
//!
//! The handler leaves translated code with `exit::FAULT`; the interpreter then executes the
//! instruction and raises what the guest must see.  That one runs instructions in stubs, which it
//! leaves with the signal's number.  Signals from anywhere else go to the handler
//! that was there before.

use super::env::Area;
use crate::fault::{pf, vector};
use crate::interp::fpu::leave_stub;
use std::ops::Range;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

const SIGNALS: [i32; 4] = [libc::SIGFPE, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL];

/// Ranges of generated code of one kind at most in one process.
const MAX_RANGES: usize = 256;

struct Registered {
    start: AtomicU64,
    end: AtomicU64,
}

/// Where generated code of one kind lies; a signal handler may look.
pub struct Ranges([Registered; MAX_RANGES]);

/// A host fault in translated code, as the kernel tells it.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct HostFault {
    /// Vector and error code of the exception.
    vector: u64,
    error: u64,
    /// What was accessed, if it is a page fault.
    pub address: u64,
    /// The addends that there were.
    pub r10: u64,
    pub r11: u64,
}

impl HostFault {
    pub fn is_page_fault(&self) -> bool {
        self.vector == vector::PF as u64
    }

    pub fn wrote(&self) -> bool {
        self.error & pf::W as u64 != 0
    }
}

/// Translated code.
pub static CACHES: Ranges = Ranges::new();
/// The interpreter's stubs (`interp::fpu`).
pub static STUBS: Ranges = Ranges::new();

impl Ranges {
    const fn new() -> Ranges {
        Ranges(
            [const {
                Registered {
                    start: AtomicU64::new(0),
                    end: AtomicU64::new(0),
                }
            }; MAX_RANGES],
        )
    }

    pub fn add(&self, range: Range<u64>) {
        for slot in &self.0 {
            let free =
                slot.start
                    .compare_exchange(0, range.start, Ordering::AcqRel, Ordering::Relaxed);
            if free.is_ok() {
                slot.end.store(range.end, Ordering::Release);
                return;
            }
        }
    }

    pub fn remove(&self, range: Range<u64>) {
        for slot in &self.0 {
            if slot.start.load(Ordering::Acquire) == range.start {
                slot.end.store(0, Ordering::Release);
                slot.start.store(0, Ordering::Release);
            }
        }
    }

    fn contain(&self, rip: u64) -> bool {
        self.0.iter().any(|slot| {
            let start = slot.start.load(Ordering::Acquire);
            start != 0 && start <= rip && rip < slot.end.load(Ordering::Acquire)
        })
    }
}

/// Handlers that were installed before ours, by position in `SIGNALS`.
static mut PREVIOUS: [std::mem::MaybeUninit<libc::sigaction>; 4] =
    [const { std::mem::MaybeUninit::zeroed() }; 4];

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
    // SAFETY: the kernel passes a valid ucontext; while RIP is in translated code RSP is the Area,
    // while it is in a stub RSP is the stub's frame.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        let rip = registers[libc::REG_RIP as usize] as u64;
        if STUBS.contain(rip) {
            let frame = registers[libc::REG_RSP as usize] as *const u8;
            registers[libc::REG_RIP as usize] = leave_stub(frame, signal) as i64;
            return;
        }
        if CACHES.contain(rip) {
            let area = registers[libc::REG_RSP as usize] as *mut Area;
            (*area).exit_site = rip;
            (*area).fault = HostFault {
                vector: registers[libc::REG_TRAPNO as usize] as u64,
                error: registers[libc::REG_ERR as usize] as u64,
                address: registers[libc::REG_CR2 as usize] as u64,
                r10: registers[libc::REG_R10 as usize] as u64,
                r11: registers[libc::REG_R11 as usize] as u64,
            };
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
