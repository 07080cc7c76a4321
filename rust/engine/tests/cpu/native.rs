//! The host's CPU as an oracle: runs unprivileged code natively, in a forked child.
//!
//! The child never calls the code.  A signal handler loads the registers, FPU and vector state and
//! memory of a case into the interrupted context and returns into the code; the code ends by INT3 or
//! by faulting, and the handler finds its state in the context again, with the exception's vector,
//! error code and CR2.  So a case may do what it likes to every register, the stack pointer included.
//! 32-bit code is the same with another CS selector.
//!
//! A child that dies or hangs costs only the case at hand, which has no outcome then.

use std::ptr::{null, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

pub const CODE: u64 = 0x2000_0000;
pub const CODE_BYTES: usize = 0x1000;
/// What a case and the branches in it reach.
const CODE_TOUCHED: usize = 256;
/// Two pages, with nothing mapped before and behind them.
pub const DATA: u64 = 0x2001_0000;
pub const DATA_BYTES: usize = 0x2000;
pub const XSAVE_BYTES: usize = 4096;

/// Linux's code segments for user programs.
const USER_CS64: u16 = 0x33;
const USER_CS32: u16 = 0x23;
/// Its data segment, which a 64-bit program has no need of.
const USER_DS: u16 = 0x2B;

/// XSAVE area: MXCSR's offset, what Linux keeps for itself, and XSTATE_BV (SDM vol. 1, 13.4).
const SOFTWARE: std::ops::Range<usize> = 464..512;
const SOFTWARE_XSTATE_SIZE: usize = 464 + 16;
const SOFTWARE_MAGIC: u32 = 0x4650_5853;
const XSTATE_BV: usize = 512;
const HEADER_END: usize = 576;
/// Protection keys: not ours to change.
const XFEATURE_PKRU: u64 = 1 << 9;

const INT3: u8 = 0xCC;
const STACK_BYTES: usize = 1 << 16;
/// Longest time for one batch; only a loop takes that long.
const BATCH_LIMIT_S: u32 = 3;

/// What to run: all registers and memory before.
#[derive(Clone)]
#[repr(C)]
pub struct Case {
    pub code: [u8; 120],
    pub code_bytes: usize,
    pub bits: u32,
    pub gpr: [u64; 16],
    pub rflags: u64,
    pub xsave: [u8; XSAVE_BYTES],
    pub data: [u8; DATA_BYTES],
}

/// Everything after.
#[derive(Clone)]
#[repr(C)]
pub struct After {
    pub vector: u8,
    pub error_code: u64,
    pub cr2: u64,
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub xsave: [u8; XSAVE_BYTES],
    pub data: [u8; DATA_BYTES],
}

/// Order of `gregs` by the registers' own numbers.
const GREGS: [i32; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Memory shared with the children of one batch.
struct Batch {
    cases: *mut Case,
    after: *mut After,
    count: usize,
    /// Cases that ended.
    done: *mut AtomicUsize,
    bytes: usize,
}

impl Batch {
    fn new(cases: &[Case]) -> Batch {
        let after_at = size_of_val(cases);
        let done_at = after_at + cases.len() * size_of::<After>();
        let bytes = done_at + size_of::<AtomicUsize>();
        let (protection, kind) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let p = unsafe { libc::mmap(null_mut(), bytes, protection, kind, -1, 0) };
        assert_ne!(p, libc::MAP_FAILED, "memory for a batch");
        let p = p.cast::<u8>();
        // SAFETY: the mapping holds the three parts, all aligned to 8 by their sizes.
        unsafe {
            std::ptr::copy_nonoverlapping(cases.as_ptr(), p.cast(), cases.len());
            Batch {
                cases: p.cast(),
                after: p.add(after_at).cast(),
                count: cases.len(),
                done: p.add(done_at).cast(),
                bytes,
            }
        }
    }

    fn done(&self) -> &AtomicUsize {
        // SAFETY: inside the mapping, which lives as long as `self`.
        unsafe { &*self.done }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // SAFETY: our own mapping.
        unsafe { libc::munmap(self.cases.cast(), self.bytes) };
    }
}

/// The child's view of the batch: the next case to load, and whether one is under way.
struct Child {
    cases: *const Case,
    after: *mut After,
    count: usize,
    done: *const AtomicUsize,
    running: bool,
    /// As `components` gives them.
    components: [(usize, usize); 4],
}

/// Set in the child before its first signal, and used by its only thread.
static mut CHILD: Child = Child {
    cases: null(),
    after: null_mut(),
    count: 0,
    done: null(),
    running: false,
    components: [(0, 0); 4],
};

/// Runs each case; None for those that took the child with them.
pub fn run(cases: &[Case]) -> Vec<Option<Box<After>>> {
    let batch = Batch::new(cases);
    let mut lost = vec![false; cases.len()];
    while batch.done().load(Ordering::Acquire) < batch.count {
        let before = batch.done().load(Ordering::Acquire);
        // SAFETY: the child only makes system calls and touches its own and the shared memory.
        match unsafe { libc::fork() } {
            0 => child(&batch),
            pid => {
                assert!(pid > 0, "fork");
                // SAFETY: waits for our own child.
                unsafe { libc::waitpid(pid, null_mut(), 0) };
            }
        }
        let now = batch.done().load(Ordering::Acquire);
        if now < batch.count {
            assert!(now >= before);
            lost[now] = true;
            batch.done().store(now + 1, Ordering::Release);
        }
    }
    (0..batch.count)
        // SAFETY: `after` holds `count` outcomes; those not lost are written, and any bytes are valid.
        .map(|i| (!lost[i]).then(|| Box::new(unsafe { (*batch.after.add(i)).clone() })))
        .collect()
}

/// Runs cases from `done` on and exits.
fn child(batch: &Batch) -> ! {
    // SAFETY: only this thread exists here; the mappings are at addresses nothing else uses, and
    // INT3 enters the handler, which never returns to this point.
    unsafe {
        map_fixed(CODE, CODE_BYTES, libc::PROT_EXEC);
        std::ptr::write_bytes(CODE as *mut u8, INT3, CODE_BYTES);
        map_fixed(DATA, DATA_BYTES, 0);
        let stack = vec![0u8; STACK_BYTES].leak();
        let alternative = libc::stack_t {
            ss_sp: stack.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: STACK_BYTES,
        };
        libc::sigaltstack(&alternative, null_mut());
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        for signal in [
            libc::SIGTRAP,
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGILL,
            libc::SIGFPE,
        ] {
            libc::sigaction(signal, &action, null_mut());
        }
        CHILD = Child {
            cases: batch.cases,
            after: batch.after,
            count: batch.count,
            done: batch.done,
            running: false,
            components: components(),
        };
        libc::alarm(BATCH_LIMIT_S);
        core::arch::asm!("mov ds, {0:x}", "mov es, {0:x}", "int3", in(reg) USER_DS);
        libc::_exit(1)
    }
}

/// # Safety
/// Nothing else uses the range.
unsafe fn map_fixed(address: u64, bytes: usize, extra: i32) {
    let protection = libc::PROT_READ | libc::PROT_WRITE | extra;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: the caller's promise.
    let p = unsafe { libc::mmap(address as *mut _, bytes, protection, kind, -1, 0) };
    if p as u64 != address {
        // SAFETY: ends the child.
        unsafe { libc::_exit(2) };
    }
}

/// Takes what the case under way left, and loads the next one.
extern "C" fn on_signal(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a ucontext with an XSAVE frame; CHILD is ours alone (see there).
    unsafe {
        let machine = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext;
        let child = &raw mut CHILD;
        let child = &mut *child;
        let index = (*child.done).load(Ordering::Relaxed);
        if child.running {
            save(machine, &mut *child.after.add(index));
            (*child.done).store(index + 1, Ordering::Release);
        }
        child.running = true;
        let next = (*child.done).load(Ordering::Relaxed);
        if next == child.count {
            libc::_exit(0);
        }
        load(machine, &*child.cases.add(next), &child.components);
    }
}

/// # Safety
/// `machine` is the context of a signal that interrupted a case.
unsafe fn save(machine: &libc::mcontext_t, after: &mut After) {
    let greg = |r: i32| machine.gregs[r as usize] as u64;
    after.vector = greg(libc::REG_TRAPNO) as u8;
    after.error_code = greg(libc::REG_ERR);
    after.cr2 = greg(libc::REG_CR2);
    after.gpr = GREGS.map(greg);
    after.rip = greg(libc::REG_RIP);
    after.rflags = greg(libc::REG_EFL);
    // SAFETY: the frame's FPU area is as long as `frame_bytes` says; DATA is mapped.
    unsafe {
        let area = machine.fpregs.cast::<u8>();
        std::ptr::copy_nonoverlapping(area, after.xsave.as_mut_ptr(), frame_bytes(area));
        std::ptr::copy_nonoverlapping(DATA as *const u8, after.data.as_mut_ptr(), DATA_BYTES);
    }
    after.xsave[SOFTWARE].fill(0);
}

/// # Safety
/// `machine` is the context of a signal, and CODE and DATA are mapped.
unsafe fn load(machine: &mut libc::mcontext_t, case: &Case, components: &[(usize, usize)]) {
    for (register, value) in GREGS.iter().zip(case.gpr) {
        machine.gregs[*register as usize] = value as i64;
    }
    machine.gregs[libc::REG_RIP as usize] = CODE as i64;
    machine.gregs[libc::REG_EFL as usize] = case.rflags as i64;
    let cs = if case.bits == 64 {
        USER_CS64
    } else {
        USER_CS32
    };
    let selectors = &mut machine.gregs[libc::REG_CSGSFS as usize];
    *selectors = *selectors & !0xFFFF | i64::from(cs);
    // SAFETY: CODE and DATA are mapped; the FPU area is as long as `frame_bytes` says.
    unsafe {
        std::ptr::write_bytes(CODE as *mut u8, INT3, CODE_TOUCHED);
        std::ptr::copy_nonoverlapping(case.code.as_ptr(), CODE as *mut u8, case.code_bytes);
        std::ptr::copy_nonoverlapping(case.data.as_ptr(), DATA as *mut u8, DATA_BYTES);
        let area = machine.fpregs.cast::<u8>();
        let bytes = frame_bytes(area);
        let keep = xstate_bv(area) & XFEATURE_PKRU;
        std::ptr::copy_nonoverlapping(case.xsave.as_ptr(), area, SOFTWARE.start);
        if bytes > HEADER_END {
            let mine = xstate_bv(case.xsave.as_ptr()) & !XFEATURE_PKRU;
            area.add(XSTATE_BV)
                .cast::<u64>()
                .write_unaligned(mine | keep);
            for &(offset, length) in components {
                if offset + length <= bytes {
                    let from = case.xsave.as_ptr().add(offset);
                    std::ptr::copy_nonoverlapping(from, area.add(offset), length);
                }
            }
        }
    }
}

/// # Safety
/// `area` is an XSAVE area.
unsafe fn xstate_bv(area: *const u8) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { area.add(XSTATE_BV).cast::<u64>().read_unaligned() }
}

/// Bytes of a signal frame's FPU area.
///
/// # Safety
/// `area` is that of a signal frame.
unsafe fn frame_bytes(area: *const u8) -> usize {
    // SAFETY: the first 512 bytes always exist.
    unsafe {
        let magic = area.add(SOFTWARE.start).cast::<u32>().read_unaligned();
        if magic != SOFTWARE_MAGIC {
            return SOFTWARE.end;
        }
        let size = area
            .add(SOFTWARE_XSTATE_SIZE)
            .cast::<u32>()
            .read_unaligned();
        (size as usize).min(XSAVE_BYTES)
    }
}

/// The XSAVE components that are compared: AVX, opmasks, the upper halves of ZMM0–15, ZMM16–31.
pub const COMPONENTS: [u32; 4] = [2, 5, 6, 7];

/// Offset and length of each of `COMPONENTS`, as this host's XSAVE lays them out; (0, 0) if absent.
pub fn components() -> [(usize, usize); 4] {
    static KNOWN: OnceLock<[(usize, usize); 4]> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        COMPONENTS.map(|component| {
            let leaf = core::arch::x86_64::__cpuid_count(0xD, component);
            (leaf.ebx as usize, leaf.eax as usize)
        })
    })
}
