//! Huge pages for memory that generated code reaches into all over: one TLB entry of the host's instead of 512.
//!
//! By MADV_COLLAPSE (Linux 6.1), which asks for no configuration of the host, for memory that is in use
//! anyway.  Where the host can't, everything stays as it is.

/// Bytes of a huge page.
pub const HUGE: usize = 2 << 20;

/// MADV_COLLAPSE of `<asm-generic/mman-common.h>`.
const MADV_COLLAPSE: libc::c_int = 25;

/// Backs `bytes` at `start`, multiples of `HUGE`, by huge pages if the host can.
pub fn collapse(start: *mut u8, bytes: usize) {
    // SAFETY: changes how memory is backed, not what it holds; a range that isn't mapped is refused.
    unsafe { libc::madvise(start.cast(), bytes, MADV_COLLAPSE) };
}
