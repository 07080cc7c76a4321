//! The memory that translated code addresses through the host's RSP.
//!
//! One mapping: [guard page | monitor stack | `Area`].  While translated code runs, RSP points at
//! `Area`, so that `[rsp+disp32]` reaches all of it and calls push onto the monitor stack below.

use crate::state::CpuState;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

const STACK_BYTES: usize = 512 << 10;
const GUARD_BYTES: usize = 4096;

#[repr(C, align(4096))]
pub struct Area {
    pub cpu: CpuState,
    /// Nonzero: leave translated code at the next poll.
    pub attention: AtomicU32,
}

pub struct Env {
    start: NonNull<u8>,
}

// SAFETY: the mapping's contents are accessed by the vCPU's thread, but for atomics.
unsafe impl Send for Env {}
// SAFETY: as above.
unsafe impl Sync for Env {}

const BYTES: usize = GUARD_BYTES + STACK_BYTES + size_of::<Area>();

impl Env {
    pub fn new() -> std::io::Result<Env> {
        let (protection, kind) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a fresh mapping at an address of the kernel's choice; zeroes are a valid Area.
        let p = unsafe { libc::mmap(std::ptr::null_mut(), BYTES, protection, kind, -1, 0) };
        if p == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: the first page of our own mapping.
        unsafe { libc::mprotect(p, GUARD_BYTES, libc::PROT_NONE) };
        let start = NonNull::new(p.cast()).ok_or_else(std::io::Error::last_os_error)?;
        Ok(Env { start })
    }

    pub fn area(&self) -> *mut Area {
        // SAFETY: inside the mapping; page aligned as Area asks.
        unsafe { self.start.as_ptr().add(GUARD_BYTES + STACK_BYTES).cast() }
    }

    pub fn attention(&self) -> *const AtomicU32 {
        // SAFETY: a field's address; no reference is made.
        unsafe { &raw const (*self.area()).attention }
    }

    /// # Safety
    /// Called once, and the reference is not used after the Env is gone.
    pub unsafe fn take_state(&self, state: CpuState) -> &'static mut CpuState {
        // SAFETY: the area is mapped and writable; the caller promises exclusivity.
        unsafe {
            let cpu = &raw mut (*self.area()).cpu;
            cpu.write(state);
            &mut *cpu
        }
    }
}

impl Drop for Env {
    fn drop(&mut self) {
        // SAFETY: our own mapping.
        unsafe { libc::munmap(self.start.as_ptr().cast(), BYTES) };
    }
}
